"""Looking at the spool's directory: all of it at once, or the files of some names."""

import asyncio
import itertools
import math
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock import file_names
from penstock.errors import Again
from penstock.source.order import UNPLACED, Chunk, Mark

AT_HAND_SECONDS = 0.02
"""Files are looked at and read on the event loop for so long, then in a thread.

What the kernel has in memory takes microseconds, and a thread would fight the event loop for the
interpreter's lock at each system call; a slow disk must not hold up the event loop for more than
this and one file.
"""

NO_MATCH = "with names that don't match source.pattern"
_OURS = ".penstock-"  # the marker, and the folder of staged files: nobody is told of them
_ENTRIES = 1_000  # of a directory, handled together
_TOGETHER = 100  # names looked at between two looks at the clock
# A directory's time of change is as coarse as its file system's: 10 ms, a second, two of FAT. A
# scan has seen what changed the directory longer ago than this when the scan began.
_TICK_SECONDS_MAX = 3.0


class Scanned(NamedTuple):
    """What a scan found: new files, known ones that are gone with their chunks, and other entries.

    `example` is one of the last that breaks a rule, if one does; see `Listed`.

    `last_first` has the names of `new`, sorted, the first one last. The thread that scans sorts
    them: that takes a second for a million, which the event loop does not have.
    """

    new: dict[str, Chunk]
    last_first: list[str]
    gone: Sequence[tuple[str, Chunk]]
    ignored: int
    example: str


class Seen(NamedTuple):
    """What a look at some names saw, name by name, in columns: there may be thousands.

    A size of -1 stands for a file that is gone, or is not a regular file.
    """

    sizes_bytes: list[int]
    modified_at_seconds: list[float]
    changed_ns: list[int]

    def only(self, kept: Sequence[int]) -> "Seen":
        """Return what was seen of the names at some positions."""
        return Seen(
            [self.sizes_bytes[at] for at in kept],
            [self.modified_at_seconds[at] for at in kept],
            [self.changed_ns[at] for at in kept],
        )

    def absent(self, names: Sequence[str]) -> list[str]:
        """Return the names where no file was seen."""
        sizes_bytes = zip(names, self.sizes_bytes, strict=True)
        return [name for name, size_bytes in sizes_bytes if size_bytes < 0]


class Listed(NamedTuple):
    """What a directory holds: names of files, sorted, and why how many other entries are none.

    `broken` counts those whose name matches `source.pattern` all the same, drafts left out, and
    `example` is one of them with the rule that it breaks.
    """

    names: list[str]
    left_out: Counter[str]
    broken: int
    example: str


def listed(directory: Path | int, pattern: str) -> Listed:
    """Look at all entries of a directory, without an index. Raises OSError."""
    matches = re.compile(pattern).fullmatch
    found: list[str] = []
    left_out: Counter[str] = Counter()
    broken, example = 0, ""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_OURS):
                continue
            reason, rule = why_no_file(entry, matches)
            if not reason:
                found.append(entry.name)
                continue
            left_out[reason] += 1
            if rule:
                broken, example = broken + 1, example or f"{entry.name}: {rule}"
    return Listed(sorted(found), left_out, broken, example)


def why_no_file(
    entry: os.DirEntry[str], matches: Callable[[str], object | None]
) -> tuple[str, str]:
    """Say what kind of entry is no file, empty if it is one; and which rule it breaks.

    None is broken by drafts, directories, and what does not match the pattern.
    """
    name = entry.name
    if file_names.is_draft(name):
        return "hidden or *.tmp", ""
    if not entry.is_file(follow_symlinks=False):
        is_meant = matches(name) and not entry.is_dir(follow_symlinks=False)
        return "not regular files", "it is not a regular file" if is_meant else ""
    if rule := file_names.rule_broken(name):
        return "with names that are not allowed (docs/files.md)", rule if matches(name) else ""
    return ("", "") if matches(name) else (NO_MATCH, "")


