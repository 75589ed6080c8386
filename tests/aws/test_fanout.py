"""A loader that sees the backlog grow starts another: when, and never too many."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from penstock.aws import fanout
from penstock.aws.fanout import Growth, counted
from penstock.aws.invocation import Invocation, deadline
from penstock.errors import Halt
from penstock.ledger.loaders import START_PAUSE_SECONDS
from penstock.settings.reading import load
from support.books import Books


def told(*windows: list[float]) -> list[bool]:
    """Return what is answered after each window of ages."""
    growth, answers = Growth(), list[bool]()
    for ages in windows:
        for age in ages:
            growth.seen(age)
        answers.append(growth.grows())
    return answers


@pytest.mark.parametrize(
    ("windows", "answers"),
    [
        ([[300, 300], [308], [318]], [False, True, True]),  # older and older: it grows
        ([[300], [290], [280]], [False, False, False]),  # a tick's backlog, being worked off
        ([[300], [300.5]], [False, False]),  # it keeps up
        ([[1], [4], [9]], [False, False, False]),  # no backlog worth another process
        ([[300], [], [310]], [False, False, False]),  # nothing taken up: nothing to compare with
        ([[30], [28, 29, 3600]], [False, False]),  # one claim of a dead worker's
    ],
)
def test_when_a_backlog_grows(windows: list[list[float]], answers: list[bool]) -> None:
    """By how long files had waited, window against window."""
    assert told(*windows) == answers


async def test_never_more_run_than_are_wanted(books: Books) -> None:
    """Room is made for one at a time, with a pause between, and only while fewer run."""
    loaders = books.worker().loaders
    assert await loaders.enlist("tick", 900) == 1
    assert await loaders.reserve("a", 3)
    assert await loaders.reserve("a", 3)  # the same again: redis-py sent it twice
    assert not await loaders.reserve("b", 3)  # a moment ago
    await books.pass_seconds(START_PAUSE_SECONDS + 1)
    assert await loaders.enlist("a", 900) == 2
    assert await loaders.reserve("b", 3)
    await books.pass_seconds(START_PAUSE_SECONDS + 1)
    assert not await loaders.reserve("c", 3)
    counters = (await books.everything())["counters"]
    assert counters == {"loaders_started": "2"}


async def test_what_never_began_or_died_is_let_go_of(books: Books) -> None:
    """A reservation ends after a minute, a loader with its own time, one that leaves at once."""
    loaders = books.worker().loaders
    await loaders.enlist("killed", 300)
    assert await loaders.reserve("never begins", 2)
    await books.pass_seconds(61)
    assert await loaders.reserve("next", 2)
    await loaders.leave("next")
    assert await books.client.zrange(f"{books.prefix}loaders", 0, -1) == ["killed"]
    await books.pass_seconds(240)
    assert await loaders.enlist("tick", 900) == 1


class Started:
    """What another loader is started with, instead of AWS."""

    def __init__(self, error: Exception | None = None) -> None:
        self.names: list[str] = []
        self._error = error

    def __call__(self, function: str, name: str) -> None:
        """Note a start, or refuse it."""
        assert function == "arn"
        self.names.append(name)
        if self._error:
            raise self._error


async def grow(books: Books, monkeypatch: pytest.MonkeyPatch, started: Started, most: int) -> None:
    """Let one invocation see the backlog grow for a few windows."""
    monkeypatch.setattr(fanout, "_start", started)
    monkeypatch.setattr(fanout, "WINDOW_SECONDS", 0.02)
    run = Invocation(
        settings=load(overrides={"aws": {"max_loaders": most}}),
        stack=AsyncExitStack(),
        stop=asyncio.Event(),
        deadline=deadline(900),
        left_seconds=900,
        function="arn",
        name="tick",
    )
    async with counted(run, books.worker().loaders, {}) as seen:
        for age in range(100, 130):
            seen(age)
            await asyncio.sleep(0.01)


async def test_a_growing_backlog_starts_one(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, though several windows grew; the new one is counted, this one no longer."""
    started = Started()
    await grow(books, monkeypatch, started, most=5)
    assert len(started.names) == 1
    held: Any = (await books.everything())["loaders"]
    assert [*held] == started.names


@pytest.mark.parametrize("most", [1, 2])
async def test_a_full_house_starts_none(
    books: Books, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """By default there is no fan-out, and with one there is a bound."""
    await books.worker().loaders.enlist("other", 900)
    started = Started()
    await grow(books, monkeypatch, started, most)
    assert started.names == []


async def test_one_that_cannot_be_started_gives_its_place_back(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal by AWS does not end the pass that asked."""
    started = Started(Halt("AccessDenied"))
    await grow(books, monkeypatch, started, most=5)
    assert len(started.names) == 1
    assert "loaders" not in await books.everything()


async def test_a_started_loader_is_counted_once(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes by the name under which its place was kept."""
    loaders = books.worker().loaders
    assert await loaders.reserve("kept", 2)
    run = Invocation(load(), AsyncExitStack(), asyncio.Event(), deadline(9), 9, "arn", "request")
    async with counted(run, loaders, {"loader": "kept"}):
        held: Any = (await books.everything())["loaders"]
        assert [*held] == ["kept"]
    assert "loaders" not in await books.everything()
    assert monkeypatch
