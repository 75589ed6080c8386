"""The marker of a spool: a hidden file in it, whose random id distinguishes it from any other.

An unmounted spool leaves an empty directory in its place, and a new directory may get the old one's
name. Without a marker, both look like an emptied spool.
"""

import contextlib
import os
import re
import secrets

from penstock import beneath
from penstock.errors import Again
from penstock.model import SpoolIdentity
from penstock.source import moves as moving

MARKER = ".penstock-spool"
"""The marker's name: hidden, so it is never listed or moved."""

_ID = re.compile(rb"[0-9a-f-]{8,64}")
_ID_BYTES_MAX = 100


def identity(fd: int, *, make: bool) -> SpoolIdentity:
    """Return which directory this is; with `make`, create its marker if it has none.

    An empty directory gets none: it may be a mount point without its spool. Without a marker, file
    system and inode identify the directory. Raises Again if it cannot be identified.
    """
    try:
        place = f"{os.statvfs(fd).f_fsid:x}-{os.fstat(fd).st_ino}"
        found = _read(fd)
        if found is None and make and _holds_anything(fd):
            with contextlib.suppress(OSError):  # another process was first, or we may not write
                _make(fd)
            found = _read(fd)
    except OSError as error:
        raise Again(f"spool: read its marker {MARKER}: {error.strerror}") from None
    return SpoolIdentity(*found, place) if found else SpoolIdentity(place=place)


def _holds_anything(fd: int) -> bool:
    with beneath.entries(fd) as listing:
        return next(listing, None) is not None


def id_of(data: bytes) -> str:
    """Return the id in a marker. Raises Again if it is not an id."""
    if _ID.fullmatch(data.strip()) is None:
        raise Again(
            f"spool: its marker {MARKER} does not contain an id; delete it, and Penstock creates a"
            " new one if it may write there"
        )
    return data.strip().decode()


def _read(fd: int) -> tuple[str, int, int] | None:
    try:
        with os.fdopen(beneath.open_file(fd, MARKER), "rb") as file:
            data, status = file.read(_ID_BYTES_MAX), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return id_of(data), status.st_ino, status.st_ctime_ns


def _make(fd: int) -> None:
    """Write the marker. Raises OSError, FileExistsError if there is one."""
    with beneath.draft(fd) as (file, draft):
        file.write(secrets.token_hex(16).encode() + b"\n")
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # every reader of the spool must be able to read it
        os.fsync(file.fileno())
        moving.rename_no_replace(fd, draft, fd, MARKER)
        os.fsync(fd)
