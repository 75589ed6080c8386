"""Settings to parts: the only place that names implementations.

Everything that needs giving back is opened on an AsyncExitStack that the caller owns, so parts are
closed in the reverse of the order in which they were opened, whatever happens.
"""

import contextlib
import importlib
import os
import resource
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from penstock.archiver import Archiver
from penstock.checker import Checker
from penstock.embedded import owner_mark
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, Halt, PenstockError
from penstock.ledger.connect import Address
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts
from penstock.loader import Loader
from penstock.model import Claim
from penstock.ports import IdentifiedSource, Queue, Source
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
    from penstock.model import Keys
    from penstock.sqs.queue import SqsQueue

_REDIS_TIMEOUT_SECONDS = 5.0
_FILE_SERVER_CONNECTIONS = 16
_FILES_A_LANE, _FILES_BESIDE = 8, 96  # folders and connections of a source, sockets, libraries
_REDIS_CONNECTIONS_BESIDE = 4  # figures, sweeps, the loaders' count
# What redis-py would pass over is refused: a path that is no number, all from a # on.


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


async def loader(
    settings: Settings, stack: AsyncExitStack, *, linger_seconds: float = 0.0
) -> Loader:
    """Return a worker's parts, the queue and the ledger asked whether they can serve.

    Files wait up to `linger_seconds` until there are enough of them to fill a message.
    Raises Again if one of them is away, Halt if one cannot work as configured.
    """
    import_parts(settings)
    allow_open_files(settings)
    transform = Transform(*decode_side(settings), max_file_bytes=settings.decode.max_file_bytes)
    spool, book = await _source_and_ledger(settings, stack, "loader")
    book.remember_in(Path(settings.run.state_directory) / f"{spool_name(settings)}.epoch")
    queue = await _queue(settings, stack)
    return await _loader(settings, transform, spool, book, queue, linger_seconds)


async def _loader(
    settings: Settings,
    transform: Transform,
    source: Source,
    ledger: Ledger,
    queue: Queue,
    linger_seconds: float,
) -> Loader:
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
        source=source,
        candidates=Candidates(source, linger_seconds=linger_seconds),
        ledger=ledger,
        queue=queue,
        transform=transform,
        new_packer=new_packer,
        fingerprint=fingerprint,
        lanes=worker.lanes,
        filling=Filling(
            limits, message_bytes, settings.queue.records_per_message, worker.claim_files_max
        ),
        claim_bytes_max=worker.claim_bytes_max,
        settle_seconds=settings.source.settle_seconds,
    )


