"""Where processed files wait, on the spool's own file system, until they are packed.

    SPOOL/.penstock-staging/open-ID/YYYY/MM/DD/HH/NAME      archivers move files into it
    SPOOL/.penstock-staging/sealed-ID/YYYY/MM/DD/HH/NAME    nothing comes in: it is being packed
    SPOOL/.penstock-staging/replay-ID/NAME                  copies on their way back into the spool

An ID tells when its room was made. Each room has a lock, which ends with the process that holds it:
archivers that fill a room share it, who seals, packs or removes a room has it alone.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from penstock import beneath, file_names

FOLDER = ".penstock-staging"
OPEN, SEALED, REPLAY = "open", "sealed", "replay"
_LOCK = ".lock"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # NFS locks no other kind


class Room(NamedTuple):
    """A folder below the staging folder, locked while it is in use."""

    name: str
    fd: int

    @property
    def id(self) -> str:
        """What its segments have in their names."""
        return self.name.partition("-")[2]


@contextlib.contextmanager
def _staging(spool_fd: int) -> Generator[int | None]:
    """Yield a descriptor of the staging folder of a spool; None if it has none."""
    try:
        fd = beneath.open_folder(spool_fd, FOLDER)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _names(staging_fd: int, kind: str) -> list[str]:
    return sorted(name for name in os.listdir(staging_fd) if name.startswith(f"{kind}-"))


@contextlib.contextmanager
def _locked(staging_fd: int, name: str, how: int = fcntl.LOCK_EX) -> Generator[Room | None]:
    """Yield a room and its lock; None if another one has it, or if it is not there any more."""
    with contextlib.ExitStack() as stack:
        try:
            fd = beneath.open_folder(staging_fd, name)
            stack.callback(os.close, fd)
            lock = os.open(_LOCK, _LOCK_FLAGS, 0o644, dir_fd=fd)
            stack.callback(os.close, lock)
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            here = os.stat(name, dir_fd=staging_fd, follow_symlinks=False)
        except (FileNotFoundError, BlockingIOError):
            yield None
            return
        yield Room(name, fd) if os.path.samestat(here, os.fstat(fd)) else None


@contextlib.contextmanager
def new_room(spool_fd: int, kind: str, how: int = fcntl.LOCK_EX) -> Generator[Room]:
    """Make a room, and yield it locked. Raises OSError."""
    staging_fd = beneath.open_folder(spool_fd, FOLDER, make=True)
    try:
        while True:
            name = f"{kind}-{time.time_ns() // 1_000_000:013d}{secrets.token_hex(4)}"
            os.mkdir(name, 0o755, dir_fd=staging_fd)
            with _locked(staging_fd, name, how) as room:
                if room is not None:  # else it was sealed in between
                    yield room
                    return
    finally:
        os.close(staging_fd)


@contextlib.contextmanager
def room_to_fill(spool_fd: int) -> Generator[Room]:
    """Yield an open room, which is not sealed meanwhile. Raises OSError."""
    with contextlib.ExitStack() as stack:
        staging_fd = stack.enter_context(_staging(spool_fd))
        for name in () if staging_fd is None else _names(staging_fd, OPEN):
            room = stack.enter_context(_locked(staging_fd or 0, name, fcntl.LOCK_SH))
            if room is not None:
                yield room
                return
        yield stack.enter_context(new_room(spool_fd, OPEN, fcntl.LOCK_SH))


def seal(spool_fd: int, older_than_seconds: float) -> None:
    """Seal the open rooms that are older than that, or younger than now. Raises OSError."""
    with _staging(spool_fd) as staging_fd:
        for name in () if staging_fd is None else _names(staging_fd, OPEN):
            with _locked(staging_fd or 0, name) as room:
                if room is not None and not 0 <= _age_seconds(room) < older_than_seconds:
                    os.rename(
                        name, f"{SEALED}-{room.id}", src_dir_fd=staging_fd, dst_dir_fd=staging_fd
                    )


def _age_seconds(room: Room) -> float:
    with contextlib.suppress(ValueError):
        return time.time() - int(room.id[:13]) / 1000
    return -1.0


def sealed_ids(spool_fd: int) -> set[str]:
    """Return the ids of the rooms that are not packed yet."""
    with _staging(spool_fd) as staging_fd:
        names = () if staging_fd is None else _names(staging_fd, SEALED)
        return {name.partition("-")[2] for name in names}


def rooms_to_pack(spool_fd: int) -> Generator[Room]:
    """Yield each sealed room that nobody packs, and remove it where nothing is left in it."""
    with _staging(spool_fd) as staging_fd:
        for name in () if staging_fd is None else _names(staging_fd, SEALED):
            with _locked(staging_fd or 0, name) as room:
                if room is not None:
                    yield room
                    remove(staging_fd or 0, room)


def holds(spool_fd: int, names: Iterable[str]) -> set[str]:
    """Return which of some names are staged; those that are sealed meanwhile, too."""
    left, found = {*names}, set[str]()
    for kind in (OPEN, SEALED):  # in this order, as rooms change
        for _, fd in _hours(spool_fd, kind):
            found |= {name for name in left - found if beneath.is_regular(fd, name)}
    return found


def _hours(spool_fd: int, kind: str) -> Iterator[tuple[str, int]]:
    """Yield the hours of all rooms of a kind, each with a descriptor."""
    with _staging(spool_fd) as staging_fd:
        for name in () if staging_fd is None else _names(staging_fd, kind):
            try:
                fd = beneath.open_folder(staging_fd or 0, name)
            except FileNotFoundError:
                continue
            try:
                yield from beneath.folders_by_number(fd, file_names.HOUR_DIGITS)
            finally:
                os.close(fd)


def clear_replays(spool_fd: int) -> None:
    """Remove the copies of replays that have ended, however. Raises OSError."""
    with _staging(spool_fd) as staging_fd:
        for name in () if staging_fd is None else _names(staging_fd, REPLAY):
            with _locked(staging_fd or 0, name) as room:
                for copy in beneath.names(room.fd) if room else ():
                    if copy != _LOCK:
                        os.unlink(copy, dir_fd=room.fd if room else None)
                if room:
                    remove(staging_fd or 0, room)


def remove(staging_fd: int, room: Room) -> None:
    """Remove a room, as far as it is empty; what is not empty stays, and is looked at again."""
    with contextlib.suppress(OSError):
        for depth in range(len(file_names.HOUR_DIGITS), 0, -1):  # who was killed left upper ones
            for folder, _ in beneath.folders_by_number(room.fd, file_names.HOUR_DIGITS[:depth]):
                beneath.remove_empty(room.fd, folder)
        if beneath.names(room.fd) != [_LOCK]:
            return
        os.unlink(_LOCK, dir_fd=room.fd)
        os.rmdir(room.name, dir_fd=staging_fd)
