"""All settings: their names, defaults, ranges, and what each of them says.

docs/settings.md is made of this: what stands below a setting is its text there. Where values come
from: reading.py.
"""

import hashlib
import json
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from penstock.loopback import is_loopback
from penstock.records import expression
from penstock.settings.secrets import Tokens

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

# The environment has only text; `1` is the number there too.
One = Annotated[Literal["many", 1], BeforeValidator(lambda value: 1 if value == "1" else value)]
OrEmpty = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else value)]


class Section(BaseModel):
    """One table of penstock.toml, or the whole of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """Where the files come from."""

    url: str = ""
    """the spool: a directory (/path), Penstock's file server (http://host:port, https://host:port,
    http+unix:///socket) or plain nginx (nginx+http://host/path/)"""
    pattern: Pattern = Field(default=r".*\.json", min_length=1)
    """what a file's whole name must match to be a file"""
    settle_seconds: float = Field(default=2.0, ge=0, le=3600)
    """a file whose last change is younger than this may still be being written"""
    token: Tokens = SecretStr("")
    """the bearer token for a spool over HTTP"""
    token_file: str = ""
    """a file that holds this token instead"""
    ca_file: str = ""
    """certificates to trust over https; empty: the system's"""
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    """how long one call over HTTP may take"""


class PreambleLiteral(Section):
    """A fixed text around the JSON."""

    prefix: str = ""
    """stands before the JSON"""
    suffix: str = ""
    """stands after it"""


class DecodeSettings(Section):
    """From a file's bytes to its records."""

    records: Expression = ""
    """JMESPath to the records inside an envelope; empty: the document"""
    max_file_bytes: int = Field(default=16_777_216, ge=1, le=1_073_741_824)
    """a larger file is rejected unread"""
    preamble_lines: int = Field(default=0, ge=0, le=1000)
    """so many first lines are preamble"""
    preamble_pattern: Pattern = ""
    """a regular expression, matched at the start, that is preamble too"""
    preamble_literals: tuple[PreambleLiteral, ...] = ()
    """fixed texts before (and after) the JSON"""
    skip_lines: Pattern = ""
    """a regular expression: lines between records, one a line, that are no records"""


class SelectSettings(Section):
    """Which part of which record is sent."""

    fields: Expression = Field(default="@", min_length=1)
    """JMESPath: the part that is sent"""
    where: Expression = ""
    """JMESPath: a record for which it is false is filtered out"""


class QueueSettings(Section):
    """The SQS queue."""

    url: str = ""
    """the queue's URL, or 'embedded' for a local one"""
    endpoint_url: str = ""
    """another SQS-compatible server, http://host:port; empty: AWS"""
    region: str = ""
    """the queue's region; empty: from the URL or the AWS settings"""
    records_per_message: One = "many"
    """'many': a JSON array of records a message; 1: one record"""
    message_bytes: OrEmpty = Field(default=None, ge=1024, le=_LIMIT_SQS_BYTES)
    """the largest message to make; empty: the largest the queue takes"""
    linger_seconds: float = Field(default=1.0, ge=0, le=10)
    """how long a file may wait for others to fill a message with; one pass alone (penstock load,
    AWS Lambda) never waits"""
    connections: int = Field(default=128, ge=1, le=256)
    """SendMessageBatch calls in flight at once, a worker; 16 of those above 128 KiB"""
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    """how long one call may take before it is unknown"""


class LedgerSettings(Section):
    """Redis, which knows who is processing what."""

    url: str = EMBEDDED
    """redis://, rediss://, unix:// or redis+sentinel:// address, or valkey for redis; any node of a
    cluster will do; 'embedded': a redis-server of our own, for one box"""
    spool: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$")
    """this spool's name in Redis, the same for every worker on this directory; empty: made from its
    path, where Redis is on this machine"""
    lease_seconds: float = Field(default=60.0, ge=1, le=240)
    """a claim not renewed for so long is taken over; SQS FIFO forgets after 300"""
    takeovers_max: int = Field(default=3, ge=1, le=100)
    """a claim whose workers died more often is split, and at last its file rejected"""
    wait_replicas: int = Field(default=0, ge=0, le=5)
    """replicas that must have a claim before it is sent, and its journal and commit before it goes
    on; without, Redis may forget the last of them in a failover, and repeats follow"""
    sweep_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """pause between two sweeps of the whole spool for files that were overlooked"""


class ArchiveSettings(Section):
    """What becomes of processed files."""

    action: Literal["move", "pack", "delete"] = "move"
    """'move' to the archive directory; 'pack' many into one compressed file there, for more than
    100 files a second; or 'delete' at once"""
    pack_seconds: float = Field(default=60.0, ge=0, le=3600)
    """how long 'pack' gathers files for one segment"""
    directory: str = Field(default="archive", min_length=1)
    """where processed files go; a relative path lies beside the spool; s3://BUCKET/PREFIX/: what is
    packed is uploaded there, from `archive` beside the spool"""
    rejected_directory: str = Field(default="rejected", min_length=1)
    """where rejected files go, each with NAME.reason.json"""
    retention_days: float = Field(default=30.0, ge=0, le=36_500)
    """archived files older than this are deleted; 0: kept"""

    @property
    def bucket(self) -> str:
        """The address of the bucket that segments are uploaded to, if there is one."""
        return self.directory if self.directory.startswith("s3://") else ""

    @model_validator(mode="after")
    def _only_segments_are_uploaded(self) -> Self:
        if self.bucket and self.action != "pack":
            msg = "archive.action: only what is packed is uploaded to a bucket; allowed: 'pack'"
            raise ValueError(msg)
        return self


