"""The archive for an operator: files moved there, staged files, and segments."""

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from penstock import beneath, file_names
from penstock.archive import staging
from penstock.archive.segment import Member
from penstock.archive.store import SegmentName, Store, segment_name
from penstock.operate.spool_files import SpoolFiles

_STAGED = f"{staging.FOLDER}/[os]*/"  # open and sealed rooms


class Copy(NamedTuple):
    """A copy of an archived file; `file` is its path, or the file as read from a segment."""

    where: str
    size_bytes: int
    at_seconds: float
    file: Path | Member


class Archived:
    """The files that have left the spool, wherever they are."""

    def __init__(self, dirs: SpoolFiles) -> None:
        self._dirs = dirs
        self.store = Store(dirs.archive, dirs.bucket)

    def copies(self, name: str) -> Iterator[Copy]:
        """Yield every copy of a file, the latest first."""
        hour = file_names.hour_of(name) or file_names.HOUR_FOLDER
        paths = [folder / name for folder in self._folders(hour) if self._dirs.has(folder, name)]
        for path in [*paths, *filter(None, [self._dirs.archived(name)])]:
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                yield Copy(str(path), status.st_size, status.st_ctime, path)
        for where, segment, member in self.store.find(name):
            yield Copy(f"{where}, packed", len(member.data), segment.made_seconds, member)

    def member(self, file: Path | Member) -> Member:
        """Return a file with its bytes, read without following links. Raises OSError."""
        if not isinstance(file, Path):
            return file
        with self._dirs.opened(file.parent) as folder_fd:
            fd = beneath.open_file(folder_fd, file.name)
        with os.fdopen(fd, "rb") as reader:
            status = os.fstat(fd)
            return Member(file.name, status.st_mode, status.st_mtime_ns, reader.read())

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of some names are archived; opens each segment once."""
        left = {*names}
        found = {name for name in left if self._dirs.archived(name)}
        with beneath.folder(self._dirs.spool) as spool_fd:
            found |= staging.holds(spool_fd, left - found)
        return found | self.store.held(left - found)

    def places(self, name: str) -> list[str]:
        """Return in which of spool, archive and rejects a file lies.

        A copy that is staged or in a segment counts only if there is no other.
        """
        dirs = self._dirs
        found = ["spool"] if os.path.lexists(dirs.spool / name) else []
        found += ["archive"] if dirs.archived(name) else []
        found += ["rejects"] if dirs.has(dirs.rejects, name) else []
        return found or ["archive"] * len(self.held([name]))

    def names_between(self, since: float, until: float) -> Iterator[str]:
        """Yield the names of files whose time is in [since, until)."""
        yield from (path.name for path in self._paths(since, until))
        for segment in self.segments(since, until):
            if since <= segment.first and segment.last < until - 1:
                with self.store.open(segment) as opened:
                    yield from opened.names()
            else:
                yield from (member.name for member in self._members(segment, since, until))

    def between(self, since: float, until: float) -> Iterator[Path | Member]:
        """Yield files whose time (in the name, else of modification) is in [since, until)."""
        yield from self._paths(since, until)
        for segment in self.segments(since, until):
            yield from self._members(segment, since, until)

    def segments(self, since: float, until: float) -> Iterator[SegmentName]:
        """Yield the segments that may hold files of that time, by hour, newest first."""
        first, last = file_names.hour_of_time(max(0.0, since)), file_names.hour_of_time(until)
        for hour in self.store.hours():
            if first <= hour <= last:
                for segment in self.store.segments(hour):
                    if segment.first < until and since < segment.last + 1:
                        yield segment

    def _paths(self, since: float, until: float) -> Iterator[Path]:
        first, last = file_names.hour_of_time(max(0.0, since)), file_names.hour_of_time(until)
        for folder in self._dirs.hours():
            if first <= str(folder.relative_to(self._dirs.archive)) <= last:
                paths = self._dated(folder, since, until)
                yield from (path for path in paths if segment_name("", path.name) is None)
        for folder in self._folders(file_names.HOUR_FOLDER):
            with contextlib.suppress(OSError):  # for example, it is a link
                yield from self._dated(folder, since, until)

    def _dated(self, folder: Path, since: float, until: float) -> Iterator[Path]:
        for name, status in self._dirs.listed(folder):
            at = file_names.time_of(name)
            if since <= (status.st_mtime if at is None else at) < until:
                yield folder / name

    def _folders(self, hour: str) -> list[Path]:
        return sorted(self._dirs.spool.glob(_STAGED + hour))

    def _members(self, segment: SegmentName, since: float, until: float) -> Iterator[Member]:
        def is_wanted(name: str) -> bool:
            at = file_names.time_of(name)
            return at is None or since <= at < until

        with self.store.open(segment) as opened:
            for member in opened.members(is_wanted):
                named = file_names.time_of(member.name) is not None
                if named or since <= member.modified_ns / 1e9 < until:
                    yield member

    @contextlib.contextmanager
    def own_files(self) -> Generator[Callable[[Path | Member], Path]]:
        """Yield a function that gives each file its own path on the spool's file system."""
        with beneath.folder(self._dirs.spool) as spool_fd:
            with staging.new_room(spool_fd, staging.REPLAY) as room:

                def path(file: Path | Member) -> Path:
                    if isinstance(file, Path):
                        return file
                    with contextlib.suppress(FileNotFoundError):  # a copy that was not put back
                        os.unlink(file.name, dir_fd=room.fd)
                    write_out(room.fd, file)
                    return self._dirs.spool / staging.FOLDER / room.name / file.name

                yield path
            staging.clear_replays(spool_fd)


def write_out(folder_fd: int, member: Member) -> None:
    """Write an archived file into a folder, with its modification time. Raises OSError."""
    if not file_names.is_safe(member.name):
        raise OSError(errno.EINVAL, "not a name that Penstock lists", member.name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(member.name, flags, member.mode & 0o666, dir_fd=folder_fd)
    with os.fdopen(fd, "wb") as writer:
        writer.write(member.data)
        writer.flush()
        os.utime(fd, ns=(member.modified_ns, member.modified_ns))
