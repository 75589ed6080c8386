"""What archiver and checker do to the ledger while workers run: note, forget, sweep, prune."""

import socket
import time
from collections.abc import Sequence
from typing import Any, cast

from penstock import telemetry
from penstock.ledger.reads import FILES_A_CALL_MAX, late_times, number_or, orphans
from penstock.ledger.repairs import FORGET_AFTER_SECONDS
from penstock.ledger.scripts import REMEMBER_MS, Part, Scripts

_WORKER_SILENT_MS = 600_000  # a worker not heard of for two schedules of five minutes is gone
_OVERLOOKED_MAX = 10_000  # names that a sweep remembers as waiting, 1 MB
_OVERLOOKED_MS = 3_600_000
_GONE_MAX = 10_000  # names remembered as gone, 1 MB: for `penstock explain`
_TROUBLE_SECONDS = 60.0  # twice the longest pause between two passes that fail
_CAUSE_MAX = 2_000  # characters: a file's name may be in it


class LedgerUpkeep(Part):
    """Files that left the spool, files that nobody claims, workers that are silent."""

    def __init__(self, scripts: Scripts, lease_seconds: float) -> None:
        super().__init__(scripts)
        self._lease_ms = int(lease_seconds * 1000)
        self._looks_at = dict[str, float]()  # function → when to look for its note of trouble

    async def archived(self, names: Sequence[str], *, gone: bool = False) -> int:
        """Note files out of the spool, or `gone`; return how many were not noted before."""
        keys = ["json_files_processed", "json_files_rejected", "out_of_spool", "counters",
                "minutes", "gone"]  # fmt: skip
        noted = 0
        for at in range(0, len(names), FILES_A_CALL_MAX):
            joined = "/".join(names[at : at + FILES_A_CALL_MAX])
            noted += int(await self._scripts.run("archived", keys, [joined, gone * _GONE_MAX]))
        return noted

    async def forget(self) -> int:
        """Delete up to 500 notes of files that no listing can name any more; return how many."""
        args = [int(FORGET_AFTER_SECONDS * 1000), FILES_A_CALL_MAX]
        return int(await self._scripts.run("forget", ["out_of_spool"], args))

    async def sweep(self, sweeper: str, names: Sequence[str], spool_note: str = "") -> int | None:
        """Queue those of up to 500 names that nobody claims; None if somebody else sweeps.

        `sweeper` is the caller's token. `spool_note` is the note of the spool that the names were
        listed in; None is also returned if the ledger's spool has changed. Without names, only
        takes the sweeper's lease. A name is queued once it has been waiting for a lease's length.
        """
        keys = ["sweeper", "overlooked", "retry", "counters", "json_files_processing",
                "json_files_processed", "out_of_spool", "json_files_rejected",
                "spool_note"]  # fmt: skip
        args = [sweeper, self._lease_ms, self._lease_ms, _OVERLOOKED_MAX, "/".join(names),
                spool_note]  # fmt: skip
        swept = int(await self._scripts.run("sweep", keys, args))
        return None if swept < 0 else swept

    async def swept(self, sweeper: str, pause_seconds: float) -> None:
        """End a sweep; nobody begins another one before the pause is over."""
        await self._scripts.run("swept", ["sweeper"], [sweeper, int(pause_seconds * 1000)])

    async def free_orphans(self) -> int:
        """Queue files in no usable claim, after foreign writes to the ledger; return how many."""
        return await orphans(self._scripts, free=True)

    async def adopt(self) -> int:
        """Take over an older version's unfinished claims; return how many its workers hold."""
        args, held = [self._scripts.key("claim:")], -1
        while (left := int(await self._scripts.run("adopt", ["claims", "leases"], args))) != held:
            held = left
        return held

    async def correct(self) -> int:
        """Shorten times too far ahead, as after Redis's clock was; return how many."""
        corrected = 0
        while found := await late_times(self._scripts, correct=True):
            corrected += found
        if corrected:
            await self._shorten_answers()
            telemetry.warn(
                "clock.corrected", times=corrected, cause="Redis's clock was ahead, or went back",
                remedy="keep the clock of Redis's machine right: NTP",
            )  # fmt: skip
        return corrected

    async def _shorten_answers(self) -> None:
        """Shorten the expiry of remembered answers too; Redis keeps it as a time of day."""
        client: Any = self._scripts.client
        pattern = self._scripts.key("call:*")
        async for key in client.scan_iter(match=pattern, count=FILES_A_CALL_MAX):
            if await client.pttl(key) > REMEMBER_MS:
                await client.pexpire(key, REMEMBER_MS)

    async def trouble(self, what: str, cause: str) -> None:
        """Note why a function's last pass failed, for `penstock status`; empty if it succeeded.

        A good pass removes its own process's note at once. Once a minute it also removes another
        process's, if older than a minute: a process that still fails has written a new one.
        """
        key, client = self._scripts.key("troubles"), cast("Any", self._scripts.client)
        looks_at = self._looks_at.get(what)
        if not cause and looks_at is not None and time.monotonic() < looks_at:
            return
        at_ms = int(await self._scripts.run("now", ["counters"], []))
        if not cause:
            self._looks_at[what] = time.monotonic() + _TROUBLE_SECONDS
            noted_ms = number_or((await client.hget(key, what) or "").partition(" ")[0], 0)
            if looks_at is None or noted_ms < at_ms - 1000 * _TROUBLE_SECONDS:
                await client.hdel(key, what)
            return
        self._looks_at.pop(what, None)
        await client.hset(key, what, f"{at_ms} {socket.gethostname()} {cause[:_CAUSE_MAX]}")

    async def prune(self) -> int:
        """Forget workers not heard of for ten minutes; return how many."""
        keys = ["workers", "workers_since", "overlooked", "suspects", "claims_given"]
        return int(await self._scripts.run("prune", keys, [_WORKER_SILENT_MS, _OVERLOOKED_MS]))
