"""Moving files out of the spool: nothing is overwritten, and every step is safe to repeat.

    rename without replacing            on one file system
    check, then rename                  if that system cannot rename without replacing
    copy, sync, rename, unlink          to another file system: synced once a batch, not once a file

If a step fails for one file, that file is stuck and the others are moved.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

from penstock import beneath, file_names
from penstock.ports import Moved

_RENAME_NOREPLACE = 1  # <linux/fs.h>
_COMPARE_BYTES = 1 << 20
_FOLDERS_MAX = 100  # open at once: a process often has only 1,024 descriptors
# Errors of a file system that cannot do this (FUSE, exFAT, SMB, object stores), or of a kernel that
# forbids it: fs.protected_hardlinks refuses a link to another user's file.
_CANNOT = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.EIO, errno.EMLINK}
)

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28 or newer
if _renameat2 is not None:
    _renameat2.argtypes = [
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
    ]  # fmt: skip


class Folders:
    """The folders below `root` that one batch moves files into, opened once each.

    Missing folders are made with mode 0755. A context manager: closes what it opened. `root_fd`, if
    given, is a descriptor of the root, which the caller closes.
    """

    def __init__(self, root: Path, root_fd: int | None = None) -> None:
        self.root = root
        is_open = root_fd is not None
        self._root_fd = os.dup(root_fd) if is_open else beneath.open_root(root, make=True)
        self._fds: dict[str, int] = {}

    def open(self, folder: str) -> int:
        """Return a descriptor of `root/folder`, making it if needed. Raises OSError."""
        fd = self._fds.get(folder)
        if fd is None:
            fd = self._fds[folder] = beneath.open_folder(self._root_fd, folder, make=True)
        return fd

    def make_room(self) -> None:
        """Close the folders if there are too many. Raises OSError if one cannot be synced.

        Such an error concerns the whole batch; an error of `open` concerns one file.
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
        os.close(self._root_fd)


def move_all(from_fd: int, wanted: Sequence[str], to_fd: int, to_path: str) -> list[Moved]:
    """Move safe names between two directories, one result each; `to_path` names the second.

    An equal file at the target was moved before; a different one is an error, and both stay where
    they are. A name that is not allowed, or is gone from the spool, has vanished.
    """
    moved = {name: Moved(name) for name in wanted}
    abroad: list[str] = []
    for name in wanted:
        try:
            rename_no_replace(from_fd, name, to_fd, name)
        except OSError as error:
            if error.errno == errno.EXDEV:
                abroad.append(name)
            else:
                moved[name] = _settled(from_fd, name, to_fd, to_path, error)
    if abroad:
        moved |= _copy_all(from_fd, abroad, to_fd, to_path)
    return [moved[name] for name in wanted]


def move(from_fd: int, name: str, to_fd: int, to_path: str) -> Moved:
    """Move one file, whatever its name, as `move_all` does."""
    if not file_names.is_safe(name):
        return Moved(name, vanished=True)
    return move_all(from_fd, [name], to_fd, to_path)[0]


def _settled(from_fd: int, name: str, to_fd: int, to_path: str, error: OSError) -> Moved:
    """Return what became of a file that could not be moved; finish an earlier move."""
    try:
        if error.errno == errno.ENOENT:
            return Moved(name, vanished=not exists(to_fd, name))
        if error.errno != errno.EEXIST:
            return Moved(name, f"move {name} to {to_path}: {beneath.why(error)}")
        if os.path.samestat(os.fstat(from_fd), os.fstat(to_fd)):  # then both are one file
            return Moved(name, f"{to_path} is the spool itself")
        if not same(from_fd, to_fd, name):
            return Moved(name, f"{to_path}/{name} exists and differs; rename one of the two")
        os.unlink(name, dir_fd=from_fd)
    except OSError as another:
        return Moved(name, f"move {name} to {to_path}: {beneath.why(another)}")
    return Moved(name)


