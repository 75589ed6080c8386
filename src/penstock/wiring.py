"""Build the parts from the settings: the only place that names implementations.

Parts are opened on the caller's AsyncExitStack, which always closes them, in reverse order.
"""

import contextlib
import os
import resource
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import import_at_once
from penstock.archiver import Archiver
from penstock.checker import Checker
from penstock.embedded import owner_mark
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, Halt, PenstockError
from penstock.ledger.connect import Address
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts
from penstock.loader import Loader
from penstock.model import Claim, Keys, QueueLimits
from penstock.ports import IdentifiedSource, Queue
from penstock.reader import Reader
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from penstock.records.transform import Transform
from penstock.settings.schema import EMBEDDED, EMBEDDED_QUEUE, QueueSettings, Settings
from penstock.settings.secrets import tokens
from penstock.settings.spool_place import Directory, FileServer, Nginx, spool_name, spool_place
from penstock.source.candidates import Candidates
from penstock.source.confirmed import ConfirmedSource
from penstock.source.directory import DirectorySource
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer

if TYPE_CHECKING:
    from penstock.sqs.queue import SqsQueue

_REDIS_TIMEOUT_SECONDS = 5.0
_FILE_SERVER_CONNECTIONS = 16
_FILES_A_LANE, _FILES_BESIDE = 8, 96  # folders and connections of a source, sockets, libraries
_REDIS_CONNECTIONS_BESIDE = 4  # for figures, sweeps, the loaders' count


def decode_side(settings: Settings) -> tuple[Preamble, Decoder, Selection]:
    """Return the pure middle of the path. Raises Halt if an expression is unusable."""
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


async def loader(
    settings: Settings, stack: AsyncExitStack, *, linger_seconds: float = 0.0
) -> Loader:
    """Return a worker's parts, after checking that the queue and the ledger can serve.

    Files wait up to `linger_seconds` for others to fill a message with. Raises Again if a part is
    away, Halt if one cannot work as configured.
    """
    import_parts(settings)
    allow_open_files(settings)
    transform = Transform(*decode_side(settings), max_file_bytes=settings.decode.max_file_bytes)
    spool, book = await _source_and_ledger(settings, stack, "loader")
    book.remember_in(Path(settings.run.state_directory) / f"{spool_name(settings)}.epoch")
    queue = await _queue(settings, stack)
    limits = await queue.open()
    message_bytes = settings.queue.message_bytes or limits.message_bytes_max
    many, worker = settings.queue.records_per_message, settings.worker
    fingerprint = settings.fingerprint(message_bytes)
    new_packer = partial(_new_packer, settings.queue, limits, fingerprint)
    new_packer(Claim("", "", (), 1, {}))  # halts now if message_bytes is too large
    filling = Filling(limits, message_bytes, many, worker.claim_files_max)
    settle_seconds = settings.source.settle_seconds
    return Loader(
        reader=Reader(spool, transform, filling, worker.claim_bytes_max, settle_seconds),
        candidates=Candidates(spool, linger_seconds=linger_seconds),
        ledger=book,
        queue=queue,
        new_packer=new_packer,
        fingerprint=fingerprint,
        lanes=worker.lanes,
        filling=filling,
    )


def _new_packer(
    queue: QueueSettings, limits: QueueLimits, fingerprint: str, claim: Claim
) -> Packer:
    return Packer(
        limits=limits,
        message_bytes=queue.message_bytes,
        records_per_message=queue.records_per_message,
        fingerprint=fingerprint + claim.salt,
        names=claim.names,
        claim=claim.id,
    )


