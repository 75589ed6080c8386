"""sqs_loader: the path of every file. Read this page first.

    list → claim → read → transform → pack → send → commit

reader.py does read → transform → pack, for a few files at a time. worker.py runs several lanes.
Each carries one claim at a time along this path, so reading, transforming and sending overlap
without a queue between the stages.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from penstock.ledger.begun import Begun, ranges
from penstock.ledger.lease import Lease
from penstock.ledger.ledger import Ledger
from penstock.ledger.outcome import ClaimOutcome, age_counters
from penstock.ledger.receipts import Receipts
from penstock.model import Claim, Message
from penstock.ports import Queue
from penstock.reader import Read, Reader, UnreadableError
from penstock.source.candidates import Candidates
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer

_ENOUGH = 0.97  # of the files that a claim wants; with fewer, it waits for more


class Asked(NamedTuple):
    """The answer to one look for a claim.

    `claim` is None if there was nothing to claim; `more`: it is worth asking again at once.
    `since_seconds` is the monotonic time just before Redis was asked: the lease runs from then.
    `ledger_lost`: Redis has lost data since the last answer. `files_forgotten` were in claims of
    ours that it lacks.
    """

    claim: Claim | None
    since_seconds: float
    more: bool
    ledger_lost: bool
    files_forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Loader:
    """The parts of one worker, put together in wiring.py.

    `new_packer` makes a claim's packer. `fingerprint` stands for the settings that shape messages.
    """

    reader: Reader
    candidates: Candidates
    ledger: Ledger
    new_packer: Callable[[Claim], Packer]
    queue: Queue
    fingerprint: str
    lanes: int
    filling: Filling

    async def next_claim(self, stop: asyncio.Event) -> Asked:
        """List and claim: an expired claim, or enough due or waiting files to fill messages.

        Waits until there are enough, or until the first of them has waited long enough.
        """
        wanted = self.filling.files_wanted()
        portion = await self.candidates.next(wanted, stop)
        is_last = portion.is_final and bool(portion.names)
        since_seconds = time.monotonic()
        try:
            answer = await self.ledger.claim(
                portion.names,
                wanted,
                least=1 if is_last else math.ceil(_ENOUGH * wanted),
                due_for_seconds=0 if portion.is_final else self.candidates.linger_seconds_max,
                fingerprint=self.fingerprint,
                frontier=self.candidates.frontier,
                spool_note=portion.spool_note,
            )
        except BaseException:
            self.candidates.put_back(portion)
            raise
        self.candidates.tried(portion, answer.looked_up, answer.waiting, answer.free)
        ledger_lost = self.candidates.in_epoch(answer.epoch, answer.losses)
        if answer.spool_moved:
            self.candidates.start_over()
        claim = answer.claim
        if claim is not None and answer.tried:
            after_loss = portion.is_after_loss(answer.epoch)
            claim = dataclasses.replace(claim, after_loss=after_loss, is_open=not portion.is_final)
        more = bool(portion.names) or ledger_lost
        return Asked(claim, since_seconds, more, ledger_lost, answer.files_forgotten)

    async def carry(
        self, claim: Claim, lease: Lease, note_age: Callable[[float], None]
    ) -> tuple[Claim, Mapping[str, int]]:
        """Carry one claim along the rest of the path.

        `note_age` gets the age in seconds of the oldest file that was read. Returns the committed
        claim and its counters, by the names of Tally's fields; no counters if all its files were
        given back. Raises Again if the claim cannot be finished now or has another owner, Halt if
        no claim can be finished.
        """
        noted: Mapping[int, str] = {}  # other settings make other messages
        if claim.fingerprint == self.fingerprint:
            noted = claim.noted
        begun = Begun.of(noted, claim.done, len(claim.names))
        goes_on = dataclasses.replace(claim, goes_on=begun.messages > 0)
        try:
            if claim.done:
                return await self._carry(goes_on, begun, lease, note_age)
            try:
                return await self._carry(claim, Begun(), lease, note_age)
            except UnreadableError:
                if not begun.messages:
                    raise
            # Perhaps SQS has the unreadable file already: continue after what was sent.
            if not await self.ledger.journal(claim, noted):
                raise lease.lost(claim)
            return await self._carry(goes_on, begun, lease, note_age)
        except UnreadableError as error:
            error.processed = ranges(sorted(begun.complete))
            raise

    async def _carry(
        self, claim: Claim, begun: Begun, lease: Lease, note_age: Callable[[float], None]
    ) -> tuple[Claim, Mapping[str, int]]:
        """Carry a claim on from where it was begun. The last two lines keep the promise."""
        packer = self.new_packer(claim)
        read: Sequence[Read] = []
        if claim.is_open:
            claim, read = await self.trim(claim, lease, packer, note_age)
            if not claim.names:
                return claim, {}
        outcome = ClaimOutcome(
            claim.names, begun.done, message_bytes=self.filling.message_bytes,
            after_loss=claim.after_loss,
        )  # fmt: skip
        self.reader.note(read, outcome)
        for position in begun.passed_over(len(claim.names)):
            outcome.retry(claim.names[position], 0)  # an earlier owner could not read it
        packer.go_on(begun.messages, begun.file, begun.records)
        for run in [] if read else begun.left(len(claim.names)):
            position, end = run[0], run[-1] + 1
            while position < end:
                if packer.waiting_bytes >= self.reader.claim_bytes_max:  # all that a lane may hold
                    await self.send(packer.full(), claim, lease, outcome)
                some = await self.reader.read(claim, position, end, packer, note_age)
                self.reader.note([some], outcome)
                position += some.files
                if some.unreadable:
                    await self.send(packer.full(), claim, lease, outcome)
                    raise UnreadableError(some.unreadable)
        outcome.sent_before(packer.sent_before)
        await self.send([*packer.full(), *packer.rest()], claim, lease, outcome)
        return await self.commit(claim, lease, outcome)

    async def trim(
        self, claim: Claim, lease: Lease, packer: Packer, note_age: Callable[[float], None]
    ) -> tuple[Claim, Sequence[Read]]:
        """Pack a claim of which nothing was sent; give back files that do not fill a message."""
        read: list[Read] = []
        position, most_bytes = 0, 2 * self.filling.call_bytes
        while position < len(claim.names) and packer.waiting_bytes < most_bytes:
            end = len(claim.names)
            read.append(await self.reader.read(claim, position, end, packer, note_age))
            position += read[-1].files
        kept = packer.fullest(position)
        if not kept and self.filling.files_wanted() <= len(claim.names):
            kept = position  # no claim can be fuller
        if kept < len(claim.names):
            packer.keep(kept)
            if not await self.ledger.trim(claim, kept):
                raise lease.lost(claim)
        return claim.of_first(kept), read

    async def send(
        self, messages: Sequence[Message], claim: Claim, lease: Lease, outcome: ClaimOutcome
    ) -> None:
        """Send messages to SQS, except those in the journal; journal every receipt."""
        receipts = Receipts(self.ledger.journal, claim)

        async def note(batch: Sequence[Message]) -> None:
            entries = {message.index: outcome.journal_entry(message) for message in batch}
            if not await receipts.note(entries):
                raise lease.lost(claim)

        async def confirmed(batch: Sequence[Message]) -> None:
            outcome.confirm(batch)
            if claim.tried:
                claim.journal.update((message.index, message.id) for message in batch)
            await note(batch)

        earlier, unsent = outcome.divide(messages, claim.journal)
        if earlier:
            await note(earlier)
        if unsent:
            lease.has_sent = True
            sent = await self.queue.send(
                unsent, group=claim.id, deadline=lease.send_before, confirmed=confirmed,
                tried=claim.attempt > 1,
            )  # fmt: skip
            outcome.sent(sent)

    async def commit(
        self, claim: Claim, lease: Lease, outcome: ClaimOutcome
    ) -> tuple[Claim, Mapping[str, int]]:
        """Record what became of each file of the claim; return the claim and its counters."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        settled = outcome.settled(attempt=claim.attempt, now=now)
        age = age_counters(time.monotonic() - outcome.oldest_at_seconds)
        counted = dataclasses.replace(settled, counters={**settled.counters, **age})
        if not await self.ledger.commit(claim, counted):
            raise lease.lost(claim)
        return claim, settled.counters
