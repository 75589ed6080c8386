"""Write receipts to a claim's journal: those that arrive during a call go into the next one.

batch 1 ──▶ call ──────────▶ noted
batch 2 ──▶ waits ─┐
batch 3 ──▶ waits ─┴────────▶ call ──▶ noted

With one record a message, one call a batch would cost as much as all other work on the batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from penstock.model import Claim

Journal = Callable[[Claim, Mapping[int, str]], Awaitable[bool]]
"""`Ledger.journal`."""


class _Together:
    """The receipts of one call, and its outcome; None until there is one."""

    def __init__(self) -> None:
        self.entries: dict[int, str] = {}
        self.outcome: bool | Exception | None = None


class Receipts:
    """Writes the receipts of one claim's batches to its journal, one `journal` call at a time."""

    def __init__(self, journal: Journal, claim: Claim) -> None:
        self._journal = journal
        self._claim = claim
        self._next = _Together()
        self._calling = asyncio.Lock()

    async def note(self, confirmed: Mapping[int, str]) -> bool:
        """Return when these are in the journal; False if somebody else owns the claim.

        Entries as for `Ledger.journal`. All that wait for one call get its outcome, also what it
        raises. If the task that makes the call is cancelled, the next one in line makes it.
        """
        ours = self._next
        ours.entries.update(confirmed)
        async with self._calling:
            if ours.outcome is None:
                if self._next is ours:
                    self._next = _Together()
                try:
                    ours.outcome = await self._journal(self._claim, ours.entries)
                except Exception as error:  # noqa: BLE001 - raised below, and to all that wait
                    ours.outcome = error
        if isinstance(ours.outcome, Exception):
            raise ours.outcome
        return ours.outcome
