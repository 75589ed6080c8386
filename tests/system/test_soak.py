"""A box at full rate for an hour: nothing is lost, and nothing grows.

SOAK_RATE=1000 is for a machine that cannot bear 6,000 files a second. What it saw is told at the
end of `make campaign ARGS=tests/system/test_soak.py`.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis.asyncio as redis

from penstock.demo.corpus import ID_BASE, broken_files
from penstock.demo.tweets import SELECTION
from penstock.embedded.redis import EmbeddedRedis
from support.box import Box
from support.campaign import SCALE
from support.require import require_redis
from support.resources import MIB, Sample, course, held_by, judged, largest_bytes, processes
from support.sqs_stub import SqsStub

SECONDS = 3600 * min(1.0, SCALE)
RATE = float(os.environ.get("SOAK_RATE") or 6_000)
WARM_UP_SECONDS = 150.0  # answers to tokens are kept for 120 s, archived names for 60 s
JUDGED_SECONDS_MIN = 120.0
SAMPLE_SECONDS = 2.0
SETTLING_SECONDS = 180.0
_MEMORY = Path("/dev/shm")  # a disk would be what is measured  # noqa: S108


class Soak:
    """One run: the box, the processes, what came out of the queue, and what was held meanwhile."""

    def __init__(self, box: Box, redis_url: str) -> None:
        self.box = box
        self.redis_url = redis_url
        self.copies = bytearray(round(RATE * SECONDS) + 1)
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self.log = box.root / "log"

    async def start(self, *command: str, reading: bool = False) -> Any:
        """Start a Python module as a process of its own."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", *command],
                stdout=asyncio.subprocess.PIPE if reading else log,
                stderr=log,
                env=ours,
            )

    def consume(self) -> None:
        """Take all messages out of the queue, and count each record's copies."""
        visible = self.box.queue.visible
        while visible:
            body: Any = json.loads(visible.popleft().body)
            for record in cast("list[Any]", body if isinstance(body, list) else [body]):
                at = int(record["id"]) - ID_BASE
                self.copies[at] = min(255, self.copies[at] + 1)

    async def watch(self, client: Any, pid: int) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self.consume()
            pids = processes(pid)
            rss, descriptors = held_by(pids)
            self.samples.append(
                Sample(
                    time.monotonic() - self.began, rss, largest_bytes(pids, "load"), descriptors,
                    await client.dbsize(), (await client.info("memory"))["used_memory"],
                    frozenset(pids),
                )
            )  # fmt: skip

    async def produce(self) -> int:
        """Let files arrive at the rate; return how many did."""
        producer = await self.start(
            "penstock.demo.producer", "--spool", str(self.box.spool), "--rate", str(RATE),
            "--seconds", str(SECONDS), "--records-per-file", "1", "--seed", "1", reading=True,
        )  # fmt: skip
        files = 0
        async for line in producer.stdout:
            files = json.loads(line)["files"]
        assert await producer.wait() == 0
        return files

    async def settle(self, client: Any) -> None:
        """Wait until the spool is empty, and nothing is processing or due."""
        prefix = f"penstock:{{{self.box.given['ledger']['spool']}}}:"
        until = time.monotonic() + SETTLING_SECONDS
        while any(self.box.spool.glob("*.json")) or await client.exists(f"{prefix}leases"):
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            await asyncio.sleep(0.5)

    def account(self, files: int) -> tuple[int, int]:
        """Return how many records are lost, and how many are there more than once."""
        self.consume()
        broken = set(broken_files(files))
        lost = sum(not self.copies[at] for at in range(files) if at not in broken)
        return lost, sum(copies > 1 for copies in self.copies)


