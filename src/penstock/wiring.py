"""Settings to parts: the only place that names implementations, with wiring_http.py.

Everything that needs giving back is opened on an AsyncExitStack that the caller owns, so parts are
closed in the reverse of the order in which they were opened, whatever happens.
"""

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis

from penstock import telemetry
from penstock.archiver import Archiver
from penstock.checker import Checker
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Halt
from penstock.ledger.ledger import Ledger
from penstock.loader import Loader
from penstock.model import Claim
from penstock.ports import Queue, Source
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from penstock.settings import EMBEDDED, EMBEDDED_QUEUE, Settings, without_password
from penstock.source.candidates import Candidates
from penstock.source.directory import DirectorySource
from penstock.sqs.packer import Packer

if TYPE_CHECKING:
    from penstock.sqs.queue import SqsQueue

T = TypeVar("T")

_REDIS_TIMEOUT_SECONDS = 5.0
_REDIS_CONNECTIONS_BESIDE = 4  # figures, sweeps, the loaders' count
_HTTP = ("http://", "https://", "http+unix://", "nginx+")
# What redis-py would pass over is refused: a path that is no number, all from a # on.
_REDIS_URL = re.compile(r"(rediss?://(?=.)[^/?#]*(/\d*)?|unix://[^?#]+)(\?[^#]*)?")


def decode_side(settings: Settings) -> tuple[Preamble, Decoder, Selection]:
    """Return the pure middle of the path. Raises Halt if an expression cannot be used."""
    decode = settings.decode
    preamble = Preamble(
        lines=decode.preamble_lines,
        pattern=decode.preamble_pattern or None,
        literals=[(literal.prefix, literal.suffix) for literal in decode.preamble_literals],
    )
    selection = Selection(settings.select.fields, settings.select.where or None)
    decoder = Decoder(
        selection.record_type,
        records=decode.records or None,
        skip=decode.skip_lines or None,
        advise=preamble.advice,
    )
    return preamble, decoder, selection


async def loader(settings: Settings, stack: AsyncExitStack) -> Loader:
    """Return a worker's parts, the queue and the ledger asked whether they can serve.

    Raises Again if one of them is away, Halt if one cannot work as configured.
    """
    preamble, decoder, selection = decode_side(settings)
    files = await source(settings, stack)
    book = await ledger(settings, stack)
    queue = await _queue(settings, stack)
    limits = await queue.open()
    message_bytes = settings.queue.message_bytes or limits.message_bytes_max
    fingerprint = settings.fingerprint(message_bytes)
    worker = settings.worker

    def new_packer(claim: Claim) -> Packer:
        return Packer(
            limits=limits,
            message_bytes=settings.queue.message_bytes,
            records_per_message=settings.queue.records_per_message,
            fingerprint=fingerprint + claim.salt,
            names=claim.names,
            claim=claim.id,
        )

    new_packer(Claim("", "", (), 1, {}))  # a message_bytes that the queue refuses halts now
    return Loader(
        source=files,
        candidates=Candidates(
            files, files_max=worker.claim_files_max, bytes_max=worker.claim_bytes_max
        ),
        ledger=book,
        queue=queue,
        preamble=preamble,
        decoder=decoder,
        selection=selection,
        new_packer=new_packer,
        fingerprint=fingerprint,
        lanes=worker.lanes,
        claim_files_max=worker.claim_files_max,
        claim_bytes_max=worker.claim_bytes_max,
        max_file_bytes=settings.decode.max_file_bytes,
        settle_seconds=settings.source.settle_seconds,
    )


async def archiver(settings: Settings, stack: AsyncExitStack) -> Archiver:
    """Return the archiver's parts. Raises Again or Halt as `loader` does."""
    files = await source(settings, stack)
    book = await ledger(settings, stack)
    return Archiver(files, book, settings.archive.retention_days)


async def checker(settings: Settings, stack: AsyncExitStack) -> Checker:
    """Return the checker's parts. Raises Again or Halt as `loader` does."""
    files = await source(settings, stack)
    book = await ledger(settings, stack)
    return Checker(
        files,
        book,
        lease_seconds=settings.ledger.lease_seconds,
        sweep_seconds=settings.ledger.sweep_seconds,
        fifo=settings.queue.url.endswith(".fifo"),
    )


async def source(
    settings: Settings, stack: AsyncExitStack, *, wait_seconds: float | None = None
) -> Source:
    """Return the way into the spool. Raises Halt if `source.url` names none.

    A listing of the file server with nothing new is answered after `wait_seconds`.
    """
    made: Source
    if is_directory(settings):
        made = directory_source(settings)
    else:
        # Here, because whoever has a directory does without aiohttp: 0.14 s of imports, and 10 MB.
        from penstock.wiring_http import http_source  # noqa: PLC0415

        made = http_source(settings, wait_seconds)
    stack.push_async_callback(made.close)
    return made


def served_directory(settings: Settings) -> DirectorySource:
    """Return the spool as the file server has it: with events, if it may. Raises Halt."""
    if not is_directory(settings):
        raise Halt("source.url: only a directory can be served; name one: penstock serve DIR")
    return directory_source(settings, served=True)