class WorkerSettings(Section):
    """One run of sqs_loader."""

    lanes: int = Field(default=4, ge=1, le=64)
    """claims carried at the same time"""
    claim_files_max: int = Field(default=6_000, ge=1, le=10_000)
    """most files in one claim: as many as fill its messages are claimed"""
    claim_bytes_max: int = Field(default=16_777_216, ge=1)
    """bytes that a lane holds: it sends its messages before there are more"""


class RunSettings(Section):
    """One box: `penstock run`."""

    workers: int = Field(default=2, ge=1, le=64)
    """loader processes"""
    state_directory: str = Field(default=".penstock", min_length=1)
    """where the embedded parts keep their data, and loaders what outlives them"""
    loader_interval_seconds: float = Field(default=0.25, gt=0, le=3600)
    """pause between two passes of a loader"""
    archiver_interval_seconds: float = Field(default=5.0, gt=0, le=3600)
    """pause between two passes of the archiver"""
    checker_interval_seconds: float = Field(default=15.0, gt=0, le=3600)
    """pause between two passes of the checker"""
    console: str = Field(
        default="127.0.0.1:8081", pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5})?$"
    )
    """host:port of the console and of /metrics, with the tokens and TLS of [serve]; empty: none"""
    serve: bool = False
    """serve the spool over HTTP, too, as [serve] says"""


FD = "fd://"
"""How `serve.listen` begins where it is the number of a socket that is listened on already."""


class ServeSettings(Section):
    """The file server: `penstock serve`, and `penstock run` where it is to serve as well."""

    listen: str = Field(
        default="127.0.0.1:8080",
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}|fd://\d{1,4})$",
    )
    """host:port, or fd://3 for a socket of systemd's; another host than this machine's own needs
    TLS"""
    unix_socket: str = ""
    """a socket to listen on instead, which asks for no token; who may use it: its directory"""
    token: Tokens = SecretStr("")
    """the moving token: who has it may read files and move them; two, with a space between, to
    change; where no token is set, and no socket, both are made in run.state_directory"""
    token_file: str = ""
    """a file that holds them instead"""
    read_token: Tokens = SecretStr("")
    """the reading token: who has it may list and read files, and see the console"""
    read_token_file: str = ""
    """a file that holds them instead"""
    hosts: tuple[str, ...] = ()
    """host names that callers may ask for beside this machine's own, as behind a proxy"""
    tls_cert: str = ""
    """the certificate chain, PEM"""
    tls_key: str = ""
    """its private key, PEM"""
    insecure: bool = False
    """allow another host than this machine's own without TLS"""
    watch: Literal["inotify", "poll"] = "inotify"
    """'poll' where the file system tells no events, as over a network"""
    rescan_seconds: float = Field(default=20.0, ge=1, le=25)
    """pause between two scans of the directory; a worker on it, too, believes its time of change no
    longer"""
    access_log: bool = False
    """a log line per request"""


class AwsSettings(Section):
    """In AWS Lambda: the template sets these."""

    token_secret: str = ""
    """the secret (name or ARN) in Secrets Manager with source.token"""
    token_parameter: str = ""
    """or the parameter in SSM's Parameter Store that has it"""
    ledger_password_secret: str = ""
    """the secret with the password of the Redis that ledger.url names"""
    max_loaders: int = Field(default=1, ge=1, le=1000)
    """a loader that sees the backlog grow starts another while fewer run"""


class StatusSettings(Section):
    """When `penstock status`, the console and the alarms call something wrong."""

    oldest_waiting_seconds: float = Field(default=600.0, gt=0)
    """a file that has waited for longer is late"""
    silent_seconds: float = Field(default=600.0, gt=0)
    """a worker, archiver or checker not heard of for longer does not run"""


class Settings(Section):
    """All settings; the sections and keys of penstock.toml."""

    source: SourceSettings = SourceSettings()
    decode: DecodeSettings = DecodeSettings()
    select: SelectSettings = SelectSettings()
    queue: QueueSettings = QueueSettings()
    ledger: LedgerSettings = LedgerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    worker: WorkerSettings = WorkerSettings()
    run: RunSettings = RunSettings()
    serve: ServeSettings = ServeSettings()
    aws: AwsSettings = AwsSettings()
    status: StatusSettings = StatusSettings()

    @model_validator(mode="after")
    def _spool_is_named(self) -> Self:
        """Refuse a Redis that machines share without a name.

        On one machine the directory's path is name enough. Elsewhere, one path may be two
        directories, whose files would be taken for each other, and one directory may have two.
        """
        if _is_shared(self.ledger.url) and not self.ledger.spool:
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


def _is_shared(redis_url: str) -> bool:
    """Tell whether other machines may use a Redis, too: redis-py takes a missing host for ours."""
    if not redis_url.startswith("redis"):
        return False
    try:
        host = urlsplit(redis_url).hostname
    except ValueError:
        return True
    return bool(host) and not is_loopback(host)
