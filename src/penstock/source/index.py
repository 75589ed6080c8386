"""The files in the spool, in the order in which they became complete.

    a scan, an event ──▶ waiting ──complete──▶ in the order ──▶ on a page
    scan.py              waiting.py            order.py

Only complete files get a place, and only files with a place are listed. A file is complete when its
writer has closed or renamed it, or when its last change is `settle_seconds` old.

Events (inotify) only save waiting; the scan is the truth. The kernel queues 16,384 events, 2.7 s at
6,000 files a second. If it drops some, a scan follows.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from inotify_simple import INotify, flags

from penstock import telemetry
from penstock.errors import Again, Halt
from penstock.model import LISTING_SECONDS_MAX, Page
from penstock.source.order import Chunk, Order
from penstock.source.pace import Pace
from penstock.source.scan import Scanned, Scanner
from penstock.source.waiting import Waiting

LARGE_FILES = 2_000_000
"""Warn above this many files: ext4 without large_dir holds about 11 million in a directory."""

_POLL_SECONDS = 0.05  # at least this long between two scans while a caller waits
_FRESH_SECONDS = LISTING_SECONDS_MAX / 3  # look again for names last seen longer ago

# As plain numbers: an operation on inotify_simple's own flags takes ten times as long.
_CREATED = int(flags.CLOSE_WRITE | flags.MOVED_TO)
_GONE = int(flags.DELETE | flags.MOVED_FROM)
_OVERFLOW = int(flags.Q_OVERFLOW)
_UNSURE = int(flags.Q_OVERFLOW | flags.IGNORED | flags.UNMOUNT)
_DIRECTORY = int(flags.ISDIR)


class Index:
    """The complete files of one spool, for one event loop. `fd` is the directory, `spool` its path.

    `pattern` must match a whole name. With `watch`, events report new files after `open`, and
    `rescan_seconds` is the pause between two scans. Without `watch`, an unchanged change time of
    the directory is trusted for at most `rescan_seconds`.

    Without `look`, no file is looked at before it is listed: it counts as complete, and its size
    and time are not known. This needs `settle_seconds` 0 and no `watch`.
    """

    def __init__(
        self,
        fd: int,
        spool: Path,
        *,
        pattern: str,
        settle_seconds: float,
        watch: bool = False,
        rescan_seconds: float = 20.0,
        look: bool = True,
    ) -> None:
        self._fd = fd
        self._spool = spool
        self._scanner = Scanner(fd, spool, pattern=pattern, rescan_seconds=rescan_seconds)
        self._order = Order()
        self._waiting = Waiting(settle_seconds)
        self._watch = watch
        self._rescan_seconds = rescan_seconds
        self._looks = look
        self._growing = asyncio.Lock()
        self._scanned = asyncio.Event()  # at least once
        self._news = asyncio.Event()
        self._events: INotify | None = None
        self._scanning: asyncio.Task[None] | None = None
        self._scan_now = asyncio.Event()
        self._failed: Again | None = None  # the error of the last scan
        self._pace = Pace()
        self._pause_seconds = 0.0  # until the next scan, if one was due and not made
        self._ignored, self._example = 0, ""
        self._stopped = False
        self._sure = False  # events have reported every change since the last scan
        self._large_files = LARGE_FILES
        self.overflows = 0

    @property
    def files(self) -> int:
        """How many files are known to be in the spool, including those being written."""
        return len(self._order.known)

    async def open(self) -> None:
        """Begin to watch, if `watch` is set. Raises Halt if the kernel cannot."""
        if not self._watch:
            return
        events = None
        try:
            events = INotify(nonblocking=True)
            # By the descriptor: the path may lead elsewhere by now.
            events.add_watch(f"/proc/self/fd/{self._fd}", _CREATED | _GONE)
        except OSError as error:
            if events:
                events.close()
            raise Halt(
                f"watch {self._spool}: {error.strerror}; raise fs.inotify.max_user_watches or"
                " max_user_instances, or set serve.watch = 'poll'"
            ) from None
        self._events = events
        asyncio.get_running_loop().add_reader(events.fileno(), self._take_events)
        self._scanning = asyncio.create_task(self._keep_scanning())

    def stop_waiting(self) -> None:
        """From now on, return an empty page at once instead of waiting for something new."""
        self._stopped = True
        self._news.set()

    async def close(self) -> None:
        """Stop watching; nothing is called afterwards."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.gather(self._scanning, return_exceptions=True)

    def check_spool(self) -> None:
        """Raise Again if the spool's path leads elsewhere by now: it must be opened again."""
        self._scanner.check_spool()

    def drop(self, gone: Iterable[str]) -> None:
        """Forget files that left the spool; one that comes back is a new file."""
        self._order.drop(gone)

    async def page(self, cursor: str, files_max: int, wait_seconds: float = 0.0) -> Page:
        """Return the next files after `cursor`, oldest names first among those that came together.

        An empty cursor, or one that this index did not give, starts at the beginning. A page
        shorter than `files_max` has all files known to be complete. If nothing is new, waits up to
        `wait_seconds`, then returns an empty page. Raises Again if the directory cannot be listed.
        """
        until = time.monotonic() + wait_seconds
        place = self._order.place(cursor)
        if self._watch:
            self._take_events()  # an empty page must mean that nothing is there now
            await self._scanned.wait()
        while True:
            now = time.monotonic()
            while not self._sure and (
                stale := self._order.stale(place, files_max, now - _FRESH_SECONDS)
            ):
                await self._refresh(stale)
            files, end, seen_at_seconds = self._order.cut(place, files_max)
            if len(files.names) < files_max and await self._grow(end, scan=not files.names):
                continue
            if files.names or not await self._something(until):
                seen_at_seconds = now if self._sure else min(now, seen_at_seconds)
                return Page(
                    files.names, self._order.cursor(end), seen_at_seconds, self._ignored,
                    0.0 if files.names else self._pause_seconds,
                    self._waiting.unsettled, self._example,
                    sizes_bytes=files.sizes_bytes, modified_at_seconds=files.modified_at_seconds,
                )  # fmt: skip

    async def _refresh(self, chunk: Chunk) -> None:
        """Look for a chunk's files again, while no events report that they left."""
        chunk.seen_at_seconds = time.monotonic()
        names = [name for name in chunk.names if name]
        self.drop((await self._scanner.look_at(names)).absent(names))

    async def _grow(self, place: int, *, scan: bool) -> bool:
        """Give complete files their places; tell whether the order now extends past `place`.

        Without events, if nothing is left of the last scan, `scan` allows another one.
        """
        async with self._growing:
            self._news.clear()
            self._pause_seconds = 0.0
            if self._watch and self._failed:
                raise self._failed
            is_all_told = not (self._watch or self._waiting.is_found or self._order.end > place)
            if is_all_told and scan and await self._may_find_more():
                await self._scan()
            while self._order.end <= place and (names := self._waiting.take()):
                if self._looks:
                    await self._place(names)
                else:
                    self._place_unseen(names)
            return self._order.end > place

    async def _may_find_more(self) -> bool:
        if await asyncio.to_thread(self._scanner.is_unchanged):
            return False
        self._pause_seconds = await self._pace.pause()
        return not self._pause_seconds

    async def _something(self, until_seconds: float) -> bool:
        """Wait until there may be something new; return False if `until_seconds` comes first."""
        now = time.monotonic()
        if now >= until_seconds or self._stopped:
            return False
        wake_seconds = min(until_seconds, self._waiting.next_at_seconds)
        if not self._watch:
            wake_seconds = min(wake_seconds, now + _POLL_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(wake_seconds - now, 0.001))
        return True

    def _place_unseen(self, names: Sequence[str]) -> None:
        """Give files their places without looking at them."""
        names = [*filter(self._order.known.__contains__, names)]
        self._order.append(names, self._scanner.began_at_seconds)

    async def _place(self, names: Sequence[str]) -> None:
        """Give each complete file its place; look at the others again later."""
        now_ns = time.time_ns()
        try:
            seen = await self._scanner.look_at(names)
        except BaseException:  # the caller was cancelled: these wait for the next call
            self._waiting.give_back(names)
            raise
        kept = self._waiting.complete(names, seen, now_ns, self._order)
        if len(kept) < len(names):
            names, seen = [names[at] for at in kept], seen.only(kept)
        self._order.append(names, time.monotonic(), seen.sizes_bytes, seen.modified_at_seconds)

    def _take_events(self) -> None:
        assert self._events  # noqa: S101  `open` has set it
        events = cast("Iterable[tuple[int, int, int, str]]", self._events.read(timeout=0))
        for _, mask, _, name in events:
            if mask & _UNSURE:
                self._sure = False
                self.overflows += bool(mask & _OVERFLOW)
                self._scan_now.set()
            elif mask & _DIRECTORY or not self._scanner.is_file(name):
                continue  # the next scan counts it
            elif mask & _GONE:
                self._waiting.gone(name)
                self._order.drop([name])
            else:
                self._waiting.closed(name)
                self._order.add(name)
        self._news.set()

    async def _keep_scanning(self) -> None:
        """Scan regularly, and sooner if events were lost, for a limited share of the time."""
        while True:
            self._scan_now.clear()
            with contextlib.suppress(Again):  # the next caller of page() gets it
                await self._scan()
            self._scanned.set()
            self._news.set()
            await asyncio.sleep(await self._pace.pause())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._scan_now.wait(), self._rescan_seconds)

    async def _scan(self) -> None:
        began = time.monotonic()
        overflows = self.overflows
        try:
            scanned = await self._scanner.scan(self._order.known, self._order.marks())
        except Again as error:
            self._failed = error
            raise
        self._failed = None
        self._take_scanned(scanned)
        self._sure = self._watch and overflows == self.overflows
        if self.files > self._large_files:
            telemetry.warn("spool.large", files=self.files, remedy="keep the archiver running")
            self._large_files = 2 * self.files
        self._pace.listed(began)

    def _take_scanned(self, scanned: Scanned) -> None:
        """Note what a scan found, unless an event reported something newer meanwhile."""
        known, last_first = self._order.known, scanned.last_first
        if not known.keys().isdisjoint(scanned.new):
            last_first = [name for name in last_first if name not in known]
        self._order.add_all(scanned.new)
        self._waiting.found(last_first)
        self._ignored, self._example = scanned.ignored, scanned.example
        known = self._order.known
        self.drop(name for name, chunk in scanned.gone if known.get(name) is chunk)