def directory_source(settings: Settings, *, served: bool = False) -> DirectorySource:
    """Return the spool as a directory of this machine. Raises Halt if `source.url` names none."""
    spool = spool_directory(settings)
    return DirectorySource(
        spool,
        pattern=settings.source.pattern,
        settle_seconds=settings.source.settle_seconds,
        max_file_bytes=settings.decode.max_file_bytes,
        archive_directory=archive_directory(settings),
        rejects_directory=rejects_directory(settings),
        archive_action=settings.archive.action,
        served=settings.serve.watch if served else None,
        rescan_seconds=settings.serve.rescan_seconds,
    )


def is_directory(settings: Settings) -> bool:
    """Tell whether the spool is a directory of this machine, not one behind HTTP."""
    return not settings.source.url.startswith(_HTTP)


def archive_directory(settings: Settings) -> Path:
    """Return where processed files go. Raises Halt if that cannot be told."""
    return _beside(spool_directory(settings), settings.archive.directory, "archive.directory")


def rejects_directory(settings: Settings) -> Path:
    """Return where rejected files go. Raises Halt if that cannot be told."""
    directory = settings.archive.rejected_directory
    return _beside(spool_directory(settings), directory, "archive.rejected_directory")


def spool_is_named(settings: Settings) -> None:
    """Raise Halt if there is no `source.url`: then nothing else is worth a look."""
    if not settings.source.url:
        raise Halt(
            "source.url: missing; allowed: the directory that the files are written into"
            " (`penstock init DIR` writes a penstock.toml here; --config names another one)"
        )


def spool_directory(settings: Settings) -> Path:
    """Return the directory that `source.url` names. Raises Halt if it names none."""
    url = settings.source.url
    spool_is_named(settings)
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or parts.path in {"", "/"}:
        raise Halt(
            f"source.url: {without_password(url)!r} names no spool; allowed: /path, file:///path,"
            " http://host:port, https://host:port, http+unix:///socket or nginx+http://host/path/"
        )
    return Path(unquote(parts.path))


def bind_ledger(settings: Settings, state: Path) -> None:
    """Hold the embedded ledger in `state` and the spool together, as far as that is possible.

    Raises Halt if the spool belongs to another one.
    """
    if is_directory(settings):
        bind(spool_directory(settings), state)
    for line in warnings(settings):
        telemetry.warn("spool.unmarked", cause=line)


def warnings(settings: Settings) -> list[str]:
    """Return what can work as configured, and may not be meant, a line each."""
    if settings.ledger.url != EMBEDDED or is_directory(settings):
        return []
    line = (
        "ledger.url: 'embedded', and the spool is behind HTTP: only this machine's own Redis knows"
        " what was sent of it. A second box with a Redis of its own would send all of it again, and"
        " nothing would tell: for more than one box, give all of them one Redis in ledger.url, and"
        " one name in ledger.spool"
    )
    return [line]


def bind(spool: Path, state: Path) -> None:
    """Note beside the spool which embedded ledger knows it. Raises Halt if that is another one.

    A second ledger (the settings copied elsewhere, another `run.state_directory`) would know
    nothing of what was sent, and send all of it again.
    """
    marker, ours = marker_of(spool), str(state.resolve())
    try:
        theirs = _opened(marker, os.O_RDONLY, lambda fd: os.read(fd, 4096).decode().strip())
        if theirs == ours:
            return
        if theirs and Path(theirs).is_dir():
            raise Halt(
                f"run.state_directory: {ours}, but what was sent of {spool} is known to the ledger"
                f" in {theirs}; allowed: that one, or delete {marker} if it is given up"
            )
        marker.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return  # a link, or not ours to read or write: then there is no marker, and nothing is lost
    with contextlib.suppress(OSError):
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        _opened(marker, new, lambda fd: os.write(fd, f"{ours}\n".encode()))


def marker_of(spool: Path) -> Path:
    """Return the hidden file beside a spool that names the embedded ledger that knows it."""
    whole = spool.resolve()
    return whole.with_name(f".{whole.name}.penstock-ledger")


