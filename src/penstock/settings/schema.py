"""All settings: names, defaults, ranges, and a text for each. reading.py reads their values.

docs/settings.md is made from this file: the text below a setting is its description there.
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
"""As `ledger.url` or `queue.url`, this makes Penstock start its own server."""

EMBEDDED_QUEUE = "penstock"
"""The name of the queue in an embedded SQS."""

MESSAGE_FORMAT = "penstock/3"
"""Change this when the same files and settings make other messages than before.

2: the claim's id is an attribute, which leaves less room in a message.
3: in a file with one record per line, a bad line is rejected alone; more guards are known.
"""

_LIMIT_SQS_BYTES = 1_048_576  # one message, since August 2025; docs/sqs.md


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression (this one fails: {error})") from error
    return text


def _expression(text: str) -> str:
    if text and (wrong := expression.check(text)):
        raise ValueError(f"a JMESPath expression (this one fails: {wrong})")
    return text


Expression = Annotated[str, AfterValidator(_expression)]
Pattern = Annotated[str, AfterValidator(_pattern)]

# The environment holds only text, so `1` there also means the number.
One = Annotated[Literal["many", 1], BeforeValidator(lambda value: 1 if value == "1" else value)]
OrEmpty = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else value)]


class Section(BaseModel):
    """A table of penstock.toml, or all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """Where the files come from."""

    url: str = ""
    """the spool: a directory (/path), Penstock's file server (http://host:port, https://host:port,
    http+unix:///socket) or plain nginx (nginx+http://host/path/)"""
    pattern: Pattern = Field(default=r".*\.json", min_length=1)
    """a regular expression that a file's whole name must match; other files are ignored"""
    settle_seconds: float = Field(default=2.0, ge=0, le=3600)
    """seconds since its last change after which a file counts as complete; a larger value is safer
    with slow writers, and delays every file"""
    token: Tokens = SecretStr("")
    """the bearer token for a spool over HTTP"""
    token_file: str = ""
    """a file that holds this token"""
    ca_file: str = ""
    """a file of certificates to trust over https; empty: the system's"""
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    """timeout of one HTTP call; after it the call fails and is retried"""


class PreambleLiteral(Section):
    """A fixed text around the JSON."""

    prefix: str = ""
    """the text before the JSON"""
    suffix: str = ""
    """the text after it"""


class DecodeSettings(Section):
    """From a file's bytes to its records."""

    records: Expression = ""
    """JMESPath to the records inside an envelope; empty: the whole document"""
    max_file_bytes: int = Field(default=16_777_216, ge=1, le=1_073_741_824)
    """the largest file that is read, in bytes; larger files are rejected"""
    preamble_lines: int = Field(default=0, ge=0, le=1000)
    """number of lines to drop from the start of every file"""
    preamble_pattern: Pattern = ""
    """a regular expression; what it matches at the start of a file is dropped, too"""
    preamble_literals: tuple[PreambleLiteral, ...] = ()
    """fixed texts to drop before (and after) the JSON"""
    skip_lines: Pattern = ""
    """a regular expression; in files with one record per line, lines that match it are dropped;
    a line in which an object begins is rejected instead"""


class SelectSettings(Section):
    """Which part of which record is sent."""

    fields: Expression = Field(default="@", min_length=1)
    """JMESPath of the part to send"""
    where: Expression = ""
    """JMESPath condition; a record for which it is false is not sent"""


class QueueSettings(Section):
    """The SQS queue."""

    url: str = ""
    """the queue's URL, or 'embedded' for a local one"""
    endpoint_url: str = ""
    """another SQS-compatible server, http://host:port; empty: AWS"""
    region: str = ""
    """the queue's region; empty: from the URL or the AWS settings"""
    records_per_message: One = "many"
    """'many': each message is a JSON array of records; 1: each message is one record"""
    message_bytes: OrEmpty = Field(default=None, ge=1024, le=_LIMIT_SQS_BYTES)
    """the largest message to make, in bytes; empty: the largest that the queue takes"""
    linger_seconds: float = Field(default=1.0, ge=0, le=10)
    """seconds that a file may wait for others that fill its message, three times as many if the
    spool is slow to list; a larger value makes fuller, so fewer messages; a single pass (penstock
    load, AWS Lambda) never waits"""
    connections: int = Field(default=128, ge=1, le=256)
    """SendMessageBatch calls in flight at once per worker; of calls above 128 KiB, at most 8"""
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    """timeout of one call; after it the outcome counts as unknown"""


class LedgerSettings(Section):
    """Redis, which holds who is processing what."""

    url: str = EMBEDDED
    """redis://, rediss://, unix:// or redis+sentinel:// address, or valkey in place of redis; for a
    cluster, any of its nodes; 'embedded': a redis-server that Penstock starts, for one box"""
    spool: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$")
    """this spool's name in Redis, the same for every worker on this directory; empty: made from the
    path, which is allowed only with a Redis on this machine"""
    lease_seconds: float = Field(default=60.0, ge=1, le=240)
    """seconds without renewal after which another worker takes a claim over; a larger value delays
    the takeover; SQS FIFO drops repeats for only 300 s"""
    takeovers_max: int = Field(default=3, ge=1, le=100)
    """takeovers after which a claim is split, to find and reject the file that kills its workers"""
    wait_replicas: int = Field(default=0, ge=0, le=5)
    """replicas that must hold each claim, journal entry and commit before work goes on; with 0, a
    failover of Redis may lose the last of them, and messages are repeated"""
    sweep_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """seconds between two scans of the whole spool for overlooked files"""


