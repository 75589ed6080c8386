"""Gather a spool's state in one place, for status, console and metrics."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from penstock import wiring
from penstock.archive.forecast import forecast, rate_of
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, PenstockError
from penstock.ledger.ledger import Ledger
from penstock.ledger.overview import Overview
from penstock.ledger.reads import HeldClaim
from penstock.model import QueueDepth
from penstock.operate.health import verdicts
from penstock.operate.snapshot import RATES, STOPPED, SeenWorker, Snapshot
from penstock.operate.spool_view import SpoolState, SpoolWatch, view
from penstock.settings.schema import EMBEDDED, Settings
from penstock.settings.secrets import without_password
from penstock.settings.spool_place import spool_name

_RATE_SECONDS = 10.0  # the period of a live rate
_QUEUE_SECONDS = 10.0  # between two calls to SQS, which cost money; the answer changes slowly
_MEMORY_SECONDS = 10.0
_LAWS_SECONDS = 5.0
_MINUTE = 60

T = TypeVar("T")


class Observer:
    """Gathers snapshots; each retries parts that were unreachable. Close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None
        self._ledger_url = ""
        self._queue: Any = None
        self._watch: SpoolWatch | None = None
        self._stack = AsyncExitStack()
        self._stack.push_async_callback(self._drop_ledger)
        self._history: deque[tuple[float, Mapping[str, int]]] = deque()
        self._cached: dict[str, tuple[float, Any]] = {}
        self._lock = asyncio.Lock()

    async def snapshot(self, *, at_most_seconds_old: float = 0.0) -> Snapshot:
        """Take a snapshot. Raises nothing: what is wrong is in the snapshot."""
        async with self._lock:
            return await self._cache("snapshot", at_most_seconds_old, self._look)

    async def ledger(self) -> Ledger:
        """Return the ledger, checked. Raises Again or Halt."""
        url = self._settings.ledger.url
        embedded = None
        if url == EMBEDDED:
            embedded = EmbeddedRedis(Path(self._settings.run.state_directory))
            url = embedded.noted_address()
            if not url:
                raise Again(embedded.why_silent() or STOPPED)
        if self._ledger is None or url != self._ledger_url:
            await self._drop_ledger()
            ledger = wiring.unopened_ledger(self._settings, url)
            try:
                await ledger.open(may_evict=True)
            except BaseException as error:
                await ledger.close()
                if embedded and "cannot be reached" in str(error):
                    raise Again(embedded.why_silent() or STOPPED) from None
                raise
            self._ledger, self._ledger_url = ledger, url
        return self._ledger

    def rejects_changed(self) -> None:
        """Count the rejects directory again at the next snapshot."""
        if self._watch is not None:
            self._watch.forget_kept()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def _look(self) -> Snapshot:
        settings = self._settings
        unreachable: dict[str, str] = {}
        found: dict[str, Any] = {}
        # In turn: the first call to SQS imports for a second, and on a busy machine Redis's answer
        # would time out meanwhile.
        await _noted(unreachable, "redis", self._look_at_ledger(found))
        await _noted(unreachable, "queue", self._look_at_queue(found))
        states = self._ledger.reads.states if self._ledger and "redis" not in unreachable else None
        await _noted(unreachable, "spool", self._look_at_spool(found, states))
        if "redis" in unreachable:
            found = {name: found[name] for name in ("queue", "spool") if name in found}
            await self._drop_ledger()
        spool: SpoolState | None = found.get("spool")
        rate = rate_of(found.get("minutes", ()))
        name = ""
        with contextlib.suppress(PenstockError):
            name = spool_name(settings)
        snapshot = Snapshot(
            at=time.time(),
            spool_name=name,
            source=without_password(settings.source.url),
            queue_url=without_password(settings.queue.url),
            fifo=settings.queue.url.endswith(".fifo"),
            lease_seconds=settings.ledger.lease_seconds,
            unreachable=unreachable,
            waiting=_waiting(spool, found.get("ledger")),
            forecast=forecast(spool and spool.archive, rate, settings.archive.retention_days),
            **found,
        )
        return snapshot._replace(verdicts=verdicts(snapshot, settings.status))

    async def _look_at_ledger(self, found: dict[str, Any]) -> None:
        ledger = await self.ledger()
        overview = await ledger.overview.read()
        claims = await ledger.reads.claims()
        found |= {
            "ledger": overview,
            "claims": claims,
            "workers": _workers(await ledger.reads.workers(), claims, overview.at_seconds),
            "minutes": _filled(overview),
            "rates": self._rates(overview),
            "memory": await self._cache("memory", _MEMORY_SECONDS, ledger.overview.memory),
            "laws_broken": await self._cache("laws", _LAWS_SECONDS, ledger.reads.verify),
        }

    async def _look_at_queue(self, found: dict[str, Any]) -> None:
        if self._settings.queue.url:
            found["queue"] = await self._cache("queue", _QUEUE_SECONDS, self._depth)

    async def _look_at_spool(self, found: dict[str, Any], states: Any) -> None:
        if self._watch is None:
            self._watch = SpoolWatch(await view(self._settings, self._stack))
        found["spool"] = await self._watch.look(states)

    async def _depth(self) -> QueueDepth:
        if self._queue is None:
            if (queue := await wiring.running_queue(self._settings)) is None:
                raise Again(STOPPED)
            await queue.open()  # closes itself if it fails
            self._stack.push_async_callback(queue.close)
            self._queue = queue
        return await self._queue.depth()

    async def _drop_ledger(self) -> None:
        if self._ledger is not None:
            await self._ledger.close()
            self._ledger = None

    async def _cache(self, name: str, seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
        at, value = self._cached.get(name, (-math.inf, None))
        if time.monotonic() - at > seconds:
            value = await ask()
            self._cached[name] = (time.monotonic(), value)
        return value  # type: ignore[no-any-return]

    def _rates(self, overview: Overview) -> dict[str, float]:
        history = self._history
        if history and history[-1][1].get("claims", 0) > overview.counters.get("claims", 0):
            history.clear()  # Redis has forgotten
        history.append((overview.at_seconds, overview.counters))
        while len(history) > 2 and history[-1][0] - history[1][0] >= _RATE_SECONDS:  # noqa: PLR2004
            history.popleft()
        began, before = history[0]
        seconds = overview.at_seconds - began
        if seconds < _RATE_SECONDS / 2:
            return _rates_of_the_last_minute(overview)
        counters = overview.counters
        return {
            name: max(0, counters.get(name, 0) - before.get(name, 0)) / seconds for name in RATES
        }


async def _noted(unreachable: dict[str, str], part: str, looking: Awaitable[None]) -> None:
    try:
        await looking
    except PenstockError as error:
        unreachable[part] = str(error)
    except OSError as error:
        unreachable[part] = str(error.strerror or error)


def _waiting(spool: SpoolState | None, ledger: Overview | None) -> int | None:
    if spool is None or ledger is None:
        return None
    elsewhere = sum(ledger.sizes[state] for state in ("processing", "processed", "rejected"))
    return max(0, spool.entries - elsewhere)


def _workers(
    seen_at: Mapping[str, tuple[float, float]], claims: Sequence[HeldClaim], now: float
) -> Sequence[SeenWorker]:
    found: list[SeenWorker] = []
    for name, (since, seen) in sorted(seen_at.items()):
        held = [claim for claim in claims if claim.worker == name]
        files = sum(claim.files for claim in held)
        found.append(SeenWorker(name, now - since, max(0.0, now - seen), len(held), files))
    return found


def _filled(overview: Overview) -> Sequence[Mapping[str, int]]:
    now = int(overview.at_seconds // _MINUTE)
    none: Mapping[str, int] = {}
    return [
        {name: overview.minutes.get(minute, none).get(name, 0) for name in RATES}
        for minute in range(now - _MINUTE + 1, now + 1)
    ]


def _rates_of_the_last_minute(overview: Overview) -> dict[str, float]:
    """Return rates over the last 60 seconds: this minute, and the end of the one before."""
    *_, before, runs = _filled(overview)
    share = 1 - overview.at_seconds % _MINUTE / _MINUTE
    return {name: (runs[name] + before[name] * share) / _MINUTE for name in RATES}
