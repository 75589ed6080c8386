"""sqs_loader: the path of every file. Read this page first.

    list → claim → read → transform → pack → send → commit

worker.py runs several lanes. Each carries one claim at a time along this path, so reading,
transforming and sending overlap without a queue between the stages.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from penstock import telemetry
from penstock.ledger.lease import Lease
from penstock.ledger.ledger import Ledger
from penstock.ledger.outcome import ClaimOutcome
from penstock.ledger.receipts import Receipts
from penstock.model import Claim, Fate, FileRead, Message, Unread
from penstock.ports import Queue, Source
from penstock.records.transform import Transform
from penstock.source.candidates import Candidates
from penstock.sqs.packer import Packer

_DENIED_RETRY_SECONDS = 30.0  # a file that cannot be read: someone may be fixing its mode


class Asked(NamedTuple):
    """The answer to one look for a claim.

    `claim` is None where there was nothing to claim; with `more` it is worth asking again at once.
    `since_seconds` is the monotonic time just before Redis was asked: the lease runs from then.
    `ledger_lost`: Redis has forgotten something since the last answer.
    """

    claim: Claim | None
    since_seconds: float
    more: bool
    ledger_lost: bool


@dataclass(frozen=True, slots=True)
class Loader:
    """The parts of one worker, put together in wiring.py.

    `new_packer` makes the packer of a claim. `fingerprint` stands for the settings that shape
    messages. A file that ends too early is retried while its last change is younger than
    `settle_seconds`: its writer may have gone on after it was listed.
    """

    source: Source
    candidates: Candidates
    ledger: Ledger
    transform: Transform
    new_packer: Callable[[Claim], Packer]
    queue: Queue
    fingerprint: str
    lanes: int
    claim_files_max: int
    claim_bytes_max: int
    settle_seconds: float

    async def next_claim(self) -> Asked:
        """List and claim: anything expired or due, else the next candidates that are waiting."""
        portion = await self.candidates.next()
        since_seconds = time.monotonic()
        tried = False
        try:
            answer = await self.ledger.claim(
                portion.names,
                self.claim_files_max,
                fingerprint=self.fingerprint,
                frontier=self.candidates.frontier,
            )
            tried = answer.tried
        finally:
            (self.candidates.tried if tried else self.candidates.put_back)(portion)
        ledger_lost = self.candidates.in_epoch(answer.epoch)
        claim = answer.claim
        if claim is not None and tried:
            claim = dataclasses.replace(claim, after_loss=portion.after_loss)
        return Asked(claim, since_seconds, bool(portion.names) or ledger_lost, ledger_lost)

    async def carry(
        self, claim: Claim, lease: Lease, note_age: Callable[[float], None]
    ) -> Mapping[str, int]:
        """Carry one claim along the rest of the path. Its last two lines are the promise.

        `note_age` is given the age in seconds of the oldest of the files that were read. Returns
        the claim's counters, by the names of Tally's fields. Raises Again if the claim cannot be
        finished now or has another owner, Halt if no claim can be.
        """
        outcome = ClaimOutcome(claim.names, after_loss=claim.after_loss)
        packer = self.new_packer(claim)
        position = 0
        while position < len(claim.names):
            if position:  # the claim is larger than a lane may hold in memory
                await self.send(packer.full(), claim, lease, outcome)
            files = await self.source.read(claim.names[position:], self.claim_bytes_max)
            note_age(max(file.age_seconds for file in files))
            self.pack(files, position, claim, packer, outcome)
            position += len(files)
            del files  # from here on their messages are all that is held in memory
        await self.send([*packer.full(), *packer.rest()], claim, lease, outcome)
        return await self.commit(claim, lease, outcome)

    def pack(
        self,
        files: Sequence[FileRead],
        position: int,
        claim: Claim,
        packer: Packer,
        outcome: ClaimOutcome,
    ) -> None:
        """Transform files and pack what is left of them; `position` in the claim is the first's.

        Always the same messages for the same files: a worker that takes the claim over rebuilds
        those that have been sent.
        """
        for done in self.transform.run(files, position, claim.put_back):
            if isinstance(done, Fate):
                self.note_fate(done, outcome)
            else:
                outcome.pack(done, packer.add_all(done.files, done.records))

    def note_fate(self, fate: Fate, outcome: ClaimOutcome) -> None:
        """Note what becomes of a file that has nothing to send: gone, retried or rejected."""
        file, cause = fate
        if cause is Unread.VANISHED:
            outcome.vanish(file.name)
        elif isinstance(cause, Unread):
            telemetry.warn("file.denied", file=file.name, cause=file.detail, remedy="mend its mode")
            outcome.retry(file.name, _DENIED_RETRY_SECONDS)
        elif cause.truncated and abs(file.age_seconds) < self.settle_seconds:
            # One far ahead of the clock is not young: it was listed because it did not change.
            wait_seconds = self.settle_seconds - file.age_seconds
            outcome.retry(file.name, min(wait_seconds, self.settle_seconds))
        else:
            outcome.reject(file.name, cause.reason)

    async def send(
        self, messages: Sequence[Message], claim: Claim, lease: Lease, outcome: ClaimOutcome
    ) -> None:
        """Bring messages to SQS, except those that the journal has; journal every receipt."""
        receipts = Receipts(self.ledger, claim)

        async def note(batch: Sequence[Message]) -> None:
            entries = {message.index: outcome.journal_entry(message) for message in batch}
            if not await receipts.note(entries):
                raise lease.lost(claim)

        async def confirmed(batch: Sequence[Message]) -> None:
            outcome.confirm(batch)
            await note(batch)

        earlier, unsent = outcome.divide(messages, claim.journal)
        if earlier:
            await note(earlier)
        if unsent:
            sent = await self.queue.send(
                unsent, group=claim.id, deadline=lease.send_before, confirmed=confirmed
            )
            outcome.sent(sent)

    async def commit(self, claim: Claim, lease: Lease, outcome: ClaimOutcome) -> Mapping[str, int]:
        """Make the claim's files processed, or what else became of each; return the counters."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        settled = outcome.settled(attempt=claim.attempt, now=now)
        if not await self.ledger.commit(claim, settled):
            raise lease.lost(claim)
        return settled.counters
