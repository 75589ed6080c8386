"""json_files_processing_checker: finds claims whose worker is gone, and frees them.

Any worker's next claim takes over an expired one by itself; the checker is the safety net: it takes
the claim from its owner, so that nothing late can come of it, and says so.
"""

import asyncio
import math
import time
from dataclasses import dataclass

from penstock import telemetry
from penstock.stages.ledger import Ledger


@dataclass(slots=True)
class CheckerTally:
    """What one pass of the checker found.

    `claims_expired` had an owner whose lease was over, with `files_freed` files among them;
    `claims` and the files in each state are what the ledger holds after the pass.
    """

    claims_expired: int = 0
    files_freed: int = 0
    claims: int = 0
    files_processing: int = 0
    files_processed: int = 0
    files_rejected: int = 0
    files_retrying: int = 0
    seconds: float = 0.0


async def check(
    ledger: Ledger, *, stop: asyncio.Event, budget_seconds: float = math.inf
) -> CheckerTally:
    """Run one pass. Raises Again or Halt if Redis cannot be asked."""
    began = time.monotonic()
    tally = CheckerTally()
    while not stop.is_set() and time.monotonic() - began < budget_seconds:
        freed = await ledger.expire()
        for claim in freed:
            telemetry.warn(
                "claim.expired",
                claim=claim.claim,
                worker=claim.worker,
                attempt=claim.attempt,
                files=claim.files,
                overdue_seconds=claim.overdue_seconds,
            )
            tally.claims_expired += 1
            tally.files_freed += claim.files
        if not freed:
            break
    sizes = await ledger.sizes()
    tally.claims = sizes["claims"]
    tally.files_processing = sizes["processing"]
    tally.files_processed = sizes["processed"]
    tally.files_rejected = sizes["rejected"]
    tally.files_retrying = sizes["retry"]
    tally.seconds = round(time.monotonic() - began, 3)
    return tally
