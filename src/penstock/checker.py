"""json_files_processing_checker: finds what is stuck, and frees it.

    claims of dead workers                 freed; their late results are refused
    claims that killed many workers        split, so that one bad file affects no other
    files that no worker's listing has     queued, by one sweeper at a time
    the ledger's own counts                verified: no file may appear from nowhere or get lost

Any worker's next claim takes over an expired one by itself; the checker is the safety net, and
reports what it finds.
"""

import asyncio
import math
import secrets
import time
from dataclasses import dataclass

from penstock import telemetry
from penstock.aio import sleep_unless
from penstock.ledger.ledger import Ledger
from penstock.ledger.reads import FILES_A_CALL_MAX
from penstock.ports import Source

_SWEEP_SECONDS_MAX = 60.0  # per pass; the next sweep continues
OLD_LEASES = 5
"""A claim held for this many leases is alive but making little progress."""

FIFO_WINDOW_SECONDS = 300.0
"""After the first try, SQS FIFO drops repeats for this time."""


@dataclass(slots=True)
class CheckerTally:
    """What one pass of the checker found.

    `claims_expired` lost their owner and freed `files_freed`. `claims_isolated` were split:
    `files_isolated` got claims of their own, `files_given_up` were rejected. `files_swept` were
    overlooked in the spool, `files_orphaned` belonged to no claim; both are queued.
    `times_corrected` were in the future by Redis's clock. `claims_old` are held for over five
    leases. `claims_past_fifo_window` waited so long that SQS may not drop repeats. `laws_broken`
    must be 0. The rest is the ledger's state after the pass; `files_waiting` is None unless the
    whole spool was listed.
    """

    claims_expired: int = 0
    files_freed: int = 0
    claims_isolated: int = 0
    files_isolated: int = 0
    files_given_up: int = 0
    claims_old: int = 0
    claims_past_fifo_window: int = 0
    files_swept: int = 0
    files_orphaned: int = 0
    times_corrected: int = 0
    workers_pruned: int = 0
    laws_broken: int = 0
    claims: int = 0
    oldest_claim_seconds: float = 0.0
    workers: int = 0
    files_processing: int = 0
    files_processed: int = 0
    files_rejected: int = 0
    files_retrying: int = 0
    files_waiting: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checker:
    """The parts of one checker; `fifo` tells whether the queue is a FIFO queue."""

    source: Source
    ledger: Ledger
    lease_seconds: float
    sweep_seconds: float
    fifo: bool


async def check(
    checker: Checker, *, stop: asyncio.Event, budget_seconds: float = math.inf
) -> CheckerTally:
    """Run one pass. Raises Again or Halt if Redis or the spool is away."""
    began = time.monotonic()
    until = began + budget_seconds
    tally = CheckerTally()
    await checker.ledger.upkeep.adopt()
    tally.times_corrected = await checker.ledger.upkeep.correct()
    await _free(checker, tally, stop)
    await _look_at_claims(checker, tally)
    listed = await _sweep(checker, tally, stop, min(until, time.monotonic() + _SWEEP_SECONDS_MAX))
    tally.workers_pruned = await checker.ledger.upkeep.prune()
    tally.files_orphaned = await checker.ledger.upkeep.free_orphans()
    if tally.files_orphaned:
        telemetry.warn(
            "files.orphaned", files=tally.files_orphaned,
            cause="no claim holds them: something other than Penstock removed keys of the ledger",
        )  # fmt: skip
    if evicts := (await checker.ledger.overview.memory()).evicts:
        telemetry.warn("redis.evicts", cause=evicts)
    for law in await checker.ledger.reads.verify():
        tally.laws_broken += 1
        telemetry.warn("conservation.broken", law=law)
    sizes = await checker.ledger.reads.sizes()
    tally.claims = sizes["claims"]
    tally.files_processing = sizes["processing"]
    tally.files_processed = sizes["processed"]
    tally.files_rejected = sizes["rejected"]
    tally.files_retrying = sizes["retry"]
    if listed is not None:
        known = sizes["processing"] + sizes["processed"] + sizes["rejected"]
        tally.files_waiting = max(0, listed - known)
    tally.workers = len(await checker.ledger.reads.workers())
    await checker.ledger.upkeep.trouble("checker", "")
    tally.seconds = round(time.monotonic() - began, 3)
    return tally


async def _free(checker: Checker, tally: CheckerTally, stop: asyncio.Event) -> None:
    """Take expired claims from their owners, and split those that expired too often."""
    while not stop.is_set() and (freed := await checker.ledger.expire()):
        for claim in freed:
            telemetry.warn("claim.expired", **claim._asdict())
            tally.claims_expired += 1
            tally.files_freed += claim.files
            isolated = await checker.ledger.isolate(claim.claim)
            tally.claims_isolated += any(isolated)
            tally.files_isolated += isolated.apart
            tally.files_given_up += isolated.rejected


async def _look_at_claims(checker: Checker, tally: CheckerTally) -> None:
    for claim in await checker.ledger.reads.claims():
        tally.oldest_claim_seconds = max(tally.oldest_claim_seconds, claim.age_seconds)
        begun_seconds = claim.overdue_seconds + checker.lease_seconds
        if claim.waits_for:
            begun_seconds = claim.age_seconds
        if checker.fifo and begun_seconds > FIFO_WINDOW_SECONDS:
            tally.claims_past_fifo_window += 1
            remedy = "run workers more often: SQS drops repeats for five minutes only"
            if claim.waits_for:
                remedy = f"make its files readable: {claim.waits_for}"
            telemetry.warn(
                "claim.past_fifo_window", claim=claim.claim, remedy=remedy,
                overdue_seconds=claim.overdue_seconds,
            )  # fmt: skip
        elif claim.worker and claim.age_seconds > OLD_LEASES * checker.lease_seconds:
            tally.claims_old += 1
            telemetry.warn(
                "claim.old", claim=claim.claim, worker=claim.worker, age_seconds=claim.age_seconds
            )


async def _sweep(
    checker: Checker, tally: CheckerTally, stop: asyncio.Event, until_seconds: float
) -> int | None:
    """Queue overlooked files; return how many the spool has, or None if not all were seen."""
    sweeper = secrets.token_hex(8)
    if await checker.ledger.upkeep.sweep(sweeper, ()) is None:
        return None
    cursor, listed, total, whole = "", 0, 0, False
    while not (whole or stop.is_set()) and time.monotonic() < until_seconds:
        page = await checker.source.list(cursor)
        if page.pause_seconds and not total:
            await sleep_unless(stop, min(page.pause_seconds, until_seconds - time.monotonic()))
            continue
        names = page.names
        for at in range(0, len(names), FILES_A_CALL_MAX):
            swept = await checker.ledger.upkeep.sweep(
                sweeper, names[at : at + FILES_A_CALL_MAX], page.spool_note
            )
            if swept is None:
                return None
            tally.files_swept += swept
        total += len(names)
        whole = len(names) < max(listed, 1)  # a page shorter than the one before is the last
        cursor, listed = page.cursor, len(names)
    await checker.ledger.upkeep.swept(sweeper, checker.sweep_seconds)
    if tally.files_swept:
        telemetry.warn("files.swept", files=tally.files_swept)
    return total if whole else None
