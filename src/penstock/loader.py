"""sqs_loader: the path of every file. Read this page first.

    list → claim → read → decode → select → pack → send → commit

A worker runs several lanes. Each carries one claim at a time through the whole path, so reading,
decoding and sending overlap without a queue between the stages. A pass ends by itself when every
file is processed or in someone else's hands, when its time is spent, or when it is told to stop.
"""

import asyncio
import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from penstock import telemetry
from penstock.errors import Again, Halt, PenstockError, Reject
from penstock.ledger.lease import Lease
from penstock.ledger.ledger import Ledger
from penstock.ledger.outcome import ClaimOutcome
from penstock.ledger.receipts import Receipts
from penstock.model import Claim, Document, FileRead, Message, RecordReject, Selected, Tally, Unread
from penstock.ports import Queue, Source
from penstock.records.decode import Decoder, may_be_one
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from penstock.source.candidates import Candidates
from penstock.sqs.packer import Packer

_DENIED_RETRY_SECONDS = 30.0  # a file that may not be read: someone may be mending its mode
_SETTLE_RETRY_SECONDS_MIN = 0.25  # a file being written is looked at again at twice its age
_IDLE_SECONDS = 0.1  # how often a lane without work looks again while others still have some
_STOP_SECONDS = 5.0  # how long claims in flight go on after a stop before they are released
_TOGETHER_FILES = 50  # decoded together; more would gain little, and one bad file has all go alone
_AGAIN_MAX = 3  # claims of one lane that fail in a row before the pass ends


class _One(msgspec.Struct, frozen=True, gc=False):
    """A file that looks like one record: its position in the claim, itself, and its JSON."""

    position: int
    file: FileRead
    json: bytes


