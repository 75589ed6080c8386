"""The order of the complete files of one spool, and the cursors into it.

    chunk 7           chunk 8           chunk 9
    ├─ 1,000 names ─┤ ├─ 1,000 names ─┤ ├─ 412 names ─┤ ◀─ the next complete file goes here
                             ▲
                             cursor "5f0c9a1e-8431": all files before place 8,431 are dealt with

A late file, however old its name, gets a place after every cursor given out before, so no reader
misses it. A name takes about 130 bytes with its dictionary slot, and 16 more for size and time if
they are kept.
"""

import itertools
import math
import re
import secrets
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

CHUNK_FILES = 1_000
_CURSOR = re.compile(r"([0-9a-f]{8})-(\d{1,18})")


class Chunk:
    """A thousand places: name (None: gone from the spool), size in bytes, time of modification.

    Sizes and times are empty where nobody looks at files before they are read.
    """

    __slots__ = ("live", "modified", "names", "number", "seen_at_seconds", "sizes", "took_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.names: list[str | None] = []
        self.sizes = array("q")
        self.modified = array("d")
        self.live = 0
        self.seen_at_seconds = math.inf  # the earliest look at any of them
        self.took_at = 0  # the place after the last removed name

    def take(self, name: str) -> None:
        """Remove a name. Names leave in the order they came: look after the last one first."""
        at = self.took_at
        if self.names[at : at + 1] != [name]:
            at = self.names.index(name)
        self.names[at] = None
        self.live -= 1
        self.took_at = at + 1

    def has(self, name: str, size_bytes: int, modified_at_seconds: float) -> bool:
        """Tell whether a file was placed with this size and this time."""
        at = self.names.index(name)
        return (self.sizes[at], self.modified[at]) == (size_bytes, modified_at_seconds)

    def copy(self, at: int, to: "Cut", files_max: int) -> int:
        """Copy files from `at` on until `to` has `files_max`; return the place after them."""
        while at < len(self.names) and len(to.names) < files_max:
            some = slice(at, at + files_max - len(to.names))
            names = self.names[some]
            to.names.extend(filter(None, names))
            to.sizes_bytes.extend(compress(self.sizes[some], names))
            to.modified_at_seconds.extend(compress(self.modified[some], names))
            at = min(some.stop, len(self.names))
        return at


UNPLACED = Chunk(-1)
"""The chunk of the known files that are not complete yet."""


class Cut(NamedTuple):
    """Files in their order: their names, and parallel to them, if kept, sizes and times."""

    names: list[str]
    sizes_bytes: "array[int]"
    modified_at_seconds: "array[float]"


class Mark(NamedTuple):
    """What a chunk holds at one moment: `live` files, in its first `length` places."""

    chunk: Chunk
    live: int
    length: int


class Order:
    """Every file that is known to be in the spool, with its place once it is complete."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._chunk_of: dict[str, Chunk] = {}
        self._chunks: list[Chunk | None] = []  # None: all its files are gone
        self._chunks_gone = 0  # before the first of _chunks

    @property
    def known(self) -> Mapping[str, Chunk]:
        """The chunk of each file, UNPLACED until it has its place."""
        return self._chunk_of

    @property
    def end(self) -> int:
        """The place after the last file."""
        end = (self._chunks_gone + len(self._chunks)) * CHUNK_FILES
        last = self._chunks[-1] if self._chunks else None
        return end if last is None else end - CHUNK_FILES + len(last.names)

    def cursor(self, place: int) -> str:
        """Return the cursor that stands for a place."""
        return f"{self._epoch}-{place}"

    def place(self, cursor: str) -> int:
        """Return the place of a cursor: the first one if this order did not give the cursor."""
        match = _CURSOR.fullmatch(cursor)
        place = int(match[2]) if match and match[1] == self._epoch else 0
        return place if place <= self.end else 0

    def add(self, name: str) -> None:
        """Add a file without a place, if it is not known."""
        self._chunk_of.setdefault(name, UNPLACED)

    def add_all(self, new: dict[str, Chunk]) -> None:
        """Add each of `new`, and take `new` over.

        The smaller dictionary goes into the larger: a million names are never in both.
        """
        if len(self._chunk_of) < len(new):
            new.update(self._chunk_of)
            self._chunk_of = new
        else:
            for name in new:
                self.add(name)

    def append(
        self,
        complete: Sequence[str],
        seen_at_seconds: float,
        sizes_bytes: Sequence[int] = (),
        modified_at_seconds: Sequence[float] = (),
    ) -> None:
        """Put files in the next places, in this order."""
        at = 0
        while at < len(complete):
            last = self._chunks[-1] if self._chunks else None
            if last is None or len(last.names) == CHUNK_FILES:
                last = Chunk(self._chunks_gone + len(self._chunks))
                self._chunks.append(last)
            some = slice(at, at + CHUNK_FILES - len(last.names))
            new = complete[some]
            self._chunk_of.update(dict.fromkeys(new, last))
            last.names += new
            last.sizes.extend(sizes_bytes[some])
            last.modified.extend(modified_at_seconds[some])
            last.live += len(new)
            last.seen_at_seconds = min(last.seen_at_seconds, seen_at_seconds)
            at += len(new)

    def drop(self, gone: Iterable[str]) -> None:
        """Forget files that left the spool; one that comes back is a new file."""
        if not self._chunk_of:  # an archiver never lists
            return
        for name in gone:
            chunk = self._chunk_of.pop(name, UNPLACED)
            if chunk is not UNPLACED:
                chunk.take(name)
                if not chunk.live and len(chunk.names) == CHUNK_FILES:
                    self._chunks[chunk.number - self._chunks_gone] = None
        while self._chunks and self._chunks[0] is None:
            del self._chunks[0]
            self._chunks_gone += 1

    def marks(self) -> Sequence[Mark]:
        """Return what each chunk holds now."""
        return [Mark(chunk, chunk.live, len(chunk.names)) for chunk in self._chunks if chunk]

    def cut(self, place: int, files_max: int) -> tuple[Cut, int, float]:
        """Return up to `files_max` files from a place on, the place after, their earliest look."""
        files = Cut([], array("q"), array("d"))
        seen_at_seconds = math.inf
        number, at = divmod(max(place, self._chunks_gone * CHUNK_FILES), CHUNK_FILES)
        for chunk in itertools.islice(self._chunks, number - self._chunks_gone, None):
            if chunk is not None:
                if chunk.live:
                    seen_at_seconds = min(seen_at_seconds, chunk.seen_at_seconds)
                at = chunk.copy(at, files, files_max)
                if len(files.names) == files_max or len(chunk.names) < CHUNK_FILES:
                    return files, number * CHUNK_FILES + at, seen_at_seconds
            number, at = number + 1, 0
        return files, number * CHUNK_FILES, seen_at_seconds

    def stale(self, place: int, files_max: int, before_seconds: float) -> Chunk | None:
        """Return the first chunk of such a cut with a file last seen before `before_seconds`."""
        first = max(place // CHUNK_FILES - self._chunks_gone, 0)
        files = 0
        for chunk in itertools.islice(self._chunks, first, None):
            if chunk and chunk.live:
                if chunk.seen_at_seconds < before_seconds:
                    return chunk
                files += chunk.live if chunk.number > place // CHUNK_FILES else 0
                if files >= files_max:
                    break
        return None
