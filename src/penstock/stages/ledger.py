"""The ledger: Redis, which knows who is processing which file, and which are processed.

A claim's life, one script (ledger_*.lua) a verb; every verb but `claim` compares the token:

    claim ──▶ renew … renew ──▶ commit          its files become processed or rejected
      ▲         journal …  └──▶ release         expires at once, keeps its journal
      │                    └──▶ (expires)       its worker is gone
      └───────── taken over whole by any worker's next claim ◀──────┘

Every script is safe to run twice: redis-py sends a command again when its reply was lost.
"""

import asyncio
import contextlib
import functools
import math
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import redis.asyncio as redis
from redis import exceptions as failed

from penstock.errors import Again, Halt
from penstock.model import LISTING_SECONDS_MAX, Claim, Settled

FORGET_AFTER_SECONDS = 2 * LISTING_SECONDS_MAX
"""A file out of the spool is remembered for so long, so no listing in use can still name it."""

_REMEMBER_MS = 600_000  # the answer to a token: far longer than any client goes on re-sending
_FILES_A_CALL_MAX = 500  # keeps every script near 1 ms, in which Redis serves nobody else
_STATES = ("processing", "processed", "archived", "rejected", "retry")

P = ParamSpec("P")
T = TypeVar("T")


class Answer(NamedTuple):
    """What `claim` gave: a claim or none, and the epoch of this Redis.

    `tried` is false if the candidates were not looked at, because something else came first.
    Another epoch than before means that Redis has forgotten everything since.
    """

    claim: Claim | None
    tried: bool
    epoch: str


class Expired(NamedTuple):
    """A claim that the checker took from its owner."""

    claim: str
    worker: str
    attempt: int
    overdue_seconds: float
    files: int


class Lease:
    """A worker's own view of its claim's lease, on its monotonic clock."""

    def __init__(self, send_before_seconds: float) -> None:
        self.send_before_seconds = send_before_seconds
        self.is_lost = False

    def send_before(self) -> float:
        """Return the monotonic time in seconds after which nothing may be sent any more."""
        return self.send_before_seconds

    def lost(self, claim: Claim) -> Again:
        """Note that the claim has another owner, and return the error that says so."""
        self.is_lost = True
        self.send_before_seconds = -math.inf
        return Again(f"claim {claim.id} has another owner now: its lease ran out or it was freed")


