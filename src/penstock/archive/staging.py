"""Staging: where processed files wait to be packed, on the spool's own file system.

    SPOOL/.penstock-staging/open-ID/YYYY/MM/DD/HH/NAME      archivers move files into it
    SPOOL/.penstock-staging/sealed-ID/YYYY/MM/DD/HH/NAME    takes no more files: it is being packed
    SPOOL/.penstock-staging/replay-ID/NAME                  copies on their way back into the spool

An ID begins with the time its room was made. Each room has a lock, which ends with the process that
holds it. Archivers that fill a room share its lock. To seal, pack or remove a room, a process holds
the lock alone.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Generator, Iterable
from typing import NamedTuple

from penstock import beneath, file_names

FOLDER = ".penstock-staging"
OPEN, SEALED, REPLAY = "open", "sealed", "replay"
_LOCK = ".lock"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # NFS requires O_RDWR to lock


class Room(NamedTuple):
    """A folder below the staging folder, locked while it is in use."""

    name: str
    fd: int

    @property
    def id(self) -> str:
        """The part of its name that its segments also have."""
        return self.name.partition("-")[2]


@contextlib.contextmanager
def _names(spool_fd: int, kind: str) -> Generator[tuple[int, list[str]]]:
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(beneath.opened(spool_fd, FOLDER))
        except FileNotFoundError:
            yield -1, []
            return
        yield fd, sorted(name for name in beneath.names(fd) if name.startswith(f"{kind}-"))


def _rooms(spool_fd: int, kind: str, how: int = fcntl.LOCK_EX) -> Generator[tuple[int, Room]]:
    """Yield the staging folder with each free room of a kind, locked."""
    with _names(spool_fd, kind) as (staging_fd, names):
        for name in names:
            with _locked(staging_fd, name, how) as room:
                if room is not None:
                    yield staging_fd, room


@contextlib.contextmanager
def _locked(staging_fd: int, name: str, how: int = fcntl.LOCK_EX) -> Generator[Room | None]:
    """Yield a room, locked; None if another process holds it, or it is gone."""
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(beneath.opened(staging_fd, name))
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
    with beneath.opened(spool_fd, FOLDER, make=True) as staging_fd:
        while True:
            name = f"{kind}-{time.time_ns() // 1_000_000:013d}{secrets.token_hex(4)}"
            os.mkdir(name, 0o755, dir_fd=staging_fd)
            with _locked(staging_fd, name, how) as room:
                if room is not None:  # else it was sealed in between
                    yield room
                    return


@contextlib.contextmanager
def room_to_fill(spool_fd: int, older_than_seconds: float) -> Generator[Room]:
    """Yield an open room younger than that; leave older ones, so that they can be sealed."""
    with contextlib.closing(_rooms(spool_fd, OPEN, fcntl.LOCK_SH)) as rooms:
        for _, room in rooms:
            if 0 <= _age_seconds(room) < older_than_seconds:
                yield room
                return
    with new_room(spool_fd, OPEN, fcntl.LOCK_SH) as room:
        yield room


def seal(spool_fd: int, older_than_seconds: float) -> None:
    """Seal the open rooms that are older than that, or dated in the future. Raises OSError."""
    for fd, room in _rooms(spool_fd, OPEN):
        if not 0 <= _age_seconds(room) < older_than_seconds:
            os.rename(room.name, f"{SEALED}-{room.id}", src_dir_fd=fd, dst_dir_fd=fd)


def _age_seconds(room: Room) -> float:
    with contextlib.suppress(ValueError):
        return time.time() - int(room.id[:13]) / 1000
    return -1.0


def sealed_ids(spool_fd: int) -> set[str]:
    """Return the ids of rooms that are not packed yet."""
    with _names(spool_fd, SEALED) as (_, names):
        return {name.partition("-")[2] for name in names}


def rooms_to_pack(spool_fd: int) -> Generator[Room]:
    """Yield each sealed room that no other process packs, then remove it if it is empty."""
    for staging_fd, room in _rooms(spool_fd, SEALED):
        yield room
        _remove(staging_fd, room)


def clear_replays(spool_fd: int) -> None:
    """Remove the copies of replays that have ended, finished or not. Raises OSError."""
    for staging_fd, room in _rooms(spool_fd, REPLAY):
        for copy in beneath.names(room.fd):
            if copy != _LOCK:
                os.unlink(copy, dir_fd=room.fd)
        _remove(staging_fd, room)


def holds(spool_fd: int, wanted: Iterable[str]) -> set[str]:
    """Return which of some names are staged, even if a room is sealed meanwhile."""
    left, found = {*wanted}, set[str]()
    for kind in (OPEN, SEALED):  # in the order of a room's life
        with _names(spool_fd, kind) as (staging_fd, names):
            for name in names:
                there = beneath.opened(staging_fd, name)
                with contextlib.suppress(FileNotFoundError), there as room_fd:
                    for _, fd in beneath.folders_by_number(room_fd, file_names.HOUR_DIGITS):
                        found |= {one for one in left - found if beneath.is_regular(fd, one)}
    return found


def _remove(staging_fd: int, room: Room) -> None:
    """Remove a room if it is empty; a later pass tries again."""
    with contextlib.suppress(OSError):
        for depth in range(len(file_names.HOUR_DIGITS), 0, -1):  # a killed process left upper ones
            for folder, _ in beneath.folders_by_number(room.fd, file_names.HOUR_DIGITS[:depth]):
                beneath.remove_empty(room.fd, folder)
        if beneath.names(room.fd) != [_LOCK]:
            return
        os.unlink(_LOCK, dir_fd=room.fd)
        os.rmdir(room.name, dir_fd=staging_fd)
