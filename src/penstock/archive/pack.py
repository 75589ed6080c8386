"""Pack sealed rooms into segments, and only then delete the files.

    ① write the segment as a draft, and sync it   ② give it its name, and sync the folder
    ③ delete the files that are in it, if they are unchanged since they were read

After a kill anywhere, the next pass finishes: it writes a draft again, and deletes only files that
a segment of their room holds byte for byte. A changed file is packed again, into another part.
"""

import contextlib
import errno
import os
from array import array
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import beneath, file_names, telemetry
from penstock.archive import staging
from penstock.archive.segment import Writer
from penstock.archive.store import SegmentName, Store, new_name, segment_name
from penstock.errors import Again, Halt

if TYPE_CHECKING:
    from penstock.archive.bucket import Bucket

SEGMENT_BYTES = 1 << 30
"""The approximate size of a segment's files; a minute of 6,000 files a second is less."""

_RESERVE, _RESERVE_BYTES = ".penstock-reserve", 64 << 20
_RESERVE_SHARE = 64  # of a small disk, reserve at most 1/64
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_THREADS = 4  # on a disk that syncs each deletion, one takes 87 us, or 39 us with four at a time


@dataclass(slots=True)
class PackTally:
    """What one pass made; `stuck` counts what could not be packed, `cause` says why for one."""

    files: int = 0
    segments: int = 0
    stuck: int = 0
    cause: str = ""


def pack(
    spool_fd: int,
    archive: Path,
    *,
    older_than_seconds: float,
    over: Callable[[], bool],
    bucket: str = "",
) -> PackTally:
    """Seal rooms older than that, pack sealed ones, upload, until `over`. Logs failures."""
    tally = PackTally()
    with telemetry.by_cause("segment.stuck") as stuck:

        @contextlib.contextmanager
        def alone(what: str) -> Generator[None]:
            try:
                yield
            except _Over:
                pass
            except (OSError, Again, Halt) as error:
                tally.stuck += 1
                text = beneath.why(error) if isinstance(error, OSError) else str(error)
                stuck.add(what, f"pack {what}: {text}")

        with alone(str(archive)):
            staging.clear_replays(spool_fd)
            staging.seal(spool_fd, older_than_seconds)
            for room in staging.rooms_to_pack(spool_fd):
                with alone(room.name):
                    _Packing(room, archive, over, tally, stuck, SEGMENT_BYTES).run()
                if over():
                    break
            if bucket:
                _upload(spool_fd, archive, bucket, over)
        tally.cause = stuck.summary()
    return tally


def _upload(spool_fd: int, archive: Path, bucket: str, over: Callable[[], bool]) -> None:
    """Upload segments whose room is gone; delete each here once the bucket surely has it."""
    from penstock.archive.bucket import bucket_at  # noqa: PLC0415  botocore: 0.1 s of imports

    store, there = Store(archive), bucket_at(bucket)
    made = [one for hour in store.hours() for one in store.segments(hour)]
    packing = staging.sealed_ids(spool_fd)  # listed last: a room exists before its segments
    for segment in made:
        if over():
            return
        if segment.id not in packing:
            with contextlib.suppress(FileNotFoundError):  # another archiver was here
                _upload_one(archive, segment, there)


def _upload_one(archive: Path, segment: SegmentName, there: "Bucket") -> None:
    with beneath.folder(archive, segment.hour) as fd:
        with os.fdopen(beneath.open_file(fd, segment.name), "rb") as file:
            there.upload(segment.path, file)
        os.unlink(segment.name, dir_fd=fd)
    telemetry.event("segment.uploaded", segment=segment.path, bucket=there.place)
    with beneath.folder(archive) as root_fd:
        beneath.remove_empty(root_fd, segment.hour)


class _Over(Exception):
    """The pass must end; drop unfinished work."""


