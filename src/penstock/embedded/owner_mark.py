"""Mark a spool, beside it, with the embedded ledger that knows which files were sent."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from penstock import telemetry
from penstock.errors import Halt
from penstock.settings.spool_place import Directory, SpoolPlace

T = TypeVar("T")

UNMARKED = (
    "ledger.url: 'embedded', but the spool is behind HTTP, so only this machine's Redis knows which"
    " files were sent. A second box with a Redis of its own would send them again, unnoticed: for"
    " several boxes, give all of them one Redis in ledger.url and one name in ledger.spool"
)
"""The warning if a spool cannot be marked."""


def bind(spool: SpoolPlace, state: Path) -> None:
    """Bind a spool to the embedded ledger in `state`, if possible. Raises Halt if it has another.

    Another ledger would not know what was sent, and would send all of it again. It appears when
    settings are copied, or `run.state_directory` is changed.
    """
    if isinstance(spool, Directory):
        _mark(spool.path, state)
    else:
        telemetry.warn("spool.unmarked", cause=UNMARKED)


def marker_of(spool: Path) -> Path:
    """Return the hidden file beside a spool that names its embedded ledger."""
    whole = spool.resolve()
    return whole.with_name(f".{whole.name}.penstock-ledger")


def _mark(spool: Path, state: Path) -> None:
    marker, ours = marker_of(spool), str(state.resolve())
    try:
        theirs = _opened(marker, os.O_RDONLY, lambda fd: os.read(fd, 4096).decode().strip())
        if theirs == ours:
            return
        if theirs and Path(theirs).is_dir():
            raise Halt(
                f"run.state_directory: {ours}: but the ledger in {theirs} holds what was sent of"
                f" {spool}; use that ledger, or delete {marker} if that ledger is no longer needed"
            )
        marker.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return  # a link, or unreadable: go on without a marker
    with contextlib.suppress(OSError):
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        _opened(marker, new, lambda fd: os.write(fd, f"{ours}\n".encode()))


def _opened(path: Path, flags: int, use: Callable[[int], T]) -> T:
    """Use a file, and follow no link: anybody may have put one there. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        return use(fd)
    finally:
        os.close(fd)
