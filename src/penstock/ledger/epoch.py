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
        self.name = ""
        if file is not None:
            self.name = self._known.get(file, "")
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self.name = file.read_text()[:99]

    def begins(self, name: str) -> None:
        """Note another one."""
        self.name = name
        if self._file is None:
            return
        self._known[self._file] = name
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._file.with_suffix(".draft")
            draft.write_text(name)
            draft.replace(self._file)
