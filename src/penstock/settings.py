"""Settings: the only reader of penstock.toml and of the PENSTOCK_… environment.

Order of precedence: the command line, the environment (`PENSTOCK_QUEUE__URL` is `queue.url`), the
file, the defaults. A wrong value raises Halt with one line per mistake: field, value, what is
allowed.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from penstock.errors import Halt
from penstock.records import expression

CONFIG_DEFAULT = Path("penstock.toml")

EMBEDDED = "embedded"
"""The value of `ledger.url` and `queue.url` that makes Penstock start the real thing itself."""

EMBEDDED_QUEUE = "penstock"
"""The queue in an embedded SQS."""

MESSAGE_FORMAT = "penstock/3"
"""Changes when the same files and settings would give other messages than before.

2: the claim's id is an attribute, which leaves less room in a message.
3: of a file of records one a line, a bad line is rejected alone; more guards are known.
"""

_LIMIT_SQS_BYTES = 1_048_576  # one message, since August 2025; docs/sqs.md


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        msg = f"a regular expression (this one fails: {error})"
        raise ValueError(msg) from error
    return text


def _expression(text: str) -> str:
    if text and (wrong := expression.check(text)):
        msg = f"a JMESPath expression (this one fails: {wrong})"
        raise ValueError(msg)
    return text


Expression = Annotated[str, AfterValidator(_expression)]
Pattern = Annotated[str, AfterValidator(_pattern)]
_LOCAL_REDIS = re.compile(
    r"rediss?://([^/]*@)?(localhost|127\.\d+\.\d+\.\d+|\[::1\])?(:\d+)?([/?]|$)"
)

# The environment has only text; `1` is the number there too.
One = Annotated[Literal["many", 1], BeforeValidator(lambda value: 1 if value == "1" else value)]
OrEmpty = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else value)]

# Beside the settings, the environment has these, and what Kubernetes sets for each service there:
# one called penstock-redis gives PENSTOCK_REDIS_SERVICE_HOST, PENSTOCK_REDIS_PORT and more.
_ENVIRONMENT = re.compile(
    r"CONFIG|REQUIRE_ALL|CAMPAIGN_SCALE|SEED"
    r"|(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")  # what an Authorization header can carry


def _tokens(secret: SecretStr) -> SecretStr:
    words = secret.get_secret_value().split()
    if not all(_TOKEN.fullmatch(word) for word in words):
        msg = "printable ASCII characters, as `openssl rand -hex 32` makes them"
        raise ValueError(msg)
    return secret


Tokens = Annotated[SecretStr, AfterValidator(_tokens)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Section):
    """Where the files come from."""

    url: str = Field(
        default="",
        description="the spool: a directory (/path), Penstock's file server (http://host:port,"
        " https://host:port, http+unix:///socket) or plain nginx (nginx+http://host/path/)",
    )
    pattern: Pattern = Field(
        default=r".*\.json",
        min_length=1,
        description="what a file's whole name must match to be a file",
    )
    settle_seconds: float = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="a file whose last change is younger than this may still be being written",
    )
    token: Tokens = Field(
        default=SecretStr(""), description="the bearer token for a spool over HTTP"
    )
    token_file: str = Field(default="", description="a file that holds this token instead")
    ca_file: str = Field(
        default="", description="certificates to trust over https; empty: the system's"
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=300, description="how long one call over HTTP may take"
    )


class PreambleLiteral(_Section):
    """A fixed text around the JSON."""

    prefix: str = Field(default="", description="stands before the JSON")
    suffix: str = Field(default="", description="stands after it")


class Decode(_Section):
    """From a file's bytes to its records."""

    records: Expression = Field(
        default="", description="JMESPath to the records inside an envelope; empty: the document"
    )
    max_file_bytes: int = Field(
        default=16_777_216, ge=1, le=1_073_741_824, description="a larger file is rejected unread"
    )
    preamble_lines: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="so many first lines are preamble",
    )
    preamble_pattern: Pattern = Field(
        default="", description="a regular expression, matched at the start, that is preamble too"
    )
    preamble_literals: tuple[PreambleLiteral, ...] = Field(
        default=(), description="fixed texts before (and after) the JSON"
    )
    skip_lines: Pattern = Field(
        default="",
        description="a regular expression: lines between records, one a line, that are no records",
    )


class Select(_Section):
    """Which part of which record is sent."""

    fields: Expression = Field(
        default="@", min_length=1, description="JMESPath: the part that is sent"
    )
    where: Expression = Field(
        default="", description="JMESPath: a record for which it is false is filtered out"
    )


