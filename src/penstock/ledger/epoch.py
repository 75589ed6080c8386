"""Which Redis a spool's ledger was in: remembered beyond a pass, and beyond this process."""

import contextlib
import os
from pathlib import Path
from typing import ClassVar

from penstock import beneath


class Epoch:
    """What Redis calls the time since it last forgot everything; empty while unknown.

    It is kept in a file, so that the next process, too, notices when Redis has begun anew. Where
    none can be written, as in AWS Lambda, this process alone remembers.
    """

    _known: ClassVar[dict[Path, str]] = {}

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.name = self.kept()

    def kept(self) -> str:
        """Return what this process, or one before it, has noted last."""
        if self._file is None:
            return ""
        unread = contextlib.suppress(OSError, UnicodeDecodeError)
        with unread, beneath.folder(self._file.parent) as fd:
            return beneath.read(fd, self._file.name, 99).decode()
        return self._known.get(self._file, "")

    def keep(self, name: str) -> None:
        """Have it known to the next process."""
        if self._file is None:
            return
        self._known[self._file] = name
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with beneath.folder(self._file.parent) as fd:
                opened, draft = beneath.create_draft(fd, 0o600)
                try:
                    with os.fdopen(opened, "w") as file:
                        file.write(name)
                    os.rename(draft, self._file.name, src_dir_fd=fd, dst_dir_fd=fd)
                except OSError:
                    os.unlink(draft, dir_fd=fd)

    def begins(self, name: str) -> None:
        """Take another one over; first the one that others knew while our first call was made."""
        kept = self.kept()
        self.name = name if self.name or not kept else kept
        if self.name == name:
            self.keep(name)
