"""The spool as a directory of this machine.

One scan of the directory is one listing; what was listed and dealt with is remembered by name, so
a file is offered once. A file is complete when its last change is `settle_seconds` old: a plain
directory cannot tell whether a writer still has it open.
"""

import asyncio
import errno
import math
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from penstock import names
from penstock.edges import Moved
from penstock.errors import Again, Halt
from penstock.model import FileRead, ListedFile, Page, Unread
from penstock.stages import source_directory_move as moving

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SCAN_SHARE_MAX = 0.1  # of the time, at most, goes into scanning, however many files lie there


class DirectorySource:
    """`Source` over a directory; one instance belongs to one process.

    `archive_directory` and `rejects_directory` are made when first needed. `page_files_max` bounds
    one page. Raises Halt if the spool is not a directory that can be opened.
    """

    def __init__(
        self,
        spool: Path,
        *,
        pattern: str,
        settle_seconds: float,
        max_file_bytes: int,
        archive_directory: Path,
        rejects_directory: Path,
        archive_action: Literal["move", "delete"] = "move",
        page_files_max: int = 10_000,
    ) -> None:
        self._spool = spool
        self._matches = re.compile(pattern).fullmatch
        self._settle_seconds = settle_seconds
        self._max_file_bytes = max_file_bytes
        self._archive_directory = archive_directory
        self._rejects_directory = rejects_directory
        self._archive_action = archive_action
        self._page_files_max = page_files_max
        try:
            self._fd = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Halt(
                f"source.url: {spool} cannot be opened as a directory: {error.strerror};"
                " name the directory that the files are written into"
            ) from None
        if rejects_directory.is_dir() and rejects_directory.samefile(spool):
            raise Halt(
                f"archive.rejected_directory: {rejects_directory} is the spool itself;"
                " allowed: any other directory"
            )
        self._dealt_with: set[str] = set()  # handed out, and the cursor came back
        self._page: list[str] = []  # handed out last, its cursor not yet back
        self._backlog: list[str] = []  # found by the last scan, not handed out; newest first
        self._unsettled: dict[str, tuple[int, float]] = {}  # name: (ctime_ns, since)
        self._pages = 0
        self._ignored = 0
        self._scanned_at_seconds = -math.inf
        self._scan_seconds = 0.0

    async def list(self, cursor: str) -> Page:
        """See `Source.list`. The cursor counts this instance's pages; a restart starts over."""
        if cursor and cursor == str(self._pages):
            self._dealt_with.update(self._page)
        else:
            self._backlog = []
            if cursor != str(self._pages - 1):
                self._dealt_with.clear()
        if not self._backlog:
            pause = self._scan_seconds / _SCAN_SHARE_MAX
            await asyncio.sleep(self._scanned_at_seconds + pause - time.monotonic())
            await asyncio.to_thread(self._scan)
        files = await asyncio.to_thread(self._next_page)
        self._pages += 1
        self._page = [file.name for file in files]
        return Page(files, str(self._pages), self._scanned_at_seconds, self._ignored)

    def _scan(self) -> None:
        """Read the whole directory: 0.4 s a million names, so the caller spaces the calls."""
        began = time.monotonic()
        self._check_place()
        found: set[str] = set()
        ignored = 0
        try:
            with os.scandir(self._fd) as listing:
                for entry in listing:
                    name = entry.name
                    if (
                        self._matches(name)
                        and names.is_safe(name)
                        and entry.is_file(follow_symlinks=False)
                    ):
                        found.add(name)
                    elif not names.is_draft(name):
                        ignored += 1
        except OSError as error:
            raise Again(f"list {self._spool}: {error.strerror}") from None
        # A name that is gone is forgotten: should it come back, it is a new file.
        self._dealt_with &= found
        for name in self._unsettled.keys() - found:
            del self._unsettled[name]
        self._backlog = sorted(found - self._dealt_with, reverse=True)
        self._ignored = ignored
        self._scanned_at_seconds = began
        self._scan_seconds = time.monotonic() - began

    def _next_page(self) -> Sequence[ListedFile]:
        """Cut the oldest complete files off the backlog; those still being written stay behind."""
        files: list[ListedFile] = []
        while self._backlog and not files:
            oldest = self._backlog[-self._page_files_max :]
            del self._backlog[-self._page_files_max :]
            files = [file for name in reversed(oldest) if (file := self._settled(name))]
        return files

    def _settled(self, name: str) -> ListedFile | None:
        """Return the file if it is complete, None while its writer may not be done.

        `st_ctime` changes with every write, and no writer can set it. Where the file server's clock
        differs from ours, a file unchanged for `settle_seconds` on our own clock is complete too.
        """
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None
        if self._settle_seconds == 0 or time.time() - status.st_ctime >= self._settle_seconds:
            self._unsettled.pop(name, None)
            return ListedFile(name, status.st_size)
        now = time.monotonic()
        ctime_ns, since = self._unsettled.get(name, (0, now))
        if ctime_ns == status.st_ctime_ns and now - since >= self._settle_seconds:
            del self._unsettled[name]
            return ListedFile(name, status.st_size)
        if ctime_ns != status.st_ctime_ns:
            self._unsettled[name] = (status.st_ctime_ns, now)
        return None

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`."""
        return await asyncio.to_thread(self._read, names, bytes_max)

    def _read(self, wanted: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        files: list[FileRead] = []
        total = 0
        now = time.time()
        for name in wanted:
            if total >= bytes_max and files:
                break
            file = self._read_one(name, now)
            total += len(file.data) if isinstance(file.data, bytes) else 0
            files.append(file)
        return files

    def _read_one(self, name: str, now: float) -> FileRead:
        if not names.is_safe(name):
            return FileRead(name, Unread.VANISHED, 0, 0.0, "not a name that Penstock lists")
        try:
            fd = os.open(name, _OPEN_FLAGS, dir_fd=self._fd)
        except OSError as error:
            return _unread(name, error)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return FileRead(name, Unread.VANISHED, 0, 0.0, "not a regular file")
            age_seconds = now - status.st_ctime
            size = status.st_size
            if size > self._max_file_bytes:
                return FileRead(name, b"", size, age_seconds)
            data = os.read(fd, size + 1)  # one more than its size shows whether it is growing
            while 0 < len(data) <= self._max_file_bytes and len(data) != size:
                more = os.read(fd, self._max_file_bytes + 1 - len(data))
                if not more:
                    break
                data += more
            return FileRead(name, data, len(data), age_seconds)
        except OSError as error:
            return _unread(name, error)
        finally:
            os.close(fd)

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`."""
        return await asyncio.to_thread(self._archive, names)

    def _archive(self, wanted: Sequence[str]) -> Sequence[Moved]:
        self._check_place()
        try:
            if self._archive_action == "delete":
                moved = [moving.delete(self._fd, name) for name in wanted]
            else:
                with moving.Folders(self._archive_directory) as folders:
                    moved = [self._archive_one(folders, name) for name in wanted]
                    folders.sync()
            os.fsync(self._fd)
        except OSError as error:  # whatever was moved is found to be so by the next pass
            return [Moved(name, f"archive {name}: {error.strerror}") for name in wanted]
        return moved

    def _archive_one(self, folders: moving.Folders, name: str) -> Moved:
        try:
            folder = names.hour_of(name) or self._hour_of_change(name)
            return moving.move(self._fd, name, folders.open(folder), f"{folders.root}/{folder}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return Moved(name, vanished=True)
            return Moved(name, f"archive {name}: {error.strerror}")

    def _hour_of_change(self, name: str) -> str:
        status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        return names.hour_of_time(status.st_mtime)

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`."""
        return await asyncio.to_thread(self._reject, reasons)

    def _reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        self._check_place()
        try:
            with moving.Folders(self._rejects_directory) as folders:
                fd = folders.open(".")
                moved = [self._reject_one(fd, name, reason) for name, reason in reasons.items()]
                folders.sync()
            os.fsync(self._fd)
        except OSError as error:
            directory = self._rejects_directory
            return [Moved(n, f"reject {n} to {directory}: {error.strerror}") for n in reasons]
        return moved

    def _reject_one(self, to_fd: int, name: str, reason: str) -> Moved:
        """Write the reason, then move the file: a crash between them repeats, and loses nothing."""
        try:
            if moving.exists(self._fd, name):
                if moving.exists(to_fd, name) and not moving.same(self._fd, to_fd, name):
                    where = self._rejects_directory
                    return Moved(name, f"{where}/{name} exists and differs; rename one of the two")
                moving.write_new(to_fd, name + names.REASON_SUFFIX, reason)
            return moving.move(self._fd, name, to_fd, str(self._rejects_directory))
        except OSError as error:
            return Moved(name, f"reject {name}: {error.strerror}")

    def _check_place(self) -> None:
        """Raise Again if the spool's path leads elsewhere by now: whoever has us opens it anew."""
        try:
            replaced = not os.path.samestat(self._spool.stat(), os.fstat(self._fd))
        except OSError as error:
            raise Again(f"the spool {self._spool}: {error.strerror}") from None
        if replaced:
            raise Again(f"the spool {self._spool} is another directory now; it is opened anew")

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; at most 10,000 files a call."""
        before_seconds = time.time() - older_than_days * 86_400
        return await asyncio.to_thread(
            moving.delete_older, self._archive_directory, before_seconds, 10_000
        )

    async def close(self) -> None:
        """See `Source.close`."""
        os.close(self._fd)


def _unread(name: str, error: OSError) -> FileRead:
    if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:  # gone, a symlink, a socket
        return FileRead(name, Unread.VANISHED, 0, 0.0, os.strerror(error.errno))
    return FileRead(name, Unread.DENIED, 0, 0.0, error.strerror or "cannot be read")
