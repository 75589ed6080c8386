"""Loaders that hold thousands of files a claim are killed again and again: what that may repeat."""

import asyncio
import random
import sys
from collections import Counter

import pytest

from penstock.aio import sleep_unless
from support.box import Box
from support.campaign import scaled

LANES = 2
CLAIM_FILES = 5_000


async def _killed(box: Box, files: int, seed: int) -> int:
    """Drain a spool with two loaders that are killed at random; return how often they were."""
    chance = random.Random(seed)
    box.set("worker", lanes=LANES, claim_files_max=CLAIM_FILES)
    box.set("ledger", lease_seconds=2)
    box.write_many(files)
    toml, kills = box.toml(), 0
    log = (box.root / "log").open("ab")
    command = [sys.executable, "-m", "penstock", "load", "--every", "0.05", "-c", str(toml)]

    done = asyncio.Event()

    async def keep(worker: int) -> None:
        nonlocal kills
        while not done.is_set():
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
            # Long enough to begin, most times; some die in their start.
            await sleep_unless(done, 2 + worker / 2 + chance.expovariate(1.5))
            process.kill()
            await process.wait()
            kills += 1

    async def wait() -> None:
        try:
            async with asyncio.timeout(240):
                while (await box.counters()).get("files_processed", 0) < files:
                    await asyncio.sleep(0.2)
        finally:
            done.set()

    await asyncio.gather(keep(0), keep(1), wait())
    log.close()
    return kills


def _repeated(box: Box) -> int:
    """Return how many messages lie in the queue more than once, by their ids."""
    ids = Counter(
        message.attributes["penstock_id"]["StringValue"] for message in box.queue.messages()
    )
    return sum(ids.values()) - len(ids)


async def _judge(box: Box, files: int, seed: int) -> None:
    kills = await _killed(box, files, seed)
    ids = box.received_ids()
    assert set(ids) == set(range(files))
    counters = await box.counters()
    assert _repeated(box) <= counters.get("possible_repeats", 0), counters
    assert _repeated(box) <= kills * LANES, "more than was in flight"
    records = sum(ids.values()) - files
    assert records <= _repeated(box) * CLAIM_FILES, "repeated under another id"
    if box.queue.name.endswith(".fifo"):
        assert records == 0
    await asyncio.sleep(2.1)
    assert (await box.check()).laws_broken == 0


async def test_a_killed_loader_of_large_claims_repeats_what_was_in_flight(fifo_box: Box) -> None:
    """On a FIFO queue, nothing."""
    await _judge(fifo_box, 30_000, seed=1)


@pytest.fixture(params=["standard", "fifo"])
def any_box(request: pytest.FixtureRequest) -> Box:
    """Return a box with either kind of queue."""
    box: Box = request.getfixturevalue("box" if request.param == "standard" else "fifo_box")
    return box


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(10))
async def test_loaders_of_large_claims_are_killed_again_and_again(any_box: Box, seed: int) -> None:
    """Two loaders, each killed every few seconds."""
    await _judge(any_box, max(20_000, scaled(200_000)), seed)
