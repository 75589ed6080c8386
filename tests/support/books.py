"""A ledger under test: the real scripts on a real Redis, on a clock that only the test moves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio as redis

from penstock.ledger.connect import close
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts
from penstock.model import Claim, Settled

START_MS = 1_800_000_000_000
LEASE_SECONDS = 60.0


class Books:
    """One spool in Redis, and as many workers on it as a test wants."""

    def __init__(self, url: str, spool: str, *, client: Any = None, **more: Any) -> None:
        self.client: Any = client or redis.from_url(url, decode_responses=True)
        self._more = more
        self.spool = spool
        self.prefix = f"penstock:{{{spool}}}:"
        self._now_key = f"test:now:{{{spool}}}"
        self._clock = (
            f"local function now_ms() return tonumber(redis.call('GET', '{self._now_key}')) end"
        )
        self.now_ms = START_MS

    async def start(self) -> None:
        """Set the clock."""
        await self.client.set(self._now_key, self.now_ms)

    async def pass_seconds(self, seconds: float) -> None:
        """Let time pass, for Redis."""
        self.now_ms += math.ceil(seconds * 1000)
        await self.start()

    def worker(self, name: str = "w", client: Any = None, **settings: Any) -> Ledger:
        """Return the ledger as a worker of that name sees it."""
        given: dict[str, Any] = {
            "worker": name,
            "lease_seconds": LEASE_SECONDS,
            "margin_seconds": 11.0,
            **settings,
        }
        scripts = Scripts(client or self.client, self.spool, clock=self._clock, **self._more)
        return Ledger(scripts, **given)

    async def everything(self) -> dict[str, object]:
        """Return all that Redis holds of this spool, by key without its prefix."""
        held: dict[str, object] = {}
        async for key in self.client.scan_iter(f"penstock:{{{self.spool}}}:*", count=10_000):
            name = key.removeprefix(self.prefix)
            match await self.client.type(key):
                case "hash":
                    held[name] = await self.client.hgetall(key)
                case "zset":
                    held[name] = dict(await self.client.zrange(key, 0, -1, withscores=True))
                case _:
                    held[name] = await self.client.get(key)
        return held

    async def forget_all(self) -> None:
        """Wipe this spool, as a Redis does that lost its disk."""
        async for key in self.client.scan_iter(f"{self.prefix}*", count=10_000):
            await self.client.delete(key)

    async def snapshot(self) -> Mapping[str, bytes]:
        """Return all keys of this spool in Redis's own serialisation."""
        held = await self.everything()
        return {name: await _dump(self.client, self.prefix + name) for name in held}

    async def restore(self, snapshot: Mapping[str, bytes]) -> None:
        """Put back a snapshot: the keys that were not in it are gone."""
        await self.forget_all()
        for name, data in snapshot.items():
            await self.client.restore(self.prefix + name, 0, data)

    async def close(self) -> None:
        """Close the connections."""
        await close(self.client)


async def _dump(client: Any, key: str) -> bytes:
    return await client.execute_command("DUMP", key, NEVER_DECODE=True)


async def claimed(ledger: Ledger, names: Sequence[str], **more: Any) -> Claim:
    """Claim and return the claim, which there must be."""
    answer = await ledger.claim(names, 500, **more)
    assert answer.claim is not None
    return answer.claim


def settled(
    names: Sequence[str],
    *,
    vanished: Sequence[str] = (),
    rejected: Mapping[str, str] | None = None,
    retry_seconds: Mapping[str, float] | None = None,
) -> Settled:
    """Return what a commit says of the files of a claim, with the counters that go with it."""
    rejected, retry_seconds = rejected or {}, retry_seconds or {}
    processed = len(names) - len(vanished) - len(rejected) - len(retry_seconds)
    counters = {
        "files_processed": processed,
        "files_vanished": len(vanished),
        "files_rejected": len(rejected),
        "files_retried": len(retry_seconds),
    }
    return Settled(vanished, rejected, retry_seconds, counters)


def files(count: int, first: int = 0) -> list[str]:
    """Return so many file names, in order."""
    return [f"20261123T062745.{n:06d}.json" for n in range(first, first + count)]


class Repeating:
    """A client whose every script runs twice, as when the reply to the first run was lost."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.repeated: list[tuple[object, object]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def register_script(self, text: str) -> Any:
        """Return the script, run twice."""
        script = self._client.register_script(text)

        async def twice(**given: Any) -> object:
            first = await script(**given)
            second = await script(**given)
            self.repeated.append((first, second))
            return second

        return twice
