"""json_files_processed_archiver: moves processed files out of the spool, then lets go of them.

    processed ──move──▶ archive/YYYY/MM/DD/HH/ ──a minute later──▶ forgotten ──retention──▶ deleted
    rejected  ──move──▶ rejected/ beside NAME.reason.json ──a minute later──▶ forgotten

A file is noted as archived only after it is out of the spool, and forgotten only when no listing
that still names it can be in use. Any number of archivers may run at once.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock import telemetry
from penstock.edges import Moved, Source
from penstock.stages.ledger import Ledger


@dataclass(slots=True)
class ArchiverTally:
    """What one pass of the archiver did; all but `seconds` count files.

    `files_vanished` were gone from the spool already, `files_stuck` cannot be moved: each has its
    own warning in the log, and the next pass tries them again.
    """

    files_archived: int = 0
    files_rejected: int = 0
    files_vanished: int = 0
    files_stuck: int = 0
    files_forgotten: int = 0
    files_deleted: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Archiver:
    """The parts of one archiver; `retention_days` of 0 keeps archived files for ever."""

    source: Source
    ledger: Ledger
    retention_days: float


async def archive(
    archiver: Archiver, *, stop: asyncio.Event, budget_seconds: float = math.inf
) -> ArchiverTally:
    """Run one pass: until no processed or rejected file lies in the spool, or the time is spent.

    Raises Again or Halt if Redis or the source cannot go on; what was moved stays moved and is
    noted by the next pass.
    """
    began = time.monotonic()
    tally = ArchiverTally()

    def over() -> bool:
        return stop.is_set() or time.monotonic() - began > budget_seconds

    await _archive_processed(archiver, tally, over)
    await _move_rejected(archiver, tally, over)
    while not over() and (forgotten := await archiver.ledger.forget()):
        tally.files_forgotten += forgotten
    if archiver.retention_days:
        while not over() and (
            deleted := await archiver.source.delete_archived(archiver.retention_days)
        ):
            tally.files_deleted += deleted
    tally.seconds = round(time.monotonic() - began, 3)
    return tally


async def _archive_processed(
    archiver: Archiver, tally: ArchiverTally, over: Callable[[], bool]
) -> None:
    stuck = 0  # they stay at the front of the line: look behind them
    while not over() and (names := await archiver.ledger.processed(skip=stuck)):
        moved = await archiver.source.archive(names)
        gone = await _note(archiver, tally, moved)
        tally.files_archived += gone
        stuck += len(names) - gone


async def _move_rejected(
    archiver: Archiver, tally: ArchiverTally, over: Callable[[], bool]
) -> None:
    cursor = 0
    while not over():
        cursor, reasons = await archiver.ledger.rejected(cursor)
        if reasons:
            moved = await archiver.source.reject(reasons)
            tally.files_rejected += await _note(archiver, tally, moved)
        if cursor == 0:
            return


async def _note(archiver: Archiver, tally: ArchiverTally, moved: Sequence[Moved]) -> int:
    """Tell the ledger which files are out of the spool; return how many."""
    gone = [file.name for file in moved if not file.error]
    if gone:
        await archiver.ledger.archived(gone)
    tally.files_vanished += sum(file.vanished for file in moved)
    for file in moved:
        if file.error:
            tally.files_stuck += 1
            telemetry.warn("file.stuck", file=file.name, cause=file.error)
    return len(gone)
