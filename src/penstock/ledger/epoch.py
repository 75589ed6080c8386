"""Which Redis a spool's ledger was in: remembered beyond a pass, and beyond this process."""

import contextlib
from pathlib import Path
from typing import ClassVar


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
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._file.read_text()[:99]
        return self._known.get(self._file, "")

    def keep(self, name: str) -> None:
        """Have it known to the next process."""
        if self._file is None:
            return
        self._known[self._file] = name
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._file.with_suffix(".draft")
            draft.write_text(name)
            draft.replace(self._file)

    def begins(self, name: str) -> None:
        """Take another one over; first the one that others knew while our first call was made."""
        kept = self.kept()
        self.name = name if self.name or not kept else kept
        if self.name == name:
            self.keep(name)
