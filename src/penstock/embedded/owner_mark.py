"""The mark beside a spool that names the embedded ledger that knows what was sent of it."""

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
    "ledger.url: 'embedded', and the spool is behind HTTP: only this machine's own Redis knows"
    " what was sent of it. A second box with a Redis of its own would send all of it again, and"
    " nothing would tell: for more than one box, give all of them one Redis in ledger.url, and"
    " one name in ledger.spool"
)
"""What to know where a spool cannot be marked."""


def bind(spool: SpoolPlace, state: Path) -> None:
    """Hold a spool and the embedded ledger in `state` together, as far as that is possible.

    A second ledger (the settings copied elsewhere, another `run.state_directory`) would know
    nothing of what was sent, and send all of it again. Raises Halt if the spool has another one.
    """
    if isinstance(spool, Directory):
        _mark(spool.path, state)
    else:
        telemetry.warn("spool.unmarked", cause=UNMARKED)


def marker_of(spool: Path) -> Path:
    """Return the hidden file beside a spool that names the embedded ledger that knows it."""
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
                f"run.state_directory: {ours}, but what was sent of {spool} is known to the ledger"
                f" in {theirs}; allowed: that one, or delete {marker} if it is given up"
            )
        marker.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return  # a link, or not ours to read or write: then there is no marker, and nothing is lost
    with contextlib.suppress(OSError):
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        _opened(marker, new, lambda fd: os.write(fd, f"{ours}\n".encode()))


def _opened(path: Path, flags: int, use: Callable[[int], T]) -> T:
    """Use a file in whose place anybody may have put a link. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        return use(fd)
    finally:
        os.close(fd)
