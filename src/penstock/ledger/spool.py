"""Check which directory a ledger's files lie in: nothing is sent or moved from another one."""

import secrets
from typing import Any, cast

from penstock import telemetry
from penstock.errors import Again, Halt
from penstock.ledger.scripts import Part
from penstock.model import Confirmed, SpoolIdentity


class LedgerSpool(Part):
    """The ledger's spool, as the ledger knows it."""

    async def confirm(self, seen: SpoolIdentity, files: int) -> Confirmed:
        """Tell whether `seen` is surely the spool of the ledger's files. Raises Again if it is not.

        A ledger that knows no spool, or holds no files, adopts one that has `files` in it. It never
        adopts an empty directory, such as an unmounted spool leaves.
        """
        text = seen.as_text() if files else ""
        before, held, note = await self._note(text)
        known = SpoolIdentity.from_text(before)
        if text and (known is None or not held):
            if before:
                note = (await self._note(text, before))[2]  # the old note may be unreadable
            if held:
                telemetry.warn("spool.adopted", spool=str(seen), cause="the ledger knew none")
            return Confirmed(is_sure=True, note=note)
        if known is None or not held:
            return Confirmed(is_sure=False, note=note)
        same = seen.matches(known)
        if same is False:
            raise Again(
                f"spool: {seen} is not the directory whose files the ledger holds: {known}; nothing"
                " is sent or moved. Mount the right one again; or, if it was replaced on purpose,"
                " run: penstock spool accept"
            )
        if same and seen.inode and seen[:3] != known[:3]:
            await self._note(seen.as_text(), before, is_another=False)
        return Confirmed(is_sure=bool(same), note=note)

    async def known(self) -> SpoolIdentity | None:
        """Return the spool of the ledger's files, if it knows one."""
        return SpoolIdentity.from_text((await self._note(""))[0])

    async def missing(self, error: Halt) -> Again | Halt:
        """Return what it means that the spool is not there: it may come back if it was there."""
        known = await self.known()
        seen = await cast("Any", self._scripts.client).hget(
            self._scripts.key("counters"), "files_seen"
        )
        if known is None and not seen:
            return error
        which = f" ({known})" if known else ""
        return Again(f"{error}; the ledger has files from it{which}: mount it again")

    async def accept(self, seen: SpoolIdentity) -> SpoolIdentity | None:
        """Make `seen` the ledger's spool, as an operator says; return the one before, if any."""
        before, *_ = await self._note("")
        await self._note(seen.as_text(), before)
        return SpoolIdentity.from_text(before)

    async def _note(
        self, text: str, replaces: str = "", *, is_another: bool = True
    ) -> tuple[str, int, str]:
        """Note an identity if that is allowed.

        Returns the one before, whether files are held, and the id of the note.
        """
        new = secrets.token_hex(8) if text and is_another else ""
        keys = ["spool", "json_files_processing", "json_files_processed", "json_files_rejected",
                "out_of_spool", "retry", "spool_note"]  # fmt: skip
        before, held, note = await self._scripts.run("spool", keys, [text, replaces, new])
        return before, held, note
