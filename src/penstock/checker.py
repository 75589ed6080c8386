"""json_files_processing_checker: finds what is stuck, and frees it.

    claims of workers that are gone        freed, so that nothing late can come of them
    claims that wore out their workers     split, so that one bad file hurts no other
    files that nobody's listing names      put in line, by one sweeper at a time
    the ledger's own books                 verified: nothing in it may come from nowhere or get lost

Any worker's next claim takes over an expired one by itself; the checker is the safety net, and the
one who tells.
"""

import asyncio
import math
import secrets
import time
from dataclasses import dataclass

from penstock import telemetry
from penstock.ledger.ledger import Ledger
from penstock.ledger.reads import FILES_A_CALL_MAX
from penstock.ports import Source

_SWEEP_SECONDS_MAX = 60.0  # of one pass; what was not reached is the next sweep's
OLD_LEASES = 5
"""A claim held for so many leases is alive, but its worker hardly gets on."""

FIFO_WINDOW_SECONDS = 300.0
"""SQS FIFO drops repeats for so long after the first try."""


@dataclass(slots=True)
class CheckerTally:
    """What one pass of the checker found.

    `claims_expired` had an owner whose lease was over, with `files_freed` files among them;
    `claims_isolated` were split: of their files `files_isolated` got a claim of their own and
    `files_given_up` were rejected. `files_swept` lay in the spool overlooked, `files_orphaned` were
    being processed by no claim; both are in line now.
    `times_corrected` lay later than they can, because Redis's clock had been ahead. `claims_old`
    are held for more than five leases, `claims_past_fifo_window` have waited so long for a
    successor that SQS may not know their messages any more. `laws_broken` counts the conservation
    laws that do not hold: it must be 0. `claims`, `workers` and the files in each state are what
    the ledger holds
    after the pass; `oldest_claim_seconds` is the age of the oldest. `files_waiting` lay in the
    spool and were in none of these states; None if this pass has not listed the whole spool.
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
    """Run one pass. Raises Again or Halt if Redis or the spool cannot be asked."""
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
            cause="no claim holds them: something else removed keys of the ledger",
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
    """Take expired claims from their owners, and split those that had too many."""
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
    """Tell of claims that are held for long, or that have waited for too long."""
    for claim in await checker.ledger.reads.claims():
        tally.oldest_claim_seconds = max(tally.oldest_claim_seconds, claim.age_seconds)
        begun_seconds = claim.overdue_seconds + checker.lease_seconds
        if claim.waits_for:
            begun_seconds = claim.age_seconds
        if checker.fifo and begun_seconds > FIFO_WINDOW_SECONDS:
            tally.claims_past_fifo_window += 1
            telemetry.warn(
                "claim.past_fifo_window",
                claim=claim.claim,
                overdue_seconds=claim.overdue_seconds,
                remedy=f"make its files readable: {claim.waits_for}"
                if claim.waits_for
                else "run workers more often: SQS drops repeats for five minutes only",
            )
        elif claim.worker and claim.age_seconds > OLD_LEASES * checker.lease_seconds:
            tally.claims_old += 1
            telemetry.warn(
                "claim.old", claim=claim.claim, worker=claim.worker, age_seconds=claim.age_seconds
            )


async def _sweep(
    checker: Checker, tally: CheckerTally, stop: asyncio.Event, until_seconds: float
) -> int | None:
    """List the whole spool, and put in line what no worker takes up, unless another one does.

    Returns how many files lie there, or None if not all of them were listed.
    """
    sweeper = secrets.token_hex(8)
    if await checker.ledger.upkeep.sweep(sweeper, ()) is None:
        return None
    cursor, listed, total, whole = "", 0, 0, False
    while not stop.is_set() and time.monotonic() < until_seconds:
        page = await checker.source.list(cursor)
        names = [file.name for file in page.files]
        for at in range(0, len(names), FILES_A_CALL_MAX):
            swept = await checker.ledger.upkeep.sweep(sweeper, names[at : at + FILES_A_CALL_MAX])
            if swept is None:
                return None
            tally.files_swept += swept
        total += len(names)
        if len(names) < max(listed, 1):  # shorter than the one before: what lay there is listed
            whole = True
            break
        cursor, listed = page.cursor, len(names)
    await checker.ledger.upkeep.swept(sweeper, checker.sweep_seconds)
    if tally.files_swept:
        telemetry.warn("files.swept", files=tally.files_swept)
    return total if whole else None