@dataclass(slots=True)
class _Packing:
    _room: staging.Room
    _archive: Path
    _over: Callable[[], bool]
    _tally: PackTally
    _stuck: telemetry.ByCause
    _bytes_max: int

    def run(self) -> None:
        self._archive.mkdir(parents=True, exist_ok=True)
        with beneath.folder(self._archive) as root_fd:
            _keep_reserve(root_fd)
            for hour, from_fd in beneath.folders_by_number(self._room.fd, file_names.HOUR_DIGITS):
                with beneath.opened(root_fd, hour, make=True) as to_fd:
                    self._pack_hour(hour, from_fd, to_fd, root_fd)

    def _pack_hour(self, hour: str, from_fd: int, to_fd: int, root_fd: int) -> None:
        here = (segment_name(hour, name) for name in beneath.names(to_fd))
        packed = [one for one in here if one and one.id == self._room.id]
        for segment in packed:
            self._let_go_of_packed(segment, from_fd, to_fd)
        part = max((one.part + 1 for one in packed), default=0)
        names = sorted(filter(file_names.is_safe, beneath.names(from_fd)))
        while names:
            try:
                taken, written = self._write(names, from_fd, to_fd)
            except OSError as error:
                if error.errno not in _FULL or not _release_reserve(root_fd):
                    raise
                self._bytes_max = _reserve_bytes(root_fd) // 2  # with headers it fits there
                continue
            if written.names:
                self._name(written, part, to_fd)
                _let_go(from_fd, written)
            names = names[taken:]
            part += 1

    def _let_go_of_packed(self, segment: SegmentName, from_fd: int, to_fd: int) -> None:
        """Delete the files that a segment of a killed pass holds."""
        os.fsync(to_fd)
        with Store(self._archive).open(segment) as opened:
            for member in opened.members():
                with contextlib.suppress(OSError):  # packing it will report the error
                    if _read(from_fd, member.name)[1] == member.data:
                        os.unlink(member.name, dir_fd=from_fd)

    def _write(self, names: Sequence[str], from_fd: int, to_fd: int) -> "tuple[int, _Written]":
        """Write a draft from the first of some names; return how many, and its contents."""
        fd, draft = beneath.create_draft(to_fd, token=self._room.id)
        is_whole = False
        try:
            written = _Written(fd, draft)
            taken = self._add(names, from_fd, written)
            written.end()
            is_whole = bool(written.names)
        finally:
            os.close(fd)
            if not is_whole:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=to_fd)
        return taken, written

    def _add(self, names: Sequence[str], from_fd: int, written: "_Written") -> int:
        """Add files until the segment is large enough; return how many names are done."""
        for taken, name in enumerate(names, 1):
            if self._over():
                raise _Over
            try:
                status, data = _read(from_fd, name)
            except FileNotFoundError:
                continue
            except OSError as error:  # only this file: it stays
                self._tally.stuck += 1
                self._stuck.add(name, f"pack {name}: {beneath.why(error)}")
                continue
            written.add(name, status, data)
            if written.writer.raw_bytes >= self._bytes_max:
                return taken
        return len(names)

    def _name(self, written: "_Written", part: int, to_fd: int) -> None:
        files = len(written.names)
        name = new_name(written.first, written.last, files, self._room.id, part)
        os.rename(written.draft, name, src_dir_fd=to_fd, dst_dir_fd=to_fd)
        os.fsync(to_fd)
        self._tally.files += files
        self._tally.segments += 1
        telemetry.event("segment.made", segment=name, files=files, bytes=written.length)


class _Written:
    """A segment in the making, and what its files looked like when they were read."""

    def __init__(self, fd: int, draft: str) -> None:
        self.draft = draft
        self.length = 0
        self.writer = Writer()
        self.names: list[str] = []
        self.changed_ns, self.sizes = array("q"), array("q")  # compact: there are many
        self.first, self.last = float("inf"), 0.0
        self._fd = fd
        self._same_second = ""  # the beginning of names in the last file's second

    def add(self, name: str, status: os.stat_result, data: bytes) -> None:
        """Add one file. Raises OSError."""
        owned = (status.st_mode, status.st_uid, status.st_gid)
        if part := self.writer.add(name, owned, status.st_mtime_ns, data):
            self._write(part)
        self.names.append(name)
        self.changed_ns.append(status.st_ctime_ns)
        self.sizes.append(status.st_size)
        if self._same_second and name.startswith(self._same_second):
            return
        at = file_names.time_of(name)
        self._same_second = "" if at is None else file_names.beginning_of_second(name)
        at = status.st_mtime if at is None else at
        self.first, self.last = min(self.first, at), max(self.last, at)

    def end(self) -> None:
        """Write the rest, and sync everything to disk."""
        self._write(self.writer.end())
        os.fsync(self._fd)

    def _write(self, data: bytes) -> None:
        self.length += len(data)
        left = memoryview(data)
        while left:  # a full disk first writes less than asked
            left = left[os.write(self._fd, left) :]


def _read(from_fd: int, name: str) -> tuple[os.stat_result, bytes]:
    """Return a staged file as of one moment. Raises OSError."""
    fd, status = beneath.open_status(from_fd, name)
    try:
        data = os.read(fd, status.st_size + 1)  # one call reads most files whole
        if len(data) < status.st_size:
            data = beneath.read_at(fd, 0, status.st_size + 1)
    finally:
        os.close(fd)
    if len(data) != status.st_size:
        raise OSError(errno.EBUSY, "it is still being written", name)
    return status, data


def _let_go(from_fd: int, written: _Written) -> None:
    """Delete the segment's files that did not change since they were read."""

    def delete(numbers: range) -> None:
        for at in numbers:
            name = written.names[at]
            with contextlib.suppress(FileNotFoundError):
                now = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
                then = (written.changed_ns[at], written.sizes[at])
                if (now.st_ctime_ns, now.st_size) == then:
                    os.unlink(name, dir_fd=from_fd)

    numbers = range(len(written.names))
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(delete, [numbers[first::_THREADS] for first in range(_THREADS)]))


def _reserve_bytes(root_fd: int) -> int:
    disk = os.fstatvfs(root_fd)
    return min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE)


def _keep_reserve(root_fd: int) -> None:
    """Reserve space for a small segment, because writing one frees more space than it takes."""
    size, disk = _reserve_bytes(root_fd), os.fstatvfs(root_fd)
    if disk.f_bavail * disk.f_frsize < 2 * size:
        return
    with contextlib.suppress(OSError):  # it exists, or cannot: go on without it
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(_RESERVE, flags, 0o600, dir_fd=root_fd), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _release_reserve(root_fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.unlink(_RESERVE, dir_fd=root_fd)
        return True
    return False
