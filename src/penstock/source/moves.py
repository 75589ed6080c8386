"""Moving files out of the spool: nothing is overwritten, and every step is safe to repeat."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from penstock import file_names
from penstock.ports import Moved

_RENAME_NOREPLACE = 1  # <linux/fs.h>
_COMPARE_BYTES = 1 << 20
_FOLDERS_MAX = 100  # open at once: a process has 1,024 descriptors, often
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO does not block

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28 or newer
if _renameat2 is not None:
    _renameat2.argtypes = [
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
    ]  # fmt: skip


class Folders:
    """The folders below `root` that one batch moves files into, opened once each.

    Made with mode 0755 where they are missing. A context manager: closes what it opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fds: dict[str, int] = {}

    def open(self, folder: str) -> int:
        """Return a descriptor of `root/folder`, making it if needed. Raises OSError."""
        fd = self._fds.get(folder)
        if fd is None:
            path = self.root / folder
            path.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds[folder] = fd
        return fd

    def make_room(self) -> None:
        """See that another folder can be opened. Raises OSError if one cannot be written to disk.

        Then nothing is known of the whole batch, where an error of `open` is one file's.
        """
        if len(self._fds) >= _FOLDERS_MAX:
            self.sync()
            self._close()

    def sync(self) -> None:
        """Write the directories to disk: once a batch, because it costs milliseconds."""
        for fd in self._fds.values():
            os.fsync(fd)

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def move_all(from_fd: int, wanted: Sequence[str], to_fd: int, to_path: str) -> list[Moved]:
    """Move safe names as `move` does, one result each; most go without its questions."""
    rename = _renameat2
    if rename is None:
        return [move(from_fd, name, to_fd, to_path) for name in wanted]
    raw_names = "/".join(wanted).encode().split(b"/")
    left = [
        at
        for at, raw in enumerate(raw_names)
        if rename(from_fd, raw, to_fd, raw, _RENAME_NOREPLACE) != 0
    ]
    moved = [Moved(name) for name in wanted]
    for at in left:
        moved[at] = move(from_fd, wanted[at], to_fd, to_path)  # again, and asked why not
    return moved


def move(from_fd: int, name: str, to_fd: int, to_path: str) -> Moved:
    """Move `name` between two directories; `to_path` names the second in errors.

    An equal file at the target means that it was moved before; a different one is an error, and
    both stay where they are. A name outside the alphabet, or gone from the spool, has vanished.
    """
    if not file_names.is_safe(name):
        return Moved(name, vanished=True)
    try:
        _place(from_fd, to_fd, name)
    except FileNotFoundError:
        return Moved(name, vanished=not exists(to_fd, name))
    except FileExistsError:
        if same_directory(from_fd, to_fd):  # then its target is the file itself, and looks equal
            return Moved(name, f"{to_path} is the spool itself")
        if not same(from_fd, to_fd, name):
            return Moved(name, f"{to_path}/{name} exists and differs; rename one of the two")
        os.unlink(name, dir_fd=from_fd)
    except OSError as error:
        return Moved(name, f"move {name} to {to_path}: {error.strerror}")
    return Moved(name)


def delete(from_fd: int, name: str) -> Moved:
    """Delete a processed file; one that is gone already was deleted before."""
    if not file_names.is_safe(name):
        return Moved(name, vanished=True)
    try:
        os.unlink(name, dir_fd=from_fd)
    except FileNotFoundError:
        return Moved(name, vanished=True)
    except OSError as error:
        return Moved(name, f"delete {name}: {error.strerror}")
    return Moved(name)


def same_directory(one_fd: int, other_fd: int) -> bool:
    """Tell whether two descriptors are of one directory."""
    return os.path.samestat(os.fstat(one_fd), os.fstat(other_fd))


def write_new(to_fd: int, name: str, text: str) -> None:
    """Write a small file completely or not at all, replacing an earlier one. Raises OSError."""
    draft = _draft(name)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644, dir_fd=to_fd)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.rename(draft, name, src_dir_fd=to_fd, dst_dir_fd=to_fd)


