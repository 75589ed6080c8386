"""Remember which Redis a spool's ledger was in, across passes and processes."""

import contextlib
from pathlib import Path
from typing import ClassVar

from penstock import beneath


class Epoch:
    """The name of Redis's epoch: the time since it last forgot everything. Empty while unknown.

    It is kept in a file, so that the next process also notices a Redis that started afresh. If the
    file cannot be written, as in AWS Lambda, only this process remembers.
    """

    _known: ClassVar[dict[Path, str]] = {}

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.name = self.kept()

    def kept(self) -> str:
        """Return the name last noted by this process or an earlier one."""
        if self._file is None:
            return ""
        unread = contextlib.suppress(OSError, UnicodeDecodeError)
        with unread, beneath.folder(self._file.parent) as fd:
            return beneath.read(fd, self._file.name, 99).decode()
        return self._known.get(self._file, "")

    def keep(self, name: str) -> None:
        """Save the name for the next process."""
        if self._file is None:
            return
        self._known[self._file] = name
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with beneath.folder(self._file.parent) as fd:
                beneath.write_new(fd, self._file.name, name, 0o600)

    def begins(self, name: str) -> None:
        """Start another epoch, or first the one that others noted while our first call ran."""
        kept = self.kept()
        self.name = name if self.name or not kept else kept
        if self.name == name:
            self.keep(name)