def _opened(path: Path, flags: int, use: Callable[[int], T]) -> T:
    """Use a file in whose place anybody may have put a link. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        return use(fd)
    finally:
        os.close(fd)


def _beside(spool: Path, directory: str, setting: str) -> Path:
    """Return where files are moved to; a relative path lies beside the spool.

    Raises Halt if that would leave the spool's file system unasked: a container's own layer, say,
    where the spool is a mounted volume.
    """
    if Path(directory).is_absolute():
        return Path(directory)
    path = spool.absolute().parent / directory
    if spool.is_dir() and spool.stat().st_dev != spool.absolute().parent.stat().st_dev:
        raise Halt(
            f"{setting}: {path} is on another file system than the spool {spool};"
            " allowed: an absolute path, best one on the spool's file system"
        )
    return path


async def ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    """Return the ledger, checked. Raises Again if Redis is away, Halt if it cannot hold one."""
    url = settings.ledger.url
    if url == EMBEDDED:
        state = Path(settings.run.state_directory)
        bind_ledger(settings, state)
        url = (await stack.enter_async_context(EmbeddedRedis(state, share=True))).url
    book = unopened_ledger(settings, url)
    stack.push_async_callback(book.close)
    await book.open()
    return book


def unopened_ledger(settings: Settings, url: str) -> Ledger:
    """Return the ledger at a Redis of which nothing is known yet. Raises Halt if `url` is wrong."""
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url if _REDIS_URL.fullmatch(url) else "",  # which redis-py refuses, too
            max_connections=_redis_connections(settings),
            timeout=_REDIS_TIMEOUT_SECONDS,
            decode_responses=True,
            socket_timeout=_REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
            health_check_interval=30,
        )
        pool.make_connection()  # connects nothing, but reads the address's query
    except (ValueError, TypeError, redis.RedisError):  # their texts may repeat a part of a password
        raise Halt(
            "ledger.url: not an address of Redis; allowed: 'embedded', redis://host:port,"
            " rediss://host:port or unix:///path, a password in it percent-encoded"
        ) from None
    return Ledger(
        redis.Redis.from_pool(pool),
        spool=spool_name(settings),
        worker=_worker_name(),
        lease_seconds=settings.ledger.lease_seconds,
        margin_seconds=_margin_seconds(settings),
        takeovers_max=settings.ledger.takeovers_max,
    )


def _redis_connections(settings: Settings) -> int:
    """Return how many calls to Redis go out side by side; more of them wait their turn.

    A step, a heartbeat and a call of receipts for each lane, and the rest of the process.
    """
    return 3 * settings.worker.lanes + _REDIS_CONNECTIONS_BESIDE


def _worker_name() -> str:
    """Return what no other process is called at the same time.

    Sandboxes of Lambda share host names and process ids; what tells them apart is their log stream.
    """
    stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    return stream.rpartition("]")[2] or f"{socket.gethostname()}-{os.getpid()}"


def spool_name(settings: Settings) -> str:
    """Return the spool's name in Redis; without one it is made from the whole path or address."""
    if settings.ledger.spool:
        return settings.ledger.spool
    if is_directory(settings):
        spool = spool_directory(settings)
        whole, name = str(spool.resolve()), spool.name
    else:
        whole, name = settings.source.url, urlsplit(settings.source.url).hostname or "spool"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[:40]}-{digest}"


def _margin_seconds(settings: Settings) -> float:
    """Return how long before the end of its lease a claim stops sending: as long as a call takes.

    A call in flight when the lease ends could be repeated by the next owner.
    """
    return min(settings.queue.timeout_seconds + 1, settings.ledger.lease_seconds / 2)


async def _queue(settings: Settings, stack: AsyncExitStack) -> Queue:
    queue = settings.queue
    url, endpoint_url = queue.url, queue.endpoint_url
    _check_queue(settings)
    if url == EMBEDDED:
        from penstock.embedded.sqs import EmbeddedSqs  # noqa: PLC0415  as in `source`

        sqs = await stack.enter_async_context(
            EmbeddedSqs(Path(settings.run.state_directory), share=True)
        )
        endpoint_url = sqs.endpoint_url
        url = await sqs.create_queue(EMBEDDED_QUEUE)
        os.environ.update(sqs.environment)  # no call of this process goes to AWS
    timeout_seconds = min(queue.timeout_seconds, _margin_seconds(settings))
    made = unopened_queue(settings, url, endpoint_url, timeout_seconds)
    stack.push_async_callback(made.close)
    return made


def unopened_queue(
    settings: Settings, url: str, endpoint_url: str, timeout_seconds: float
) -> "SqsQueue":
    """Return the queue at `url`, of which nothing is known yet."""
    # Here, because archiver and checker do without botocore: 0.1 s of imports.
    from penstock.sqs.queue import SqsQueue  # noqa: PLC0415

    queue = settings.queue
    return SqsQueue(
        url,
        endpoint_url=endpoint_url or None,
        region=queue.region or None,
        connections=queue.connections,
        timeout_seconds=timeout_seconds,
    )


def _check_queue(settings: Settings) -> None:
    """Raise Halt if the queue's addresses cannot be ones; asks nobody."""
    from penstock.sqs.endpoint import addresses  # noqa: PLC0415  as `SqsQueue`

    url = settings.queue.url
    if not url:
        raise Halt("queue.url: missing; allowed: the URL of an SQS queue, or 'embedded' to try out")
    if url != EMBEDDED:
        addresses(url, settings.queue.endpoint_url or None)


async def mistakes(settings: Settings) -> list[str]:
    """Return what cannot work as configured, a line each; asks neither Redis nor the queue."""
    lines: list[str] = []
    async with AsyncExitStack() as stack:
        with _noted(lines):
            decode_side(settings)
        with _noted(lines):
            await source(settings, stack)
        with _noted(lines):
            if settings.ledger.url != EMBEDDED:
                unopened_ledger(settings, settings.ledger.url)
        with _noted(lines):
            _check_queue(settings)
    return list(dict.fromkeys(lines))


@contextlib.contextmanager
def _noted(lines: list[str]) -> Generator[None]:
    try:
        yield
    except Halt as error:
        lines += str(error).splitlines()
