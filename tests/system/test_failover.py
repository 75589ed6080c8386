"""Redis fails over under load: nothing is lost, and repeats are few and counted.

Where a replica is waited for, a FIFO queue sees none.

Loaders are processes of their own. FAILOVER_RATE=1000 is for a machine that cannot bear
3,000 files a second. What it saw is told at the end of
`make campaign ARGS=tests/system/test_failover.py`.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from support.box import Box
from support.campaign import scaled
from support.lan import Lan
from support.redis_fleet import Cluster, Server, Watched, require_fleet, wait

RATE = int(os.environ.get("FAILOVER_RATE") or 3_000)
TOGETHER = 50  # files written at once
SETTLED_SECONDS = 120.0
FAULTS: dict[str, tuple[Callable[[Server], None], Callable[[Server], None]]] = {
    "killed": (Server.kill, Server.start),
    "frozen": (Server.freeze, Server.thaw),
    "isolated": (Server.isolate, Server.join),
}


class Run:
    """One box under load whose Redis fails over."""

    def __init__(self, box: Box, fleet: Cluster | Watched, rate: int) -> None:
        self.box = box
        self.fleet = fleet
        self.rate = rate
        self.written = 0
        self.paused_seconds: list[float] = []
        self._stop = asyncio.Event()
        self._log = box.root / "log"

    @contextlib.asynccontextmanager
    async def loading(self, workers: int = 2) -> AsyncGenerator[None]:
        """Write files and load them, until the caller has done its worst; then drain the rest."""
        toml = self.box.toml()
        command = [sys.executable, "-m", "penstock", "load", "--every", "0.1", "-c", str(toml)]
        with self._log.open("ab") as log:
            loaders = [
                await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
                for _ in range(workers)
            ]
        writing = asyncio.create_task(self._write())
        try:
            await asyncio.to_thread(wait, lambda: self.processed() > 0)
            yield
            self._stop.set()
            await writing
            wanted = self.written
            await asyncio.to_thread(wait, lambda: self._drained() >= wanted, SETTLED_SECONDS)
        finally:
            self._stop.set()
            for loader in loaders:
                loader.terminate()
            await asyncio.gather(writing, *[loader.wait() for loader in loaders])

    async def _write(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            self.box.write_many(TOGETHER, self.written)
            self.written += TOGETHER
            await asyncio.sleep(max(0, began + self.written / self.rate - time.monotonic()))

    def _drained(self) -> int:
        return len(self.box.received_ids()) if self.processed() else 0

    def processed(self) -> int:
        """How many files are, as the primary has it; 0 while there is none."""
        with contextlib.suppress(redis.RedisError, OSError, StopIteration, AssertionError):
            return self._processed_at(self.fleet.owner(self.key))
        return 0

    def _processed_at(self, server: Server) -> int:
        with contextlib.suppress(redis.RedisError, OSError):
            return int(server.client.hget(self.key, "files_processed") or 0)
        return 0

    @property
    def key(self) -> str:
        """The key of the ledger's counters."""
        return f"penstock:{{{self.box.given['ledger']['spool']}}}:counters"

    async def survive(self, fault: str) -> None:
        """Have the primary fail; wait until its successor has claims, then have it back."""
        old = self.fleet.owner(self.key)
        began = time.monotonic()
        begin, end = FAULTS[fault]
        begin(old)
        await asyncio.to_thread(wait, lambda: self._successors(old), 60)
        successor = self._successors(old)[0]
        seen = await asyncio.to_thread(self._processed_at, successor)
        waits_for_old = isinstance(self.fleet, Cluster)
        if waits_for_old:
            end(old)  # it is the only replica of its successor
        await asyncio.to_thread(wait, lambda: self._processed_at(successor) > seen, 60)
        self.paused_seconds.append(time.monotonic() - began)
        if not waits_for_old:
            end(old)
        await asyncio.to_thread(wait, old.is_in_sync_replica, 60)
        await asyncio.sleep(1)

    def _successors(self, old: Server) -> list[Server]:
        found: list[Server] = []
        for server in self.fleet.servers:
            with contextlib.suppress(redis.RedisError, OSError):  # of another shard: MOVED
                if server is not old and server.is_primary() and server.client.exists(self.key):
                    found.append(server)
        return found

    def judge(self) -> dict[str, Any]:
        """Return what came of it in files, and what the ledger says of it; that in messages."""
        copies = self.box.received_ids()
        counters = self.fleet.owner(self.key).client.hgetall(self.key)
        return {
            "files": self.written,
            "lost": self.written - len(copies),
            "repeated": sum(copies.values()) - len(copies),
            "possible_repeats": int(counters.get("possible_repeats", 0)),
            "files_after_loss": int(counters.get("files_after_loss", 0)),
            "losses": int(counters.get("ledger_losses", 0)),
            "unconfirmed": int(counters.get("writes_unconfirmed", 0)),
            "paused_median": round(statistics.median(self.paused_seconds), 1),
            "paused_max": round(max(self.paused_seconds), 1),
        }