@pytest.fixture
async def soak(aws: None) -> AsyncIterator[Soak]:
    """Yield a box that deletes what it has sent, all of it in memory."""
    assert aws is None
    require_redis()
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="penstock-soak-", dir=place) as name:
        root = Path(name)
        async with EmbeddedRedis(root / "redis") as server, SqsStub() as stub:
            box = Box(root / "box", server.address, stub, stub.model.create("q"))
            box.set("source", settle_seconds=0.5)
            box.set("select", fields=SELECTION)
            box.set("archive", action="delete")
            box.set(
                "run", workers=2, state_directory=str(root / "state"),
                loader_interval_seconds=0.1, archiver_interval_seconds=1.0,
                checker_interval_seconds=5.0,
            )  # fmt: skip
            yield Soak(box, server.address)


@pytest.mark.campaign
async def test_an_hour_at_full_rate(
    soak: Soak, record_property: Callable[[str, object], None]
) -> None:
    """Nothing lost or repeated; memory, descriptors and keys stay flat; no process had to restart.

    The first minutes do not count: until then the ledger fills up to what it remembers.
    """
    client: Any = redis.from_url(soak.redis_url, decode_responses=True)
    box = await soak.start("penstock", "run", "--config", str(soak.box.toml()))
    watching = asyncio.create_task(soak.watch(client, box.pid))
    files = await soak.produce()
    produced_seconds = time.monotonic() - soak.began
    judged_samples = [one for one in soak.samples if one.at_seconds > WARM_UP_SECONDS]
    await soak.settle(client)
    watching.cancel()
    await client.aclose()
    box.terminate()
    assert await box.wait() == 0, soak.log.read_text()[-2000:]
    lost, repeated = soak.account(files)
    peak = max(one.rss_bytes for one in soak.samples) / MIB
    lines, grown = [f"too short to judge slopes; peak of memory {peak:,.0f} MiB"], list[str]()
    seconds = judged_samples[-1].at_seconds - judged_samples[0].at_seconds if judged_samples else 0
    if seconds >= JUDGED_SECONDS_MIN:
        lines, grown = judged(judged_samples)
    told = f"{files:,} files in {produced_seconds:,.0f} s, lost {lost}, repeated {repeated}"
    for line in [told, course(soak.samples), *lines]:
        record_property("campaign", f"soak: {line}")
    assert files == round(RATE * SECONDS)
    assert (lost, repeated) == (0, 0)
    assert not grown
    assert len({one.pids for one in judged_samples}) <= 1, "a process of the box was restarted"


def leaking(figure: str, more: float) -> list[Sample]:
    """Return the samples of a minute in which one figure grows evenly by so much."""
    flat = {
        "rss_bytes": 400 * MIB, "loader_bytes": 80 * MIB, "descriptors": 100, "keys": 1_000,
        "redis_bytes": 50 * MIB,
    }  # fmt: skip
    return [
        Sample(
            at_seconds=at, pids=frozenset(),
            **{name: int(held + (at % 3) + (more * at / 60 if name == figure else 0))
               for name, held in flat.items()},
        )
        for at in range(61)
    ]  # fmt: skip


@pytest.mark.both
@pytest.mark.parametrize(
    ("figure", "more"),
    [
        ("rss_bytes", 30 * MIB),
        ("loader_bytes", 10 * MIB),
        ("descriptors", 8),
        ("keys", 150),
        ("redis_bytes", 12 * MIB),
    ],
)
def test_a_leak_is_noticed(figure: str, more: float) -> None:
    """Each gate closes for what grows, and for nothing else."""
    grown = judged(leaking(figure, more))[1]
    assert [line.split()[0] for line in grown] == [figure]
    assert judged(leaking(figure, 0))[1] == []


def test_all_processes_of_a_tree_are_held_to_account() -> None:
    """A process's children count, with their memory and descriptors; one alone by its argument."""
    command = [sys.executable, "-c", "input()", "load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        pids = processes(os.getpid())
        assert {os.getpid(), child.pid} <= set(pids)
        both, one = held_by([os.getpid(), child.pid]), held_by([os.getpid()])
        assert both[0] > one[0]
        assert both[1] > one[1]
        assert 0 < largest_bytes(pids, "load") < both[0]
        assert largest_bytes([os.getpid()], "load") == 0
        assert child.stdin
        child.stdin.close()
