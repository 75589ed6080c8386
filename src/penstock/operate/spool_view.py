"""Look at the spool and the directories beside it, without delaying anything.

A scan of the spool takes 0.4 s a million files, and more over HTTP, so scans take at most a tenth
of the time.
"""

import asyncio
import contextlib
import math
import os
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from penstock import file_names, wiring
from penstock.archive.forecast import ArchiveSpace, archive_space
from penstock.errors import Again
from penstock.ledger.reads import FILES_A_CALL_MAX
from penstock.model import SpoolIdentity, Unread
from penstock.ports import IdentifiedSource
from penstock.settings.schema import Settings
from penstock.settings.spool_place import Directory, spool_place
from penstock.source import marker
from penstock.source.frames import PAGE_FILES_MAX
from penstock.source.pace import Pace
from penstock.source.scan import listed

_LOOK_SECONDS_MAX = 2.0  # of one search for the oldest waiting file
_KEPT_SECONDS = 30.0  # between two counts of the rejects directory
_KEPT_MAX = 100_000
_OVER = frozenset({"processed", "archived", "rejected"})
_WAITING = frozenset({"waiting", "retry"})

States = Callable[[Sequence[str]], Awaitable[Sequence[str]]]


class DiskRoom(NamedTuple):
    """The free space on a disk, and its size."""

    free_bytes: int
    disk_bytes: int
    inodes_free_share: float


class SpoolState(NamedTuple):
    """The spool at one moment.

    `entries` counts its files in any state. `oldest_waiting` is the first file in order of names
    that is neither claimed nor settled; `oldest_waiting_seconds` is the time since its last change.
    `rejects_kept` counts the files in the rejects directory, up to 100,000; `room` is that of the
    spool's disk; both are None over HTTP. `archive` is the space on the archive's disk, if files
    are archived here. `broken` counts entries that match `source.pattern` but can never be sent;
    `example` is one of them, with the rule that it breaks.
    """

    entries: int
    oldest_waiting: str = ""
    oldest_waiting_seconds: float = 0.0
    rejects_kept: int | None = None
    room: DiskRoom | None = None
    archive: ArchiveSpace | None = None
    identity: SpoolIdentity = SpoolIdentity()
    broken: int = 0
    example: str = ""


class OldestWaiting:
    """Finds the oldest file that nobody has claimed, repeatedly.

    `age_seconds` returns the age of a file; None if it has gone. Settled names are not asked for
    again.
    """

    def __init__(self, age_seconds: Callable[[str], Awaitable[float | None]]) -> None:
        self._age_seconds = age_seconds
        self._over_up_to = ""  # all names up to this one are settled for ever

    async def find(self, names: Sequence[str], states: States) -> tuple[str, float]:
        """Return the first of the sorted names that nobody has claimed, and its age; "" if none."""
        all_over = True
        began = time.monotonic()
        start = bisect_right(names, self._over_up_to)
        for first in range(start, len(names), FILES_A_CALL_MAX):
            page = names[first : first + FILES_A_CALL_MAX]
            for name, state in zip(page, await states(page), strict=True):
                if state in _WAITING:
                    age_seconds = await self._age_seconds(name)
                    if age_seconds is not None:  # else it has just disappeared
                        return name, age_seconds
                all_over = all_over and state in _OVER
                if all_over:
                    self._over_up_to = name
            if time.monotonic() - began > _LOOK_SECONDS_MAX:
                break
        if names and all_over and self._over_up_to >= names[-1]:
            # Names may arrive out of order: start over now and then.
            self._over_up_to = ""
        return "", 0.0


class SpoolWatch:
    """Looks at one spool, repeatedly."""

    def __init__(self, view: "DirectoryView | RemoteView") -> None:
        self._view = view
        self._oldest = OldestWaiting(view.age_seconds)
        self._names: list[str] = []
        self._pace = Pace()
        self._kept: int | None = None
        self._archive: ArchiveSpace | None = None
        self._kept_at_seconds = -math.inf

    async def look(self, states: States | None) -> SpoolState:
        """Look once; `states` asks the ledger. Raises Again or Halt, and what `states` raises."""
        now = time.monotonic()
        if not self._pace.pause_seconds:
            self._names = await self._view.scan()
            self._pace.listed(now)
        if now - self._kept_at_seconds >= _KEPT_SECONDS:
            self._kept, self._archive = await self._view.beside()
            self._kept_at_seconds = now
        oldest, age_seconds = await self._oldest.find(self._names, states) if states else ("", 0.0)
        return SpoolState(
            entries=len(self._names),
            oldest_waiting=oldest,
            oldest_waiting_seconds=age_seconds,
            rejects_kept=self._kept,
            room=self._view.room(),
            archive=self._archive,
            identity=await self._view.identity(),
            broken=self._view.broken,
            example=self._view.example,
        )

    def forget_kept(self) -> None:
        """Count the rejects directory again at the next look."""
        self._kept_at_seconds = -math.inf


