"""The checker: what it frees, splits, sweeps and tells."""

import asyncio
import logging
from typing import Any

import pytest

from penstock import checker
from penstock.checker import Checker, CheckerTally
from support.books import LEASE_SECONDS, Books, claimed, files, settled
from support.scripted_source import ScriptedSource, Spool

A, B, C = files(3)


class Watch:
    """A checker over a spool in memory; each pass is a process of its own."""

    def __init__(self, books: Books, *, fifo: bool = False, **settings: Any) -> None:
        self.spool = Spool()
        self._books = books
        self._fifo = fifo
        self._settings = settings

    async def check(
        self, budget_seconds: float = 60, *, pause_seconds: float = 0.0
    ) -> CheckerTally:
        """Run one pass; for `pause_seconds` the source does not look."""
        source = ScriptedSource(self.spool, page_files_max=2)
        source.pause_seconds = pause_seconds
        loop = asyncio.get_running_loop()
        loop.call_later(pause_seconds / 2, setattr, source, "pause_seconds", 0.0)
        parts = Checker(
            source,
            self._books.worker("checker", **self._settings),
            lease_seconds=LEASE_SECONDS,
            sweep_seconds=10,
            fifo=self._fifo,
        )
        return await checker.check(parts, stop=asyncio.Event(), budget_seconds=budget_seconds)


def steps(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the steps that were logged."""
    return [record.getMessage() for record in caplog.records if record.name == "penstock"]


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the events reach the test."""
    monkeypatch.setattr(logging.getLogger("penstock"), "propagate", True)
    caplog.set_level(logging.INFO, "penstock")


async def test_an_empty_ledger_is_in_order(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing to free, nothing to tell."""
    tally = await Watch(books).check()
    assert (tally.claims_expired, tally.laws_broken, tally.claims) == (0, 0, 0)
    assert steps(caplog) == []


async def test_it_frees_exactly_the_claims_whose_owner_is_gone(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """The live one stays; the dead one is told by name, and its files by number."""
    await claimed(books.worker("gone"), [A, B])
    await books.pass_seconds(LEASE_SECONDS)
    live = await claimed(books.worker("live", takeovers_max=99), ())
    await claimed(books.worker("gone"), [C])
    await books.pass_seconds(LEASE_SECONDS - 1)
    assert await books.worker("live").renew(live)
    await books.pass_seconds(1)
    tally = await Watch(books).check()
    assert (tally.claims_expired, tally.files_freed, tally.claims) == (1, 1, 2)
    assert steps(caplog) == ["claim.expired"]
    assert tally.workers == 2


async def test_it_splits_what_wore_out_its_workers(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """With a limit of one, the second death splits the claim; alone, the next two reject a file."""
    watch, worker = Watch(books, takeovers_max=1), books.worker(takeovers_max=1)
    await claimed(worker, [A, B])
    await books.pass_seconds(LEASE_SECONDS)
    await claimed(worker, ())
    await books.pass_seconds(LEASE_SECONDS)
    first = await watch.check()
    assert (first.claims_isolated, first.files_isolated, first.files_given_up) == (1, 2, 0)
    assert steps(caplog) == ["claim.expired", "claim.isolated"]
    await claimed(worker, ())
    await books.pass_seconds(LEASE_SECONDS)
    await claimed(worker, ())
    alone = await claimed(worker, ())
    await worker.commit(alone, settled(alone.names))
    await books.pass_seconds(LEASE_SECONDS)
    second = await watch.check()
    assert second.files_given_up + second.files_isolated <= 1
    assert second.laws_broken == 0


async def test_it_sweeps_the_whole_spool_page_by_page(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that nobody takes up are in line after two sweeps, on whatever page they lie."""
    watch = Watch(books)
    for name in files(7):
        watch.spool.write(name, b"{}")
    assert (await watch.check()).files_swept == 0
    await books.pass_seconds(LEASE_SECONDS)
    tally = await watch.check()
    assert (tally.files_swept, tally.files_retrying) == (7, 7)
    assert steps(caplog) == ["files.swept"]
    assert len((await claimed(books.worker(), ())).names) == 7


async def test_a_sweep_waits_for_a_source_that_may_not_list_yet(books: Books) -> None:
    """A page without files then says nothing about the spool."""
    watch = Watch(books)
    for name in files(3):
        watch.spool.write(name, b"{}")
    assert (await watch.check(pause_seconds=0.2)).files_waiting == 3
    await books.pass_seconds(10)
    assert (await watch.check(budget_seconds=0.5, pause_seconds=60)).files_waiting is None


async def test_it_pauses_between_sweeps(books: Books) -> None:
    """The spool is not listed on every pass."""
    watch = Watch(books)
    watch.spool.write(A, b"{}")
    await watch.check()
    await books.pass_seconds(9)
    await watch.check()
    assert "overlooked" in await books.everything()
    await books.pass_seconds(1)
    assert (await watch.check()).files_swept == 0


async def test_it_warns_of_a_claim_that_sqs_may_have_forgotten(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """On FIFO a claim that waited for five minutes may repeat; elsewhere it is no news."""
    await claimed(books.worker("gone"), [A])
    await books.pass_seconds(301)
    assert (await Watch(books).check()).claims_past_fifo_window == 0
    assert (await Watch(books, fifo=True).check()).claims_past_fifo_window == 1
    assert "claim.past_fifo_window" in steps(caplog)


async def test_it_tells_of_claims_held_for_long(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that renews and renews is alive, and somebody should look at it."""
    slow = books.worker("slow")
    claim = await claimed(slow, [A])
    for _ in range(6):
        await books.pass_seconds(LEASE_SECONDS - 1)
        await slow.renew(claim)
    tally = await Watch(books).check()
    assert (tally.claims_old, tally.claims_expired) == (1, 0)
    assert tally.oldest_claim_seconds == 6 * (LEASE_SECONDS - 1)
    assert steps(caplog) == ["claim.old"]


async def test_it_verifies_the_books(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    """A file that came from nowhere breaks two laws, and both are told."""
    await books.client.zadd(f"{books.prefix}json_files_processed", {A: 1})
    assert (await Watch(books).check()).laws_broken == 2
    assert steps(caplog) == ["conservation.broken"] * 2