def rename_no_replace(from_fd: int, name: str, to_fd: int, to_name: str) -> None:
    """Rename if the new name is free. Raises OSError, EEXIST if it is not."""
    if _renameat2 is not None:
        raw, to_raw = name.encode(), to_name.encode()
        if _renameat2(from_fd, raw, to_fd, to_raw, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _CANNOT:
            raise OSError(number, os.strerror(number))
    try:
        os.link(name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        _rename_where_free(from_fd, name, to_fd, to_name)
    else:
        os.unlink(name, dir_fd=from_fd)


def _rename_where_free(from_fd: int, name: str, to_fd: int, to_name: str) -> None:
    """Check that the new name is free, then rename.

    It does not reserve the name with an empty file: if the rename failed, that file would look like
    the moved one.
    """
    os.stat(name, dir_fd=from_fd, follow_symlinks=False)  # if it is gone, that is the error
    # Not `exists`, which ignores hidden names: the marker is moved here too.
    with contextlib.suppress(FileNotFoundError):
        os.stat(to_name, dir_fd=to_fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)


def _copy_all(from_fd: int, wanted: Sequence[str], to_fd: int, to_path: str) -> dict[str, Moved]:
    """Copy files to another file system: all are on its disk before the first gets its name."""
    moved = {name: Moved(name) for name in wanted}
    drafts: dict[str, str] = {}
    named: list[str] = []

    @contextlib.contextmanager
    def alone(name: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            moved[name] = _settled(from_fd, name, to_fd, to_path, error)

    try:
        for name in wanted:
            with alone(name):
                drafts[name] = _copy(from_fd, name, to_fd)
        if drafts:
            _sync_file_system(to_fd)
        for name in [*drafts]:
            with alone(name):
                rename_no_replace(to_fd, drafts[name], to_fd, name)
                del drafts[name]
                named.append(name)
    except OSError as error:  # from the sync: any of them may not be on disk
        return {n: Moved(n, f"write {n} to {to_path}: {beneath.why(error)}") for n in wanted}
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=to_fd)
    if named:
        os.fsync(to_fd)  # writes the names, before the originals are deleted
    for name in named:
        with alone(name):
            os.unlink(name, dir_fd=from_fd)
    return moved


def _copy(from_fd: int, name: str, to_fd: int) -> str:
    """Copy a file with its times to a draft, and return the draft's name. Raises OSError."""
    with os.fdopen(beneath.open_file(from_fd, name), "rb") as reader:
        if exists(to_fd, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        target, draft = beneath.create_draft(to_fd)
        try:
            with os.fdopen(target, "wb") as writer:
                shutil.copyfileobj(reader, writer, _COMPARE_BYTES)
                writer.flush()
                times = os.fstat(reader.fileno())
                os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        except BaseException:
            os.unlink(draft, dir_fd=to_fd)
            raise
    return draft


def _sync_file_system(fd: int) -> None:
    """Sync a whole file system: one wait for a batch. Raises OSError."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def delete(from_fd: int, name: str) -> Moved:
    """Delete a processed file; a missing one was deleted before."""
    if not file_names.is_safe(name):
        return Moved(name, vanished=True)
    try:
        os.unlink(name, dir_fd=from_fd)
    except FileNotFoundError:
        return Moved(name, vanished=True)
    except OSError as error:
        return Moved(name, f"delete {name}: {beneath.why(error)}")
    return Moved(name)


def delete_older(archive: Path, before_seconds: float, files_max: int) -> int:
    """Delete archived files older than `before_seconds` since 1970; return how many, in all.

    A file is older when both the hour of its folder and the time it was moved there (its last
    change of inode) are: an old backlog archived today is kept for its whole retention.
    """
    # Not file_names.hour_of_time: a caller may give the year 0, which datetime does not have.
    last_folder = time.strftime("%Y/%m/%d/%H", time.gmtime(before_seconds))
    deleted = 0
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        beneath.folder(archive) as root_fd,
    ):
        for folder, fd in beneath.folders_by_number(root_fd, file_names.HOUR_DIGITS):
            if folder >= last_folder or deleted >= files_max:
                break
            deleted += _delete_older_in(fd, before_seconds, files_max - deleted)
            beneath.remove_empty(root_fd, folder)
    return deleted


def _delete_older_in(fd: int, before_seconds: float, files_max: int) -> int:
    deleted = 0
    # Another process may delete files there at the same time.
    with contextlib.suppress(FileNotFoundError), beneath.entries(fd) as listing:
        for entry in listing:
            if deleted >= files_max:
                break
            with contextlib.suppress(FileNotFoundError):
                is_folder = entry.is_dir(follow_symlinks=False)  # never ours
                if not is_folder and entry.stat(follow_symlinks=False).st_ctime < before_seconds:
                    os.unlink(entry.name, dir_fd=fd)
                    deleted += 1
    return deleted


def exists(fd: int, name: str) -> bool:
    """Tell whether a directory has an entry `name` of any kind; False for a name not allowed."""
    if not file_names.is_safe(name):
        return False
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def same(from_fd: int, to_fd: int, name: str) -> bool:
    """Compare two regular files byte by byte. Raises OSError if one is not a regular file."""
    with (
        os.fdopen(beneath.open_file(from_fd, name), "rb") as one,
        os.fdopen(beneath.open_file(to_fd, name), "rb") as other,
    ):
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        while block := one.read(_COMPARE_BYTES):
            if block != other.read(len(block)):
                return False
    return True
