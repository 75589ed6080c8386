"""sqs_loader: the path of every file. Read this page first.

    list → claim → read → transform → pack → send → commit

worker.py runs several lanes. Each carries one claim at a time along this path, so reading,
transforming and sending overlap without a queue between the stages.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from penstock import telemetry
from penstock.errors import Again, Reject
from penstock.ledger.begun import Begun, ranges
from penstock.ledger.lease import Lease
from penstock.ledger.ledger import Ledger
from penstock.ledger.outcome import ClaimOutcome, age_counters
from penstock.ledger.receipts import Receipts
from penstock.model import Claim, Fate, FileRead, Message, RecordReject, Transformed, Unread
from penstock.ports import Queue, Source
from penstock.records.transform import Transform
from penstock.source.candidates import Candidates
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer

_ENOUGH = 0.97  # of the files that a claim wants: with fewer it waits for more
_READ_BYTES = 1_048_576  # of files, taken together: as much as a CPU's cache holds
_DENIED_RETRY_SECONDS = 30.0  # a file that cannot be read: someone may be fixing its mode


class UnreadableError(Again):
    """A file of a claim cannot be read, and messages of the claim may have been sent.

    Made without it they would be others, and repeats. `processed` are the positions of the files
    of which SQS has all, as ranges.
    """

    def __init__(self, cause: str, processed: str = "") -> None:
        super().__init__(cause)
        self.processed = processed


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


class Read(NamedTuple):
    """Files that were read and packed: how many, what was left of each, what fits no message.

    `unreadable` is the next one, and why it cannot be read; empty where that may wait.
    `oldest_at_seconds` is when the oldest of them was changed last, on the monotonic clock.
    """

    files: int
    done: Sequence[tuple[Transformed | Fate, Sequence[RecordReject]]]
    unreadable: str = ""
    oldest_at_seconds: float = math.inf


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
    filling: Filling
    claim_bytes_max: int
    settle_seconds: float
    denied: telemetry.ByCause = dataclasses.field(default_factory=telemetry.ByCause)

    @property
    def read_bytes(self) -> int:
        """How many bytes of files are read, transformed and packed together."""
        return min(_READ_BYTES, self.claim_bytes_max)

    def tell(self) -> None:
        """Log why files could not be read since the last time: one line a cause."""
        self.denied.tell("file.denied", remedy="make them readable: they are tried again")

    async def next_claim(self, stop: asyncio.Event) -> Asked:
        """List and claim: anything expired, else what is due or waiting, as much as fills messages.

        Waits until there is so much, or until the first of it has waited long enough.
        """
        wanted = self.filling.files_wanted()
        portion = await self.candidates.next(wanted, stop)
        is_last = portion.is_final and bool(portion.names)
        since_seconds = time.monotonic()
        waiting: Collection[int] = range(len(portion.names))
        free: float | None = None
        try:
            answer = await self.ledger.claim(
                portion.names,
                wanted,
                least=1 if is_last else math.ceil(_ENOUGH * wanted),
                due_for_seconds=0 if portion.is_final else max(1.0, self.candidates.linger_seconds),
                fingerprint=self.fingerprint,
                frontier=self.candidates.frontier,
                spool_note=portion.spool_note,
            )
            if answer.tried:
                waiting, free = answer.waiting, answer.free
        finally:
            self.candidates.tried(portion, waiting, free)
        ledger_lost = self.candidates.in_epoch(answer.epoch)
        if answer.spool_moved:
            self.candidates.start_over()
        claim = answer.claim
        if claim is not None and answer.tried:
            after_loss = portion.is_after_loss(answer.epoch)
            claim = dataclasses.replace(claim, after_loss=after_loss, is_open=not portion.is_final)
        return Asked(claim, since_seconds, bool(portion.names) or ledger_lost, ledger_lost)

    def _learn_from(self, parts: Sequence[Transformed]) -> None:
        """Learn how many records and bytes files gave; of those that gave none there is no say."""
        files = sum(len(part.of) for part in parts)
        records = sum(len(part.records) for part in parts)
        size_bytes = sum(sum(map(len, part.records)) for part in parts) + records
        self.filling.learn(files, records, size_bytes)

    async def carry(
        self, claim: Claim, lease: Lease, note_age: Callable[[float], None]
    ) -> tuple[Claim, Mapping[str, int]]:
        """Carry one claim along the rest of the path. Its last two lines are the promise.

        `note_age` is given the age in seconds of the oldest of the files that were read. Returns
        the claim as it was committed, and its counters, by the names of Tally's fields; none where
        all of it was given back. Raises Again if the claim cannot be finished now or has another
        owner, Halt if no claim can be.
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
            # Perhaps it need not be read: go on behind what SQS has.
            if not await self.ledger.journal(claim, noted):
                raise lease.lost(claim)
            return await self._carry(goes_on, begun, lease, note_age)
        except UnreadableError as error:
            error.processed = ranges(sorted(begun.complete))
            raise

    async def _carry(
        self, claim: Claim, begun: Begun, lease: Lease, note_age: Callable[[float], None]
    ) -> tuple[Claim, Mapping[str, int]]:
        """Carry a claim from where it was begun. The last two lines are the promise."""
        packer = self.new_packer(claim)
        read: list[Read] = []
        if claim.is_open:
            claim = await self.trim(claim, lease, packer, read, note_age)
            if not claim.names:
                return claim, {}
        outcome = ClaimOutcome(
            claim.names,
            begun.done,
            message_bytes=self.filling.message_bytes,
            after_loss=claim.after_loss,
        )
        self.note(read, outcome)
        for position in begun.passed_over(len(claim.names)):
            outcome.retry(claim.names[position], 0)  # an earlier owner could not read it
        packer.go_on(begun.messages, begun.file, begun.records)
        for run in [] if read else begun.left(len(claim.names)):
            position, end = run[0], run[-1] + 1
            while position < end:
                if packer.waiting_bytes >= self.claim_bytes_max:  # more than a lane may hold
                    await self.send(packer.full(), claim, lease, outcome)
                some = await self.read(claim, position, end, packer, note_age)
                self.note([some], outcome)
                position += some.files
                if some.unreadable:
                    await self.send(packer.full(), claim, lease, outcome)
                    raise UnreadableError(some.unreadable)
        outcome.sent_before(packer.sent_before)
        await self.send([*packer.full(), *packer.rest()], claim, lease, outcome)
        return await self.commit(claim, lease, outcome)

    async def trim(
        self,
        claim: Claim,
        lease: Lease,
        packer: Packer,
        read: list[Read],
        note_age: Callable[[float], None],
    ) -> Claim:
        """Pack a claim of which nothing was sent, and give back what would not fill a message."""
        position, most_bytes = 0, 2 * self.filling.call_bytes
        while position < len(claim.names) and packer.waiting_bytes < most_bytes:
            read.append(await self.read(claim, position, len(claim.names), packer, note_age))
            position += read[-1].files
        kept = packer.fullest(position)
        if not kept and self.filling.files_wanted() <= len(claim.names):
            kept = position  # no claim can be fuller
        if kept < len(claim.names):
            packer.keep(kept)
            if not await self.ledger.trim(claim, kept):
                raise lease.lost(claim)
        return claim.of_first(kept)

    async def read(
        self,
        claim: Claim,
        position: int,
        end: int,
        packer: Packer,
        note_age: Callable[[float], None],
    ) -> Read:
        """Read files of a claim from a position on, and pack what is selected of them.

        Always the same messages for the same files: a worker that takes the claim over rebuilds
        those that have been sent. There it stops before a file that it cannot read.
        """
        files = await self.source.read(claim.names[position:end], self.read_bytes)
        oldest_seconds = files[0].age_seconds or 0.0  # it was listed first
        note_age(oldest_seconds)
        readable = _readable(files) if claim.tried else len(files)
        unreadable = ""
        if readable < len(files):
            unreadable = f"{files[readable].name}: {files[readable].detail}"
            files = files[:readable]
        done: list[tuple[Transformed | Fate, Sequence[RecordReject]]] = []
        parts: list[Transformed] = []
        for one in self.transform.run(files, position, claim.put_back):
            if isinstance(one, Fate):
                done.append(((await self._aged(one)).without_data(), ()))
                continue
            done.append((one, packer.add_all(one.files, one.records)))
            parts.append(one)
        self._learn_from(parts)
        return Read(len(files), done, unreadable, time.monotonic() - oldest_seconds)

    async def _aged(self, fate: Fate) -> Fate:
        """Learn the age of a file that ends too early, if it is not known."""
        is_cut = isinstance(fate.cause, Reject) and fate.cause.truncated
        if not is_cut or fate.file.age_seconds is not None:
            return fate
        (file,) = await self.source.read([fate.file.name], 1)
        return fate._replace(file=file)

    def note(self, read: Sequence[Read], outcome: ClaimOutcome) -> None:
        """Note what became of files that were read, but for those that were given back."""
        kept = outcome.files
        for one in read:
            outcome.oldest_at_seconds = min(outcome.oldest_at_seconds, one.oldest_at_seconds)
            for done, too_large in one.done:
                if isinstance(done, Fate):
                    if done.position < kept:
                        self.note_fate(done, outcome)
                elif done.of[0] < kept:
                    part = done.before(kept)
                    outcome.pack(part, [r for r in too_large if r.index < len(part.records)])

    def note_fate(self, fate: Fate, outcome: ClaimOutcome) -> None:
        """Note what becomes of a file that has nothing to send: gone, retried or rejected."""
        file, cause, age_seconds = fate.file, fate.cause, fate.file.age_seconds or 0.0
        if cause is Unread.VANISHED:
            outcome.vanish(file.name)
        elif isinstance(cause, Unread):
            self.denied.add(file.name, file.detail)
            outcome.retry(file.name, _DENIED_RETRY_SECONDS)
        elif cause.truncated and abs(age_seconds) < self.settle_seconds:
            # One far ahead of the clock is not young: it was listed because it did not change.
            wait_seconds = self.settle_seconds - age_seconds
            outcome.retry(file.name, min(wait_seconds, self.settle_seconds))
        else:
            outcome.reject(file.name, cause.reason)

    async def send(
        self, messages: Sequence[Message], claim: Claim, lease: Lease, outcome: ClaimOutcome
    ) -> None:
        """Bring messages to SQS, except those that the journal has; journal every receipt."""
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
        """Make the claim's files processed, or what else became of each; return its counters."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        settled = outcome.settled(attempt=claim.attempt, now=now)
        age = age_counters(time.monotonic() - outcome.oldest_at_seconds)
        counted = dataclasses.replace(settled, counters={**settled.counters, **age})
        if not await self.ledger.commit(claim, counted):
            raise lease.lost(claim)
        return claim, settled.counters


def _readable(files: Sequence[FileRead]) -> int:
    """Return how many files come before the first that cannot be read."""
    denied = (at for at, file in enumerate(files) if file.data is Unread.DENIED)
    return next(denied, len(files))