@dataclass(frozen=True, slots=True)
class Loader:
    """The parts of one worker, put together in wiring.py.

    `new_packer` makes the packer of a claim. `fingerprint` stands for the settings that shape
    messages. Sizes are in bytes.
    """

    source: Source
    candidates: Candidates
    ledger: Ledger
    queue: Queue
    preamble: Preamble
    decoder: Decoder
    selection: Selection
    new_packer: Callable[[Claim], Packer]
    fingerprint: str
    lanes: int
    claim_files_max: int
    claim_bytes_max: int
    max_file_bytes: int
    settle_seconds: float

    async def carry(
        self, claim: Claim, lease: Lease, seen: Callable[[float], None]
    ) -> Mapping[str, int]:
        """Carry one claim through the whole path; the order of its last two lines is the promise.

        `seen` is told the age in seconds of the oldest of the files that were read. Returns the
        claim's counters, by the names of Tally's fields. Raises Again if the claim cannot be
        finished now or has another owner, Halt if none can.
        """
        outcome = ClaimOutcome(claim.names, after_loss=claim.after_loss)
        packer = self.new_packer(claim)
        at = 0
        while at < len(claim.names):
            if at:  # the claim is larger than a lane may hold in memory
                await self.send(packer.full(), claim, lease, outcome)
            files = await self.source.read(claim.names[at:], self.claim_bytes_max)
            seen(max(file.age_seconds for file in files))
            if not at and (young := await self.young(claim, files)):
                return await self.put_off(claim, lease, young, outcome)
            self.take(files, at, claim, packer, outcome)
            at += len(files)
            del files  # from here on their messages are all that is held in memory
        await self.send([*packer.full(), *packer.rest()], claim, lease, outcome)
        return await self.commit(claim, lease, outcome)

    async def young(self, claim: Claim, files: Sequence[FileRead]) -> Mapping[str, float]:
        """Return the claim's files that may still be being written, with their ages in seconds.

        `files` are those that were read first. Which files a claim's messages are made of must be
        known before the first of them is sent, or a successor would make others. Where an owner
        before us has sent something, it has made them without what is young: that waits alone, see
        `take`. What an operator has put back is not young: moving it is its last change.
        """
        if claim.journal:
            return {}
        young = {file.name: file.age_seconds for file in files if file.young}
        if rest := claim.names[len(files) :]:
            young |= await self.source.young(rest)
        return {name: age for name, age in young.items() if name not in claim.put_back}

    async def put_off(
        self, claim: Claim, lease: Lease, young: Mapping[str, float], outcome: ClaimOutcome
    ) -> Mapping[str, int]:
        """Undo a claim: its young files are looked at again when they will have settled.

        All others are taken up again at once, by whoever claims next.
        """
        for name in claim.names:
            outcome.wait(name, self._until_settled(young[name]) if name in young else 0.0)
        return await self.commit(claim, lease, outcome)

    def _until_settled(self, age_seconds: float) -> float:
        return min(self.settle_seconds - age_seconds, self.settle_seconds)

    def take(
        self,
        files: Sequence[FileRead],
        at: int,
        claim: Claim,
        packer: Packer,
        outcome: ClaimOutcome,
    ) -> None:
        """Take the claim's files from position `at` on into messages, or to their other fates.

        Files that look like one object each, which most are, go many at once. A young one waits: an
        owner before us sent something, but could not read this one.
        """
        ones: list[_One] = []
        for position, file in enumerate(files, at):
            if file.young and file.name not in claim.put_back:
                outcome.wait(file.name, self._until_settled(file.age_seconds))
                continue
            json = self.strip(file, outcome)
            if json is None:
                continue
            single = may_be_one(json) and file.name not in claim.put_back
            if single:
                ones.append(_One(position, file, json))
            if ones and (not single or len(ones) == _TOGETHER_FILES):
                self._take_ones(ones, packer, outcome)
                ones = []
            if not single and (selected := self.select(file, json, outcome)):
                selected = selected.only(claim.put_back.get(file.name))
                _pack(packer, position, file.name, selected, outcome)
        if ones:
            self._take_ones(ones, packer, outcome)

    def _take_ones(self, ones: Sequence[_One], packer: Packer, outcome: ClaimOutcome) -> None:
        """Take files into messages: together if each holds one good record, else one by one."""
        records = self.decoder.decode_ones([one.json for one in ones])
        selected = None if records is None else self.selection.select(Document(records))
        if selected is not None and not selected.rejects:
            _pack_ones(packer, ones, selected, outcome)
            return
        for one in ones:
            if alone := self.select(one.file, one.json, outcome):
                _pack(packer, one.position, one.file.name, alone, outcome)

    def strip(self, file: FileRead, outcome: ClaimOutcome) -> bytes | None:
        """Return the JSON of a file, without its preamble; None if it has another fate."""
        if file.data is Unread.VANISHED:
            outcome.vanish(file.name)
        elif isinstance(file.data, Unread):
            telemetry.warn("file.denied", file=file.name, cause=file.detail, remedy="mend its mode")
            outcome.wait(file.name, _DENIED_RETRY_SECONDS)
        elif file.size_bytes > self.max_file_bytes:
            outcome.reject(
                file.name, f"{file.size_bytes} bytes; decode.max_file_bytes = {self.max_file_bytes}"
            )
        else:
            try:
                return self.preamble.strip(file.data)
            except Reject as reject:
                self._refuse(file, reject, outcome)
        return None

    def select(self, file: FileRead, json: bytes, outcome: ClaimOutcome) -> Selected | None:
        """Take a file from its JSON to its selected records; None if it has another fate."""
        try:
            return self.selection.select(self.decoder.decode(json))
        except Reject as reject:
            self._refuse(file, reject, outcome)
        return None

    def _refuse(self, file: FileRead, reject: Reject, outcome: ClaimOutcome) -> None:
        """Reject a file; or have it looked at again, where it may still be being written."""
        if reject.truncated and file.age_seconds < self.settle_seconds:
            pause = max(file.age_seconds, _SETTLE_RETRY_SECONDS_MIN)
            outcome.wait(file.name, min(pause, self.settle_seconds - file.age_seconds))
        else:
            outcome.reject(file.name, reject.reason)

    async def send(
        self, messages: Sequence[Message], claim: Claim, lease: Lease, outcome: ClaimOutcome
    ) -> None:
        """Bring messages to SQS, but for those that the journal has; journal every receipt."""
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
                unsent, group=claim.id, before=lease.send_before, confirmed=confirmed
            )
            outcome.sent(sent)

    async def commit(self, claim: Claim, lease: Lease, outcome: ClaimOutcome) -> Mapping[str, int]:
        """Make the claim's files processed, or what else became of each; return the counters."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        settled = outcome.settled(attempt=claim.attempt, now=now)
        if not await self.ledger.commit(claim, settled):
            raise lease.lost(claim)
        return settled.counters


def _pack_ones(
    packer: Packer, ones: Sequence[_One], selected: Selected, outcome: ClaimOutcome
) -> None:
    """Give the packer one record a file; files whose record is too large for any message have none.

    `selected.indexes` are those of the files in `ones`.
    """
    kept = [ones[index].position for index in selected.indexes]
    refused = packer.add_all(kept, selected.records)
    for reject in refused:
        one = ones[selected.indexes[reject.index]]
        outcome.reject_record(one.file.name, RecordReject(0, reject.reason))
    if refused:
        gone = {reject.index for reject in refused}
        kept = [position for at, position in enumerate(kept) if at not in gone]
    outcome.pack_ones(kept, read=len(ones), filtered=selected.filtered)


def _pack(packer: Packer, file: int, name: str, selected: Selected, outcome: ClaimOutcome) -> None:
    """Give a file's records to the packer; one too large for any message is rejected alone."""
    refused = {reject.index: reject for reject in packer.add_file(file, selected.records)}
    packed = selected.indexes
    if refused:
        for position, reject in refused.items():
            reason = RecordReject(selected.indexes[position], reject.reason)
            outcome.reject_record(name, reason)
        packed = [index for at, index in enumerate(packed) if at not in refused]
    outcome.pack(file, selected, packed)


