"""Real workers, a real Redis and an SQS stub; workers are killed at each point of the path."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from penstock.archive.store import Store
from support.box import Box
from support.campaign import scaled
from support.killable import ARCHIVER_POINTS, PACK_POINTS, POINTS

FILES = 60
LEASE_SECONDS = 1.0
ROUNDS = 10

Note = Callable[[str, object], None]  # of pytest's `record_property`


def prepare(box: Box) -> None:
    """Write the files, and set the worker so that a claim has several batches in flight."""
    box.set("queue", records_per_message=1)
    box.set("ledger", lease_seconds=LEASE_SECONDS)
    box.set("worker", lanes=2, claim_files_max=30)
    box.write_many(FILES)


async def start(box: Box, command: str, point: str, times: int, name: str) -> Any:
    """Start a command that gets the signal at the point."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [point, str(times), name, command, "--config", str(box.toml())]
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "support.killable", *arguments],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def accepted(box: Box) -> Counter[str]:
    """Count the queue's records by id."""
    return Counter(str(json.loads(stored.body)["id"]) for stored in box.queue.messages())


async def in_flight(box: Box) -> int:
    """Count the messages that SQS has and no journal or commit knows: what may be repeated.

    What the worker wrote before it was stopped is still on its way to the stub, in this process.
    """
    seen = -1
    while seen != (seen := sum(accepted(box).values())):
        await asyncio.sleep(0.25)
    client: Any = redis.from_url(box.given["ledger"]["url"], decode_responses=True)
    prefix = f"penstock:{{{box.given['ledger']['spool']}}}:"
    known = await client.zcard(f"{prefix}json_files_processed")
    for claim in await client.zrange(f"{prefix}leases", 0, -1):
        fields = await client.hkeys(f"{prefix}claim:{claim}")
        known += sum(field.startswith(("#", "~")) for field in fields)
    await client.aclose()
    return sum(accepted(box).values()) - known


async def recover(box: Box) -> None:
    """Let other workers do the rest: pass after pass until nobody holds anything."""
    for _ in range(100):
        await box.load()
        if (await box.sizes())["processed"] == FILES:
            return
        await asyncio.sleep(0.1)
    pytest.fail("not finished long after the lease")


async def killed_at(box: Box, point: str, times: int, note: Note) -> tuple[int, int]:
    """Kill a worker there; return how many records were in flight, and how many are repeated."""
    prepare(box)
    process = await start(box, "load", point, times, "SIGKILL")
    assert await process.wait() == -signal.SIGKILL, f"{point} was never reached"
    flying = await in_flight(box)
    await recover(box)
    copies = accepted(box)
    lost = {str(n) for n in range(FILES)} - copies.keys()
    repeated = sum(copies.values()) - len(copies)
    kind = "fifo" if box.queue.fifo else "standard"
    note("killed", [kind, point, len(lost), flying, repeated])
    assert not lost
    assert len(copies) == FILES, "invented"
    assert repeated <= flying
    return flying, repeated


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_at_any_point_loses_nothing(
    point: str, box: Box, record_property: Note
) -> None:
    """On a standard queue no more is repeated than was in flight when it died."""
    times = 1 if point.startswith(("send", "journal")) else 0
    await killed_at(box, point, times, record_property)


@pytest.mark.parametrize("point", ["send.after", "journal.before", "journal.after"])
async def test_a_worker_killed_on_fifo_repeats_nothing(
    point: str, fifo_box: Box, record_property: Note
) -> None:
    """On a FIFO queue each record is there exactly once."""
    assert (await killed_at(fifo_box, point, 1, record_property))[1] == 0


@pytest.mark.parametrize("point", ARCHIVER_POINTS)
async def test_an_archiver_killed_at_any_point_leaves_each_file_in_one_place(
    point: str, box: Box
) -> None:
    """The next archiver finishes; nothing is sent twice and nothing is moved twice."""
    prepare(box)
    await recover(box)
    process = await start(box, "archive", point, 0, "SIGKILL")
    assert await process.wait() == -signal.SIGKILL
    await box.archive()
    await box.load()
    assert list(box.spool.glob("[!.]*")) == []
    archived = [path for path in (box.root / "archive").rglob("*.json") if path.is_file()]
    assert len(archived) == FILES
    assert set(accepted(box).values()) == {1}


_LONG = [pytest.param(point, marks=pytest.mark.campaign) for point in PACK_POINTS[:-2]]


@pytest.mark.parametrize("point", ["archived.before", *PACK_POINTS[-2:], *_LONG])
async def test_an_archiver_killed_while_it_packs_leaves_each_file_in_one_place(
    point: str, box: Box
) -> None:
    """The same where files are staged, then packed; none is noted as gone, or sent twice."""
    prepare(box)
    box.set("archive", action="pack")
    await recover(box)
    process = await start(box, "archive", point, 0, "SIGKILL")
    assert await process.wait() == -signal.SIGKILL
    await box.archive()
    await box.load()
    assert list(box.spool.glob("[!.]*")) == []
    store = Store(box.root / "archive")
    names: list[str] = []
    for segment in store.segments("2026/11/23/06"):
        with store.open(segment) as opened:
            names += opened.names()
    assert len(names) == len(set(names)) == FILES
    assert set(accepted(box).values()) == {1}
    counters = await box.counters()
    assert (counters["files_archived"], counters.get("files_gone", 0)) == (FILES, 0)


async def test_a_worker_stopped_past_its_lease_does_no_harm(box: Box) -> None:
    """SIGSTOP for longer than the lease: a successor finishes; awake again, it is refused.

    What repeats is what its connections carry at most: a call may have been found in time, and be
    written only after it wakes.
    """
    prepare(box)
    box.set("queue", connections=2)
    process = await start(box, "load", "journal.before", 1, "SIGSTOP")
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    await asyncio.sleep(LEASE_SECONDS)
    await recover(box)
    process.send_signal(signal.SIGCONT)
    await process.wait()
    copies = accepted(box)
    assert set(copies) == {str(n) for n in range(FILES)}
    assert sum(copies.values()) - FILES <= 2 * 10
    assert (await box.counters())["journals_refused"] >= 1


async def test_sigterm_under_load_releases_claims(box: Box) -> None:
    """A worker told to stop leaves nothing to wait for, and nothing is repeated."""
    prepare(box)
    box.stub.latency_seconds = 0.2
    process = await start(box, "load", "never", 0, "SIGKILL")
    while not box.stub.calls["SendMessageBatch"]:
        await asyncio.sleep(0.01)
    process.terminate()
    assert await process.wait() == 130  # one pass, stopped with work left
    box.stub.latency_seconds = 0
    assert (await box.sizes())["processing"] in (0, 30, 60)
    await recover(box)
    assert set(accepted(box).values()) == {1}


@pytest.mark.campaign
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("round_", range(scaled(ROUNDS)))
async def test_many_workers_killed(
    point: str, round_: int, box: Box, record_property: Note
) -> None:
    """Ten times each point on a standard queue."""
    await killed_at(box, point, passes(point, round_), record_property)


@pytest.mark.campaign
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("round_", range(scaled(ROUNDS)))
async def test_many_workers_killed_on_fifo(
    point: str, round_: int, fifo_box: Box, record_property: Note
) -> None:
    """Ten times each point on a FIFO queue: each record is there exactly once."""
    assert (await killed_at(fifo_box, point, passes(point, round_), record_property))[1] == 0


def passes(point: str, round_: int) -> int:
    """Return how often a point is passed alive: a worker comes by some only once or twice."""
    return 0 if point.startswith(("claim", "commit", "read")) else round_ % 5
