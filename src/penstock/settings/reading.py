"""Reading the settings: the only reader of penstock.toml and of the PENSTOCK_… environment.

Order of precedence: the command line, the environment (`PENSTOCK_QUEUE__URL` is `queue.url`), the
file, the defaults. A wrong value raises Halt with one line per mistake: field, value, what is
allowed.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, TomlConfigSettingsSource

from penstock.errors import Halt
from penstock.settings.schema import Section, Settings
from penstock.settings.secrets import without_password
from penstock.settings.spool_place import is_path

CONFIG_DEFAULT = Path("penstock.toml")

# Beside the settings, the environment has these, and what Kubernetes sets for each service there:
# one called penstock-redis gives PENSTOCK_REDIS_SERVICE_HOST, PENSTOCK_REDIS_PORT and more.
_ENVIRONMENT = re.compile(
    r"CONFIG|REQUIRE_ALL|CAMPAIGN_SCALE|SEED"
    r"|(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def load(
    config: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """Read the settings: `overrides` over the environment over `config` over the defaults.

    Without `config`, what PENSTOCK_CONFIG names is read, or else ./penstock.toml if it is there.
    Raises Halt with one line per wrong value.
    """
    named = os.environ.get("PENSTOCK_CONFIG")
    path = config or Path(named or CONFIG_DEFAULT)
    if (config or named) and not path.is_file():
        who = "--config" if config else "PENSTOCK_CONFIG"
        raise Halt(f"{who}: {path}: no such file; give an existing penstock.toml")
    if wrong := _wrong_in_environment():
        raise Halt("\n".join(wrong))

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  fixed signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the same
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, toml_file=path)
            return (init_settings, env_settings, toml)

    try:
        return _absolute(Sourced(**cast("Any", dict(overrides or {}))), path.parent.resolve())
    except ValidationError as error:
        lines = [_one_line(cast("Mapping[str, Any]", e)) for e in error.errors()]
        raise Halt("\n".join(lines)) from None
    except OSError as error:
        raise Halt(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise Halt(
            f"{path}: is no TOML: {error}; a text stands in quotes, one with backslashes best in"
            r" single ones: pattern = '.*\.json'"
        ) from None


def _guess(name: str, spelled: Callable[[str], str] = str) -> str:
    """Return "did you mean …? " with the section or `section.key` most like `name`, or nothing."""
    names = [*Settings.model_fields]
    for section, field in Settings.model_fields.items():
        names += [f"{section}.{key}" for key in field.default.model_dump()]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f"did you mean {spelled(near[0])}? " if near else ""


def _variable(setting: str) -> str:
    return f"PENSTOCK_{setting.upper().replace('.', '__')}"


def _wrong_in_environment() -> list[str]:
    """Return a line for each variable that looks like a setting and cannot be one."""
    lines: list[str] = []
    for name, value in os.environ.items():
        prefix, _, rest = name.upper().partition("_")
        if prefix != "PENSTOCK" or not rest or _ENVIRONMENT.fullmatch(rest):
            continue
        section, _, key = rest.lower().partition("__")
        shape = _shape(section, key)
        if shape is None:
            lines.append(
                f"{name}: no such setting; {_guess(rest.lower().replace('__', '.'), _variable)}"
                "allowed: PENSTOCK_SECTION__KEY for what `penstock config show` lists, such as"
                " PENSTOCK_QUEUE__URL"
            )
        elif shape in {Mapping, tuple} and not _is_json(value):
            lines.append(f"{name}: not JSON; allowed: a table or a list in JSON")
    return lines


def _shape(section: str, key: str) -> type | None:
    """Return the type of a setting's default, Mapping for a whole section, None if it is none."""
    if section not in Settings.model_fields:
        return None
    if not key:
        return Mapping
    defaults: Mapping[str, object] = Settings.model_fields[section].default.model_dump()
    return type(defaults[key]) if key in defaults else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Paths that are taken from where penstock.toml lies; `source.url`, too, where it is a path.
_PATHS = {
    "source": ("token_file", "ca_file"),
    "run": ("state_directory",),
    "serve": ("token_file", "tls_cert", "tls_key", "unix_socket"),
}


def _absolute(settings: Settings, base: Path) -> Settings:
    """Take relative paths from where penstock.toml lies, so that every command finds the same."""
    update: dict[str, Section] = {}
    for section, names in _PATHS.items():
        given: Section = getattr(settings, section)
        paths = {name: str(base / value) for name in names if (value := getattr(given, name))}
        if section == "source" and is_path(settings.source.url):
            paths["url"] = str(base / settings.source.url)
        update[section] = given.model_copy(update=paths)
    return settings.model_copy(update=update)


def _one_line(error: Mapping[str, Any]) -> str:
    """Return `field: value X; allowed: …` for one of pydantic's errors, secrets left out."""
    where = [str(part) for part in cast("Sequence[Any]", error["loc"])]
    if not where:  # a rule over several fields says its own line
        return str(error["msg"]).removeprefix("Value error, ")
    field = ".".join(where)
    if error["type"] == "extra_forbidden":
        listed = "see `penstock config show` for those there are"
        return f"{field}: no such setting; {_guess(field)}{listed}"
    if error["type"] in {"model_type", "model_attributes_type"}:
        return f"{field}: … is not allowed; allowed: a table of settings"
    told = not where[-1].endswith(("url", "token")) and isinstance(
        error["input"], str | int | float
    )
    value = without_password(repr(error["input"])) if told else "…"
    allowed = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{field}: {value} is not allowed; allowed: {allowed}"
