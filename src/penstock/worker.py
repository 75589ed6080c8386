"""Lanes: claim after claim until told to stop.

A worker runs several lanes; each carries one claim at a time along the path in loader.py. A pass
ends when every file is processed or claimed by another worker, when its time is up, or when it is
told to stop.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping

from penstock import telemetry
from penstock.aio import sleep_unless
from penstock.errors import Again, Halt, PenstockError
from penstock.ledger.lease import Lease
from penstock.loader import Loader
from penstock.model import Claim, Tally
from penstock.reader import UnreadableError

_IDLE_SECONDS = 0.1  # how often a lane without work looks again while others still work
_STOP_SECONDS = 5.0  # how long claims in flight continue after a stop before they are released
_FAILURES_MAX = 3  # claims of one lane that fail in a row before the pass ends


async def load(
    loader: Loader,
    *,
    stop: asyncio.Event,
    budget_seconds: float = math.inf,
    grace_seconds: float = _STOP_SECONDS,
    note_age: Callable[[float], None] = lambda _: None,
    tally: Tally | None = None,
    is_only_pass: bool = False,
) -> Tally:
    """Run one pass: until nothing is left to claim, the budget is spent, or `stop` is set.

    `is_only_pass`: no later pass of this process sees files settle. A pass that finds only
    unsettled files, or some ahead of the clock, waits `settle_seconds` once and looks again.
    After `stop`, claims in flight have `grace_seconds` to commit before they are released.
    `note_age` gets the age in seconds of each claim's oldest file. Raises Again or Halt if an error
    ended the pass early; no claim is held then. `tally`, if given, counts what the pass did, even
    if it raises.
    """
    began = time.monotonic()
    await loader.ledger.upkeep.adopt()
    await loader.ledger.upkeep.correct()
    loader.candidates.resume(await loader.ledger.reads.frontier(), loader.ledger.epoch)
    tally = Tally() if tally is None else tally
    this = _Pass(loader, stop, began + budget_seconds, note_age, tally)
    lanes = asyncio.create_task(this.settled() if is_only_pass else this.lanes())
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
        loader.reader.tell()
    if this.error is not None:
        raise this.error
    if not stop.is_set():
        await loader.ledger.upkeep.trouble("loader", "")
    tally.files_unsettled = loader.candidates.unsettled.files
    tally.seconds = round(time.monotonic() - began, 3)
    return tally


class _Pass:
    """One pass of a worker: its lanes, when they end, and what they did."""

    def __init__(
        self,
        loader: Loader,
        stop: asyncio.Event,
        until_seconds: float,
        note_age: Callable[[float], None],
        tally: Tally,
    ) -> None:
        self._loader = loader
        self._stop = stop
        self._until_seconds = until_seconds
        self._note_age = note_age
        self._busy_lanes = 0
        self._all_rest = asyncio.Event()  # no lane is busy
        self._first = asyncio.Lock()
        self._tally = tally
        self._told = set[str]()  # causes logged in the last ten seconds
        self.error: PenstockError | None = None

    async def settled(self) -> None:
        """Run all lanes, and once more if files may have settled since."""
        await self.lanes()
        unsettled = self._loader.candidates.unsettled
        if unsettled.files and (unsettled.ahead or not self._tally.claims) and not self._is_over():
            await sleep_unless(self._stop, self._loader.reader.settle_seconds + _IDLE_SECONDS)
            await self.lanes()

    async def lanes(self) -> None:
        """Run all lanes to their end; a bug in one releases the claims of the others."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._loader.lanes):
                group.create_task(self._lane())

    async def figures(self) -> Mapping[str, float]:
        """Return the progress of the pass."""
        self._loader.reader.tell()  # a pass may last for hours
        self._told.clear()
        tally = self._tally
        return {"files_processed": tally.files_processed, "records_sent": tally.records_sent}

    def _is_over(self) -> bool:
        return (
            self._stop.is_set() or self.error is not None or time.monotonic() > self._until_seconds
        )

    async def _lane(self) -> None:
        """Carry claim after claim until no lane finds anything more."""
        failures = 0
        while not self._is_over():
            try:
                async with self._alone_at_first():
                    claim, since_seconds = await self._next_claim()
                    if claim is not None:
                        with self._busy():
                            await self._carry(claim, since_seconds)
                        failures = 0
                        continue
                if not self._busy_lanes:
                    return
                await sleep_unless(self._all_rest, _IDLE_SECONDS)
            except Again as error:
                failures += 1
                if str(error) not in self._told:  # by another lane, or a moment ago
                    self._told.add(str(error))
                    telemetry.warn("lane.again", cause=str(error), attempt=failures)
                if failures == _FAILURES_MAX:
                    self.error = error
                await sleep_unless(self._stop, random.uniform(0, 2**failures))  # noqa: S311  jitter
            except PenstockError as error:
                self.error = error

    @contextlib.contextmanager
    def _busy(self) -> Generator[None]:
        self._busy_lanes += 1
        self._all_rest.clear()
        try:
            yield
        finally:
            self._busy_lanes -= 1
            if not self._busy_lanes:
                self._all_rest.set()

    @contextlib.asynccontextmanager
    async def _alone_at_first(self) -> AsyncGenerator[None]:
        """Let one lane work at a time until a file was read: until then, claims are a guess."""
        async with self._first:
            if not self._loader.filling.is_known:
                yield
                return
        yield

    async def _next_claim(self) -> tuple[Claim | None, float]:
        """Ask until there is a claim or nothing to claim; return it and the time of asking."""
        while True:
            asked = await self._loader.next_claim(self._stop)
            self._tally.files_after_loss += asked.files_forgotten
            if asked.ledger_lost:
                self._tally.ledger_losses += 1
                telemetry.warn("redis.forgot", remedy="files not yet archived are sent again")
            if asked.claim is not None or self._is_over() or not asked.more:
                return asked.claim, asked.since_seconds

    async def _carry(self, claim: Claim, since_seconds: float) -> None:
        """Carry a claim to its commit, or release it."""
        async with self._loader.ledger.holding(claim, since_seconds) as lease:
            try:
                claim, counters = await self._loader.carry(claim, lease, self._note_oldest)
            except BaseException as error:
                await self._release(claim, lease, error)
                if isinstance(error, UnreadableError):
                    return  # this lane need not pause
                raise
        if not counters:
            telemetry.event("claim.trimmed", claim=claim.id)
            return
        self._count(claim)
        self._tally.add(counters)
        if counters.get("messages"):  # a pass may last for hours
            await self._loader.ledger.upkeep.trouble("loader", "")
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

    def _note_oldest(self, age_seconds: float) -> None:
        age_seconds = max(0.0, age_seconds)  # it is negative if a clock was set back
        oldest = max(self._tally.oldest_waiting_seconds, round(age_seconds, 3))
        self._tally.oldest_waiting_seconds = oldest
        self._note_age(age_seconds)

    def _count(self, claim: Claim) -> None:
        self._tally.claims += 1
        self._tally.claims_taken_over += claim.attempt > 1

    async def _release(self, claim: Claim, lease: Lease, error: BaseException) -> None:
        """Leave a claim to the next worker, at once if Redis is reachable."""
        if isinstance(error, Halt):
            self.error = error  # first, so that no other lane takes up the released claim
        self._count(claim)
        step, waits_for, processed = "claim.released", "", ""
        repeats = error.possible_repeats if isinstance(error, PenstockError) else 0
        self._tally.possible_repeats += repeats
        if isinstance(error, UnreadableError):
            step, waits_for, processed = "claim.waits", str(error), error.processed
        if lease.is_lost:
            step = "claim.lost"
            self._tally.claims_lost += 1
        else:
            self._tally.claims_released += 1
            with contextlib.suppress(PenstockError):  # then the lease expires by itself
                await self._loader.ledger.release(
                    claim, tried=lease.has_sent, waits_for=waits_for, processed=processed,
                    possible_repeats=repeats,
                )  # fmt: skip
        telemetry.warn(step, claim=claim.id, attempt=claim.attempt, cause=str(error) or "stopped")


async def _wait_then(stop: asyncio.Event, seconds: float) -> None:
    await stop.wait()
    await asyncio.sleep(seconds)
