"""A source that answers only for the spool that the ledger knows, or raises an error.

list                list, then confirm: no claim is made from another spool, or from one that is
                    no longer the ledger's
read                read, then confirm: no file of another spool is sent, and none seems vanished
archive, reject     confirm, move, and confirm again if a file was in neither place
"""

import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from penstock.errors import Again, Halt, Missing
from penstock.model import Confirmed, FileRead, Page, SpoolIdentity, Unread
from penstock.ports import IdentifiedSource, Moved
from penstock.source.marker import MARKER

_RECENT_SECONDS = 1.0
_UNSURE = (
    "is neither in the spool nor at its target, and Penstock cannot tell whether this is the spool"
    f" it was in: that spool has no {MARKER} (docs/files.md), or was not listed yet"
)


class ConfirmedSource:
    """`Source` over another one. `confirm` and `missing` ask the ledger; see `LedgerSpool`."""

    def __init__(
        self,
        source: IdentifiedSource,
        confirm: Callable[[SpoolIdentity, int], Awaitable[Confirmed]],
        missing: Callable[[Halt], Awaitable[Again | Halt]],
    ) -> None:
        self.source = self._source = source
        self._ask = confirm
        self._missing = missing
        self._confirmed: SpoolIdentity | None = None
        self._confirmed_at_seconds = -math.inf

    async def _confirm(self) -> bool:
        """Tell whether it is surely the ledger's spool. Raises Again if it is another one."""
        return (await self._confirm_seen(await self._source.identity(), 0)).is_sure

    async def _confirm_seen(self, seen: SpoolIdentity, files: int) -> Confirmed:
        confirmed = await self._ask(seen, files)
        self._confirmed, self._confirmed_at_seconds = seen, time.monotonic()
        return confirmed

    async def _check(self) -> None:
        """Confirm, unless that was done a moment ago and it is still the same spool."""
        is_recent = time.monotonic() - self._confirmed_at_seconds < _RECENT_SECONDS
        if not is_recent or await self._source.identity() != self._confirmed:
            await self._confirm()

    async def list(self, cursor: str) -> Page:
        """See `Source.list`."""
        before = self._confirmed or await self._source.identity()
        while True:
            try:
                page = await self._source.list(cursor)
            except Missing as error:
                raise await self._missing(error) from None
            seen = await self._source.identity()
            if seen == before:
                break
            before = seen  # it changed meanwhile: these files may be from either spool
        confirmed = await self._confirm_seen(seen, len(page.names))
        return dataclasses.replace(page, spool_note=confirmed.note)

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`."""
        files = await self._source.read(names, bytes_max)
        vanished = any(file.data is Unread.VANISHED for file in files)
        await (self._confirm() if vanished else self._check())
        return files

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`."""
        await self._check()
        return await self._sure(await self._source.archive(names))

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`."""
        await self._check()
        return await self._sure(await self._source.reject(reasons))

    async def _sure(self, moved: Sequence[Moved]) -> Sequence[Moved]:
        """Report a file as gone only if this is surely the spool it was in."""
        if not any(file.vanished for file in moved) or await self._confirm():
            return moved
        return [Moved(f.name, f"{f.name} {_UNSURE}") if f.vanished else f for f in moved]

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`."""
        return await self._source.delete_archived(older_than_days)

    async def close(self) -> None:
        """See `Source.close`."""
        await self._source.close()
