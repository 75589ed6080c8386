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
from dataclasses import dataclass, field

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


async def archive(
    archiver: Archiver, *, stop: asyncio.Event, budget_seconds: float = math.inf
) -> ArchiverTally:
    """Run one pass, until the spool has no processed or rejected file, or the time is up.

    Raises Again or Halt if Redis or the source fails; what was moved stays moved, and the next pass
    notes it.
    """
    began = time.monotonic()
    upkeep = archiver.ledger.upkeep

    def over() -> bool:
        return stop.is_set() or time.monotonic() - began > budget_seconds

    with telemetry.by_cause("file.stuck") as stuck, telemetry.by_cause("file.gone") as gone:
        this = _Pass(archiver, over, stuck, gone)
        await this.move()
        packed = await this.pack()
        cause = stuck.summary() or packed.cause
    tally = this.tally
    tally.files_packed, tally.files_stuck = packed.files, tally.files_stuck + packed.stuck
    await upkeep.trouble("archiver", cause)
    while not over() and (forgotten := await upkeep.forget()):
        tally.files_forgotten += forgotten
    if archiver.retention_days:
        while not over() and (
            deleted := await archiver.source.delete_archived(archiver.retention_days)
        ):
            tally.files_deleted += deleted
    tally.seconds = round(time.monotonic() - began, 3)
    return tally


@dataclass(slots=True)
class _Pass:
    """One pass, until `over`: what it moved, and what to log at its end, a line per cause."""

    archiver: Archiver
    over: Callable[[], bool]
    stuck: telemetry.ByCause
    gone: telemetry.ByCause
    tally: ArchiverTally = field(default_factory=ArchiverTally)

    async def move(self) -> None:
        """Move all files that are processed or rejected."""
        await self._move_processed()
        await self._move_rejected()

    async def pack(self) -> PackTally:
        """Pack, and go on moving files: packing takes half a minute of 6,000 files a second.

        Without that, the spool would fill up with processed files, and listings would be slow.
        """
        if self.archiver.pack is None:
            return PackTally()
        has_failed = False
        packing = asyncio.ensure_future(self.archiver.pack(lambda: has_failed or self.over()))
        try:
            while not (await asyncio.wait([packing], timeout=_STAGE_SECONDS))[0]:
                if not self.tally.files_stuck:  # they would be counted again
                    await self.move()
        except BaseException:
            has_failed = True
            raise
        finally:
            packed = await packing  # leave nothing running
        return packed

    async def _move_processed(self) -> None:
        reads, source = self.archiver.ledger.reads, self.archiver.source
        skipped, files_max = 0, _FILES_MIN  # stuck files stay first: skip them
        moved: Sequence[Moved] = ()
        names = await reads.processed(skipped, files_max)
        while names and not self.over():
            began = time.monotonic()
            moving = asyncio.create_task(source.archive(names))
            try:
                skipped += await self._note(moved)
                following = await reads.processed(skipped + len(names), files_max)
            finally:
                moved = await moving  # also if Redis is away: leave nothing running
            if not following:
                skipped += await self._note(moved)
                moved = ()
                following = await reads.processed(skipped, files_max)
            names = following
            is_quick = time.monotonic() - began < _BATCH_SECONDS
            files_max = 2 * files_max if is_quick else files_max // 2
            files_max = max(_FILES_MIN, min(files_max, _FILES_MAX))
        await self._note(moved)

    async def _move_rejected(self) -> None:
        cursor = 0
        while not self.over():
            cursor, reasons = await self.archiver.ledger.reads.rejected(cursor)
            if reasons:
                await self._note(await self.archiver.source.reject(reasons), are_rejects=True)
            if cursor == 0:
                return

    async def _note(self, results: Sequence[Moved], *, are_rejects: bool = False) -> int:
        """Tell the ledger which files left the spool; return how many are stuck."""
        moved = [file.name for file in results if not file.error and not file.vanished]
        gone = [file.name for file in results if file.vanished]
        if moved:
            await self.archiver.ledger.upkeep.archived(moved)
        if gone:
            await self.archiver.ledger.upkeep.archived(gone, gone=True)
        for file in results:
            if file.error:
                self.stuck.add(file.name, file.error)
            elif file.vanished:
                self.gone.add(file.name, _GONE)
        stuck = len(results) - len(moved) - len(gone)
        if are_rejects:
            self.tally.files_rejected += len(moved)
        else:
            self.tally.files_archived += len(moved)
        self.tally.files_gone += len(gone)
        self.tally.files_stuck += stuck
        return stuck
