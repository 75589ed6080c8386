"""`penstock config check --connect`: tries each part, without touching anything of the user's.

It makes, reads, renames and deletes a test file, and sends a batch without messages.
"""

import email.utils
import errno
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from penstock import beneath, wiring
from penstock.embedded.redis import EmbeddedRedis, redis_server
from penstock.errors import Again, Halt, PenstockError
from penstock.settings.schema import EMBEDDED, Settings
from penstock.settings.spool_place import Directory, spool_place
from penstock.source.moves import rename_no_replace

_REDIS_APART_SECONDS, _SQS_APART_SECONDS = 5.0, 60.0
_LATER = "`penstock run` starts it"


class Tried(NamedTuple):
    """A part: whether it can be used, and what was found or what to do."""

    part: str
    ok: bool
    text: str


async def tried(settings: Settings) -> AsyncIterator[Tried]:
    """Yield the result for each part, in the order of a file's path."""
    apart: dict[str, tuple[float, float]] = {}  # by clock: how far ahead of ours, the limit

    async def limits() -> str:
        wiring.allow_open_files(settings)
        return "enough open files are allowed"

    async def clocks() -> str:
        wrong = [f"{c} by {s:+.0f} s" for c, (s, most) in apart.items() if abs(s) > most]
        if wrong:
            raise Halt(f"differ from this machine's: {', '.join(wrong)}; use NTP on both machines")
        return f"agree: {', '.join(apart) or 'no other clock was asked'}"

    parts: dict[str, Callable[[], Awaitable[str]]] = {
        "spool": lambda: _spool(settings),
        "archive": lambda: _target(settings, "archive"),
        "rejects": lambda: _target(settings, "rejects"),
        "redis": lambda: _redis(settings, apart),
        "queue": lambda: _queue(settings, apart),
        "limits": limits,
        "clocks": clocks,
    }
    for part, attempt in parts.items():
        try:
            yield Tried(part, ok=True, text=await attempt())
        except PenstockError as error:
            yield Tried(part, ok=False, text=str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            yield Tried(part, ok=False, text=f"{where}{beneath.why(error)}")


async def _spool(settings: Settings) -> str:
    async with AsyncExitStack() as stack:
        source = await wiring.source(settings, stack, wait_seconds=0.0)
        page = await source.list("")
        place = spool_place(settings.source.url)
        if isinstance(place, Directory):
            with beneath.folder(place.path) as fd:
                _probe(fd, fd)
            for name in page.names[:1]:
                (file,) = await source.read([name], 1)
                if file.detail:
                    raise Halt(f"{name}: {file.detail}; let user {os.geteuid()} read the files")
            return f"{place.path} can be listed, read and moved from"
        return f"{settings.source.url} can be listed"


async def _target(settings: Settings, which: str) -> str:
    """Rename a test file from the spool to the target, or to its nearest existing parent."""
    place = spool_place(settings.source.url)
    if not isinstance(place, Directory):
        return "on the machine of the file server: also run this there"
    if which == "archive" and settings.archive.bucket:
        from penstock.archive.bucket import bucket_at  # noqa: PLC0415  botocore: 0.1 s of imports

        bucket_at(settings.archive.bucket)
        return f"{settings.archive.bucket} has an address; uploading was not tried"
    if which == "archive" and settings.archive.action == "delete":
        return "processed files are deleted"
    of = place.archive_directory if which == "archive" else place.rejects_directory
    directory = of(settings.archive)
    near = next(path for path in (directory, *directory.parents) if path.is_dir())
    with beneath.folder(place.path) as spool_fd, beneath.folder(near) as fd:
        try:
            _probe(spool_fd, fd)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _probe(fd, fd)
            what, better = "on another file system", "use one on the spool's file system"
            if os.fstat(spool_fd).st_dev == os.fstat(fd).st_dev:
                what, better = "another mount of the spool's disk", "mount a parent of both instead"
            return f"{directory} is {what}: files are copied, which is slower; {better}"
    return f"{directory} accepts files"


def _probe(from_fd: int, to_fd: int) -> None:
    fd, draft = beneath.create_draft(from_fd)
    moved = f".{draft}.moved"
    try:
        os.write(fd, b"penstock")
        os.close(fd)
        beneath.read(from_fd, draft, 8)
        rename_no_replace(from_fd, draft, to_fd, moved)
    finally:
        for at_fd, name in ((from_fd, draft), (to_fd, moved)):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=at_fd)


async def _redis(settings: Settings, apart: dict[str, tuple[float, float]]) -> str:
    url = settings.ledger.url
    if url == EMBEDDED:
        embedded = EmbeddedRedis(Path(settings.run.state_directory))
        embedded.address = url = embedded.noted_address()
        if not (url and await embedded.answers()):
            if why := embedded.why_silent():
                raise Again(why)
            return f"embedded, {redis_server()}; {_LATER}"
    ledger = wiring.unopened_ledger(settings, url)
    try:
        await ledger.open()
        await ledger.upkeep.trouble("probe", "penstock config check --connect")
        await ledger.upkeep.trouble("probe", "")
        seen = await ledger.overview.read()
        apart["Redis's clock"] = (seen.at_seconds - time.time(), _REDIS_APART_SECONDS)
        await ledger.overview.memory()
    finally:
        await ledger.close()
    return "answers, accepts writes, and forgets nothing"


async def _queue(settings: Settings, apart: dict[str, tuple[float, float]]) -> str:
    wiring.check_queue(settings.queue)
    if (queue := await wiring.running_queue(settings)) is None:
        return f"embedded; {_LATER}"
    limits = await queue.open()  # closes itself if it fails
    try:
        date = await queue.try_sending()
        if told := date and email.utils.parsedate_to_datetime(date):
            apart["SQS's clock"] = (told.timestamp() - time.time(), _SQS_APART_SECONDS)
    finally:
        await queue.close()
    kind = "a FIFO queue" if limits.fifo else "a standard queue"
    return f"{kind}, which can be read and, as far as an empty batch shows, sent to"