class ArchiveSettings(Section):
    """Where processed files go."""

    action: Literal["move", "pack", "delete"] = "move"
    """'move' each file to the archive directory; 'pack' many into one compressed file there, for
    more than 100 files a second; or 'delete' files at once"""
    pack_seconds: float = Field(default=60.0, ge=0, le=3600)
    """seconds for which 'pack' collects files for one segment; a larger value makes fewer, larger
    segments"""
    directory: str = Field(default="archive", min_length=1)
    """where processed files go; a relative path lies beside the spool; with s3://BUCKET/PREFIX/,
    segments are uploaded there, from `archive` beside the spool"""
    rejected_directory: str = Field(default="rejected", min_length=1)
    """where rejected files go, each with its NAME.reason.json"""
    retention_days: float = Field(default=30.0, ge=0, le=36_500)
    """age in days at which archived files are deleted; 0: never"""

    @property
    def bucket(self) -> str:
        """The bucket's address, if segments are uploaded to one."""
        return self.directory if self.directory.startswith("s3://") else ""

    @model_validator(mode="after")
    def _only_segments_are_uploaded(self) -> Self:
        if self.bucket and self.action != "pack":
            raise ValueError("archive.action: a bucket takes only packed files; allowed: 'pack'")
        return self


class WorkerSettings(Section):
    """One run of sqs_loader."""

    lanes: int = Field(default=4, ge=1, le=64)
    """claims processed at the same time; a larger value uses more memory and connections"""
    claim_files_max: int = Field(default=6_000, ge=1, le=10_000)
    """most files in one claim; a worker claims only as many as fill its messages"""
    claim_bytes_max: int = Field(default=16_777_216, ge=1)
    """most bytes that a lane holds in memory before it sends them"""


class RunSettings(Section):
    """One box: `penstock run`."""

    workers: int = Field(default=2, ge=1, le=64)
    """loader processes"""
    state_directory: str = Field(default=".penstock", min_length=1)
    """where the embedded servers keep their data, and loaders what must outlive them"""
    loader_interval_seconds: float = Field(default=0.25, gt=0, le=3600)
    """seconds between two passes of a loader"""
    archiver_interval_seconds: float = Field(default=5.0, gt=0, le=3600)
    """seconds between two passes of the archiver"""
    checker_interval_seconds: float = Field(default=15.0, gt=0, le=3600)
    """seconds between two passes of the checker"""
    console: str = Field(
        default="127.0.0.1:8081", pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5})?$"
    )
    """host:port of the console and /metrics, with the tokens and TLS of [serve]; empty: off"""
    serve: bool = False
    """also serve the spool over HTTP, with the settings of [serve]"""


FD = "fd://"
"""How `serve.listen` begins if it is the number of an inherited, listening socket."""


class ServeSettings(Section):
    """The file server: `penstock serve`, and `penstock run` with `run.serve`."""

    listen: str = Field(
        default="127.0.0.1:8080",
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}|fd://\d{1,4})$",
    )
    """host:port, or fd://3 for a socket from systemd; a host other than this machine's needs TLS"""
    unix_socket: str = ""
    """a Unix socket to listen on instead; it needs no token, its directory's mode protects it"""
    token: Tokens = SecretStr("")
    """the moving token: its holders may read and move files; to change it, give the old and the new
    one, separated by a space; without tokens and socket, both are made in run.state_directory"""
    token_file: str = ""
    """a file that holds the moving tokens"""
    read_token: Tokens = SecretStr("")
    """the reading token: its holders may list and read files, and see the console"""
    read_token_file: str = ""
    """a file that holds the reading tokens"""
    hosts: tuple[str, ...] = ()
    """host names that callers may use beside this machine's own, for example a proxy's"""
    tls_cert: str = ""
    """the certificate chain, PEM"""
    tls_key: str = ""
    """its private key, PEM"""
    insecure: bool = False
    """allow a host other than this machine's without TLS"""
    watch: Literal["inotify", "poll"] = "inotify"
    """how to notice new files; 'poll' for file systems without events, such as network shares"""
    rescan_seconds: float = Field(default=20.0, ge=1, le=25)
    """seconds between two full scans; also how long a worker trusts an unchanged directory time
    stamp"""
    access_log: bool = False
    """write a log line for each request"""


class AwsSettings(Section):
    """For AWS Lambda; the template sets these."""

    token_secret: str = ""
    """the secret (name or ARN) in Secrets Manager that holds source.token"""
    token_parameter: str = ""
    """or the parameter in SSM's Parameter Store that holds it"""
    ledger_password_secret: str = ""
    """the secret that holds the password of the Redis in ledger.url"""
    max_loaders: int = Field(default=1, ge=1, le=1000)
    """most loaders at once; while the backlog grows, a loader starts another one"""


class StatusSettings(Section):
    """When `penstock status`, the console and the alarms report a problem."""

    oldest_waiting_seconds: float = Field(default=600.0, gt=0)
    """waiting time in seconds after which a file counts as late"""
    silent_seconds: float = Field(default=600.0, gt=0)
    """seconds without a sign of life after which a worker, archiver or checker counts as stopped"""


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
        """Refuse a shared Redis without a name: two machines may have the same path."""
        if _is_shared(self.ledger.url) and not self.ledger.spool:
            raise ValueError(
                "ledger.spool: missing, and machines may share this Redis; allowed: a name such as"
                " 'tweets', the same for every worker on this directory and used for no other"
            )
        return self

    def fingerprint(self, message_bytes: int) -> str:
        """Return 64 hexadecimal digits that stand for everything that shapes messages.

        `message_bytes` is the effective size, including the queue's own limit. The same files under
        the same fingerprint give byte-identical messages.
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
    """Tell whether other machines may use this Redis; without a host they cannot."""
    if not redis_url.startswith("redis"):
        return False
    try:
        host = urlsplit(redis_url).hostname
    except ValueError:
        return True
    return bool(host) and not is_loopback(host)