class Queue(_Section):
    """The SQS queue."""

    url: str = Field(default="", description="the queue's URL, or 'embedded' for a local one")
    endpoint_url: str = Field(
        default="", description="another SQS-compatible server, http://host:port; empty: AWS"
    )
    region: str = Field(
        default="", description="the queue's region; empty: from the URL or the AWS settings"
    )
    records_per_message: One = Field(
        default="many", description="'many': a JSON array of records a message; 1: one record"
    )
    message_bytes: OrEmpty = Field(
        default=None,
        ge=1024,
        le=_LIMIT_SQS_BYTES,
        description="the largest message to make; empty: the largest the queue takes",
    )
    connections: int = Field(
        default=128,
        ge=1,
        le=256,
        description="SendMessageBatch calls in flight at once, a worker; 16 of those above 128 KiB",
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=60, description="how long one call may take before it is unknown"
    )


class Ledger(_Section):
    """Redis, which knows who is processing what."""

    url: str = Field(
        default=EMBEDDED,
        description="redis://, rediss:// or unix:// address; 'embedded': a redis-server of our own,"
        " for one box",
    )
    spool: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$",
        description="this spool's name in Redis, the same for every worker on this directory;"
        " empty: made from its path, where Redis is on this machine",
    )
    lease_seconds: float = Field(
        default=60.0,
        ge=1,
        le=240,
        description="a claim not renewed for so long is taken over; SQS FIFO forgets after 300",
    )
    takeovers_max: int = Field(
        default=3,
        ge=1,
        le=100,
        description="a claim whose workers died more often is split, and at last its file rejected",
    )
    sweep_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="pause between two sweeps of the whole spool for files that were overlooked",
    )


class Archive(_Section):
    """What becomes of processed files."""

    action: Literal["move", "delete"] = Field(
        default="move", description="'move' to the archive directory, or 'delete' at once"
    )
    directory: str = Field(
        default="archive",
        min_length=1,
        description="where processed files go; a relative path lies beside the spool",
    )
    rejected_directory: str = Field(
        default="rejected",
        min_length=1,
        description="where rejected files go, each with NAME.reason.json",
    )
    retention_days: float = Field(
        default=30.0,
        ge=0,
        le=36_500,
        description="archived files older than this are deleted; 0: kept",
    )


class Worker(_Section):
    """One run of sqs_loader."""

    lanes: int = Field(default=4, ge=1, le=64, description="claims carried at the same time")
    claim_files_max: int = Field(default=500, ge=1, le=500, description="files in one claim")
    claim_bytes_max: int = Field(
        default=16_777_216, ge=1, description="bytes of files held in memory at once, a lane"
    )


class Run(_Section):
    """One box: `penstock run`."""

    workers: int = Field(default=2, ge=1, le=64, description="loader processes")
    state_directory: str = Field(
        default=".penstock", min_length=1, description="where the embedded parts keep their data"
    )
    loader_interval_seconds: float = Field(
        default=0.25, gt=0, le=3600, description="pause between two passes of a loader"
    )
    archiver_interval_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="pause between two passes of the archiver"
    )
    checker_interval_seconds: float = Field(
        default=15.0, gt=0, le=3600, description="pause between two passes of the checker"
    )
    console: str = Field(
        default="127.0.0.1:8081",
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5})?$",
        description="host:port of the console and of /metrics, with the tokens and TLS of [serve];"
        " empty: none",
    )
    serve: bool = Field(
        default=False, description="serve the spool over HTTP, too, as [serve] says"
    )


FD = "fd://"
"""How `serve.listen` begins where it is the number of a socket that is listened on already."""


class Serve(_Section):
    """The file server: `penstock serve`, and `penstock run` where it is to serve as well."""

    listen: str = Field(
        default="127.0.0.1:8080",
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}|fd://\d{1,4})$",
        description="host:port, or fd://3 for a socket of systemd's; another host than this"
        " machine's own needs a token and TLS",
    )
    unix_socket: str = Field(
        default="", description="a socket to listen on instead; who may use it: its directory"
    )
    token: Tokens = Field(
        default=SecretStr(""),
        description="the bearer token that callers must have; two, with a space between, to change",
    )
    token_file: str = Field(default="", description="a file that holds them instead")
    tls_cert: str = Field(default="", description="the certificate chain, PEM")
    tls_key: str = Field(default="", description="its private key, PEM")
    insecure: bool = Field(
        default=False, description="allow another host than this machine's own without TLS"
    )
    watch: Literal["inotify", "poll"] = Field(
        default="inotify",
        description="'poll' where the file system tells no events, as over a network",
    )
    rescan_seconds: float = Field(
        default=20.0,
        ge=1,
        le=25,
        description="pause between two scans of the directory; a worker on it, too, believes its"
        " time of change no longer",
    )
    access_log: bool = Field(default=False, description="a log line per request")


