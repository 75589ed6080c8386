"""Read the settings; nothing else reads penstock.toml or the PENSTOCK_… environment.

In order of precedence: the command line, the environment (`PENSTOCK_QUEUE__URL` is `queue.url`),
the file, the defaults. Wrong values raise Halt with one line each: field, value, what is allowed.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from penstock.errors import Halt
from penstock.settings.schema import Section, Settings
from penstock.settings.secrets import without_password
from penstock.settings.spool_place import is_path

CONFIG_DEFAULT = Path("penstock.toml")
_DEFAULTS: dict[str, dict[str, object]] = Settings().model_dump()

# Variables that are not settings. Kubernetes sets some for each service there: for penstock-redis,
# PENSTOCK_REDIS_SERVICE_HOST, PENSTOCK_REDIS_PORT and more.
_BESIDE = re.compile(
    r"CONFIG|REQUIRE_ALL|CAMPAIGN_SCALE|SEED"
    r"|(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def load(
    config: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """Read the settings: `overrides` win over the environment, that over `config` and defaults.

    Without `config`, the file is PENSTOCK_CONFIG, or else ./penstock.toml if it exists. None in
    `overrides` overrides nothing. Raises Halt with one line per wrong value.
    """
    named = os.environ.get("PENSTOCK_CONFIG")
    path = config or Path(named or CONFIG_DEFAULT)
    if (config or named) and not path.is_file():
        who = "--config" if config else "PENSTOCK_CONFIG"
        raise Halt(f"{who}: {path}: no such file; give an existing penstock.toml")
    said = {
        section: {key: value for key, value in options.items() if value is not None}
        for section, options in (overrides or {}).items()
    }
    given: dict[str, Any] = {}
    for source in (_file(path), _environment(), said):
        for section, values in source.items():
            both = isinstance(given.get(section), Mapping) and isinstance(values, Mapping)
            given[section] = {**given[section], **values} if both else values
    try:
        return _absolute(Settings.model_validate(given), path.parent.resolve())
    except ValidationError as error:
        lines = [_one_line(cast("Mapping[str, Any]", e)) for e in error.errors()]
        raise Halt("\n".join(lines)) from None


def _file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise Halt(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise Halt(
            f"{path} is not valid TOML: {error}; strings need quotes, and single ones if they hold"
            r" backslashes: pattern = '.*\.json'"
        ) from None


def _environment() -> Mapping[str, Any]:
    """Return the sections and keys in the environment. Raises Halt for an unknown one."""
    found: dict[str, Any] = {}
    wrong: list[str] = []
    # Sorted, so that a whole section comes before its keys.
    for name, value in sorted(os.environ.items()):
        prefix, _, rest = name.upper().partition("_")
        if prefix != "PENSTOCK" or not rest or _BESIDE.fullmatch(rest):
            continue
        section, _, key = rest.lower().partition("__")
        if section not in _DEFAULTS or (key and key not in _DEFAULTS[section]):
            wrong.append(
                f"{name}: no such setting; {_guess(rest.lower().replace('__', '.'), variable=True)}"
                "allowed: PENSTOCK_SECTION__KEY for a setting of docs/settings.md, such as"
                " PENSTOCK_QUEUE__URL"
            )
            continue
        try:
            is_text = key and not isinstance(_DEFAULTS[section][key], tuple)
            read: Any = value if is_text else json.loads(value)
        except ValueError:
            wrong.append(f"{name}: not JSON; allowed: a table or a list in JSON")
            continue
        if not key:
            found[section] = read
        elif isinstance(found.setdefault(section, {}), dict):
            found[section][key] = read
    if wrong:
        raise Halt("\n".join(wrong))
    return found


def _guess(name: str, *, variable: bool = False) -> str:
    """Return "did you mean …? " with the section or `section.key` most like `name`, or ""."""
    keys = [f"{section}.{key}" for section, values in _DEFAULTS.items() for key in values]
    for near in difflib.get_close_matches(name, [*_DEFAULTS, *keys], n=1, cutoff=0.8):
        told = f"PENSTOCK_{near.upper().replace('.', '__')}" if variable else near
        return f"did you mean {told}? "
    return ""


# Paths relative to penstock.toml's directory. So is `source.url`, if it is a path.
_PATHS = {
    "source": ("token_file", "ca_file"),
    "run": ("state_directory",),
    "serve": ("token_file", "read_token_file", "tls_cert", "tls_key", "unix_socket"),
}


def _absolute(settings: Settings, base: Path) -> Settings:
    """Resolve relative paths from penstock.toml's directory, so that all commands agree."""
    update: dict[str, Section] = {}
    for section, names in _PATHS.items():
        given: Section = getattr(settings, section)
        paths = {name: str(base / value) for name in names if (value := getattr(given, name))}
        if section == "source" and is_path(settings.source.url):
            paths["url"] = str(base / settings.source.url)
        update[section] = given.model_copy(update=paths)
    return settings.model_copy(update=update)


def _one_line(error: Mapping[str, Any]) -> str:
    """Return `field: value X; allowed: …` for one of pydantic's errors, without secrets."""
    where = [str(part) for part in cast("Sequence[Any]", error["loc"])]
    said = str(error["msg"]).removeprefix("Value error, ")
    if not where or (error["type"] == "value_error" and isinstance(error["input"], dict)):
        return said  # a rule over several fields writes its own line
    field = ".".join(where)
    if error["type"] == "extra_forbidden":
        section = _DEFAULTS.get(where[0], {}) if len(where) > 1 else _DEFAULTS
        inside = f"in [{where[0]}]" if len(where) > 1 else "as sections"
        return f"{field}: no such setting; {_guess(field)}allowed {inside}: {', '.join(section)}"
    if error["type"] in {"model_type", "model_attributes_type"}:
        return f"{field}: … is not allowed; allowed: a table of settings"
    told = not where[-1].endswith(("url", "token")) and isinstance(
        error["input"], str | int | float
    )
    value = without_password(repr(error["input"])) if told else "…"
    return f"{field}: {value} is not allowed; allowed: {said.removeprefix('Input should be ')}"