class Scanner:
    """Scans of one directory. `fd` is the directory, `spool` its path.

    `pattern` is what a whole name must match. The directory is believed to be as it was at the last
    scan, because its time of change is the same, for at most `rescan_seconds`.
    """

    def __init__(self, fd: int, spool: Path, *, pattern: str, rescan_seconds: float) -> None:
        self._fd = fd
        self._spool = spool
        self._matches = re.compile(pattern).fullmatch
        self._rescan_seconds = rescan_seconds
        self._changed_ns = 0  # the directory, when it was last read; 0 if that proves nothing
        self.began_at_seconds = -math.inf
        """Our monotonic clock when the last scan began."""

    def is_file(self, name: str) -> bool:
        """Tell whether a name may be a file's."""
        return self._matches(name) is not None and file_names.is_safe(name)

    def check_spool(self) -> None:
        """Raise Again if the spool's path leads elsewhere by now: it must then be opened anew."""
        try:
            replaced = not os.path.samestat(self._spool.stat(), os.fstat(self._fd))
        except OSError as error:
            raise Again(f"the spool {self._spool}: {error.strerror}") from None
        if replaced:
            raise Again(f"the spool {self._spool} is another directory now; it is opened anew")

    def is_unchanged(self) -> bool:
        """Tell whether another scan would find what the last one found, by the directory's time."""
        self.check_spool()
        is_recent = time.monotonic() - self.began_at_seconds < self._rescan_seconds
        return is_recent and os.fstat(self._fd).st_ctime_ns == self._changed_ns

    async def scan(self, known: Mapping[str, Chunk], marks: Sequence[Mark]) -> Scanned:
        """Read the whole directory in a thread, 0.4 s a million entries. Raises Again.

        `known` are the files known by now, `marks` what their chunks hold.
        """
        self.began_at_seconds = time.monotonic()
        self._changed_ns = 0
        scanned, self._changed_ns = await asyncio.to_thread(self._scan, known, marks)
        return scanned

    def _scan(self, known: Mapping[str, Chunk], marks: Sequence[Mark]) -> tuple[Scanned, int]:
        """Return what a scan found, and when the directory changed; 0 if it may do so unseen."""
        self.check_spool()
        changed_ns = os.fstat(self._fd).st_ctime_ns  # by all that comes or goes, and nobody sets it
        is_settled = time.time() - changed_ns / 1e9 > _TICK_SECONDS_MAX
        new: dict[str, Chunk] = {}
        ignored, example = 0, ""
        seen: Counter[Chunk | None] = Counter()
        try:
            with os.scandir(self._fd) as listing:
                entries = iter(listing)
                while some := [*itertools.islice(entries, _ENTRIES)]:
                    chunks = [known.get(entry.name) for entry in some]
                    seen.update(chunks)
                    unknown = [entry for entry, at in zip(some, chunks, strict=True) if at is None]
                    found = self._files(unknown)
                    if len(found) < len(unknown):
                        files = frozenset(found)
                        for entry in unknown:
                            if entry.name not in files and not file_names.is_draft(entry.name):
                                ignored += 1
                                example = example or self._example(entry)
                    new.update(dict.fromkeys(found, UNPLACED))
        except OSError as error:
            raise Again(f"list {self._spool}: {error.strerror}") from None
        gone = [*self._missing(marks, seen)]
        last_first = sorted(new, reverse=True)
        return Scanned(new, last_first, gone, ignored, example), changed_ns if is_settled else 0

    def _example(self, entry: os.DirEntry[str]) -> str:
        rule = why_no_file(entry, self._matches)[1]
        return f"{entry.name}: {rule}" if rule else ""

    def _files(self, entries: Sequence[os.DirEntry[str]]) -> Sequence[str]:
        """Return the names of those entries that are files."""
        matches = self._matches
        names = [e.name for e in entries if matches(e.name) and e.is_file(follow_symlinks=False)]
        return names if file_names.are_safe(names) else [*filter(file_names.is_safe, names)]

    def _missing(
        self, marks: Sequence[Mark], seen: Mapping[Chunk | None, int]
    ) -> Iterator[tuple[str, Chunk]]:
        """Yield the files, with their chunks, that lay there before and were not seen.

        If some of a chunk were seen, look for each again; if none were, do not: that would take as
        long as moving them did. Should one be there even so, the next scan finds it as a new one.
        Of files that came while the directory was read this says nothing.
        """
        for chunk, live, length in marks:
            if seen.get(chunk, 0) == live:
                continue
            wanted = [name for name in chunk.names[:length] if name]
            if chunk in seen:
                wanted = self.look(wanted).absent(wanted)
            for name in wanted:
                yield name, chunk

    async def look_at(self, names: Sequence[str]) -> Seen:
        """Look at the files of some names; in a thread if the disk is slow."""
        seen = Seen([], [], [])
        until_seconds = time.monotonic() + AT_HAND_SECONDS
        at = 0
        while at < len(names) and time.monotonic() < until_seconds:
            self.look(names[at : at + _TOGETHER], seen)
            at += _TOGETHER
        if at < len(names):
            await asyncio.to_thread(self.look, names[at:], seen)
        return seen

    def look(self, names: Sequence[str], seen: Seen | None = None) -> Seen:
        """Look at the files of some names; return what was seen, added to `seen` if it is given."""
        seen = Seen([], [], []) if seen is None else seen
        fd, look, is_file = self._fd, os.lstat, stat.S_ISREG
        add_size, add_change = seen.sizes_bytes.append, seen.changed_ns.append
        add_modification = seen.modified_at_seconds.append
        for name in names:
            try:
                status = look(name, dir_fd=fd)
            except OSError:
                status = None
            if status is not None and is_file(status.st_mode):
                add_size(status.st_size)
                add_modification(status.st_mtime)
                add_change(status.st_ctime_ns)
            else:
                add_size(-1)
                add_modification(0.0)
                add_change(0)
        return seen
