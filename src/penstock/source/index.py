"""What lies in the spool, in the order in which it came to be complete.

    scan, event ──▶ found ──looked at──▶ settling ──▶ placed in the order, told by page after page
                                 └───── complete ─────────▲

A file is complete when its writer has closed or renamed it, or when its last change is
`settle_seconds` old. The order is one of chunks of 1,000 places, and a cursor is a place in it:
whatever came later, however old its name, stands behind it, so nothing is passed over.

Events (inotify) are a hint that saves waiting; the scan is the truth. The kernel holds 16,384
events, 2.7 s of 6,000 files a second; where it drops some, a scan follows. A name takes about 130
bytes, itself and a slot in a dictionary; where each file is looked at, 16 more.
"""

import asyncio
import contextlib
import heapq
import itertools
import math
import os
import re
import secrets
import stat
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from inotify_simple import INotify, flags

from penstock import file_names, telemetry
from penstock.errors import Again, Halt
from penstock.model import LISTING_SECONDS_MAX, ListedFile
from penstock.source.settling import Settling

AT_HAND_SECONDS = 0.02
"""So long looking at files, and reading them, is done on the event loop, the rest in a thread.

What the kernel has in memory takes microseconds, and a thread would fight the event loop for the
interpreter's lock at each system call; a slow disk must not hold up the event loop for more than
this and one file.
"""

LARGE_FILES = 2_000_000
"""So many files are worth a warning: ext4 without large_dir takes about 11 million a directory."""

_SCAN_SHARE_MAX = 0.1  # of the time, at most, goes into scanning, however many files lie there
_POLL_SECONDS = 0.05  # between two scans, at least, while somebody waits
_CHUNK = 1_000
_LOOK_MAX = 5_000  # names looked at in one go: 10 ms
_SAMPLED = 100  # names, of which one is looked at where whoever reads the files looks at each
# A directory's time of change is as coarse as its file system's: 10 ms, a second, two of FAT. What
# changed it longer ago than this when a scan began, that scan has seen.
_TICK_SECONDS_MAX = 3.0
_FRESH_SECONDS = LISTING_SECONDS_MAX / 3  # names seen longer ago are looked for again
_CURSOR = re.compile(r"([0-9a-f]{8})-(\d{1,18})")

# As plain numbers: an operation on inotify_simple's own flags takes ten times as long.
_CREATED = int(flags.CLOSE_WRITE | flags.MOVED_TO)
_GONE = int(flags.DELETE | flags.MOVED_FROM)
_OVERFLOW = int(flags.Q_OVERFLOW)
_UNSURE = int(flags.Q_OVERFLOW | flags.IGNORED | flags.UNMOUNT)
_DIRECTORY = int(flags.ISDIR)


class IndexPage(NamedTuple):
    """A part of the order: files, the cursor behind them, and when they were last seen there.

    `ignored` counts what the last scan found that is no file by pattern or type.
    """

    files: Sequence[ListedFile]
    cursor: str
    seen_at_seconds: float
    ignored: int


