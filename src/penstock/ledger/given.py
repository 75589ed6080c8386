"""Notice which of a worker's own claims Redis has forgotten."""

import time
from collections.abc import Callable

SILENT_SECONDS_MAX = 300.0
"""After this long without a call, start again: Redis removes silent workers after ten minutes."""

_KEPT_MAX = 10_000  # claims of which we know how many files they had


class Given:
    """The claims that Redis gave this worker, numbered from 1, and how many files each had.

    Redis keeps each worker's last number. If Redis knows a lower one than we do, it was restored
    from a snapshot, or a replica took over that lacks our last claims. If two claims get the same
    number, two servers answer as primary, and one of them will be dropped with its claims.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._called_at_seconds = monotonic()
        self._files: dict[int, int] = {}
        self._last = 0
        self._dropped = 0  # the last claim of which we no longer know how many files it had
        self._starts = 0  # how often the numbers began anew
        self.losses = 0
        """How often Redis lacked some of our claims."""
        self.files_forgotten = 0
        """How many files the forgotten claims had; less those that Redis has counted."""

    def known(self) -> tuple[int, int]:
        """Return what we know before a call: the last number, and how often they began anew."""
        now = self._monotonic()
        if now - self._called_at_seconds > SILENT_SECONDS_MAX:
            self.start_over()
        self._called_at_seconds = now
        return self._last, self._starts

    def is_forgotten(self, said: int, known: tuple[int, int]) -> bool:
        """Tell whether Redis lacks some of our claims, and count their files.

        `said` is the last number that Redis knew before a call, `known` what we knew then. Only
        one of the lanes that see a loss is told.
        """
        last, starts = known
        if said >= last or starts != self._starts:
            return False
        self._starts += 1
        self.losses += 1
        self._last = said
        for number in [number for number in self._files if number > said]:
            self.files_forgotten += self._files.pop(number)
        return True

    def are_all_counted(self, said: int) -> bool:
        """Tell whether we know the files of each claim after `said`."""
        return said >= self._dropped

    def add(self, number: int, files: int) -> None:
        """Note a claim that we were given."""
        if number in self._files:
            self.files_forgotten += max(files, self._files[number])
            files = 0  # it is counted
        self._files[number] = files
        self._last = max(self._last, number)
        if len(self._files) > _KEPT_MAX:
            self._dropped = next(iter(self._files))
            del self._files[self._dropped]

    def start_over(self) -> None:
        """Forget all numbers: Redis has, too."""
        self._starts += 1
        self._files, self._last, self._dropped = {}, 0, 0
