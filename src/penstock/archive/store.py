"""Find segments below an archive directory, and the files in them.

    archive/YYYY/MM/DD/HH/FIRST-LAST-COUNT-ID.PART.tar.zst

The folder is the hour of its files. FIRST and LAST are the times of the first and the last file,
COUNT is their number. ID is that of the staging room, which may make several parts per hour.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from penstock import beneath, file_names
from penstock.archive.segment import Member, Segment

if TYPE_CHECKING:
    from penstock.archive.bucket import Bucket

_TIME = r"(\d{8}T\d{6}Z)"
_NAME = re.compile(rf"{_TIME}-{_TIME}-(\d+)-(\d{{13}}[0-9a-f]{{8}})\.(\d+)\.tar\.zst")
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_MISSING = (FileNotFoundError, NotADirectoryError)
_SECONDS_MAX = 253_402_300_799  # the year 9999

ReadAt = Callable[[int, int], bytes]
"""Returns a number of bytes at an offset, or as many as there are."""


class SegmentName(NamedTuple):
    """The contents of a segment's name; times in whole seconds since 1970."""

    hour: str
    name: str
    first: int
    last: int
    files: int
    id: str
    part: int

    def may_hold(self, at: float | None) -> bool:
        """Tell whether it may hold a file of that time; None is an unknown time."""
        return at is None or self.first <= int(at) <= self.last

    @property
    def made_at(self) -> tuple[str, int]:
        """The sort key for the order in which segments were made."""
        return self.id, self.part

    @property
    def made_seconds(self) -> float:
        """When its room was made, in seconds since 1970."""
        return int(self.id[:13]) / 1000

    @property
    def path(self) -> str:
        """Its path below the archive."""
        return f"{self.hour}/{self.name}"


def segment_name(hour: str, name: str) -> SegmentName | None:
    """Parse a name in the archive; None if it is not a segment's."""
    if (match := _NAME.fullmatch(name)) is None:
        return None
    with contextlib.suppress(ValueError):  # no such day
        first, last = (int(_moment(text)) for text in match.group(1, 2))
        return SegmentName(hour, name, first, last, int(match[3]), match[4], int(match[5]))
    return None


def new_name(first: float, last: float, files: int, room_id: str, part: int) -> str:
    """Return the name of a segment."""
    begin, end = (
        datetime.fromtimestamp(min(max(0, int(at)), _SECONDS_MAX), UTC).strftime(_TIME_FORMAT)
        for at in (first, last)
    )
    return f"{begin}-{end}-{files}-{room_id}.{part}.tar.zst"


def _moment(text: str) -> float:
    return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC).timestamp()


class Folder:
    """A shelf of segments that is a directory; `Bucket` is the other kind. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.place = str(root)

    def hours(self) -> list[str]:
        """Return its folders YYYY/MM/DD/HH."""
        with contextlib.suppress(*_MISSING), beneath.folder(self._root) as fd:
            return [hour for hour, _ in beneath.folders_by_number(fd, file_names.HOUR_DIGITS)]
        return []

    def names(self, hour: str) -> list[str]:
        """Return the names in one of them; [] if it does not exist."""
        with contextlib.suppress(*_MISSING), beneath.folder(self._root, hour) as fd:
            return beneath.names(fd)
        return []

    def open(self, hour: str, name: str, stack: contextlib.ExitStack) -> tuple[int, ReadAt]:
        """Return a segment's size, and a function that reads it while the stack is open."""
        with beneath.folder(self._root, hour) as folder_fd:
            fd = beneath.open_file(folder_fd, name)
        stack.callback(os.close, fd)
        return os.fstat(fd).st_size, partial(beneath.read_at, fd)


class Store:
    """The segments of one archive: in a directory and, if given, in a bucket."""

    def __init__(self, root: Path, bucket: str = "") -> None:
        self._shelves: list[Folder | Bucket] = [Folder(root)]
        if bucket:
            from penstock.archive.bucket import bucket_at  # noqa: PLC0415  botocore: 0.1 s

            self._shelves.append(bucket_at(bucket))

    def hours(self) -> list[str]:
        """Return the archive's folders, the oldest first."""
        return sorted({hour for shelf in self._shelves for hour in shelf.hours()})

    def segments(self, hour: str) -> list[SegmentName]:
        """Return the segments of an hour, the newest first."""
        names = {name for shelf in self._shelves for name in shelf.names(hour)}
        found = (segment_name(hour, name) for name in names)
        return sorted(filter(None, found), key=lambda one: one.made_at, reverse=True)

    @contextlib.contextmanager
    def open(self, segment: SegmentName) -> Generator[Segment]:
        """Open a segment from the directory, or from the bucket once it is uploaded."""
        with contextlib.ExitStack() as stack:
            for shelf in self._shelves:
                with contextlib.suppress(FileNotFoundError):
                    opened = shelf.open(segment.hour, segment.name, stack)
                    yield Segment(f"{shelf.place}/{segment.path}", *opened)
                    return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), segment.path)

    def candidates(self, name: str) -> Iterator[SegmentName]:
        """Yield the segments that may hold a file, newest first within an hour."""
        hour, at = file_names.hour_of(name), file_names.time_of(name)
        for folder in [hour] if hour else reversed(self.hours()):
            for segment in self.segments(folder):
                if segment.may_hold(at):
                    yield segment

    def find(self, name: str) -> Iterator[tuple[str, SegmentName, Member]]:
        """Yield every copy of a file and its place, newest first within an hour."""
        for segment in self.candidates(name):
            with contextlib.suppress(FileNotFoundError), self.open(segment) as opened:
                if (member := opened.get(name)) is not None:
                    yield opened.title, segment, member

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of some names are in segments; opens each segment once."""
        wanted: dict[str, dict[str, float | None]] = {}
        for name in names:
            wanted.setdefault(file_names.hour_of(name) or "", {})[name] = file_names.time_of(name)
        found = set[str]()
        for hour in self.hours() if "" in wanted else wanted:
            here = wanted.get(hour, {}) | wanted.get("", {})
            for segment in self.segments(hour):
                some = {name for name, at in here.items() if segment.may_hold(at)} - found
                if some:
                    with contextlib.suppress(FileNotFoundError), self.open(segment) as opened:
                        found |= some.intersection(opened.names())
        return found