def delete_older(archive: Path, before_seconds: float, files_max: int) -> int:
    """Delete archived files older than `before_seconds` since 1970; return how many, in all.

    A file is older when both the hour of its folder and the time it was moved there (its last
    change of inode) are: an old backlog archived today is kept for its whole retention.
    """
    # Not file_names.hour_of_time: a caller may name a time in the year 0, which datetime has not.
    last_folder = time.strftime("%Y/%m/%d/%H", time.gmtime(before_seconds))
    deleted = 0
    for folder in sorted(archive.glob(file_names.HOUR_FOLDER)):
        if str(folder.relative_to(archive)) >= last_folder:
            return deleted
        # Somebody else may be deleting there at the same time.
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as listing:
            for entry in listing:
                if deleted >= files_max:
                    return deleted
                with contextlib.suppress(FileNotFoundError):
                    if _is_deletable(entry, before_seconds):
                        Path(entry.path).unlink()
                        deleted += 1
        _remove_empty(folder, archive)
    return deleted


def _is_deletable(entry: os.DirEntry[str], before_seconds: float) -> bool:
    is_folder = entry.is_dir(follow_symlinks=False)  # never ours
    return not is_folder and entry.stat(follow_symlinks=False).st_ctime < before_seconds


def _remove_empty(folder: Path, archive: Path) -> None:
    while folder != archive:
        try:
            folder.rmdir()
        except OSError:  # not empty: it stays, and so do its parents
            return
        folder = folder.parent


def _place(from_fd: int, to_fd: int, name: str) -> None:
    """Rename without replacing; copy where the target is on another file system."""
    try:
        _rename_no_replace(from_fd, to_fd, name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(from_fd, to_fd, name)
        os.unlink(name, dir_fd=from_fd)


def _rename_no_replace(from_fd: int, to_fd: int, name: str) -> None:
    if _renameat2 is not None:
        raw = name.encode()
        if _renameat2(from_fd, raw, to_fd, raw, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in {errno.ENOSYS, errno.EINVAL}:  # a file system without the flag
            raise OSError(number, os.strerror(number))
    os.link(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    os.unlink(name, dir_fd=from_fd)


def _copy(from_fd: int, to_fd: int, name: str) -> None:
    """Copy to another file system: whole and on disk before it has its name."""
    draft = _draft(name)
    source = os.open(name, _READ_FLAGS, dir_fd=from_fd)
    with os.fdopen(source, "rb") as reader:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        target = os.open(draft, flags, 0o644, dir_fd=to_fd)
        try:
            with os.fdopen(target, "wb") as writer:
                shutil.copyfileobj(reader, writer, _COMPARE_BYTES)
                writer.flush()
                os.fsync(target)
                times = os.fstat(source)
                os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            os.link(draft, name, src_dir_fd=to_fd, dst_dir_fd=to_fd)
        finally:
            os.unlink(draft, dir_fd=to_fd)
    os.fsync(to_fd)


def _draft(name: str) -> str:
    """Return the hidden name of a file while it is written: short, whatever length `name` has."""
    return f".{hashlib.sha256(name.encode()).hexdigest()[:32]}.draft"


def exists(fd: int, name: str) -> bool:
    """Tell whether a directory has an entry `name`, of whatever kind; a wrong name is none."""
    if not file_names.is_safe(name):
        return False
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def same(from_fd: int, to_fd: int, name: str) -> bool:
    """Compare two regular files byte by byte."""
    with (
        os.fdopen(os.open(name, _READ_FLAGS, dir_fd=from_fd), "rb") as one,
        os.fdopen(os.open(name, _READ_FLAGS, dir_fd=to_fd), "rb") as other,
    ):
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        while block := one.read(_COMPARE_BYTES):
            if block != other.read(len(block)):
                return False
    return True