def allow_open_files(settings: Settings) -> None:
    """Allow enough open files; without them a worker could not journal. Raises Halt."""
    queue, lanes = settings.queue.connections, settings.worker.lanes
    needed = queue + _redis_connections(settings) + _FILES_A_LANE * lanes + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Halt(
            f"this process may open {hard:,} files, and may need {needed:,} (queue.connections ="
            f" {queue}, worker.lanes = {lanes}): raise its limit (`ulimit -Hn`, LimitNOFILE=), or"
            " lower these settings"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def import_parts(settings: Settings) -> None:
    """Import everything before waiting, so that an upgrade in place cannot mix versions."""
    import_at_once("penstock.sqs.queue")
    if settings.queue.url == EMBEDDED:
        import_at_once("penstock.embedded.sqs")
    _import_bucket(settings)


def _import_bucket(settings: Settings) -> None:
    if settings.archive.bucket:
        import_at_once("penstock.archive.bucket")


async def archiver(
    settings: Settings, stack: AsyncExitStack, *, is_only_pass: bool = True
) -> Archiver:
    """Return the archiver's parts; `is_only_pass` packs all at once. Raises as `loader` does."""
    source, ledger = await _source_and_ledger(settings, stack, "archiver")
    pack = None
    if isinstance(source.source, DirectorySource):
        pack = partial(source.source.pack, at_once=is_only_pass)
    return Archiver(source, ledger, settings.archive.retention_days, pack)


async def checker(settings: Settings, stack: AsyncExitStack) -> Checker:
    """Return the checker's parts. Raises Again or Halt as `loader` does."""
    return Checker(
        *await _source_and_ledger(settings, stack, "checker"),
        lease_seconds=settings.ledger.lease_seconds,
        sweep_seconds=settings.ledger.sweep_seconds,
        fifo=settings.queue.url.endswith(".fifo"),
    )


async def _source_and_ledger(
    settings: Settings, stack: AsyncExitStack, what: str
) -> tuple[ConfirmedSource, Ledger]:
    """Return spool and ledger, which notes errors of `what`. Raises Again if its spool is gone."""
    known = await ledger(settings, stack)

    async def leave_word(_: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, PenstockError):
            with contextlib.suppress(PenstockError):  # the ledger itself may be away
                # Only the first line: the log has the rest, such as the end of another log.
                await known.upkeep.trouble(what, str(error).partition("\n")[0].rstrip(":"))

    stack.push_async_exit(leave_word)
    try:
        found = await source(settings, stack)
    except Halt as error:
        place = spool_place(settings.source.url)
        if isinstance(place, Directory) and not place.path.exists():
            raise await known.spool.missing(error) from None
        raise
    return ConfirmedSource(found, known.spool.confirm, known.spool.missing), known


async def source(
    settings: Settings, stack: AsyncExitStack, *, wait_seconds: float | None = None
) -> IdentifiedSource:
    """Return the spool's source; over HTTP, empty listings take up to `wait_seconds`."""
    place = spool_place(settings.source.url)
    made: IdentifiedSource
    if isinstance(place, Directory):
        made = directory_source(settings, place)
    else:
        made = _http_source(settings, place, wait_seconds)
    stack.push_async_callback(made.close)
    return made


def directory_source(
    settings: Settings, spool: Directory, *, served: bool = False
) -> DirectorySource:
    """Return a directory as the spool; `served`: for the file server, with events."""
    _import_bucket(settings)
    source = DirectorySource(
        spool.path,
        pattern=settings.source.pattern,
        settle_seconds=settings.source.settle_seconds,
        max_file_bytes=settings.decode.max_file_bytes,
        archive_directory=spool.archive_directory(settings.archive),
        rejects_directory=spool.rejects_directory(settings.archive),
        archive_action=settings.archive.action,
        served=settings.serve.watch if served else None,
        rescan_seconds=settings.serve.rescan_seconds,
    )
    source.pack_seconds = settings.archive.pack_seconds
    source.bucket = settings.archive.bucket
    return source


def _http_source(
    settings: Settings, place: FileServer | Nginx, wait_seconds: float | None
) -> IdentifiedSource:
    # Imported here: a worker on a directory needs no aiohttp, 0.14 s of imports and 10 MB.
    from penstock.source.file_server import WAIT_SECONDS, ServerSource  # noqa: PLC0415
    from penstock.source.http import CONNECTIONS, HttpSite  # noqa: PLC0415
    from penstock.source.nginx import NginxSource  # noqa: PLC0415

    source, action = settings.source, settings.archive.action
    found = tokens(source.token, source.token_file, "source.token")
    site = HttpSite(
        place.url,
        token=found[0] if found else "",
        ca_file=source.ca_file,
        timeout_seconds=source.timeout_seconds,
        connections=CONNECTIONS if isinstance(place, Nginx) else _FILE_SERVER_CONNECTIONS,
    )
    if isinstance(place, FileServer):
        return ServerSource(
            site,
            max_file_bytes=settings.decode.max_file_bytes,
            wait_seconds=WAIT_SECONDS if wait_seconds is None else wait_seconds,
        )
    if action == "pack":
        raise Halt("archive.action: nginx cannot pack; allowed: 'move' or 'delete'; to pack, run"
                   " `penstock serve` instead")  # fmt: skip
    return NginxSource(
        site,
        spool=place.spool,
        pattern=source.pattern,
        settle_seconds=source.settle_seconds,
        max_file_bytes=settings.decode.max_file_bytes,
        archive_directory=settings.archive.directory,
        rejects_directory=settings.archive.rejected_directory,
        archive_action=action,
    )


async def ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    """Return the checked ledger. Raises Again if Redis is away, Halt if it cannot be a ledger."""
    url = settings.ledger.url
    if url == EMBEDDED:
        state = Path(settings.run.state_directory)
        owner_mark.bind(spool_place(settings.source.url), state)
        url = (await stack.enter_async_context(EmbeddedRedis(state, share=True))).address
    ledger = unopened_ledger(settings, url)
    stack.push_async_callback(ledger.close)
    await ledger.open()
    return ledger


def unopened_ledger(settings: Settings, url: str) -> Ledger:
    """Return the unchecked ledger at a Redis. Raises Halt if `url` is wrong."""
    address = Address(
        url, timeout_seconds=_REDIS_TIMEOUT_SECONDS, connections=_redis_connections(settings)
    )
    name, replicas = spool_name(settings), settings.ledger.wait_replicas
    return Ledger(
        Scripts(address.client(), name, address=address, replicas=replicas),
        worker=_worker_name(),
        lease_seconds=settings.ledger.lease_seconds,
        margin_seconds=_margin_seconds(settings),
        takeovers_max=settings.ledger.takeovers_max,
    )


def _redis_connections(settings: Settings) -> int:
    """Return how many calls to Redis go out at once: step, heartbeat, receipts of each lane."""
    return 3 * settings.worker.lanes + _REDIS_CONNECTIONS_BESIDE


def _worker_name() -> str:
    """Return a unique name; in Lambda the log stream, as sandboxes share hosts and process ids."""
    stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    return stream.rpartition("]")[2] or f"{socket.gethostname()}-{os.getpid()}"


def _margin_seconds(settings: Settings) -> float:
    """Return how long before its lease ends a claim stops sending: one call's timeout."""
    return min(settings.queue.timeout_seconds + 1, settings.ledger.lease_seconds / 2)


async def _queue(settings: Settings, stack: AsyncExitStack) -> Queue:
    check_queue(settings.queue)
    queue, keys = settings.queue, None
    if queue.url == EMBEDDED:
        from penstock.embedded.sqs import EmbeddedSqs  # noqa: PLC0415  as in `_http_source`

        sqs = await stack.enter_async_context(
            EmbeddedSqs(Path(settings.run.state_directory), share=True)
        )
        queue, keys = sqs.settings_of(queue, await sqs.create_queue(EMBEDDED_QUEUE)), sqs.keys
    timeout_seconds = min(queue.timeout_seconds, _margin_seconds(settings))
    made = unopened_queue(queue, timeout_seconds, keys)
    stack.push_async_callback(made.close)
    return made


async def running_queue(settings: Settings) -> "SqsQueue | None":
    """Return the unchecked queue, and start none; None if the embedded SQS does not run.

    Raises Again if that runs and does not answer, Halt if it lacks the queue.
    """
    queue, keys = settings.queue, None
    if queue.url == EMBEDDED:
        from penstock.embedded.sqs import EmbeddedSqs  # noqa: PLC0415  as in `_http_source`

        sqs = EmbeddedSqs(Path(settings.run.state_directory))
        sqs.address = sqs.noted_address()
        if not (sqs.address and await sqs.answers()):
            if why := sqs.why_silent():
                raise Again(why)
            return None
        queue, keys = sqs.settings_of(queue, await sqs.queue_url(EMBEDDED_QUEUE)), sqs.keys
    return unopened_queue(queue, queue.timeout_seconds, keys)


def unopened_queue(
    queue: QueueSettings, timeout_seconds: float, keys: Keys | None = None
) -> "SqsQueue":
    """Return the unchecked queue; it signs with `keys`, or else with AWS's own settings."""
    # Imported here: archiver and checker need no botocore, 0.1 s of imports.
    import_at_once("penstock.sqs.queue")
    from penstock.sqs.queue import SqsQueue  # noqa: PLC0415

    return SqsQueue(
        queue.url,
        endpoint_url=queue.endpoint_url or None,
        region=queue.region or None,
        keys=keys,
        connections=queue.connections,
        timeout_seconds=timeout_seconds,
    )


def check_queue(queue: QueueSettings) -> None:
    """Raise Halt if the queue's addresses are invalid; makes no call."""
    from penstock.sqs.endpoint import addresses  # noqa: PLC0415  as `SqsQueue`

    if not queue.url:
        raise Halt("queue.url: missing; allowed: the URL of an SQS queue, or 'embedded' to try out")
    if queue.url != EMBEDDED:
        addresses(queue.url, queue.endpoint_url or None, queue.region or None)