class _Pass:
    """One pass of a worker: its lanes, when they end, and what they did."""

    def __init__(
        self,
        loader: Loader,
        stop: asyncio.Event,
        until_seconds: float,
        seen: Callable[[float], None],
        tally: Tally,
    ) -> None:
        self._loader = loader
        self._stop = stop
        self._until_seconds = until_seconds
        self._tell = seen
        self._busy = 0
        self.tally = tally
        self.error: PenstockError | None = None

    def _over(self) -> bool:
        return (
            self._stop.is_set() or self.error is not None or time.monotonic() > self._until_seconds
        )

    async def _lane(self) -> None:
        """Carry claim after claim until no lane finds anything more."""
        again = 0
        while not self._over():
            try:
                claim, since_seconds = await self._next_claim()
                if claim is None:
                    if not self._busy:
                        return
                    await self._pause(_IDLE_SECONDS)
                    continue
                self._busy += 1
                try:
                    await self._carry(claim, since_seconds)
                    again = 0
                finally:
                    self._busy -= 1
            except Again as error:
                again += 1
                telemetry.warn("lane.again", cause=str(error), attempt=again)
                if again == _AGAIN_MAX:
                    self.error = error
                await self._pause(random.uniform(0, 2**again))  # noqa: S311  jitter
            except PenstockError as error:
                self.error = error

    async def _next_claim(self) -> tuple[Claim | None, float]:
        """Claim something: anything expired or due, else the next candidates that are waiting."""
        loader, candidates = self._loader, self._loader.candidates
        while True:
            portion = await candidates.next()
            since_seconds = time.monotonic()
            tried = False
            try:
                answer = await loader.ledger.claim(
                    portion.names,
                    loader.claim_files_max,
                    fingerprint=loader.fingerprint,
                    frontier=candidates.frontier,
                )
                tried = answer.tried
            finally:
                (candidates.tried if tried else candidates.put_back)(portion)
            forgot = candidates.in_epoch(answer.epoch)
            if forgot:
                self.tally.ledger_losses += 1
                telemetry.warn("redis.forgot", remedy="files not yet archived are sent again")
            claim = answer.claim
            if claim is not None and tried:
                claim = dataclasses.replace(claim, after_loss=portion.after_loss)
            if claim is not None or self._over() or not (portion.names or forgot):
                return claim, since_seconds

    async def _carry(self, claim: Claim, since_seconds: float) -> None:
        self.tally.claims += 1
        self.tally.claims_taken_over += claim.attempt > 1
        async with self._loader.ledger.holding(claim, since_seconds) as lease:
            try:
                counters = await self._loader.carry(claim, lease, self._seen)
            except BaseException as error:
                await self._give_up(claim, lease, error)
                raise
        self.tally.add(counters)
        if counters.get("journal_mismatches"):
            telemetry.warn(
                "claim.mismatched",
                claim=claim.id,
                messages=counters["journal_mismatches"],
                cause="files changed between two attempts"
                if claim.fingerprint == self._loader.fingerprint
                else "it was begun under other settings",
            )
        telemetry.event(
            "claim.committed",
            claim=claim.id,
            attempt=claim.attempt,
            files=len(claim.names),
            first_file=min(claim.names),
            last_file=max(claim.names),
            seconds=round(time.monotonic() - since_seconds, 3),
            **counters,
        )

    def _seen(self, age_seconds: float) -> None:
        oldest = max(self.tally.oldest_waiting_seconds, round(age_seconds, 3))
        self.tally.oldest_waiting_seconds = oldest
        self._tell(age_seconds)

    async def _give_up(self, claim: Claim, lease: Lease, error: BaseException) -> None:
        """Leave a claim to whoever comes next, at once if Redis can be told."""
        if isinstance(error, Halt):
            self.error = error  # before the claim is free: no other lane shall take it up
        if lease.is_lost:
            self.tally.claims_lost += 1
        else:
            self.tally.claims_released += 1
            with contextlib.suppress(PenstockError):  # then the lease runs out by itself
                await self._loader.ledger.release(claim)
        step = "claim.lost" if lease.is_lost else "claim.released"
        telemetry.warn(step, claim=claim.id, attempt=claim.attempt, cause=str(error) or "stopped")

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def figures(self) -> Mapping[str, float]:
        """Return how far the pass has come."""
        tally = self.tally
        return {"files_processed": tally.files_processed, "records_sent": tally.records_sent}

    async def lanes(self) -> None:
        """Run all lanes to their end; a bug in one releases the claims of the others."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._loader.lanes):
                group.create_task(self._lane())


async def load(
    loader: Loader,
    *,
    stop: asyncio.Event,
    budget_seconds: float = math.inf,
    grace_seconds: float = _STOP_SECONDS,
    seen: Callable[[float], None] = lambda _: None,
    tally: Tally | None = None,
) -> Tally:
    """Run one pass: until nothing is left to claim, the budget is spent, or `stop` is set.

    After `stop`, claims in flight have `grace_seconds` to commit before they are released. `seen`
    is told, claim by claim, how many seconds its oldest file had waited. Raises Again or Halt for
    what ended the pass early; then no claim is left held. What it did until then is in `tally`, if
    one is given to be filled in.
    """
    began = time.monotonic()
    await loader.ledger.upkeep.correct()
    loader.candidates.resume(await loader.ledger.reads.frontier())
    this = _Pass(loader, stop, began + budget_seconds, seen, Tally() if tally is None else tally)
    lanes = asyncio.create_task(this.lanes())
    stopped = asyncio.create_task(_wait_then(stop, grace_seconds))
    try:
        async with telemetry.progress("loader.progress", this.figures):
            await asyncio.wait({lanes, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not lanes.done():
            lanes.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await lanes
    if this.error is not None:
        raise this.error
    this.tally.seconds = round(time.monotonic() - began, 3)
    return this.tally


async def _wait_then(stop: asyncio.Event, seconds: float) -> None:
    await stop.wait()
    await asyncio.sleep(seconds)
