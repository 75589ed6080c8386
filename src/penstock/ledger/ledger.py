"""The ledger: Redis, which knows who is processing which file, and which are processed.

A claim's life, one script (lua/*.lua) a verb; every verb but `claim` compares the token:

    claim ──▶ trim ─ renew … ──▶ commit         its files become processed or rejected
      ▲         journal …  └──▶ release         expires at once, or later; keeps its journal
      │                    └──▶ (expires)       its worker is gone
      ├───────── taken over whole by any worker's next claim ◀──────┤
      └── isolate: smaller claims, where that has happened too often ◀┘

Every script is safe to run twice: redis-py sends a command again when its reply was lost.
"""

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from penstock import telemetry
from penstock.errors import Again, PenstockError
from penstock.ledger.epoch import Epoch
from penstock.ledger.lease import Lease
from penstock.ledger.loaders import LedgerLoaders
from penstock.ledger.overview import LedgerOverview
from penstock.ledger.reads import LedgerReads
from penstock.ledger.repairs import LedgerRepairs, said
from penstock.ledger.scripts import REMEMBER_MS, Scripts, translate_redis_errors
from penstock.ledger.spool import LedgerSpool
from penstock.ledger.upkeep import LedgerUpkeep
from penstock.model import CLAIM_ID_BYTES, Claim, Settled

_ENTRIES_A_CALL_MAX = 1000  # of a journal: 1.3 ms of Redis; Lua unpacks no more than 8,000 values
_WAIT_MS_MAX = 30_000  # of a claim whose files cannot be read: someone may be fixing that
_ISOLATE_MAX = 10  # worn claims that one call to `claim` deals with
_INDEX = re.compile("[0-9]{1,15}")  # of a message; another field is nobody's
_MANY_FILES = 1000  # one script over more takes 3 ms of Redis or longer
_FEW_FILES = 100  # of a worn claim: it is split into single files; a larger one into parts of these


class Answer(NamedTuple):
    """What `claim` gave: a claim or none, and the epoch of this Redis.

    `tried` is false if the candidates were not looked at, because something else came first.
    `waiting` are the positions of those that are not claimed and, as far as they were looked at,
    waiting; who the others belong to is known. `free` is the part of those looked at that nobody
    had, None where none was. Another epoch than before means that Redis has forgotten
    something since: it was wiped, or restored from an older snapshot. `spool_moved`: another
    directory has become the ledger's spool since the candidates were listed.
    """

    claim: Claim | None
    tried: bool
    epoch: str
    waiting: Sequence[int] = ()
    free: float | None = None
    spool_moved: bool = False


class Expired(NamedTuple):
    """A claim that the checker took from its owner."""

    claim: str
    worker: str
    attempt: int
    overdue_seconds: float
    files: int


class Isolated(NamedTuple):
    """What became of the files of a claim that was split: how many of each."""

    processed: int
    rejected: int
    apart: int


