"""What the demo sees of a running Penstock: the spool, and the ledger's own counts."""

import os
import time
from bisect import bisect_right
from pathlib import Path

from penstock.demo.producer import seconds_of
from penstock.ledger.ledger import Ledger

_NAMES_A_CALL = 500
_UNCLAIMED = frozenset({"waiting", "retry"})
_OVER = frozenset({"processed", "archived", "rejected"})


class Watch:
    """Samples, cheaply enough to be done twice a second beside the work itself.

    `oldest_waiting_seconds_max` is the greatest age, by the time in its name, that a file in the
    spool had when it was found to be neither claimed nor settled.
    """

    def __init__(self, spool: Path, ledger: Ledger) -> None:
        self._spool = spool
        self._ledger = ledger
        self._over_up_to = ""  # all names up to here are settled for ever: never asked again
        self.in_spool = 0
        self.sizes: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.oldest_waiting_seconds = 0.0
        self.oldest_waiting_seconds_max = 0.0

    @property
    def waiting(self) -> int:
        """How many files nobody has claimed, as of the last sample."""
        elsewhere = sum(self.sizes.get(s, 0) for s in ("processing", "processed", "rejected"))
        return max(0, self.in_spool - elsewhere)

    async def sample(self) -> None:
        """Look once. Raises Again or Halt if the ledger is gone."""
        names = sorted(name for name in os.listdir(self._spool) if not name.startswith("."))  # noqa: PTH208  names only, at a tenth of the cost
        self.in_spool = len(names)
        oldest = await self._oldest_waiting(names)
        self.oldest_waiting_seconds = max(0.0, time.time() - seconds_of(oldest)) if oldest else 0.0
        self.oldest_waiting_seconds_max = max(
            self.oldest_waiting_seconds_max, self.oldest_waiting_seconds
        )
        self.sizes = await self._ledger.reads.sizes()
        self.counters = await self._ledger.reads.counters()

    async def _oldest_waiting(self, names: list[str]) -> str | None:
        """Return the first of the sorted names that is not claimed, asking from where it may be."""
        all_over = True
        start = bisect_right(names, self._over_up_to)
        for first in range(start, len(names), _NAMES_A_CALL):
            page = names[first : first + _NAMES_A_CALL]
            for name, state in zip(page, await self._ledger.reads.states(page), strict=True):
                if state in _UNCLAIMED:
                    return name
                all_over = all_over and state in _OVER
                if all_over:
                    self._over_up_to = name
        return None
