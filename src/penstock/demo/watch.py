"""What the demo sees of a running Penstock: the spool, and the ledger's own counts."""

import os
import time
from pathlib import Path

from penstock.demo.producer import seconds_of
from penstock.ledger.ledger import Ledger
from penstock.operate.spool_view import OldestWaiting


class Watch:
    """Samples, cheap enough to take twice a second; ages are by the time in a file's name."""

    def __init__(self, spool: Path, ledger: Ledger) -> None:
        self._spool = spool
        self._ledger = ledger
        self._oldest = OldestWaiting(self._age_seconds)
        self.in_spool = 0
        self.sizes: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.oldest_waiting_seconds = 0.0
        self.oldest_waiting_seconds_max = 0.0

    @property
    def waiting(self) -> int:
        """How many files were unclaimed at the last sample."""
        elsewhere = sum(self.sizes.get(s, 0) for s in ("processing", "processed", "rejected"))
        return max(0, self.in_spool - elsewhere)

    async def sample(self) -> None:
        """Take one sample. Raises Again or Halt if the ledger is away."""
        names = sorted(name for name in os.listdir(self._spool) if not name.startswith("."))  # noqa: PTH208  names only, at a tenth of the cost
        self.in_spool = len(names)
        _, self.oldest_waiting_seconds = await self._oldest.find(names, self._ledger.reads.states)
        self.oldest_waiting_seconds_max = max(
            self.oldest_waiting_seconds_max, self.oldest_waiting_seconds
        )
        self.sizes = await self._ledger.reads.sizes()
        self.counters = await self._ledger.reads.counters()

    @staticmethod
    async def _age_seconds(name: str) -> float:
        return max(0.0, time.time() - seconds_of(name))
