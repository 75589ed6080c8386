"""Receipts on their way to a claim's journal: all that come while Redis is asked go together next.

batch 1 ──▶ call ──────────▶ noted
batch 2 ──▶ waits ─┐
batch 3 ──▶ waits ─┴────────▶ call ──▶ noted

With one record a message, a call a batch would cost as much as all else that is done for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from penstock.model import Claim

Journal = Callable[[Claim, Mapping[int, str]], Awaitable[bool]]
"""`Ledger.journal`."""


class _Together:
    """Receipts of one call, and what came of it: None until it was answered."""

    def __init__(self) -> None:
        self.entries: dict[int, str] = {}
        self.outcome: bool | Exception | None = None


class Receipts:
    """Takes the receipts of one claim's batches to its journal, one call of `journal` at a time."""

    def __init__(self, journal: Journal, claim: Claim) -> None:
        self._journal = journal
        self._claim = claim
        self._next = _Together()
        self._calling = asyncio.Lock()

    async def note(self, confirmed: Mapping[int, str]) -> bool:
        """Return when these are in the journal; False if somebody else owns the claim.

        Entries as for `Ledger.journal`. Raises what it raised for the call they went with: whoever
        waits for that call is told the same. If one of them is cancelled in it, the next one calls.
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