def _plainly(operation: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Turn redis-py's errors into ours: what may pass is Again, what a person must mend is Halt."""

    @functools.wraps(operation)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        verb = f"ledger.{operation.__name__}"
        try:
            return await operation(*args, **kwargs)
        except (failed.AuthenticationError, failed.NoPermissionError) as error:
            raise Halt(f"{verb}: Redis refuses us: {error}; see ledger.url") from None
        except failed.OutOfMemoryError as error:
            raise Again(f"{verb}: Redis is full: {error}; give it memory (maxmemory)") from None
        except (failed.ReadOnlyError, failed.BusyLoadingError, failed.TryAgainError) as error:
            raise Again(f"{verb}: Redis is not ready: {error}") from None
        except (failed.ConnectionError, failed.TimeoutError, OSError) as error:
            raise Again(f"{verb}: Redis cannot be reached: {error}; see ledger.url") from None
        except failed.RedisError as error:
            raise Halt(f"{verb}: Redis answers with an error: {error}") from None

    return wrapped


class Ledger:
    """The ledger of one spool, as one worker, archiver or checker uses it.

    `client` decodes answers to text. `margin_seconds` is how long before the end of its lease a
    claim stops sending: longer than one call to the queue takes.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        spool: str,
        worker: str,
        lease_seconds: float,
        margin_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._lease_ms = int(lease_seconds * 1000)
        self._margin_seconds = margin_seconds
        self._monotonic = monotonic
        self._prefix = f"penstock:{{{spool}}}:"
        self._claims = self._key("claims")
        self._processing = self._key("json_files_processing")
        self._processed = self._key("json_files_processed")
        self._out_of_spool = self._key("out_of_spool")
        self._rejected = self._key("json_files_rejected")
        self._retry = self._key("retry")
        self._counters = self._key("counters")
        self._epoch = self._key("epoch")
        scripts = resources.files("penstock.stages")
        clock = scripts.joinpath("ledger_clock.lua").read_text()

        def script(verb: str) -> Callable[..., Awaitable[Any]]:
            return client.register_script(
                clock + scripts.joinpath(f"ledger_{verb}.lua").read_text()
            )

        self._claim = script("claim")
        self._renew = script("renew")
        self._note = script("journal")
        self._settle = script("commit")
        self._give_back = script("release")
        self._expire = script("expire")
        self._archive = script("archived")
        self._forget = script("forget")

    def _key(self, name: str) -> str:
        return self._prefix + name

    @_plainly
    async def open(self) -> None:
        """Check that this Redis can hold a ledger. Raises Again if it is away, Halt if it cannot.

        An eviction policy other than noeviction would let Redis forget files under memory pressure.
        """
        info = await self._client.info()
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise Halt(
                f"ledger.url: this Redis has maxmemory-policy {policy} and would forget files when"
                " it is full; allowed: CONFIG SET maxmemory-policy noeviction"
            )
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < (6, 2):
            raise Halt(
                f"ledger.url: this Redis is {info['redis_version']}; allowed: 6.2 or newer, or"
                " Valkey (the scripts use ZMSCORE)"
            )

    @_plainly
    async def claim(self, candidates: Sequence[str], files_max: int) -> Answer:
        """Claim an expired claim, else files due for a retry, else the waiting `candidates`.

        At most 500 candidates. The claim is frozen: whoever holds it later gets the same names in
        the same order. `Answer.claim` is None if there was nothing to claim.
        """
        new, token = secrets.token_hex(12), secrets.token_hex(16)
        answer = await self._claim(
            keys=[
                self._claims,
                self._processing,
                self._processed,
                self._out_of_spool,
                self._rejected,
                self._retry,
                self._counters,
                self._epoch,
                self._key(f"call:{token}"),
                self._key(f"claim:{new}"),
            ],
            args=[
                self._key("claim:"), new, token, self._worker, self._lease_ms, _REMEMBER_MS,
                files_max, *candidates,
            ],
        )  # fmt: skip
        kind, epoch = answer[0], answer[1]
        if kind == "none":
            return Answer(None, tried=True, epoch=epoch)
        if kind == "all":
            return Answer(Claim(new, token, tuple(candidates), 1, {}), tried=True, epoch=epoch)
        if kind == "some":
            names = tuple(candidates[int(index) - 1] for index in answer[2].split(","))
            return Answer(Claim(new, token, names, 1, {}), tried=True, epoch=epoch)
        claim_id, attempt, joined = answer[2:5]
        rest = iter(answer[5:])
        journal = {int(index): message_id for index, message_id in zip(rest, rest, strict=True)}
        claim = Claim(claim_id, token, tuple(joined.split("/")), int(attempt), journal)
        return Answer(claim, tried=False, epoch=epoch)

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
                await asyncio.sleep(self._lease_seconds / 3)
                began = self._monotonic()
                with contextlib.suppress(Again):
                    if not await self.renew(claim):
                        lease.lost(claim)
                        return
                    lease.send_before_seconds = began + usable_seconds

        beating = asyncio.create_task(heartbeat())
        try:
            yield lease
        finally:
            beating.cancel()

    @_plainly
    async def renew(self, claim: Claim) -> bool:
        """Start the lease anew; False if somebody else owns the claim."""
        keys = [self._claims, self._key(f"claim:{claim.id}"), self._counters]
        return bool(await self._renew(keys=keys, args=[claim.id, claim.token, self._lease_ms]))

    @_plainly
    async def journal(self, claim: Claim, confirmed: Mapping[int, str]) -> bool:
        """Note confirmed messages, index to id; False if somebody else owns the claim."""
        keys = [self._key(f"claim:{claim.id}"), self._counters]
        pairs = [part for pair in confirmed.items() for part in pair]
        return bool(await self._note(keys=keys, args=[claim.token, *pairs]))

    @_plainly
    async def commit(self, claim: Claim, settled: Settled) -> bool:
        """Make the claim's files processed, or what `settled` says; False if it is not ours."""
        rejected = [part for pair in settled.rejected.items() for part in pair]
        retry = [
            part
            for name, seconds in settled.retry_seconds.items()
            for part in (name, int(seconds * 1000))
        ]
        counters = [part for pair in settled.counters.items() if pair[1] for part in pair]
        keys = [
            self._claims,
            self._processing,
            self._processed,
            self._rejected,
            self._retry,
            self._counters,
            self._key(f"claim:{claim.id}"),
            self._key(f"call:{claim.token}"),
        ]
        args: list[str | int] = [claim.id, claim.token, _REMEMBER_MS]
        args += [len(settled.vanished), *settled.vanished]
        args += [len(settled.rejected), *rejected]
        args += [len(settled.retry_seconds), *retry, *counters]
        return bool(await self._settle(keys=keys, args=args))

    @_plainly
    async def release(self, claim: Claim) -> bool:
        """Give the claim back, journal kept; False if somebody else owns it."""
        keys = [
            self._claims,
            self._key(f"claim:{claim.id}"),
            self._key(f"call:{claim.token}"),
            self._counters,
        ]
        return bool(await self._give_back(keys=keys, args=[claim.id, claim.token, _REMEMBER_MS]))

    @_plainly
    async def expire(self) -> Sequence[Expired]:
        """Take expired claims from owners that are gone; at most 100 a call, [] when none is left.

        Each stays, expired, until a worker's next `claim` takes it over.
        """
        flat = await self._expire(
            keys=[self._claims, self._counters], args=[self._key("claim:"), 100]
        )
        return [
            Expired(
                flat[i], flat[i + 1], int(flat[i + 2]), int(flat[i + 3]) / 1000, int(flat[i + 4])
            )
            for i in range(0, len(flat), 5)
        ]

    @_plainly
    async def processed(self, skip: int) -> Sequence[str]:
        """Return the up to 500 names longest processed and still in the spool, after `skip`."""
        last = skip + _FILES_A_CALL_MAX - 1
        return cast("list[str]", await self._client.zrange(self._processed, skip, last))

    @_plainly
    async def rejected(self, cursor: int) -> tuple[int, Mapping[str, str]]:
        """Return the next cursor and some rejected files still in the spool: name to JSON.

        Begins with cursor 0 and ends when 0 comes back; a name may come twice.
        """
        scanned = await self._client.hscan(self._rejected, cursor, count=_FILES_A_CALL_MAX)
        return cast("tuple[int, dict[str, str]]", scanned)

    @_plainly
    async def archived(self, names: Sequence[str]) -> int:
        """Note that files are out of the spool; return how many were not noted before."""
        keys = [self._processed, self._rejected, self._out_of_spool, self._counters]
        return int(await self._archive(keys=keys, args=list(names)))

    @_plainly
    async def forget(self) -> int:
        """Let go of up to 500 files that no listing can name any more; return how many."""
        args = [int(FORGET_AFTER_SECONDS * 1000), _FILES_A_CALL_MAX]
        return int(await self._forget(keys=[self._out_of_spool], args=args))

    @_plainly
    async def counters(self) -> dict[str, int]:
        """Return what has been counted since this ledger began, by name."""
        counted = cast("dict[str, str]", await self._client.hgetall(self._counters))
        return {name: int(value) for name, value in counted.items()}

    @_plainly
    async def sizes(self) -> dict[str, int]:
        """Return how many files are in each state, and how many claims there are."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hlen(self._processing)
            pipe.zcard(self._processed)
            pipe.zcard(self._out_of_spool)
            pipe.hlen(self._rejected)
            pipe.zcard(self._retry)
            pipe.zcard(self._claims)
            counts = cast("list[int]", await pipe.execute())
        return dict(zip((*_STATES, "claims"), counts, strict=True))

    @_plainly
    async def states(self, names: Sequence[str]) -> list[str]:
        """Return the state of each of up to 500 names.

        One of waiting, processing, processed, archived, rejected or retry (waiting for its time).
        """
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hmget(self._processing, list(names))
            pipe.zmscore(self._processed, list(names))
            pipe.zmscore(self._out_of_spool, list(names))
            pipe.hmget(self._rejected, list(names))
            pipe.zmscore(self._retry, list(names))
            columns = cast("list[list[str | float | None]]", await pipe.execute())
        return [
            next((s for s, found in zip(_STATES, row, strict=True) if found is not None), "waiting")
            for row in zip(*columns, strict=True)
        ]

    async def close(self) -> None:
        """Close the connections; nothing is called afterwards."""
        await self._client.aclose()