@pytest.fixture(params=[Watched, Cluster], ids=["sentinels", "cluster"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster | Watched]:
    """Yield servers to maltreat; those of a cluster on a network that can be cut."""
    require_fleet()
    with ExitStack() as stack:
        if request.param is Cluster:
            yield Cluster(tmp_path / "fleet", stack, Lan(6, stack))
        else:
            yield Watched(tmp_path / "fleet", stack)


async def _fail_over(run: Run, fault: str, rounds: int) -> dict[str, Any]:
    async with run.loading():
        for _ in range(rounds):
            await run.survive(fault)
    return run.judge()


def _url(fleet: Cluster | Watched) -> str:
    return fleet.url if isinstance(fleet, Watched) else fleet.url()


async def test_a_fifo_queue_sees_no_repeat_where_replicas_are_waited_for(
    fifo_box: Box, tmp_path: Path
) -> None:
    """The primary is killed once, under a light load."""
    require_fleet()
    with ExitStack() as stack:
        fleet = Watched(tmp_path / "fleet", stack)
        fifo_box.set("ledger", url=fleet.url, wait_replicas=1, lease_seconds=5)
        told = await _fail_over(Run(fifo_box, fleet, rate=300), "killed", rounds=1)
    assert (told["lost"], told["repeated"]) == (0, 0), told


@pytest.fixture(params=["standard", "fifo"])
def any_box(request: pytest.FixtureRequest) -> Box:
    """Return a box with either kind of queue."""
    box: Box = request.getfixturevalue("box" if request.param == "standard" else "fifo_box")
    return box


@pytest.mark.campaign
@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
async def test_failovers_under_load(
    any_box: Box,
    fault: str,
    waits: int,
    fleet: Cluster | Watched,
    record_property: Callable[[str, object], None],
) -> None:
    """Ten of each fault: nothing lost, and repeats are counted; with a replica, FIFO has none."""
    box, is_fifo = any_box, any_box.queue.name.endswith(".fifo")
    box.set("ledger", url=_url(fleet), wait_replicas=waits, lease_seconds=10)
    told = await _fail_over(Run(box, fleet, RATE), fault, rounds=max(1, scaled(10)))
    record_property("failover", {"fault": fault, "fifo": is_fifo, "waits": waits, **told})
    print(fault, "fifo" if is_fifo else "standard", "waits" if waits else "", told)  # noqa: T201
    assert told["lost"] == 0, told
    most = told["possible_repeats"] * box.settings.worker.claim_files_max
    if not waits:
        most += told["files_after_loss"]
    elif is_fifo:
        most = 0
    assert told["repeated"] <= most, told


async def test_a_slot_moves_to_another_shard_while_it_is_used(box: Box, tmp_path: Path) -> None:
    """Its keys are on two servers meanwhile: what then fails is tried again."""
    require_fleet()
    with ExitStack() as stack:
        fleet = Cluster(tmp_path / "fleet", stack)
        box.set("ledger", url=fleet.url(), lease_seconds=5)
        run = Run(box, fleet, rate=300)
        async with run.loading():
            for _ in range(2):
                await asyncio.to_thread(fleet.move, run.key)
                await asyncio.sleep(1)
        run.paused_seconds.append(0)
        told = run.judge()
    assert (told["lost"], told["repeated"]) == (0, 0), told