def allow_open_files(settings: Settings) -> None:
    """Let this process have open all that its settings may open at once. Raises Halt if it may not.

    A worker that runs out of descriptors sends again what it could not note.
    """
    queue, lanes = settings.queue.connections, settings.worker.lanes
    needed = queue + _redis_connections(settings) + _FILES_A_LANE * lanes + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Halt(
            f"this process may open {hard:,} files, and may need {needed:,} (queue.connections ="
            f" {queue}, worker.lanes = {lanes}): raise its limit (`ulimit -Hn`, LimitNOFILE=), or"
            " lower these"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def import_parts(settings: Settings) -> None:
    """Import what only some processes need, before anything is waited for.

    Imported later, after an upgrade in place, it could be of another version than the rest.
    """
    importlib.import_module("penstock.sqs.queue")
    if settings.queue.url == EMBEDDED:
        importlib.import_module("penstock.embedded.sqs")


async def archiver(
    settings: Settings, stack: AsyncExitStack, *, is_only_pass: bool = True
) -> Archiver:
    """Return the archiver's parts. Raises Again or Halt as `loader` does.

    `is_only_pass`: nobody follows, so that all staged files are packed now.
    """
    source, ledger = await _source_and_ledger(settings, stack, "archiver")
    directory, pack = source.source, None
    if isinstance(directory, DirectorySource):
        pack = partial(directory.pack, at_once=is_only_pass)
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
    """Return the ledger, and the way into the spool that it knows.

    A directory that is missing was never there, or is away: then it may come back. An error that
    ends the use of them is noted in the ledger as that of the function `what`.
    """
    known = await ledger(settings, stack)

    async def leave_word(_: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, PenstockError):
            with contextlib.suppress(PenstockError):  # a ledger that is away takes no notes
                await known.upkeep.trouble(what, str(error))

    stack.push_async_exit(leave_word)
    try:
        found = await source(settings, stack)
    except Halt as error:
        place = spool_place(settings.source.url)
        is_missing = isinstance(place, Directory) and not place.path.exists()
        if is_missing and (was := await known.spool.known()):
            raise Again(f"{error}; the ledger holds files of it ({was}): mount it again") from None
        raise
    return ConfirmedSource(found, known.spool.confirm), known


async def source(
    settings: Settings, stack: AsyncExitStack, *, wait_seconds: float | None = None
) -> IdentifiedSource:
    """Return the way into the spool. Raises Halt if `source.url` names none.

    A listing of the file server with nothing new is answered after `wait_seconds`.
    """
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
    """Return a directory as the spool; `served`: as the file server has it, with events."""
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


def served_directory(settings: Settings) -> DirectorySource:
    """Return the spool as the file server has it. Raises Halt if it is not a directory."""
    spool = spool_place(settings.source.url)
    if not isinstance(spool, Directory):
        raise Halt("source.url: only a directory can be served; name one: penstock serve DIR")
    return directory_source(settings, spool, served=True)


def _http_source(
    settings: Settings, place: FileServer | Nginx, wait_seconds: float | None
) -> IdentifiedSource:
    # Here, because a worker with a directory does without aiohttp: 0.14 s of imports, and 10 MB.
    from penstock.source.file_server import WAIT_SECONDS, ServerSource  # noqa: PLC0415
    from penstock.source.http import CONNECTIONS, HttpSite  # noqa: PLC0415
    from penstock.source.nginx import NginxSource  # noqa: PLC0415

    source = settings.source
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
    return NginxSource(
        site,
        spool=place.spool,
        pattern=source.pattern,
        settle_seconds=source.settle_seconds,
        max_file_bytes=settings.decode.max_file_bytes,
        archive_directory=settings.archive.directory,
        rejects_directory=settings.archive.rejected_directory,
        archive_action=_action_of_nginx(settings),
    )


def _action_of_nginx(settings: Settings) -> Literal["move", "delete"]:
    if settings.archive.action == "pack":
        raise Halt("archive.action: nginx cannot pack, it can only 'move' or 'delete'; to pack, run"
                   " `penstock serve` in its place")  # fmt: skip
    return settings.archive.action


async def ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    """Return the ledger, checked. Raises Again if Redis is away, Halt if it cannot hold one."""
    url = settings.ledger.url
    if url == EMBEDDED:
        state = Path(settings.run.state_directory)
        owner_mark.bind(spool_place(settings.source.url), state)
        url = (await stack.enter_async_context(EmbeddedRedis(state, share=True))).url
    ledger = unopened_ledger(settings, url)
    stack.push_async_callback(ledger.close)
    await ledger.open()
    return ledger


def unopened_ledger(settings: Settings, url: str) -> Ledger:
    """Return the ledger at a Redis of which nothing is known yet. Raises Halt if `url` is wrong."""
    address = Address(
        url, timeout_seconds=_REDIS_TIMEOUT_SECONDS, connections=_redis_connections(settings)
    )
    return Ledger(
        Scripts(
            address.client(),
            spool_name(settings),
            address=address,
            replicas=settings.ledger.wait_replicas,
        ),
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


def _margin_seconds(settings: Settings) -> float:
    """Return how long before the end of its lease a claim stops sending: as long as a call takes.

    A call in flight when the lease ends could be repeated by the next owner.
    """
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


def unopened_queue(
    queue: QueueSettings, timeout_seconds: float, keys: "Keys | None" = None
) -> "SqsQueue":
    """Return the queue that settings name, of which nothing is known yet.

    Its calls are signed with `keys`, or else with the credentials that AWS's own settings name.
    """
    # Here, because archiver and checker do without botocore: 0.1 s of imports.
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
    """Raise Halt if the queue's addresses cannot be ones; asks nobody."""
    from penstock.sqs.endpoint import addresses  # noqa: PLC0415  as `SqsQueue`

    if not queue.url:
        raise Halt("queue.url: missing; allowed: the URL of an SQS queue, or 'embedded' to try out")
    if queue.url != EMBEDDED:
        addresses(queue.url, queue.endpoint_url or None, queue.region or None)
