"""Lanes and passes: when they end, and what they leave behind."""

import asyncio

import pytest

from penstock import worker
from penstock.errors import Halt
from support.box import Box
from support.sqs_stub import Fault


async def test_two_workers_share_the_work(box: Box) -> None:
    """Workers that see the same files never send one twice."""
    box.write_many(3000)
    one, two = await asyncio.gather(box.load(), box.load())
    assert one.files_processed + two.files_processed == 3000
    assert box.received_ids() == dict.fromkeys(range(3000), 1)


async def test_a_queue_that_is_gone_halts_and_marks_nothing(box: Box) -> None:
    """QueueDoesNotExist in mid-run: claims are released, no file is processed, the run fails."""
    box.write_many(5)
    gone = Fault("error", status=400, code="QueueDoesNotExist")
    box.stub.script(*[gone] * 8)  # for whichever lane takes the claim up before all have stopped
    with pytest.raises(Halt, match="QueueDoesNotExist"):
        await box.load()
    assert box.stub.fired["error"] >= 1
    sizes = await box.sizes()
    assert (sizes["claims"], sizes["processing"], sizes["processed"]) == (1, 5, 0)
    box.stub.script_over()
    tally = await box.load()
    assert (tally.files_processed, tally.claims_taken_over) == (5, 0)  # released, not expired
    assert box.received_ids() == dict.fromkeys(range(5), 1)


async def test_a_stop_releases_what_it_cannot_finish(box: Box) -> None:
    """A stop while SQS answers with errors: nothing is lost, the next run goes on at once."""
    box.write_many(5)
    box.stub.rates["page"] = 1.0
    stop = asyncio.Event()
    pass_ = asyncio.create_task(box.load(stop))
    while not box.stub.fired["page"]:
        await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(15):
        tally = await pass_
    assert (tally.files_processed, tally.claims_released) == (0, 1)
    box.stub.rates.clear()
    assert (await box.load()).files_processed == 5
    assert box.received_ids() == dict.fromkeys(range(5), 1)


async def test_a_pass_ends_with_its_last_claim(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes without work wait for those that work, and no longer."""
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 3600.0)
    box.write_many(3000)
    async with asyncio.timeout(60):
        assert (await box.load()).files_processed == 3000
