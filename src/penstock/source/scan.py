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

from penstock import beneath, file_names
from penstock.errors import Again
from penstock.source.order import UNPLACED, Chunk, Mark

AT_HAND_SECONDS = 0.02
"""Files are looked at and read on the event loop for this long, then in a thread.

A file in the kernel's cache takes microseconds, and a thread would compete for the interpreter's
lock at each system call. A slow disk must not block the event loop for longer than this plus one
file.
"""

NO_MATCH = "with names that don't match source.pattern"
_OURS = ".penstock-"  # the marker, and the folder of staged files: not reported
_ENTRIES = 1_000  # of a directory, handled together
_TOGETHER = 100  # names looked at before the clock is read again
# A directory's change time is as coarse as its file system's clock: 10 ms, 1 s, 2 s on FAT. A scan
# has seen every change that was older than this when the scan began.
_TICK_SECONDS_MAX = 3.0


class Scanned(NamedTuple):
    """What a scan found: new files, known ones that are gone with their chunks, and other entries.

    `example` is one of the other entries and the rule that it breaks, if any; see `Listed`.

    `last_first` has the names of `new`, sorted, the first one last. The scanning thread sorts them:
    that takes a second for a million names, too long for the event loop.
    """

    new: dict[str, Chunk]
    last_first: list[str]
    gone: Sequence[tuple[str, Chunk]]
    ignored: int
    example: str


class Seen(NamedTuple):
    """The status of some names, in columns because there may be thousands.

    A size of -1 means that the file is gone, or is not a regular file.
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
    """A directory's file names, sorted, and how many other entries were left out, by reason.

    `broken` counts those that break a rule although their names match `source.pattern`; `example`
    is one of them with that rule.
    """

    names: list[str]
    left_out: Counter[str]
    broken: int
    example: str


def listed(directory: Path, pattern: str) -> Listed:
    """List all entries of a directory, without an index. Raises OSError."""
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
    """Say why an entry is not a file of the spool, or "", and which rule it breaks, or "".

    Drafts, directories, and names that don't match the pattern break no rule.
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

    `pattern` must match a whole name. While the directory's change time stays the same, the last
    scan is trusted, for at most `rescan_seconds`.
    """

    def __init__(self, fd: int, spool: Path, *, pattern: str, rescan_seconds: float) -> None:
        self._fd = fd
        self._spool = spool
        self._matches = re.compile(pattern).fullmatch
        self._rescan_seconds = rescan_seconds
        self._changed_ns = 0  # the directory's change time at the last scan; 0 if not reliable
        self.began_at_seconds = -math.inf
        """Our monotonic clock when the last scan began."""

    def is_file(self, name: str) -> bool:
        """Tell whether a file may have this name."""
        return self._matches(name) is not None and file_names.is_safe(name)

    def check_spool(self) -> None:
        """Raise Again if the spool's path leads elsewhere by now: it must be opened again."""
        try:
            replaced = not os.path.samestat(self._spool.stat(), os.fstat(self._fd))
        except OSError as error:
            raise Again(f"the spool {self._spool}: {error.strerror}") from None
        if replaced:
            raise Again(f"the spool {self._spool} is another directory now; it is opened again")

    def is_unchanged(self) -> bool:
        """Tell by the directory's change time whether another scan would find the same."""
        self.check_spool()
        is_recent = time.monotonic() - self.began_at_seconds < self._rescan_seconds
        return is_recent and os.fstat(self._fd).st_ctime_ns == self._changed_ns

    async def scan(self, known: Mapping[str, Chunk], marks: Sequence[Mark]) -> Scanned:
        """Read the whole directory in a thread, 0.4 s a million entries. Raises Again.

        `known` are the files known now, `marks` what their chunks hold.
        """
        self.began_at_seconds = time.monotonic()
        self._changed_ns = 0
        scanned, self._changed_ns = await asyncio.to_thread(self._scan, known, marks)
        return scanned

    def _scan(self, known: Mapping[str, Chunk], marks: Sequence[Mark]) -> tuple[Scanned, int]:
        """Return what a scan found, and the directory's change time; 0 if not reliable."""
        self.check_spool()
        changed_ns = os.fstat(self._fd).st_ctime_ns  # changes with every entry; nobody can set it
        is_settled = time.time() - changed_ns / 1e9 > _TICK_SECONDS_MAX
        new: dict[str, Chunk] = {}
        ignored, example = 0, ""
        seen: Counter[Chunk | None] = Counter()
        try:
            with beneath.entries(self._fd) as listing:
                while unknown := [*itertools.islice(listing, _ENTRIES)]:
                    if known:
                        chunks = [known.get(entry.name) for entry in unknown]
                        seen.update(chunks)
                        unknown = [e for e, at in zip(unknown, chunks, strict=True) if at is None]
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
        """Return the names of the entries that are files."""
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        names = [*filter(self._matches, names)]
        return names if file_names.are_safe(names) else [*filter(file_names.is_safe, names)]

    def _missing(
        self, marks: Sequence[Mark], seen: Mapping[Chunk | None, int]
    ) -> Iterator[tuple[str, Chunk]]:
        """Yield the marked files that the scan did not see, with their chunks.

        If some files of a chunk were seen, look for each of its files again. If none were, do not:
        that would take as long as moving them did. If one is there after all, the next scan finds
        it as new. Files that came while the directory was read are not considered.
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
        """Look at some files by name; in a thread if the disk is slow."""
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
        """Look at some files by name; return what was seen, added to `seen` if given."""
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