class DirectoryView:
    """The spool as a local directory."""

    broken, example = 0, ""  # see `Listed`

    def __init__(self, settings: Settings, spool: Directory) -> None:
        kept, archive = settings.archive, spool.archive_directory(settings.archive)
        self._spool = spool.path
        self._pattern = settings.source.pattern
        self._rejects_directory = spool.rejects_directory(kept)
        self._archive = partial(archive_space, archive, kept.action, is_uploaded=bool(kept.bucket))

    async def scan(self) -> list[str]:
        """Return the names of all files, sorted. Raises Again if they cannot be listed."""
        try:
            found = await asyncio.to_thread(listed, self._spool, self._pattern)
        except OSError as error:
            raise Again(
                f"list {self._spool}: {error.strerror}; check source.url, and whether the directory"
                " exists and may be read"
            ) from None
        self.broken, self.example = found.broken, found.example
        return found.names

    async def age_seconds(self, name: str) -> float | None:
        """Return the time since a listed file's last change; None if it has disappeared."""
        try:
            return max(0.0, time.time() - (self._spool / name).stat().st_ctime)
        except FileNotFoundError:
            return None
        except OSError:
            return 0.0

    async def beside(self) -> tuple[int, ArchiveSpace | None]:
        """Return the number of rejects kept, and the archive's space; None if there is none."""
        return await asyncio.to_thread(lambda: (self._rejects_kept(), self._archive(time.time())))

    def _rejects_kept(self) -> int:
        count = 0
        with contextlib.suppress(OSError), os.scandir(self._rejects_directory) as listing:
            for entry in listing:
                count += entry.name.endswith(file_names.REASON_SUFFIX)
                if count == _KEPT_MAX:
                    break
        return count

    def room(self) -> DiskRoom:
        """Return the free space on the spool's disk."""
        disk = os.statvfs(self._spool)
        return DiskRoom(
            free_bytes=disk.f_bavail * disk.f_frsize,
            disk_bytes=disk.f_blocks * disk.f_frsize,
            inodes_free_share=disk.f_favail / disk.f_files if disk.f_files else 1.0,
        )

    async def identity(self) -> SpoolIdentity:
        """Return which directory the spool is, without making a marker."""
        try:
            fd = os.open(self._spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Again(f"spool: open {self._spool}: {error.strerror}") from None
        try:
            return marker.identity(fd, make=False)
        finally:
            os.close(fd)


class RemoteView:
    """The spool over HTTP, listed page by page as workers do.

    `source` is the observer's own; for an empty cursor it lists every file again. A page of fewer
    than `page_files` is the last.
    """

    broken, example = 0, ""  # unknown over HTTP

    def __init__(self, source: IdentifiedSource, page_files: int) -> None:
        self._source = source
        self._page_files = page_files

    async def scan(self) -> list[str]:
        """See `DirectoryView.scan`; also raises Halt."""
        found: set[str] = set()
        cursor = ""
        while True:
            page = await self._source.list(cursor)
            found.update(page.names)
            if len(page.names) < self._page_files:
                return await asyncio.to_thread(sorted, found)
            cursor = page.cursor

    async def age_seconds(self, name: str) -> float | None:
        """See `DirectoryView.age_seconds`; by the clock of the file's machine."""
        (file,) = await self._source.read([name], 1)
        return None if file.data is Unread.VANISHED else max(0.0, file.age_seconds or 0.0)

    async def beside(self) -> tuple[None, None]:
        """Return nothing: nobody looks at these directories over HTTP."""
        return None, None

    def room(self) -> None:
        """Return None: it is unknown over HTTP."""

    async def identity(self) -> SpoolIdentity:
        """See `DirectoryView.identity`."""
        return await self._source.identity()


async def view(settings: Settings, stack: AsyncExitStack) -> DirectoryView | RemoteView:
    """Return an observer's view of the spool. Raises Halt if `source.url` is not one."""
    spool = spool_place(settings.source.url)
    if isinstance(spool, Directory):
        return DirectoryView(settings, spool)
    # Everything there at once, complete or not, without waiting for more.
    at_once = settings.model_copy(
        update={"source": settings.source.model_copy(update={"settle_seconds": 0.0})}
    )
    source = await wiring.source(at_once, stack, wait_seconds=0.0)
    return RemoteView(source, PAGE_FILES_MAX)