class _Chunk:
    """A thousand places: name (None: gone from the spool), size in bytes, time of last change.

    Sizes and times are those of each name, or of the samples among them.
    """

    __slots__ = ("live", "modified", "names", "number", "seen_at_seconds", "sizes", "took_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.names: list[str | None] = []
        self.sizes = array("q")
        self.modified = array("d")
        self.live = 0
        self.seen_at_seconds = math.inf  # the earliest look at any of them
        self.took_at = 0  # behind the last name that went

    def take(self, name: str) -> None:
        """Take a name out. They go as they came, so the next is where the last one was."""
        at = self.took_at
        if self.names[at : at + 1] != [name]:
            at = self.names.index(name)
        self.names[at] = None
        self.live -= 1
        self.took_at = at + 1


class _Listing(NamedTuple):
    """What a scan found: new names, known ones that are gone with their chunks, how many no files.

    `last_first` has the names of `new`, sorted, the first one last: by the thread that scans, since
    it takes a second for a million, which the event loop does not have. `changed_ns` is the
    directory's time of change, 0 where another scan could find something more.
    """

    new: dict[str, _Chunk]
    last_first: list[str]
    gone: Sequence[tuple[str, _Chunk]]
    ignored: int
    changed_ns: int


_UNPLACED = _Chunk(-1)  # of the names that were found, and are not complete yet


# One look at a name: the name, its size in bytes (None: it is gone, or no file), when it was last
# modified, its age in seconds, and the stamp that every change of it changes, in nanoseconds.
_Seen = tuple[str, int | None, float, float, int]


class Index:
    """The order of one spool, for one event loop. `fd` is the directory, `spool` its path.

    `pattern` is what a whole name must match. With `watch`, events tell of new files from `open`
    on. `rescan_seconds` is the pause between two scans beside them; without, so long at most a
    directory whose own time of change is the same is not read again.

    Without `complete_only` a page may hold a file that is still being written, and one in a hundred
    is looked at, a thousand have the mean of their sizes: for those who look at each file when they
    read it, as a look takes longer than all else in a listing, and every worker of a box lists
    every file.
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
        complete_only: bool = True,
    ) -> None:
        self._fd = fd
        self._spool = spool
        self._matches = re.compile(pattern).fullmatch
        self._settle_seconds = settle_seconds
        self._watch = watch
        self._rescan_seconds = rescan_seconds
        self._complete_only = complete_only
        self._epoch = secrets.token_hex(4)
        self._places: dict[str, _Chunk] = {}
        self._chunks: list[_Chunk | None] = []  # None: all gone
        self._chunks_gone = 0  # before the first of _chunks
        self._found: deque[str] = deque()  # to be looked at: told by events
        self._listed: list[str] = []  # and by scans, the first one last
        self._closed: set[str] = set()  # of these, those whose writer is done
        self._settling = Settling(settle_seconds)
        self._settled: set[str] = set()  # those that are complete although they look young
        self._due: list[tuple[float, str]] = []  # a heap: when to look at one of them again
        self._growing = asyncio.Lock()
        self._scanned = asyncio.Event()  # once, at least
        self._news = asyncio.Event()
        self._events: INotify | None = None
        self._scanning: asyncio.Task[None] | None = None
        self._scan_now = asyncio.Event()
        self._failed: Again | None = None  # the last scan
        self._scanned_at_seconds = -math.inf
        self._scan_seconds = 0.0
        self._changed_ns = 0  # the directory, when it was last read; 0 if that proves nothing
        self._ignored = 0
        self._stopped = False
        self._sure = False  # events have told of everything since the last scan
        self._large_files = LARGE_FILES
        self.scans = 0
        self.overflows = 0

    @property
    def files(self) -> int:
        """How many files are known to lie in the spool, those being written included."""
        return len(self._places)

    async def open(self) -> None:
        """Begin to watch, if that is wanted. Raises Halt if the kernel cannot."""
        if not self._watch:
            return
        events = INotify(nonblocking=True)
        try:
            # By the descriptor: the path may lead elsewhere by now.
            events.add_watch(f"/proc/self/fd/{self._fd}", _CREATED | _GONE)
        except OSError as error:
            events.close()
            raise Halt(
                f"watch {self._spool}: {error.strerror}; raise fs.inotify.max_user_watches or"
                " max_user_instances, or set serve.watch = 'poll'"
            ) from None
        self._events = events
        asyncio.get_running_loop().add_reader(events.fileno(), self._take_events)
        self._scanning = asyncio.create_task(self._keep_scanning())

    def stop_waiting(self) -> None:
        """Let every page that waits for something new come back empty, now and from now on."""
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

    async def page(self, cursor: str, files_max: int, wait_seconds: float = 0.0) -> IndexPage:
        """Return the next files after `cursor`, oldest names first among those that came together.

        An empty cursor, or one that is none of this life of the index, begins at the beginning. A
        page shorter than `files_max` holds all that is known to be complete. With nothing new,
        waits for up to `wait_seconds`, then returns an empty page. Raises Again if the directory
        cannot be listed.
        """
        until = time.monotonic() + wait_seconds
        match = _CURSOR.fullmatch(cursor)
        place = int(match[2]) if match and match[1] == self._epoch else 0
        if place > self._end():
            place = 0
        if self._watch:
            self._take_events()  # an empty page says: nothing is there, by now
            await self._scanned.wait()
        while True:
            files, end, seen_at_seconds = await self._cut(place, files_max)
            if len(files) < files_max and await self._grow(end, scan=not files):
                continue
            if files or not await self._something(until):
                return IndexPage(files, f"{self._epoch}-{end}", seen_at_seconds, self._ignored)

    def is_complete(self, name: str, changed_ns: int, age_seconds: float) -> bool:
        """Tell whether a file is complete that was last changed then, so many seconds ago.

        With `complete_only` it is: nothing else was told of.
        """
        settled = age_seconds >= self._settle_seconds or name in self._settled
        if settled or self._complete_only:
            return True
        return self._settling.is_complete(name, changed_ns, age_seconds)

    def drop(self, gone: Iterable[str]) -> None:
        """Let go of names that are out of the spool: should one come back, it is a new file."""
        if not self._places:  # nothing was listed: an archiver's
            return
        for name in gone:
            self._settled.discard(name)
            chunk = self._places.pop(name, _UNPLACED)
            if chunk is not _UNPLACED:
                chunk.take(name)
                if not chunk.live and len(chunk.names) == _CHUNK:
                    self._chunks[chunk.number - self._chunks_gone] = None
        while self._chunks and self._chunks[0] is None:
            del self._chunks[0]
            self._chunks_gone += 1

    async def _cut(self, place: int, files_max: int) -> tuple[list[ListedFile], int, float]:
        """Return files from a place on, the place behind them, and when they were last seen."""
        files: list[ListedFile] = []
        seen_at_seconds = time.monotonic()
        number, at = divmod(max(place, self._chunks_gone * _CHUNK), _CHUNK)
        while number - self._chunks_gone < len(self._chunks):
            chunk = self._chunks[number - self._chunks_gone]
            if chunk is not None:
                if not self._sure and chunk.live:
                    if time.monotonic() - chunk.seen_at_seconds > _FRESH_SECONDS:
                        await self._refresh(chunk)
                        continue
                    seen_at_seconds = min(seen_at_seconds, chunk.seen_at_seconds)
                at += _copy(chunk, at, files, files_max)
                if len(files) == files_max or len(chunk.names) < _CHUNK:
                    return files, number * _CHUNK + at, seen_at_seconds
            number, at = number + 1, 0
        return files, number * _CHUNK, seen_at_seconds

    async def _refresh(self, chunk: _Chunk) -> None:
        """Look for the names of a chunk again, where nothing tells us when they go.

        Without `complete_only` a hundred are looked for if their first or last is gone: they go as
        they came, many in a row, and of one that is not there any more its reader is told.
        """
        chunk.seen_at_seconds = time.monotonic()
        wanted = [name for name in chunk.names if name]
        if not self._complete_only:
            parts = [wanted[at : at + _SAMPLED] for at in range(0, len(wanted), _SAMPLED)]
            ends = await self.look_at([name for part in parts for name in (part[0], part[-1])])
            gone = {name for name, size_bytes, *_ in ends if size_bytes is None}
            doubtful = [part for part in parts if part[0] in gone or part[-1] in gone]
            wanted = [name for part in doubtful for name in part]
        seen = await self.look_at(wanted)
        self.drop(one[0] for one in seen if one[1] is None)

    async def _grow(self, place: int, *, scan: bool) -> bool:
        """Put what is complete by now in its place; tell whether the order goes past `place`.

        Without events, and if nothing is left of the last scan, `scan` allows another one.
        """
        async with self._growing:
            self._news.clear()
            if self._watch and self._failed:
                raise self._failed
            is_all_told = not (self._watch or self._listed or self._end() > place)
            if is_all_told and scan and not await asyncio.to_thread(self._is_unchanged):
                pause_seconds = self._scan_seconds / _SCAN_SHARE_MAX
                await asyncio.sleep(self._scanned_at_seconds + pause_seconds - time.monotonic())
                await self._scan()
            while self._end() <= place and (self._found or self._listed or self._is_due()):
                found = self._all_found()
                if not self._complete_only:
                    found = await self._place_by_samples(found)
                self._settle(await self.look_at(sorted([*found, *self._all_due()])))
            return self._end() > place

    async def _something(self, until_seconds: float) -> bool:
        """Wait until there may be something new; False if `until_seconds` has come before."""
        now = time.monotonic()
        if now >= until_seconds or self._stopped:
            return False
        wake_seconds = min(until_seconds, self._due[0][0] if self._due else math.inf)
        if not self._watch:
            wake_seconds = min(wake_seconds, now + _POLL_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(wake_seconds - now, 0.001))
        return True

    def _end(self) -> int:
        """Return the place behind the last one."""
        end = (self._chunks_gone + len(self._chunks)) * _CHUNK
        last = self._chunks[-1] if self._chunks else None
        return end if last is None else end - _CHUNK + len(last.names)

    def _is_due(self) -> bool:
        return bool(self._due) and self._due[0][0] <= time.monotonic()

    def _all_found(self) -> list[str]:
        """Take names that are to be looked at."""
        if self._found:
            return [self._found.popleft() for _ in range(min(_LOOK_MAX, len(self._found)))]
        found = self._listed[: -_LOOK_MAX - 1 : -1]
        del self._listed[-_LOOK_MAX:]
        return found

    def _all_due(self) -> Iterator[str]:
        """Take names whose time to look at again has come."""
        for _ in range(_LOOK_MAX):
            if not self._is_due():
                return
            yield heapq.heappop(self._due)[1]

    async def _place_by_samples(self, found: Sequence[str]) -> list[str]:
        """Put names in their places, by the last of each hundred; return those to be looked at.

        If that one, the latest by its name, has settled, so have the others, most probably.
        """
        parts = [found[at : at + _SAMPLED] for at in range(0, len(found), _SAMPLED)]
        doubtful = list[str]()
        samples = await self.look_at([part[-1] for part in parts])
        for part, sample in zip(parts, samples, strict=True):
            _, size_bytes, modified_at_seconds, age_seconds, _ = sample
            if size_bytes is None or age_seconds < self._settle_seconds:
                doubtful += part
            else:
                sizes, times = [size_bytes], [modified_at_seconds]
                self._append(part, sizes, times, self._scanned_at_seconds)
        return doubtful

    async def look_at(self, wanted: Sequence[str]) -> list[_Seen]:
        """Look at each name in the directory, as `_look` does; on a slow disk, in a thread."""
        seen = self._look(wanted, time.monotonic() + AT_HAND_SECONDS)
        if len(seen) < len(wanted):
            seen += await asyncio.to_thread(self._look, wanted[len(seen) :])
        return seen

    def _look(self, wanted: Sequence[str], until_seconds: float = math.inf) -> list[_Seen]:
        """Look at each name in the directory, until that monotonic time."""
        seen: list[_Seen] = []
        fd, see, look, clock = self._fd, seen.append, os.stat, time.monotonic
        now = time.time()
        for name in wanted:
            if clock() > until_seconds:
                break
            try:
                status = look(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                see((name, None, 0.0, 0.0, 0))
                continue
            # st_ctime changes with every write, and no writer can set it.
            size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
            age_seconds = now - status.st_ctime
            see((name, size_bytes, status.st_mtime, age_seconds, status.st_ctime_ns))
        return seen

    def _settle(self, seen: Sequence[_Seen]) -> None:
        """Put each file that is complete in its place; the others are looked at again."""
        now = time.monotonic()
        complete: dict[str, _Seen] = {}
        for one in seen:
            name, size_bytes, _, age_seconds, changed_ns = one
            closed = name in self._closed
            self._closed.discard(name)
            chunk = self._places.get(name)
            if size_bytes is None:
                self.drop([name])
            elif chunk is None:  # gone while we looked
                pass
            elif chunk is not _UNPLACED:
                if _differs(chunk, one):  # written again, against the promise: told again
                    self.drop([name])
                    complete[name] = one
            elif closed or self._settling.is_complete(name, changed_ns, age_seconds):
                complete[name] = one
                if age_seconds < self._settle_seconds and not self._complete_only:
                    self._settled.add(name)
            else:
                wait_seconds = min(self._settle_seconds - age_seconds, self._settle_seconds)
                heapq.heappush(self._due, (now + max(wait_seconds, 0.001), name))
                continue
            self._settling.forget(name)
        statuses = complete.values()
        sizes, times = [one[1] or 0 for one in statuses], [one[2] for one in statuses]
        self._append([*complete], sizes, times, now)

    def _append(
        self,
        complete: Sequence[str],
        sizes_bytes: Sequence[int],
        modified_at_seconds: Sequence[float],
        seen_at_seconds: float,
    ) -> None:
        """Put files in the next places, in this order.

        Sizes and times are those of each, or of one that stands for all of them.
        """
        of_each = len(sizes_bytes) == len(complete)
        at = 0
        while at < len(complete):
            last = self._chunks[-1] if self._chunks else None
            if last is None or len(last.names) == _CHUNK:
                last = _Chunk(self._chunks_gone + len(self._chunks))
                self._chunks.append(last)
            some = slice(at, at + _CHUNK - len(last.names))
            new = complete[some]
            self._places.update(dict.fromkeys(new, last))
            last.names += new
            last.sizes.extend(sizes_bytes[some] if of_each else sizes_bytes)
            last.modified.extend(modified_at_seconds[some] if of_each else modified_at_seconds)
            last.live += len(new)
            last.seen_at_seconds = min(last.seen_at_seconds, seen_at_seconds)
            at += len(new)

    def _take_events(self) -> None:
        assert self._events  # noqa: S101  it is its reader
        events = cast("Iterable[tuple[int, int, int, str]]", self._events.read(timeout=0))
        for _, mask, _, name in events:
            if mask & _UNSURE:
                self._sure = False
                self.overflows += bool(mask & _OVERFLOW)
                self._scan_now.set()
            elif mask & _DIRECTORY or not (self._matches(name) and file_names.is_safe(name)):
                continue  # what it is, the next scan counts
            elif mask & _GONE:
                self._closed.discard(name)
                self.drop([name])
            elif name not in self._closed:
                self._places.setdefault(name, _UNPLACED)
                self._closed.add(name)
                self._found.append(name)
        self._news.set()

    async def _keep_scanning(self) -> None:
        """Scan, now and then, and at once where events were lost; at a bounded share of time."""
        while True:
            self._scan_now.clear()
            with contextlib.suppress(Again):  # told to whoever asks for a page
                await self._scan()
            self._scanned.set()
            self._news.set()
            pause_seconds = self._scan_seconds / _SCAN_SHARE_MAX
            await asyncio.sleep(pause_seconds)
            with contextlib.suppress(TimeoutError):
                rest_seconds = max(self._rescan_seconds - pause_seconds, 0)
                await asyncio.wait_for(self._scan_now.wait(), rest_seconds)

    async def _scan(self) -> None:
        began = time.monotonic()
        overflows = self.overflows
        self._scanned_at_seconds = began
        try:
            before = [(chunk, chunk.live, len(chunk.names)) for chunk in self._chunks if chunk]
            listing = await asyncio.to_thread(self._read_directory, before)
        except Again as error:
            self._failed, self._changed_ns = error, 0
            raise
        self._failed = None
        self._changed_ns = listing.changed_ns
        self._take_listing(listing)
        self._sure = self._watch and overflows == self.overflows
        self.scans += 1
        if self.files > self._large_files:
            telemetry.warn("spool.large", files=self.files, remedy="keep the archiver running")
            self._large_files = 2 * self.files  # should they double, that is another warning
        self._scan_seconds = time.monotonic() - began

    def _take_listing(self, listing: _Listing) -> None:
        """Note what a scan found; what an event told of meanwhile is known better by now."""
        known, new, last_first = self._places, listing.new, listing.last_first
        if not known.keys().isdisjoint(new):
            last_first = [name for name in last_first if name not in known]
        self._listed = last_first + self._listed if self._listed else last_first
        # The larger takes in the smaller: a million names are never in two dictionaries.
        if len(known) < len(new):
            new.update(known)
            self._places = new
        else:
            known.update(dict.fromkeys(last_first, _UNPLACED))
        self._ignored = listing.ignored
        self.drop(name for name, chunk in listing.gone if self._places.get(name) is chunk)

    def _is_unchanged(self) -> bool:
        """Tell whether another scan would find what the last one found, by the directory's time."""
        self.check_spool()
        is_recent = time.monotonic() - self._scanned_at_seconds < self._rescan_seconds
        return is_recent and os.fstat(self._fd).st_ctime_ns == self._changed_ns

    def _read_directory(self, before: Sequence[tuple[_Chunk, int, int]]) -> _Listing:
        """Read the whole directory; runs in a thread, and changes nothing: 0.4 s a million names.

        `before` are the chunks, how many of their names lay there, and how many they had.
        """
        self.check_spool()
        changed_ns = os.fstat(self._fd).st_ctime_ns  # by all that comes or goes, and nobody sets it
        is_settled = time.time() - changed_ns / 1e9 > _TICK_SECONDS_MAX
        new: dict[str, _Chunk] = {}
        ignored = 0
        seen: Counter[_Chunk | None] = Counter()
        chunk_of, matches = self._places.get, self._matches
        try:
            with os.scandir(self._fd) as listing:
                entries = iter(listing)
                while some := [*itertools.islice(entries, _CHUNK)]:
                    chunks = [chunk_of(entry.name) for entry in some]
                    seen.update(chunks)
                    unknown = [
                        entry for entry, chunk in zip(some, chunks, strict=True) if chunk is None
                    ]
                    found = [
                        entry.name
                        for entry in unknown
                        if matches(entry.name) and entry.is_file(follow_symlinks=False)
                    ]
                    if not file_names.are_safe(found):
                        found = [*filter(file_names.is_safe, found)]
                    if len(found) < len(unknown):
                        others = {entry.name for entry in unknown}.difference(found)
                        ignored += sum(not file_names.is_draft(name) for name in others)
                    new.update(dict.fromkeys(found, _UNPLACED))
        except OSError as error:
            raise Again(f"list {self._spool}: {error.strerror}") from None
        gone = [*self._missing(before, seen)]
        last_first = sorted(new, reverse=True)
        return _Listing(new, last_first, gone, ignored, changed_ns if is_settled else 0)

    def _missing(
        self, before: Sequence[tuple[_Chunk, int, int]], seen: Mapping[_Chunk | None, int]
    ) -> Iterator[tuple[str, _Chunk]]:
        """Yield the names, with their chunks, that lay there before and were not seen.

        Of a chunk of which some were seen, each is looked for again; not of one of which none were,
        which takes as long as moving them did. Should one be there even so, the next scan finds it
        as a new one. Of what came while the directory was read nothing is said.
        """
        for chunk, live, length in before:
            if seen.get(chunk, 0) == live:
                continue
            wanted = [name for name in chunk.names[:length] if name]
            if chunk in seen:
                wanted = [name for name, size_bytes, *_ in self._look(wanted) if size_bytes is None]
            for name in wanted:
                yield name, chunk

    def check_spool(self) -> None:
        """Raise Again if the spool's path leads elsewhere by now: whoever has us opens it anew."""
        try:
            replaced = not os.path.samestat(self._spool.stat(), os.fstat(self._fd))
        except OSError as error:
            raise Again(f"the spool {self._spool}: {error.strerror}") from None
        if replaced:
            raise Again(f"the spool {self._spool} is another directory now; it is opened anew")


def _differs(chunk: _Chunk, seen: _Seen) -> bool:
    """Tell whether a file has another size or time than when it was put in its place."""
    name, size_bytes, modified_at_seconds, *_ = seen
    at = chunk.names.index(name)
    return (chunk.sizes[at], chunk.modified[at]) != (size_bytes, modified_at_seconds)


def _copy(chunk: _Chunk, at: int, files: list[ListedFile], files_max: int) -> int:
    """Copy what lies in a chunk from `at` on to `files`; return how many places were passed."""
    passed = 0
    of_each = len(chunk.sizes) == len(chunk.names)
    while at + passed < len(chunk.names) and len(files) < files_max:
        some = slice(at + passed, at + passed + files_max - len(files))
        if of_each:
            columns = zip(chunk.names[some], chunk.sizes[some], chunk.modified[some], strict=True)
            files += [ListedFile(name, size, time) for name, size, time in columns if name]
        else:
            size, time = sum(chunk.sizes) // len(chunk.sizes), chunk.modified[-1]
            files += [ListedFile(name, size, time) for name in chunk.names[some] if name]
        passed = min(some.stop, len(chunk.names)) - at
    return passed
