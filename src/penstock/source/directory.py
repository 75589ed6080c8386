"""The spool as a directory of this machine.

index.py tells which files are complete; moves.py moves files out.
"""

import asyncio
import contextlib
import errno
import math
import os
import stat
import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Literal

from penstock import beneath, file_names
from penstock.archive import pack, staging
from penstock.archive.store import Store
from penstock.errors import Again, Halt, own_trouble
from penstock.model import FileRead, Page, SpoolIdentity, Unread
from penstock.ports import Moved
from penstock.source import marker
from penstock.source import moves as moving
from penstock.source.index import Index
from penstock.source.scan import AT_HAND_SECONDS

_TOGETHER = 100  # names checked for safety at once
# Gone, a symlink, a socket, a FIFO, a directory.
_NO_FILE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ESPIPE, errno.EISDIR})
# O_NOATIME: otherwise the kernel writes to each inode at its first read.
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME


class DirectorySource:
    """`Source` over a directory; one instance belongs to one process.

    `archive_directory` and `rejects_directory` are made when first needed. `page_files_max` limits
    one page. `served` is for the file server: how to notice new files; the server must then call
    `index.open`, and sees each file's own size. Raises Halt if the spool is not a directory that
    can be opened.
    """

    pack_seconds = 60.0
    """How long staged files are gathered for one segment."""

    bucket = ""
    """The address of the bucket that segments are uploaded to, if there is one."""

    def __init__(
        self,
        spool: Path,
        *,
        pattern: str,
        settle_seconds: float,
        max_file_bytes: int,
        archive_directory: Path,
        rejects_directory: Path,
        archive_action: Literal["move", "pack", "delete"] = "move",
        page_files_max: int = 10_000,
        served: Literal["inotify", "poll"] | None = None,
        rescan_seconds: float = 20.0,
    ) -> None:
        self._spool = spool
        self._max_file_bytes = max_file_bytes
        self._archive_directory = archive_directory
        self._rejects_directory = rejects_directory
        self._archive_action = archive_action
        self._page_files_max = page_files_max
        self._open_flags = _OPEN_FLAGS
        self._looks = served is not None  # at each file: a caller may ask for one alone
        try:
            self._fd = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Halt(
                f"source.url: {spool} cannot be opened as a directory: {error.strerror};"
                " set it to the directory that the files are written to"
            ) from None
        if rejects_directory.is_dir() and rejects_directory.samefile(spool):
            raise Halt(
                f"archive.rejected_directory: {rejects_directory} is the spool itself;"
                " allowed: any other directory"
            )
        self.index = Index(
            self._fd,
            spool,
            pattern=pattern,
            settle_seconds=settle_seconds,
            watch=served == "inotify",
            rescan_seconds=rescan_seconds,
            look=settle_seconds > 0 or served is not None,
        )

    async def list(self, cursor: str) -> Page:
        """See `Source.list`. After a restart, it lists everything again."""
        return await self.index.page(cursor, self._page_files_max)

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`."""
        files: list[FileRead] = []
        left = self._read(names, bytes_max, time.monotonic() + AT_HAND_SECONDS, files)
        if left > 0:
            await asyncio.to_thread(self._read, names[len(files) :], left, math.inf, files)
        return files

    def _read(
        self,
        wanted: Sequence[str],
        bytes_max: int,
        until_seconds: float,
        files: MutableSequence[FileRead],
    ) -> int:
        """Read files until that monotonic time; return how many bytes more may be read, if any."""
        now = time.time()
        read, clock, keep = self._read_one, time.monotonic, files.append
        for at in range(0, len(wanted), _TOGETHER):
            some = wanted[at : at + _TOGETHER]
            safe = file_names.are_safe(some)
            for name in some:
                if files and (bytes_max <= 0 or clock() > until_seconds):
                    return max(bytes_max, 0)
                if safe or file_names.is_safe(name):
                    file = read(name, now, self._looks or not files)
                else:
                    file = FileRead(name, Unread.VANISHED, 0, 0.0, "not a name that Penstock lists")
                keep(file)
                if type(file.data) is bytes:
                    bytes_max -= len(file.data)
        return 0

    def _read_one(self, name: str, now: float, look: bool) -> FileRead:  # noqa: FBT001  hot
        try:
            fd = os.open(name, self._open_flags, dir_fd=self._fd)
        except OSError as error:
            if error.errno == errno.EPERM and self._open_flags & os.O_NOATIME:
                self._open_flags &= ~os.O_NOATIME  # the files belong to another user
                return self._read_one(name, now, look)
            return _unread(name, error)
        try:
            age_seconds = None
            size = 0 if look else os.lseek(fd, 0, os.SEEK_END)  # a quarter of fstat's cost
            if not 0 < size <= self._max_file_bytes:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return FileRead(name, Unread.VANISHED, 0, 0.0, "not a regular file")
                size, age_seconds = status.st_size, now - status.st_ctime
                if size > self._max_file_bytes:
                    return FileRead(name, b"", size, age_seconds)
            data = os.pread(fd, size + 1, 0)  # one byte more shows whether it is growing
            if len(data) != size:
                data = self._rest(fd, data)
            return FileRead(name, data, len(data), age_seconds)
        except OSError as error:
            return _unread(name, error)
        finally:
            os.close(fd)

    def _rest(self, fd: int, data: bytes) -> bytes:
        """Read the rest of a file, or until it is too large."""
        while 0 < len(data) <= self._max_file_bytes:
            more = os.pread(fd, self._max_file_bytes + 1 - len(data), len(data))
            if not more:
                break
            data += more
        return data

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`."""
        moved = await asyncio.to_thread(self._archive, names)
        self.index.drop(file.name for file in moved if not file.error)
        return moved

    def _archive(self, wanted: Sequence[str]) -> Sequence[Moved]:
        self.index.check_spool()
        try:
            if self._archive_action == "delete":
                moved = [moving.delete(self._fd, name) for name in wanted]
            elif self._archive_action == "pack":
                with staging.room_to_fill(self._fd, self.pack_seconds) as room:
                    path = self._spool / staging.FOLDER / room.name
                    moved = self._move(moving.Folders(path, room.fd), wanted)
            else:
                moved = self._move(moving.Folders(self._archive_directory), wanted)
            os.fsync(self._fd)
        except OSError as error:  # the next pass finds which files were moved
            directory = self._archive_directory
            return [Moved(n, f"archive {n} to {directory}: {beneath.why(error)}") for n in wanted]
        return self._kept(moved)

    def _kept(self, moved: Sequence[Moved]) -> Sequence[Moved]:
        """Do not report a file as gone if it is in the archive or the rejects.

        Before a ledger was restored, it may have rejected what it now archives, or vice versa.
        """
        lost = {file.name for file in moved if file.vanished and file_names.is_safe(file.name)}
        if not lost:
            return moved
        try:
            found = self._find(lost)
        except (Halt, OSError) as error:
            why = beneath.why(error) if isinstance(error, OSError) else str(error)
            why = f"look for it in the archive and the rejects: {why}"
            return [Moved(file.name, why) if file.vanished else file for file in moved]
        return [Moved(file.name) if file.name in found else file for file in moved]

    def _find(self, lost: set[str]) -> set[str]:
        """Return which of the `lost` were archived or rejected. Raises OSError or Halt."""
        found = set[str]()
        places = [(self._rejects_directory, ".", sorted(lost))]
        by_hour = file_names.by_hour(sorted(lost))
        places += [(self._archive_directory, hour, run) for hour, run in by_hour if hour]
        for root, folder, names in places:
            with contextlib.suppress(FileNotFoundError), beneath.folder(root, folder) as fd:
                found.update(name for name in names if beneath.is_regular(fd, name))
        if self._archive_action == "pack" and lost - found:
            found |= staging.holds(self._fd, lost - found)
            found |= Store(self._archive_directory, self.bucket).held(lost - found)
        return found

    async def pack(self, over: Callable[[], bool], *, at_once: bool = False) -> pack.PackTally:
        """Pack what was staged `pack_seconds` ago, or at once, until `over`; see pack.py."""
        if self._archive_action != "pack":
            return pack.PackTally()
        self.index.check_spool()
        return await asyncio.to_thread(
            pack.pack,
            self._fd,
            self._archive_directory,
            older_than_seconds=0.0 if at_once else self.pack_seconds,
            bucket=self.bucket,
            over=over,
        )

    def _move(self, folders: moving.Folders, wanted: Sequence[str]) -> Sequence[Moved]:
        """Move the files of one hour together if possible, others one by one; close `folders`."""
        moved: list[Moved] = []
        with folders:
            safe = file_names.are_safe(wanted)
            for hour, run in file_names.by_hour(wanted):
                folders.make_room()
                if safe and hour and (fd := self._opened(folders, hour)) is not None:
                    moved += moving.move_all(self._fd, run, fd, f"{folders.root}/{hour}")
                    continue
                for name in run:
                    folders.make_room()
                    moved.append(self._archive_one(folders, name))
            folders.sync()
        return moved

    def _opened(self, folders: moving.Folders, hour: str) -> int | None:
        try:
            return folders.open(hour)
        except OSError:  # `_archive_one` reports it for each name
            return None

    def _archive_one(self, folders: moving.Folders, name: str) -> Moved:
        if not file_names.is_safe(name):  # before looking up its time or making its folder
            return Moved(name, vanished=True)
        try:
            folder = file_names.hour_of(name) or self._hour_of_change(name)
            return moving.move(self._fd, name, folders.open(folder), f"{folders.root}/{folder}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return Moved(name, vanished=True)
            return Moved(name, f"archive {name} to {folders.root}: {beneath.why(error)}")

    def _hour_of_change(self, name: str) -> str:
        status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        try:
            return file_names.hour_of_time(status.st_mtime)
        except (ValueError, OverflowError):  # an impossible modification time
            return file_names.hour_of_time(status.st_ctime)

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`."""
        moved = await asyncio.to_thread(self._reject, reasons)
        self.index.drop(file.name for file in moved if not file.error)
        return moved

    def _reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        self.index.check_spool()
        try:
            with moving.Folders(self._rejects_directory) as folders:
                fd = folders.open(".")
                moved = [self._reject_one(fd, name, reason) for name, reason in reasons.items()]
                folders.sync()
            os.fsync(self._fd)
        except OSError as error:
            directory = self._rejects_directory
            return [Moved(n, f"reject {n} to {directory}: {beneath.why(error)}") for n in reasons]
        return self._kept(moved)

    def _reject_one(self, to_fd: int, name: str, reason: str) -> Moved:
        """Write the reason, then move the file: a crash in between loses nothing."""
        try:
            if moving.exists(self._fd, name):
                if moving.exists(to_fd, name) and not moving.same(self._fd, to_fd, name):
                    where = self._rejects_directory
                    return Moved(name, f"{where}/{name} exists and differs; rename one of the two")
                beneath.write_new(to_fd, name + file_names.REASON_SUFFIX, reason)
            return moving.move(self._fd, name, to_fd, str(self._rejects_directory))
        except OSError as error:
            return Moved(name, f"reject {name} to {self._rejects_directory}: {beneath.why(error)}")

    async def identity(self) -> SpoolIdentity:
        """See `IdentifiedSource.identity`."""
        self.index.check_spool()
        return marker.identity(self._fd, make=True)

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; at most 10,000 files a call."""
        before_seconds = time.time() - older_than_days * 86_400
        try:
            return await asyncio.to_thread(
                moving.delete_older, self._archive_directory, before_seconds, 10_000
            )
        except OSError as error:
            raise Again(f"delete archived files: {error.filename}: {beneath.why(error)}") from None

    async def close(self) -> None:
        """See `Source.close`."""
        await self.index.close()
        os.close(self._fd)


def _unread(name: str, error: OSError) -> FileRead:
    """Return why a file has no bytes. Raises Again if the file is not the cause."""
    if error.errno in {errno.ESTALE, errno.ENOTCONN}:
        raise Again(f"read {name}: {error.strerror}: its file system is unavailable") from None
    if own := own_trouble(error):
        raise Again(f"read {name}: {own}") from None
    if error.errno in _NO_FILE:
        return FileRead(name, Unread.VANISHED, 0, 0.0, os.strerror(error.errno))
    return FileRead(name, Unread.DENIED, 0, 0.0, error.strerror or "cannot be read")
