"""When a file in the spool is complete, if no event says that its writer is done."""

import time
from collections.abc import Collection, Hashable, Iterable

from penstock.model import Unsettled

_AHEAD_SECONDS = 2.0  # nginx reports whole seconds, and the kernel's own clock ticks


class Settling:
    """Which files are complete: a directory does not tell whether a writer still has one open.

    A file is complete when its last change is `settle_seconds` old. The clock behind that time may
    differ from ours, so a file that did not change for that long on our clock is also complete.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._waiting: dict[str, tuple[Hashable, float]] = {}  # name: (stamp, since)
        self._ahead: dict[str, float] = {}  # how far the change time of some is in the future

    @property
    def unsettled(self) -> Unsettled:
        """The files that were checked and are not complete."""
        return Unsettled(
            len(self._waiting), len(self._ahead), max(self._ahead.values(), default=0.0)
        )

    def is_complete(self, name: str, stamp: Hashable, age_seconds: float) -> bool:
        """Tell whether a file is complete; `stamp` differs after every change of it."""
        now = time.monotonic()
        known, since = self._waiting.get(name, (None, now))
        if known != stamp:
            self._waiting[name] = (stamp, since := now)
        if max(age_seconds, now - since) >= self._settle_seconds:  # also if that is 0
            self.forget([name])
            return True
        if age_seconds < -_AHEAD_SECONDS:
            self._ahead[name] = -age_seconds
        return False

    def forget(self, names: Iterable[str]) -> None:
        """Forget files that are gone, or known to be complete."""
        for name in names if self._waiting else ():
            self._waiting.pop(name, None)
            self._ahead.pop(name, None)

    def keep(self, present: Collection[str]) -> None:
        """Forget the files that are gone."""
        self.forget(self._waiting.keys() - present)