class Ledger:
    """The ledger of one spool, as one worker, archiver or checker uses it: the life of its claims.

    Beside that: `reads` and `overview` only look, `upkeep` is what archiver and checker do,
    `repairs` what an operator does, `loaders` counts those in AWS Lambda, `spool` knows which
    directory the files lie in.

    `margin_seconds` is how long before the end of its lease a claim stops sending: longer than one
    call to the queue takes. A claim taken over more often than `takeovers_max` is split. The
    rest is for tests.
    """

    def __init__(
        self,
        scripts: Scripts,
        *,
        worker: str,
        lease_seconds: float,
        margin_seconds: float,
        takeovers_max: int = 3,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.reads = LedgerReads(scripts)
        self.overview = LedgerOverview(scripts)
        self.upkeep = LedgerUpkeep(scripts, lease_seconds)
        self.repairs = LedgerRepairs(scripts)
        self.loaders = LedgerLoaders(scripts)
        self.spool = LedgerSpool(scripts)
        self._scripts = scripts
        self._run = scripts.run
        self._long = asyncio.Lock()
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._lease_ms = int(lease_seconds * 1000)
        self._margin_seconds = margin_seconds
        self._takeovers_max = takeovers_max
        self._monotonic = monotonic
        self._sleep = sleep
        self._prefix = scripts.key("claim:")
        self._epoch = Epoch()
        self._claims_made = 0  # as Redis last said; fewer than that later, and it has gone back
        self._rollbacks = 0

    def remember_in(self, file: Path) -> None:
        """Know from a file whether Redis forgot everything since, and have it kept there."""
        self._epoch = Epoch(file)

    @property
    def epoch(self) -> str:
        """As in `Answer`; empty while unknown."""
        return self._epoch.name and f"{self._epoch.name}.{self._rollbacks}"

    @translate_redis_errors
    async def open(self, *, may_evict: bool = False) -> None:
        """Check that this Redis can hold a ledger. Raises Again if it is away, else Halt.

        With `may_evict`, one that may forget files will do: for a look at it.
        """
        await self._scripts.check(may_evict=may_evict)

    async def claim(
        self,
        candidates: Sequence[str],
        files_max: int,
        *,
        least: int = 1,
        due_for_seconds: float = 0.0,
        fingerprint: str = "",
        frontier: str = "",
        spool_note: str = "",
    ) -> Answer:
        """Claim an expired claim, else files due for a retry, and with them waiting `candidates`.

        A new claim has `files_max` files or fewer, but none is made of fewer than `least`, unless
        one has been due for `due_for_seconds`. Who holds it later gets the same names in the
        same order, if `trim` has not cut them.
        `fingerprint` stands for the settings that shape messages. `frontier` is the listing cursor
        up to which every file has been claimed; any worker's will do: a slower one moves it back,
        which costs a listing, not a file. `spool_note` is the note under which the ledger knew the
        spool when the candidates were listed; none of them is claimed under another one.
        `Answer.claim` is None if there was nothing to claim. Claims that wore out their workers are
        split on the way.
        """
        answer = Answer(None, tried=False, epoch="")
        for _ in range(_ISOLATE_MAX):
            worn, answer = await self._claim(
                candidates,
                [files_max, least, int(due_for_seconds * 1000)],
                fingerprint,
                frontier,
                spool_note,
            )
            if not worn:
                break
            await self.isolate(worn)
        if answer.claim is not None and not await self._replicated():
            await self.release(answer.claim, tried=False)
            raise Again(
                "ledger.claim: too few replicas of Redis confirmed a claim in time, nothing of it"
                " was sent; see ledger.wait_replicas, and the replicas"
            )
        return answer

    async def _run_over(
        self, files: int, verb: str, keys: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        """Run a script over so many files; of those over many, one at a time for all lanes.

        What else asks Redis, a heartbeat or a bystander, waits behind all that came before it.
        """
        async with self._long if files > _MANY_FILES else contextlib.nullcontext():
            return await self._run(verb, keys, args)

    @translate_redis_errors
    async def _replicated(self) -> bool:
        return await self._scripts.replicated()

    @translate_redis_errors
    async def _claim(
        self,
        candidates: Sequence[str],
        bounds: Sequence[int],
        fingerprint: str,
        frontier: str,
        spool_note: str,
    ) -> tuple[str, Answer]:
        """Return the id of a worn claim that came first, if one did, and the answer."""
        new, token = secrets.token_hex(CLAIM_ID_BYTES), secrets.token_hex(16)
        seen = self._claims_made  # before the call: answers to other lanes may overtake this one
        args: list[str | int] = [
            self._prefix, new, token, self._worker, fingerprint, self._lease_ms, REMEMBER_MS,
            bounds[0], self._takeovers_max, frontier, self._epoch.name, seen, "/".join(candidates),
            *bounds[1:], spool_note,
        ]  # fmt: skip
        kind, epoch, made, *rest = await self._run_over(
            len(candidates),
            "claim",
            ["leases", "json_files_processing", "json_files_processed", "out_of_spool",
             "json_files_rejected", "retry", "counters", "epoch", "workers", "workers_since",
             "suspects", "frontier", f"call:{token}", f"claim:{new}", "put_back", "minutes",
             "spool_note"],
            args,
        )  # fmt: skip
        epoch = self._in_epoch(epoch, int(made), seen)
        # A later answer may have come first.
        self._claims_made = max(self._claims_made, int(made) + (kind == "made"))
        if kind == "worn":
            return rest[0], Answer(None, tried=False, epoch=epoch)
        if kind in {"late", "moved"}:
            return "", Answer(None, tried=False, epoch=epoch, spool_moved=kind == "moved")
        if kind == "none":
            waiting = _positions(rest[0])
            free = len(waiting) / len(candidates) if candidates else None
            return "", Answer(None, tried=True, epoch=epoch, waiting=waiting, free=free)
        if kind == "made":
            left, taken, due, looked, *put_back = rest
            names = [*due.split("/")] if due else []
            if isinstance(taken, int):  # the first ones
                names += candidates[:taken]
            else:
                names += [candidates[at] for at in _positions(taken)]
            claim = Claim(new, token, tuple(names), 1, {}, fingerprint, put_back=said(put_back))
            waiting = _positions(left)
            fresh = len(names) - due.count("/") - bool(due)
            free = (fresh + len(waiting)) / looked if looked else None
            waiting = [*waiting, *range(looked, len(candidates))]
            return "", Answer(claim, tried=True, epoch=epoch, waiting=waiting, free=free)
        claim_id, attempt, noted_under, joined, tried, waits, done, *put_back = rest
        noted = await self._noted(claim_id, "journal")
        journal = {**await self._noted(claim_id, "earlier"), **noted}
        claim = Claim(
            claim_id, token, tuple(joined.split("/")), int(attempt),
            {index: entry.split(" ", 1)[0] for index, entry in journal.items()}, noted_under,
            noted=noted, tried=bool(tried), waits=int(waits), done=done, put_back=said(put_back),
        )  # fmt: skip
        return "", Answer(claim, tried=False, epoch=epoch)

    async def _noted(self, claim_id: str, which: str) -> dict[int, str]:
        """Return what owners of a claim had confirmed: message index to entry.

        In pages, because there may be a message a record: nobody else changes it meanwhile.
        """
        key = self._scripts.key(f"claim:{claim_id}:{which}")
        client = cast("Any", self._scripts.client)
        noted: dict[int, str] = {}
        cursor = -1
        while cursor:
            cursor, page = await client.hscan(key, max(cursor, 0), count=_ENTRIES_A_CALL_MAX)
            noted |= {int(index): entry for index, entry in page.items() if _INDEX.fullmatch(index)}
        return noted

    def _in_epoch(self, epoch: str, claims_made: int, seen: int) -> str:
        """Return what stands for this Redis having forgotten nothing, as far as we can know."""
        if epoch != self._epoch.name:  # wiped, or our first call
            self._epoch.begins(epoch)
            self._claims_made = claims_made
        elif claims_made < seen <= self._claims_made:  # restored from a snapshot
            self._rollbacks += 1
            self._claims_made = claims_made
        return self.epoch

    @contextlib.asynccontextmanager
    async def holding(self, claim: Claim, since_seconds: float) -> AsyncGenerator[Lease]:
        """Keep a claim's lease alive while the caller works on it.

        `since_seconds` is the monotonic time just before `claim` was called: the lease is at least
        as long as it looks from there. Renews every third of the lease; a refusal loses the lease,
        and while Redis is away the lease simply runs out.
        """
        usable_seconds = self._lease_seconds - self._margin_seconds
        lease = Lease(since_seconds + usable_seconds)

        async def heartbeat() -> None:
            while True:
                await self._sleep(self._lease_seconds / 3)
                began = self._monotonic()
                with contextlib.suppress(PenstockError):
                    if not await self.renew(claim):
                        lease.lost(claim)
                        return
                    lease.send_before_seconds = began + usable_seconds

        beating = asyncio.create_task(heartbeat())
        try:
            yield lease
        finally:
            beating.cancel()

    @translate_redis_errors
    async def renew(self, claim: Claim) -> bool:
        """Start the lease anew; False if somebody else owns the claim."""
        keys = ["leases", f"claim:{claim.id}", "counters"]
        return bool(await self._run("renew", keys, [claim.id, claim.token, self._lease_ms]))

    @translate_redis_errors
    async def trim(self, claim: Claim, files: int) -> bool:
        """Give back all but the first `files` of a claim; False if somebody else owns it.

        They are due at once, for anybody. Only before the first message is sent: messages bear the
        names of all files of their claim in their ids. With 0 files left the claim is over.
        """
        keys = ["leases", "json_files_processing", "retry", "counters", f"claim:{claim.id}",
                f"call:{claim.token}"]  # fmt: skip
        return bool(
            await self._run_over(
                len(claim.names), "trim", keys, [claim.id, claim.token, files, REMEMBER_MS]
            )
        )

    @translate_redis_errors
    async def journal(self, claim: Claim, confirmed: Mapping[int, str]) -> bool:
        """Note confirmed messages, index to entry; False if somebody else owns the claim.

        An entry is the message's id, a space, and the positions of the claim's files that are
        complete once this message and all before it are confirmed: `ID 0-41,43-43`; for more, see
        `ClaimOutcome.journal_entry`.
        """
        keys = [f"claim:{claim.id}", "counters"]
        parts = [f"{index}/{entry}" for index, entry in confirmed.items()]
        for at in range(0, len(parts), _ENTRIES_A_CALL_MAX):
            joined = "/".join(parts[at : at + _ENTRIES_A_CALL_MAX])
            if not await self._run("journal", keys, [claim.token, joined, int(claim.goes_on)]):
                return False
        await self._scripts.replicated()
        return True

    @translate_redis_errors
    async def commit(self, claim: Claim, settled: Settled) -> bool:
        """Make the claim's files processed, or what `settled` says; False if it is not ours."""
        flat, delays = itertools.chain.from_iterable, settled.retry_seconds.items()
        counters = flat((name, by) for name, by in settled.counters.items() if by)
        keys = ["leases", "json_files_processing", "json_files_processed", "json_files_rejected",
                "retry", "counters", f"claim:{claim.id}", f"call:{claim.token}", "minutes",
                "put_back"]  # fmt: skip
        args: list[str | int] = [claim.id, claim.token, REMEMBER_MS]
        args += [len(settled.vanished), *settled.vanished]
        args += [len(settled.rejected), *flat(settled.rejected.items())]
        args += [len(delays), *flat((name, int(seconds * 1000)) for name, seconds in delays)]
        args += counters
        is_ours = bool(await self._run_over(len(claim.names), "commit", keys, args))
        await self._scripts.replicated()
        return is_ours

    @translate_redis_errors
    async def release(
        self,
        claim: Claim,
        *,
        tried: bool = True,
        waits_for: str = "",
        processed: str = "",
        possible_repeats: int = 0,
    ) -> bool:
        """Give the claim back, journal kept; False if somebody else owns it.

        `tried`: something may have been sent. `waits_for` is why files of it cannot be read: then
        it is given to nobody for a while, longer each time, and its files at the positions
        `processed`, as ranges, become so without the others. `possible_repeats` are counted.
        """
        keys = ["leases", f"claim:{claim.id}", f"call:{claim.token}", "counters",
                "json_files_processing", "json_files_processed", "minutes", "put_back"]  # fmt: skip
        pause_ms = min(1000 << min(claim.waits, 10), _WAIT_MS_MAX)
        args = [claim.id, claim.token, REMEMBER_MS, int(tried), waits_for, pause_ms, processed,
                possible_repeats]  # fmt: skip
        return bool(await self._run("release", keys, args))

    @translate_redis_errors
    async def expire(self) -> Sequence[Expired]:
        """Take expired claims from owners that are gone; at most 100 a call, [] when none is left.

        Each stays, expired, until a worker's next `claim` takes it over.
        """
        keys = ["leases", "counters", f"call:{secrets.token_hex(16)}"]
        rows = json.loads(await self._run("expire", keys, [self._prefix, 100, REMEMBER_MS]))
        return [
            Expired(claim, worker, attempt, overdue_ms / 1000, files)
            for claim, worker, attempt, overdue_ms, files in rows
        ]

    @translate_redis_errors
    async def isolate(self, claim_id: str) -> Isolated:
        """Split an expired claim that was taken over too often; zeros if that is not so (now)."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        keys = ["leases", "json_files_processing", "json_files_processed", "json_files_rejected",
                "counters", f"claim:{claim_id}", f"call:{claim_id}", "put_back"]  # fmt: skip
        args = [claim_id, self._prefix, self._takeovers_max, at, REMEMBER_MS, _FEW_FILES]
        isolated = Isolated(*json.loads(await self._run("isolate", keys, args)))
        if any(isolated):
            telemetry.warn("claim.isolated", claim=claim_id, **isolated._asdict())
        return isolated

    async def close(self) -> None:
        """Close the connections; nothing is called afterwards."""
        await self._scripts.close()


def _positions(indexes: str) -> list[int]:
    """Return the positions, from 0, that a script told as indexes from 1, joined by commas."""
    return [int(index) - 1 for index in indexes.split(",")] if indexes else []
