"""When a file that lies in the spool is complete, where nobody tells that its writer is done."""

import time
from collections.abc import Collection, Hashable, Iterable


class Settling:
    """Which files are complete: a directory does not tell whether a writer still has one open.

    A file is, when its last change is `settle_seconds` old. Where the clock behind its times and
    the one that they are compared with differ, so is one unchanged for that long on our own.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._waiting: dict[str, tuple[Hashable, float]] = {}  # name: (stamp, since)

    def is_complete(self, name: str, stamp: Hashable, age_seconds: float) -> bool:
        """Tell whether a file is complete; `stamp` is what every change of it changes."""
        if self._settle_seconds == 0 or age_seconds >= self._settle_seconds:
            self._waiting.pop(name, None)
            return True
        now = time.monotonic()
        known, since = self._waiting.get(name, (None, now))
        if known != stamp:
            self._waiting[name] = (stamp, now)
            return False
        if now - since < self._settle_seconds:
            return False
        del self._waiting[name]
        return True

    def forget(self, names: Iterable[str]) -> None:
        """Forget files that are gone, or known to be complete."""
        for name in names if self._waiting else ():
            self._waiting.pop(name, None)

    def keep(self, present: Collection[str]) -> None:
        """Forget the files that are gone."""
        for name in self._waiting.keys() - present:
            del self._waiting[name]
