"""Use files below a directory that other users may write to, by descriptor and without links.

Such a user can put a link, a FIFO or a device where we expect our own file or folder. So each step
below a root is opened alone and without following links. Only regular files are read, no open can
block, and a new file gets a name that nobody can guess.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO does not block
_DRAFT_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_root(path: Path, *, make: bool = False, links_max: int = 8) -> int:
    """Return a descriptor of a directory in the settings; follows only root's links and ours."""
    if make:
        with contextlib.suppress(FileExistsError):  # not a directory: opening it fails
            path.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, _FOLDER_FLAGS)
    except OSError as error:
        if not (error.errno in {errno.ELOOP, errno.ENOTDIR} and path.is_symlink()):
            raise
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(link).st_uid not in {0, os.geteuid()}:
            raise OSError(errno.ELOOP, "a link that belongs to another user", str(path))
        if not links_max:
            raise OSError(errno.ELOOP, "too many links", str(path))
        # Read the link that was checked, not one that has replaced it since.
        return open_root(path.parent / os.readlink("", dir_fd=link), links_max=links_max - 1)
    finally:
        os.close(link)


def open_folder(root_fd: int, folder: str, *, make: bool = False) -> int:
    """Return a descriptor of `folder` below a root: `.`, or names joined by `/`, made if `make`."""
    fd = os.dup(root_fd)
    try:
        for step in folder.split("/"):
            if make and step != ".":
                with contextlib.suppress(FileExistsError):
                    os.mkdir(step, 0o755, dir_fd=fd)
            above, fd = fd, os.open(step, _FOLDER_FLAGS, dir_fd=fd)
            os.close(above)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def opened(root_fd: int, folder: str, *, make: bool = False) -> Generator[int]:
    """Yield the descriptor from `open_folder`. Raises OSError."""
    fd = open_folder(root_fd, folder, make=make)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def folder(root: Path, below: str = ".", *, make: bool = False) -> Generator[int]:
    """Yield a descriptor of a folder below a root path; see `open_folder`. Raises OSError."""
    root_fd = open_root(root, make=make)
    try:
        fd = open_folder(root_fd, below, make=make)
    except OSError as error:
        error.filename = str(root / below)  # not only the step
        raise
    finally:
        os.close(root_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(fd: int, name: str, more_flags: int = 0) -> int:
    """Return a descriptor of a regular file to read, or for os.open's `more_flags`."""
    return open_status(fd, name, more_flags)[0]


def open_status(fd: int, name: str, more_flags: int = 0) -> tuple[int, os.stat_result]:
    """Open as `open_file` does; also return the file's status."""
    opened = os.open(name, _FILE_FLAGS | more_flags, 0o600, dir_fd=fd)
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return opened, status


def read(fd: int, name: str, bytes_max: int) -> bytes:
    """Return the beginning of a regular file in a folder. Raises OSError."""
    with os.fdopen(open_file(fd, name), "rb") as file:
        return file.read(bytes_max)


def read_at(fd: int, at: int, size: int) -> bytes:
    """Return `size` bytes of an open file at an offset, or as many as there are."""
    data = os.pread(fd, size, at)
    while 0 < len(data) < size and (more := os.pread(fd, size - len(data), at + len(data))):
        data += more
    return data


def names(fd: int) -> list[str]:
    """Return the names in a folder, unordered."""
    with opened(fd, ".") as own:  # see entries
        return os.listdir(own)  # noqa: PTH208  it is a descriptor


@contextlib.contextmanager
def entries(fd: int) -> Generator[Iterator[os.DirEntry[str]]]:
    """Yield the entries of a folder. Raises OSError.

    A descriptor has one position in its folder, and its duplicates share it. So two threads that
    list the same descriptor take entries from each other. This opens the folder anew.
    """
    with opened(fd, ".") as own, os.scandir(own) as listing:
        yield listing


def is_regular(fd: int, name: str) -> bool:
    """Tell whether a folder has a regular file `name`; a link is not one."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def create_draft(fd: int, mode: int = 0o644, token: str = "") -> tuple[int, str]:
    """Create a file under a hidden name, secret or from `token`; return both. Raises OSError."""
    name = f".{token or secrets.token_hex(16)}.draft"
    if token:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
    return os.open(name, _DRAFT_FLAGS, mode, dir_fd=fd), name


@contextlib.contextmanager
def draft(fd: int, mode: int = 0o644) -> Generator[tuple[BinaryIO, str]]:
    """Yield a file from `create_draft` and its name, which is deleted at the end if still there."""
    opened, name = create_draft(fd, mode)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file, name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)


def write_new(fd: int, name: str, text: str, mode: int = 0o644) -> None:
    """Write a small file completely or not at all, replacing an earlier one. Raises OSError."""
    with draft(fd, mode) as (file, draft_name):
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        os.rename(draft_name, name, src_dir_fd=fd, dst_dir_fd=fd)


def remove_empty(root_fd: int, folder: str) -> None:
    """Remove a folder and those above it, as long as they are empty."""
    while folder:
        above, _, name = folder.rpartition("/")
        try:
            with opened(root_fd, above or ".") as fd:
                os.rmdir(name, dir_fd=fd)
        except OSError:  # not empty: keep it and those above it
            return
        folder = above


def folders_by_number(fd: int, digits: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Yield the folders below a root whose names are numbers, in order, each with a descriptor.

    `digits` are the lengths of the names, level by level. A descriptor is closed when the next
    folder is requested. Other names, and links, are skipped.
    """
    for name in sorted(names(fd)):
        if len(name) != digits[0] or not (name.isascii() and name.isdecimal()):
            continue
        try:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue
            raise
        try:
            if len(digits) == 1:
                yield name, below
            else:
                for rest, deeper in folders_by_number(below, digits[1:]):
                    yield f"{name}/{rest}", deeper
        finally:
            os.close(below)


_GRANT = (
    "allow user {} to write there and, for a move, where the file is now, such as with `chgrp {}`"
    " and `chmod g+ws` on the directory"
)
_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "raise the quota there",
    errno.EROFS: "mount that disk writable",
    errno.EACCES: _GRANT,
    errno.EPERM: _GRANT,
    errno.EIO: "see the kernel's log (dmesg) about that disk",
}


def why(error: OSError) -> str:
    """Say why a file could not be written, moved or deleted, and the remedy if it is known."""
    remedy = _REMEDIES.get(error.errno or 0, "").format(os.geteuid(), os.getegid())
    return f"{error.strerror or error}{remedy and f'; {remedy}'}"
