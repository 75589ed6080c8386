"""Redis lost in mid-run: nothing is lost with it, and what is sent again is counted as such."""

import asyncio
import math
from contextlib import AsyncExitStack

import pytest

from penstock import wiring, worker
from penstock.ledger.epoch import Epoch
from penstock.loader import Loader
from penstock.model import Tally
from support.books import Books
from support.box import Box

FILES = 40


class Run:
    """One long-lived worker on a box, and the Redis under it."""

    def __init__(self, box: Box, parts: Loader) -> None:
        self.box = box
        self.parts = parts
        ledger = box.given["ledger"]
        self.books = Books(ledger["url"], ledger["spool"])

    async def load(self) -> Tally:
        """Run one more pass of the same worker, on a listing of now."""
        self.parts.candidates._empty_until_seconds = -math.inf
        return await worker.load(self.parts, stop=asyncio.Event())


async def start(box: Box, stack: AsyncExitStack) -> Run:
    """Open a worker and let it process the first files."""
    box.set("worker", claim_files_max=10)
    box.write_many(FILES)
    run = Run(box, await wiring.loader(box.settings, stack))
    stack.push_async_callback(run.books.close)
    assert (await run.load()).files_processed == FILES
    return run


async def test_a_wiped_redis_loses_nothing_and_is_told(box: Box) -> None:
    """Files not yet archived are sent again, each once, and counted; new ones are not counted."""
    async with AsyncExitStack() as stack:
        run = await start(box, stack)
        await run.books.forget_all()
        box.write_many(5, first=FILES)
        tally = await run.load()
        assert (tally.ledger_losses, tally.files_processed) == (1, FILES + 5)
        assert tally.files_after_loss >= FILES
        copies = box.received_ids()
        assert {copies[n] for n in range(FILES)} == {2}
        assert {copies[n] for n in range(FILES, FILES + 5)} == {1}
        assert (await box.counters())["files_after_loss"] == tally.files_after_loss
        box.write_many(3, first=FILES + 5)
        assert (await run.load()).files_after_loss == 0


async def test_a_restored_snapshot_loses_nothing_and_is_told(box: Box) -> None:
    """What was processed after the snapshot is sent again; what was before is not."""
    async with AsyncExitStack() as stack:
        run = await start(box, stack)
        snapshot = await run.books.snapshot()
        box.write_many(20, first=FILES)
        await run.load()
        await run.books.restore(snapshot)
        tally = await run.load()
        assert (tally.ledger_losses, tally.files_after_loss) == (1, 20)
        copies = box.received_ids()
        assert {copies[n] for n in range(FILES)} == {1}
        assert {copies[n] for n in range(FILES, FILES + 20)} == {2}
        assert (await box.check()).laws_broken == 0


async def test_archived_files_are_not_sent_again(box: Box) -> None:
    """What has left the spool is safe from any loss of Redis."""
    async with AsyncExitStack() as stack:
        run = await start(box, stack)
        await box.archive()
        await run.books.forget_all()
        box.write_many(1, first=FILES)
        await run.load()
        assert set(box.received_ids().values()) == {1}


@pytest.mark.parametrize("keeps", ["file", "memory"])
async def test_a_new_process_knows_that_redis_began_anew(
    box: Box, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    """By a file, or in a process whose parts are opened anew; the ledger keeps when, for status."""
    if keeps == "memory":
        box.set("run", state_directory="/proc/nowhere")
    box.write_many(FILES)
    assert (await box.load()).ledger_losses == 0
    if keeps == "file":
        monkeypatch.setattr(Epoch, "_known", {})
    async with AsyncExitStack() as stack:
        run = Run(box, await wiring.loader(box.settings, stack))
        stack.push_async_callback(run.books.close)
        await run.books.forget_all()
    tally = await box.load()
    assert (tally.ledger_losses, tally.files_after_loss) == (1, FILES)
    async with AsyncExitStack() as stack:
        overview = await (await wiring.ledger(box.settings, stack)).overview.read()
    losses = [minute.get("ledger_losses", 0) for minute in overview.minutes.values()]
    assert sum(losses) >= 1  # lanes that ask at the same time each notice
    assert (await box.load()).ledger_losses == 0


async def test_a_quiet_run_reports_no_loss(box: Box) -> None:
    """Many lanes and passes on one Redis never look like a Redis that forgot."""
    box.set("worker", lanes=8, claim_files_max=1)
    async with AsyncExitStack() as stack:
        run = Run(box, await wiring.loader(box.settings, stack))
        stack.push_async_callback(run.books.close)
        losses = 0
        for first in range(0, 300, 100):
            box.write_many(100, first=first)
            tally = await run.load()
            losses += tally.ledger_losses + tally.files_after_loss
        assert losses == 0
