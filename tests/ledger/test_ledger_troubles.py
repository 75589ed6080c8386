"""What a pass failed of is noted for as long as it fails, and no longer."""

import time
from types import SimpleNamespace

import pytest

from penstock.ledger import upkeep
from support.books import Books


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the `seconds` by which the clock of this process is ahead."""
    passed = SimpleNamespace(seconds=0.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed.seconds)
    monkeypatch.setattr(upkeep, "time", clock)
    return passed


async def noted(books: Books) -> list[str]:
    """Return the functions whose last pass failed."""
    return [*(await books.worker().overview.read()).troubles]


async def test_a_good_pass_removes_the_note_of_its_own_process(books: Books) -> None:
    """At once; that of another function stays."""
    worker = books.worker().upkeep
    await worker.trouble("loader", "denied")
    await worker.trouble("archiver", "full")
    assert await noted(books) == ["archiver", "loader"]
    await worker.trouble("loader", "")
    assert await noted(books) == ["archiver"]


async def test_the_note_of_a_process_that_ended_does_not_stay(
    books: Books, passed: SimpleNamespace
) -> None:
    """One that has run well for long removes it, but none of a process that fails just now."""
    well, ended = books.worker().upkeep, books.worker("ended").upkeep
    await well.trouble("loader", "")
    await ended.trouble("loader", "denied")
    for _ in range(2):
        passed.seconds += 61
        await well.trouble("loader", "")  # the note is a moment old by Redis's clock
        assert await noted(books) == ["loader"]
    await books.pass_seconds(61)
    await well.trouble("loader", "")
    assert await noted(books) == ["loader"]  # it looks once a minute
    passed.seconds += 61
    await well.trouble("loader", "")
    assert await noted(books) == []


async def test_a_note_of_another_year_does_not_stay(books: Books, passed: SimpleNamespace) -> None:
    """Redis's clock was a year ahead when a process failed, and ended: another one runs well."""
    well, ended = books.worker().upkeep, books.worker("ended").upkeep
    await well.trouble("loader", "")
    await books.pass_seconds(366 * 86_400)
    await ended.trouble("loader", "denied")
    await books.pass_seconds(-366 * 86_400)
    assert await well.correct() == 1
    passed.seconds += 61
    await books.pass_seconds(61)
    await well.trouble("loader", "")
    assert await noted(books) == []
