"""The ledger in Redis: who is processing which file, and which files are processed.

The life of a claim. Each verb is a script, lua/VERB.lua; all but `claim` compare the token:

    claim ──▶ trim ─ renew … ──▶ commit         its files become processed or rejected
      ▲         journal …  └──▶ release         expires at once, or later; keeps its journal
      │                    └──▶ (expires)       its worker is gone
      ├───────── taken over whole by any worker's next claim ◀──────┤
      └── isolate: smaller claims, where that has happened too often ◀┘

Every script is safe to run twice, because redis-py repeats a command whose reply was lost.
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
from penstock.ledger.given import Given
from penstock.ledger.lease import Lease
from penstock.ledger.loaders import LedgerLoaders
from penstock.ledger.overview import LedgerOverview
from penstock.ledger.reads import LedgerReads
from penstock.ledger.repairs import LedgerRepairs, said
from penstock.ledger.scripts import REMEMBER_MS, Part, Scripts, translate_redis_errors
from penstock.ledger.spool import LedgerSpool
from penstock.ledger.upkeep import LedgerUpkeep
from penstock.model import CLAIM_ID_BYTES, Claim, Settled

_ENTRIES_A_CALL_MAX = 1000  # of a journal: 1.3 ms of Redis; Lua unpacks no more than 8,000 values
_WAIT_MS_MAX = 30_000  # pause of a claim whose files cannot be read
_ISOLATE_MAX = 10  # worn claims that one call to `claim` splits
_INDEX = re.compile("[0-9]{1,15}")  # of a message; other fields are ignored
_THOUSANDS_MAX = 8  # of files in one worker's calls: 20 ms of Redis; smaller calls do not count
_FEW_FILES = 100  # a worn claim of more is split into parts of this size, a smaller one into files


class Answer(NamedTuple):
    """What `claim` returned: a claim or None, and the epoch of this Redis.

    `tried` is false if something else came first, so that no candidate was looked up. Of the first
    `looked_up` candidates, those at the positions `waiting` are unclaimed; the others belong to
    somebody. `free` is the share of them that belonged to nobody else, None if none was looked up.
    A new epoch means that Redis was wiped, or restored from an older snapshot. `losses`: how often
    it lacked some of this worker's last claims so far; `files_forgotten` were in such claims.
    `spool_moved`: the ledger's spool changed after the candidates were listed.
    """

    claim: Claim | None
    tried: bool
    epoch: str
    looked_up: int = 0
    waiting: Sequence[int] = ()
    free: float | None = None
    spool_moved: bool = False
    losses: int = 0
    files_forgotten: int = 0


class Expired(NamedTuple):
    """A claim that the checker took from its owner."""

    claim: str
    worker: str
    attempt: int
    overdue_seconds: float
    files: int


class Isolated(NamedTuple):
    """How many files of a split claim are processed, rejected, and in other claims."""

    processed: int
    rejected: int
    apart: int


class Ledger(Part):
    """The ledger of one spool, used by one worker, archiver or checker: the life of its claims.

    `reads` and `overview` change nothing. `upkeep` serves the archiver and the checker, `repairs`
    the operator. `loaders` counts the loaders in AWS Lambda. `spool` knows the files' directory.

    A claim stops sending `margin_seconds` before its lease ends: longer than one call to the queue
    takes. A claim taken over more than `takeovers_max` times is split. The rest is for tests.
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
        super().__init__(scripts)
        self.reads = LedgerReads(scripts)
        self.overview = LedgerOverview(scripts)
        self.upkeep = LedgerUpkeep(scripts, lease_seconds)
        self.repairs = LedgerRepairs(scripts)
        self.loaders = LedgerLoaders(scripts)
        self.spool = LedgerSpool(scripts)
        self._run = scripts.run
        self._thousands = asyncio.Semaphore(_THOUSANDS_MAX)
        self._next_call = asyncio.Lock()
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._lease_ms = int(lease_seconds * 1000)
        self._margin_seconds = margin_seconds
        self._takeovers_max = takeovers_max
        self._monotonic = monotonic
        self._sleep = sleep
        self._prefix = scripts.key("claim:")
        self._epoch = Epoch()
        self._claims_made = 0  # as Redis last said; if it later says fewer, it was restored
        self._given = Given(monotonic)
        self._rollbacks = 0

    def remember_in(self, file: Path) -> None:
        """Remember Redis's epoch in a file, so as to notice if Redis forgot everything."""
        self._epoch = Epoch(file)

    @property
    def epoch(self) -> str:
        """As in `Answer`; empty while unknown."""
        return self._epoch.name and f"{self._epoch.name}.{self._rollbacks}"

    async def open(self, *, may_evict: bool = False) -> None:
        """Check that this Redis can hold a ledger. Raises Again if it is away, else Halt.

        `may_evict` accepts a Redis that may forget files: for reading only.
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
        """Claim an expired claim; else the files due for a retry, and waiting `candidates`.

        A new claim has at most `files_max` files. It has at least `least`, unless a file has been
        due for `due_for_seconds`. Later owners get the same names in the same order, unless `trim`
        removed some.
        `fingerprint` stands for the settings that shape messages. `frontier` is the listing cursor
        up to which every file has been claimed. Any worker's will do: a slower one moves it back,
        which costs a listing, not a file. `spool_note` is the note of the spool in which the
        candidates were listed; under another note none is claimed.
        `Answer.claim` is None if there was nothing to claim. Splits worn claims that it meets.
        """
        number, answer = 0, Answer(None, tried=False, epoch="")
        for _ in range(_ISOLATE_MAX):
            worn, number, answer = await self._claim(
                candidates,
                [files_max, least, int(due_for_seconds * 1000)],
                fingerprint,
                frontier,
                spool_note,
            )
            if not worn:
                break
            await self.isolate(worn)
        forgotten = await self._count_forgotten()
        if answer.claim is not None and not await self._may_be_sent(answer.claim, number):
            await self.release(answer.claim, tried=False)
            raise Again(
                "ledger.claim: too few replicas of Redis confirmed a claim in time, so none of it"
                " was sent; check the replicas, or lower ledger.wait_replicas"
            )
        # As known now: another lane may have learned something since.
        losses = self._given.losses
        return answer._replace(epoch=self.epoch, losses=losses, files_forgotten=forgotten)

    async def _run_over(
        self, files: int, verb: str, keys: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        """Run a script over so many files when other lanes' calls leave room for it.

        Heartbeats, and other users of this Redis, need not wait for many large calls in a row.
        """
        thousands = min(files // 1000, _THOUSANDS_MAX)
        async with contextlib.AsyncExitStack() as room:
            # Else two calls could each wait for the other's room.
            async with self._next_call if thousands else contextlib.nullcontext():
                for _ in range(thousands):
                    await room.enter_async_context(self._thousands)
            return await self._run(verb, keys, args)

    async def _count_forgotten(self) -> int:
        """Count the files of our claims that Redis lacks; return how many. If it is away, later."""
        files, self._given.files_forgotten = self._given.files_forgotten, 0
        try:
            if files:
                await self._count("files_after_loss", files)
        except PenstockError:
            self._given.files_forgotten += files
            return 0
        return files

    @translate_redis_errors
    async def _count(self, counter: str, by: int) -> None:
        counters = self._scripts.key("counters")
        await self._scripts.client.hincrby(counters, counter, by)

    async def _may_be_sent(self, claim: Claim, number: int) -> bool:
        """Tell whether enough replicas have a claim; note its files, because they are sent."""
        is_replicated = await self._scripts.replicated(claim.id, claim.token)
        if number:
            self._given.add(number, len(claim.names) * is_replicated)
        return is_replicated

    async def _claim(
        self,
        candidates: Sequence[str],
        bounds: Sequence[int],
        fingerprint: str,
        frontier: str,
        spool_note: str,
    ) -> tuple[str, int, Answer]:
        """Return the id of a worn claim if one came first, the new claim's number, and the answer.

        The id is empty if there is none, and the number 0.
        """
        new, token = secrets.token_hex(CLAIM_ID_BYTES), secrets.token_hex(16)
        seen = self._claims_made  # before the call: answers to other lanes may overtake this one
        known = self._given.known()
        args: list[str | int] = [
            self._prefix, new, token, self._worker, fingerprint, self._lease_ms, REMEMBER_MS,
            bounds[0], self._takeovers_max, frontier, self._epoch.name, seen, "/".join(candidates),
            *bounds[1:], spool_note, known[0],
        ]  # fmt: skip
        kind, epoch, made, given, *rest = await self._run_over(
            min(len(candidates), bounds[0]),
            "claim",
            ["leases", "json_files_processing", "json_files_processed", "out_of_spool",
             "json_files_rejected", "retry", "counters", "epoch", "workers", "workers_since",
             "suspects", "frontier", f"call:{token}", f"claim:{new}", "put_back", "minutes",
             "spool_note", "claims_given"],
            args,
        )  # fmt: skip
        self._note_losses(epoch, (int(made), seen), (int(given), known))
        # Another lane's later answer may have arrived before this one.
        self._claims_made = max(self._claims_made, int(made) + (kind == "made"))
        answer = Answer(None, tried=False, epoch=self.epoch)
        if kind == "worn":
            return rest[0], 0, answer
        if kind in {"late", "moved"}:
            return "", 0, answer._replace(spool_moved=kind == "moved")
        if kind == "none":
            waiting = _positions(rest[0])
            looked_up = len(candidates)
            free = len(waiting) / looked_up if looked_up else None
            answer = answer._replace(tried=True, looked_up=looked_up, waiting=waiting, free=free)
            return "", 0, answer
        if kind == "made":
            left, taken, due, looked_up, *put_back = rest
            names = [*due.split("/")] if due else []
            if isinstance(taken, int):  # the first ones
                names += candidates[:taken]
            else:
                names += [candidates[at] for at in _positions(taken)]
            claim = Claim(new, token, tuple(names), 1, {}, fingerprint, put_back=said(put_back))
            waiting = _positions(left)
            fresh = len(names) - due.count("/") - bool(due)
            free = (fresh + len(waiting)) / looked_up if looked_up else None
            answer = answer._replace(
                claim=claim, tried=True, looked_up=looked_up, waiting=waiting, free=free
            )
            return "", int(given) + 1, answer
        claim_id, attempt, noted_under, joined, tried, waits, done, *put_back = rest
        noted = await self._noted(claim_id, "journal")
        journal = {**await self._noted(claim_id, "earlier"), **noted}
        claim = Claim(
            claim_id, token, tuple(joined.split("/")), int(attempt),
            {index: entry.split(" ", 1)[0] for index, entry in journal.items()}, noted_under,
            noted=noted, tried=bool(tried), waits=int(waits), done=done, put_back=said(put_back),
        )  # fmt: skip
        number = int(given) + 1 if kind == "taken_over" else 0
        return "", number, answer._replace(claim=claim)

    async def _noted(self, claim_id: str, which: str) -> dict[int, str]:
        """Return what owners of a claim had confirmed: message index to entry.

        Reads in pages, because each record may be a message. Nobody changes it meanwhile.
        """
        key = self._scripts.key(f"claim:{claim_id}:{which}")
        client = cast("Any", self._scripts.client)
        noted: dict[int, str] = {}
        cursor = -1
        while cursor:
            cursor, page = await client.hscan(key, max(cursor, 0), count=_ENTRIES_A_CALL_MAX)
            noted |= {int(index): entry for index, entry in page.items() if _INDEX.fullmatch(index)}
        return noted

    def _note_losses(
        self, epoch: str, made: tuple[int, int], given: tuple[int, tuple[int, int]]
    ) -> None:
        """Change the epoch if Redis lacks claims of which we cannot say how many files they had.

        `made` and `given` are what it says of all workers' claims and of ours, each with what we
        knew before the call.
        """
        claims_made, seen = made
        if epoch != self._epoch.name:  # wiped, or our first call
            self._epoch.begins(epoch)
            self._claims_made = claims_made
            self._given.start_over()
            return
        forgot = self._given.is_forgotten(*given)
        if forgot or claims_made < seen <= self._claims_made:
            self._claims_made = claims_made
            is_counted = forgot and self._given.are_all_counted(given[0])
            is_counted &= seen - claims_made <= given[1][0] - given[0]  # ours, and nobody else's
            self._rollbacks += not is_counted

    @contextlib.asynccontextmanager
    async def holding(self, claim: Claim, since_seconds: float) -> AsyncGenerator[Lease]:
        """Renew a claim's lease while the caller works on it, every third of the lease.

        `since_seconds` is the monotonic time just before `claim` was called; the real lease ends
        no earlier than counted from there. A refusal loses the lease. While Redis is away, the
        lease runs out.
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

    async def renew(self, claim: Claim) -> bool:
        """Restart the lease; False if somebody else owns the claim."""
        keys = ["leases", f"claim:{claim.id}", "counters"]
        return bool(await self._run("renew", keys, [claim.id, claim.token, self._lease_ms]))

    async def trim(self, claim: Claim, files: int) -> bool:
        """Give back all but the first `files` of a claim; False if somebody else owns it.

        They are due at once, for anybody. Call it only before the first message is sent, because
        message ids depend on the names of all files in the claim. With 0 files the claim ends.
        """
        keys = ["leases", "json_files_processing", "retry", "counters", f"claim:{claim.id}",
                f"call:{claim.token}"]  # fmt: skip
        length = len("/".join(claim.names[:files]))
        args = [claim.id, claim.token, files, REMEMBER_MS, length]
        return bool(await self._run("trim", keys, args))

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

    async def commit(self, claim: Claim, settled: Settled) -> bool:
        """Make the claim's files processed, or as `settled` says; False if it is not ours."""
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

        `tried`: something may have been sent. `waits_for` says why some of its files cannot be
        read. Then nobody gets it for a while, longer each time, and the files at the positions
        `processed`, given as ranges, become processed now. `possible_repeats` are counted.
        """
        keys = ["leases", f"claim:{claim.id}", f"call:{claim.token}", "counters",
                "json_files_processing", "json_files_processed", "minutes", "put_back"]  # fmt: skip
        pause_ms = min(1000 << min(claim.waits, 10), _WAIT_MS_MAX)
        args = [claim.id, claim.token, REMEMBER_MS, int(tried), waits_for, pause_ms, processed,
                possible_repeats]  # fmt: skip
        return bool(await self._run("release", keys, args))

    async def expire(self) -> Sequence[Expired]:
        """Take up to 100 expired claims from their owners, [] if none; `claim` takes them over."""
        keys = ["leases", "counters", f"call:{secrets.token_hex(16)}"]
        rows = json.loads(await self._run("expire", keys, [self._prefix, 100, REMEMBER_MS]))
        return [
            Expired(claim, worker, attempt, overdue_ms / 1000, files)
            for claim, worker, attempt, overdue_ms, files in rows
        ]

    async def isolate(self, claim_id: str) -> Isolated:
        """Split an expired claim that was taken over too often; zeros if it was not."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        keys = ["leases", "json_files_processing", "json_files_processed", "json_files_rejected",
                "counters", f"claim:{claim_id}", f"call:{claim_id}", "put_back"]  # fmt: skip
        args = [claim_id, self._prefix, self._takeovers_max, at, REMEMBER_MS, _FEW_FILES]
        isolated = Isolated(*json.loads(await self._run("isolate", keys, args)))
        if any(isolated):
            telemetry.warn("claim.isolated", claim=claim_id, **isolated._asdict())
        return isolated

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.close()


def _positions(indexes: str) -> list[int]:
    """Return positions, from 0, of a script's indexes: from 1, joined by commas."""
    return [int(index) - 1 for index in indexes.split(",")] if indexes else []
