"""What archiver and checker do to the ledger while workers go on: note, forget, sweep, prune."""

from collections.abc import Sequence

from penstock.ledger.reads import FILES_A_CALL_MAX
from penstock.ledger.repairs import FORGET_AFTER_SECONDS
from penstock.ledger.scripts import Scripts, translate_redis_errors

_WORKER_SILENT_MS = 600_000  # a worker not heard of for two schedules of five minutes is gone
_OVERLOOKED_MAX = 10_000  # names that a sweep remembers as waiting, 1 MB
_OVERLOOKED_MS = 3_600_000


class LedgerUpkeep:
    """Files that left the spool, files that nobody takes up, workers that are silent."""

    def __init__(self, scripts: Scripts, lease_seconds: float) -> None:
        self._scripts = scripts
        self._lease_ms = int(lease_seconds * 1000)

    @translate_redis_errors
    async def archived(self, names: Sequence[str]) -> int:
        """Note that files are out of the spool; return how many were not noted before."""
        keys = ["json_files_processed", "json_files_rejected", "out_of_spool", "counters",
                "minutes"]  # fmt: skip
        noted = 0
        for at in range(0, len(names), FILES_A_CALL_MAX):
            joined = "/".join(names[at : at + FILES_A_CALL_MAX])
            noted += int(await self._scripts.run("archived", keys, [joined]))
        return noted

    @translate_redis_errors
    async def forget(self) -> int:
        """Let go of up to 500 files that no listing can name any more; return how many."""
        args = [int(FORGET_AFTER_SECONDS * 1000), FILES_A_CALL_MAX]
        return int(await self._scripts.run("forget", ["out_of_spool"], args))

    @translate_redis_errors
    async def sweep(self, sweeper: str, names: Sequence[str]) -> int | None:
        """Put those of up to 500 names in line that nobody takes up; None if another one sweeps.

        `sweeper` is a token of the caller's. Without names it only asks for the sweeper's lease.
        A name is put in line, once, when it has been seen waiting for as long as a lease.
        """
        keys = ["sweeper", "overlooked", "retry", "counters", "json_files_processing",
                "json_files_processed", "out_of_spool", "json_files_rejected"]  # fmt: skip
        args = [sweeper, self._lease_ms, self._lease_ms, _OVERLOOKED_MAX, "/".join(names)]
        swept = int(await self._scripts.run("sweep", keys, args))
        return None if swept < 0 else swept

    @translate_redis_errors
    async def swept(self, sweeper: str, pause_seconds: float) -> None:
        """End a sweep; nobody begins another one before the pause is over."""
        await self._scripts.run("swept", ["sweeper"], [sweeper, int(pause_seconds * 1000)])

    @translate_redis_errors
    async def prune(self) -> int:
        """Let go of workers not heard of for ten minutes; return how many."""
        keys = ["workers", "workers_since", "overlooked", "suspects"]
        return int(await self._scripts.run("prune", keys, [_WORKER_SILENT_MS, _OVERLOOKED_MS]))
