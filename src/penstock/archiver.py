"""json_files_processed_archiver: moves processed files out of the spool, then forgets them.

    processed ──move──▶ archive/YYYY/MM/DD/HH/ ──a minute later──▶ forgotten ──retention──▶ deleted
    rejected  ──move──▶ rejected/ beside NAME.reason.json ──a minute later──▶ forgotten

With archive.action = 'pack', it moves files into a staging room instead. At the end of a pass, old
rooms become segments (archive/), and files go on being staged meanwhile.

A file is noted as archived only after it has left the spool for good, and forgotten only when no
listing in use can name it. While one batch is moved, the previous one is noted, and the next one is
read:

    moved   batch 1 │ batch 2 │ batch 3 │
    noted           │ batch 1 │ batch 2 │ batch 3

Any number of archivers may run at once.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock import telemetry
from penstock.archive.pack import PackTally
from penstock.ledger.ledger import Ledger
from penstock.ports import Moved, Source

# Files in a batch. Its directories are synced once, some milliseconds each; a thousand names take
# 0.1 MB.
_FILES_MIN, _FILES_MAX = 500, 5_000
_GONE = "it is neither in the spool nor in the archive: something else moved or deleted it"
_BATCH_SECONDS = 0.5  # halve a batch that takes longer: a stop waits until a batch ends
_STAGE_SECONDS = 1.0  # between two times of staging while segments are made


@dataclass(slots=True)
class ArchiverTally:
    """What one pass of the archiver did; all but `seconds` count files.

    `files_gone` were neither in the spool, the archive nor the rejects. `files_stuck` could not be
    moved: the log has a warning for each cause, with a count and an example. The next pass retries
    them.
    """

    files_archived: int = 0
    files_rejected: int = 0
    files_gone: int = 0
    files_stuck: int = 0
    files_packed: int = 0
    files_forgotten: int = 0
    files_deleted: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Archiver:
    """The parts of an archiver. `retention_days` 0 keeps for ever; `pack(over)` packs files."""

    source: Source
    ledger: Ledger
    retention_days: float
    pack: Callable[[Callable[[], bool]], Awaitable[PackTally]] | None = None


class _Told(NamedTuple):
    """Collects what to log at the end of a pass: a line per cause."""

    stuck: telemetry.ByCause
    gone: telemetry.ByCause


async def archive(
    archiver: Archiver, *, stop: asyncio.Event, budget_seconds: float = math.inf
) -> ArchiverTally:
    """Run one pass, until the spool has no processed or rejected file, or the time is up.

    Raises Again or Halt if Redis or the source fails; what was moved stays moved, and the next pass
    notes it.
    """
    began = time.monotonic()
    tally = ArchiverTally()

    def over() -> bool:
        return stop.is_set() or time.monotonic() - began > budget_seconds

    with telemetry.by_cause("file.stuck") as stuck, telemetry.by_cause("file.gone") as gone:
        told = _Told(stuck, gone)
        await _move(archiver, tally, told, over)
        packed = await _pack(archiver, tally, told, over)
        tally.files_packed, tally.files_stuck = packed.files, tally.files_stuck + packed.stuck
        cause = stuck.summary() or packed.cause
    await archiver.ledger.upkeep.trouble("archiver", cause)
    while not over() and (forgotten := await archiver.ledger.upkeep.forget()):
        tally.files_forgotten += forgotten
    if archiver.retention_days:
        while not over() and (
            deleted := await archiver.source.delete_archived(archiver.retention_days)
        ):
            tally.files_deleted += deleted
    tally.seconds = round(time.monotonic() - began, 3)
    return tally


async def _move(
    archiver: Archiver, tally: ArchiverTally, told: _Told, over: Callable[[], bool]
) -> None:
    await _archive_processed(archiver, tally, told, over)
    await _move_rejected(archiver, tally, told, over)


async def _pack(
    archiver: Archiver, tally: ArchiverTally, told: _Told, over: Callable[[], bool]
) -> PackTally:
    """Pack, and go on moving files: packing takes half a minute of 6,000 files a second.

    Without that, the spool would fill up with processed files, and listings would be slow.
    """
    if archiver.pack is None:
        return PackTally()
    has_failed = False
    packing = asyncio.ensure_future(archiver.pack(lambda: has_failed or over()))
    try:
        while not (await asyncio.wait([packing], timeout=_STAGE_SECONDS))[0]:
            if not tally.files_stuck:  # they would be counted again
                await _move(archiver, tally, told, over)
    except BaseException:
        has_failed = True
        raise
    finally:
        packed = await packing  # leave nothing running
    return packed


async def _archive_processed(
    archiver: Archiver, tally: ArchiverTally, told: _Told, over: Callable[[], bool]
) -> None:
    async def note(moved: Sequence[Moved]) -> int:
        archived, left = await _note(archiver, tally, told, moved)
        tally.files_archived += archived
        return left

    skipped, files_max = 0, _FILES_MIN  # stuck files stay first: skip them
    moved: Sequence[Moved] = ()
    names = await archiver.ledger.reads.processed(skipped, files_max)
    while names and not over():
        began = time.monotonic()
        moving = asyncio.create_task(archiver.source.archive(names))
        try:
            skipped += await note(moved)
            following = await archiver.ledger.reads.processed(skipped + len(names), files_max)
        finally:
            moved = await moving  # also if Redis is away: leave nothing running
        if not following:
            skipped += await note(moved)
            moved = ()
            following = await archiver.ledger.reads.processed(skipped, files_max)
        names = following
        is_quick = time.monotonic() - began < _BATCH_SECONDS
        files_max = min(2 * files_max, _FILES_MAX) if is_quick else max(files_max // 2, _FILES_MIN)
    await note(moved)


async def _move_rejected(
    archiver: Archiver, tally: ArchiverTally, told: _Told, over: Callable[[], bool]
) -> None:
    cursor = 0
    while not over():
        cursor, reasons = await archiver.ledger.reads.rejected(cursor)
        if reasons:
            moved = await archiver.source.reject(reasons)
            tally.files_rejected += (await _note(archiver, tally, told, moved))[0]
        if cursor == 0:
            return


async def _note(
    archiver: Archiver, tally: ArchiverTally, told: _Told, results: Sequence[Moved]
) -> tuple[int, int]:
    """Tell the ledger which files left the spool; return how many were moved, how many stuck."""
    moved = [file.name for file in results if not file.error and not file.vanished]
    gone = [file.name for file in results if file.vanished]
    if moved:
        await archiver.ledger.upkeep.archived(moved)
    if gone:
        await archiver.ledger.upkeep.archived(gone, gone=True)
    for file in results:
        if file.error:
            told.stuck.add(file.name, file.error)
        elif file.vanished:
            told.gone.add(file.name, _GONE)
    tally.files_gone += len(gone)
    stuck = len(results) - len(moved) - len(gone)
    tally.files_stuck += stuck
    return len(moved), stuck