class Aws(_Section):
    """In AWS Lambda: the template sets these."""

    token_secret: str = Field(
        default="", description="the secret (name or ARN) in Secrets Manager with source.token"
    )
    token_parameter: str = Field(
        default="", description="or the parameter in SSM's Parameter Store that has it"
    )
    ledger_password_secret: str = Field(
        default="", description="the secret with the password of the Redis that ledger.url names"
    )
    max_loaders: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="a loader that sees the backlog grow starts another while fewer run",
    )


class Status(_Section):
    """When `penstock status`, the console and the alarms call something wrong."""

    oldest_waiting_seconds: float = Field(
        default=600.0, gt=0, description="a file that has waited for longer is late"
    )
    silent_seconds: float = Field(
        default=600.0,
        gt=0,
        description="a worker, archiver or checker not heard of for longer does not run",
    )


class Settings(BaseSettings):
    """All settings; the sections and keys of penstock.toml."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    source: Source = Source()
    decode: Decode = Decode()
    select: Select = Select()
    queue: Queue = Queue()
    ledger: Ledger = Ledger()
    archive: Archive = Archive()
    worker: Worker = Worker()
    run: Run = Run()
    serve: Serve = Serve()
    aws: Aws = Aws()
    status: Status = Status()

    @model_validator(mode="after")
    def _spool_is_named(self) -> Self:
        """Refuse a Redis that machines share without a name.

        On one machine the directory's path is name enough. Elsewhere, one path may be two
        directories, whose files would be taken for each other, and one directory may have two.
        """
        shared = self.ledger.url.startswith("redis") and not _LOCAL_REDIS.match(self.ledger.url)
        if shared and not self.ledger.spool:
            msg = (
                "ledger.spool: missing, and machines may share this Redis; allowed: a name such as"
                " 'tweets', the same for every worker on this directory and used for no other"
            )
            raise ValueError(msg)
        return self

    def fingerprint(self, message_bytes: int) -> str:
        """Return 64 hexadecimal digits over everything that shapes messages.

        `message_bytes` is the size that packing really uses, the queue's own limit included: the
        same files under the same fingerprint give byte-identical messages.
        """
        shaping = {
            "format": MESSAGE_FORMAT,
            "decode": self.decode.model_dump(mode="json"),
            "select": self.select.model_dump(mode="json"),
            "records_per_message": self.queue.records_per_message,
            "message_bytes": message_bytes,
        }
        text = json.dumps(shaping, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


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


def tokens(token: SecretStr, token_file: str, setting: str) -> list[str]:
    """Return the tokens that a setting or the file beside it holds; [] if neither is given.

    `setting` names the first in errors. Raises Halt if both are given, or the file cannot be used.
    """
    if not token_file:
        return token.get_secret_value().split()
    if token.get_secret_value():
        raise Halt(f"{setting} and {setting}_file: both are given; allowed: one of them")
    try:
        found = _tokens(SecretStr(Path(token_file).read_text(encoding="ascii")))
    except OSError as error:
        raise Halt(f"{setting}_file: {token_file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Halt(
            f"{setting}_file: {token_file} holds no token; allowed: printable ASCII characters,"
            " as `openssl rand -hex 32` makes them"
        ) from None
    words = found.get_secret_value().split()
    if not words:
        raise Halt(f"{setting}_file: {token_file} is empty; allowed: a token")
    return words


def without_password(url: str) -> str:
    """Return an address with its password left out, for logs and people.

    A password may hold any character, unquoted too: up to the last `@` all is taken for one.
    """
    url = re.sub(r"(?<=[?&]password=)[^&]*", "…", url)
    return re.sub(r"(?<=://)([^/:]*):.*@", r"\1:…@", url)


def _guess(name: str, spelled: Callable[[str], str] = str) -> str:
    """Return "did you mean …? " with the section or `section.key` most like `name`, or nothing."""
    known = [*Settings.model_fields]
    for section, field in Settings.model_fields.items():
        known += [f"{section}.{key}" for key in field.default.model_dump()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
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
    update: dict[str, _Section] = {}
    for section, names in _PATHS.items():
        given: _Section = getattr(settings, section)
        paths = {name: str(base / value) for name in names if (value := getattr(given, name))}
        url = settings.source.url
        if section == "source" and url and "://" not in url:
            paths["url"] = str(base / url)
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
