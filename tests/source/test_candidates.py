"""Which names are tried next, and how far the spool has been dealt with."""

import asyncio
import dataclasses
import random
from collections.abc import Sequence

import pytest

from penstock.model import LISTING_SECONDS_MAX, Page
from penstock.source import candidates as candidates_module
from penstock.source.candidates import Candidates, Portion
from support.books import files
from support.scripted_source import ScriptedSource, Spool


class Scene:
    """A spool, its source and the candidates of one worker, on a clock of the test."""

    def __init__(
        self,
        names: Sequence[str],
        page_files_max: int = 4,
        files: int = 2,
        linger_seconds: float = 0.0,
    ) -> None:
        self.now = 1000.0
        self.files = files
        self.stop = asyncio.Event()
        self.spool = Spool()
        for name in names:
            self.spool.write(name, b"x")
        self.source = ScriptedSource(
            self.spool, page_files_max=page_files_max, monotonic=lambda: self.now
        )
        self.candidates = Candidates(
            self.source,
            linger_seconds=linger_seconds,
            monotonic=lambda: self.now,
            shuffle=lambda runs: runs.reverse(),  # popped from the end: the first is first
        )

    async def next(self) -> Portion:
        """Take a portion."""
        return await self.candidates.next(self.files, self.stop)

    async def take(self, count: int) -> list[Portion]:
        """Take so many portions."""
        return [await self.next() for _ in range(count)]


@pytest.fixture(autouse=True)
def _runs_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut pages into runs of two names, so that a few of them make a portion."""
    monkeypatch.setattr(candidates_module, "_RUN_FILES", 2)


NAMES = files(8)


async def test_every_name_is_offered_once() -> None:
    """Page after page, portion after portion, until an empty page."""
    scene = Scene(NAMES)
    portions = await scene.take(5)
    assert [name for portion in portions for name in portion.names] == NAMES
    assert list(portions[-1].names) == []


async def test_a_portion_has_as_many_names_as_are_asked_for() -> None:
    """Over runs and pages, cut where it must be; the last one has what is left, and says so."""
    scene = Scene(NAMES, files=3)
    portions = await scene.take(3)
    assert [(list(p.names), p.is_final) for p in portions] == [
        (NAMES[:3], False), (NAMES[3:6], False), (NAMES[6:], True),
    ]  # fmt: skip


async def test_names_wait_for_others_until_the_first_has_waited_long_enough() -> None:
    """Then all of them are given out, however few they are; or at once where it is to stop."""
    for stopped in (False, True):
        scene = Scene(NAMES[:1], files=3, linger_seconds=0.2)
        waiting = asyncio.create_task(scene.next())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        scene.spool.write(NAMES[1], b"x")
        if stopped:
            scene.stop.set()
        else:
            scene.now += 0.3
        portion = await waiting
        assert portion.is_final
        assert list(portion.names)[:1] == NAMES[:1]


@pytest.mark.parametrize(("pause_seconds", "waits"), [(0.9, True), (1.1, False)])
async def test_names_wait_for_a_listing_that_is_soon(pause_seconds: float, waits: bool) -> None:  # noqa: FBT001
    """Messages are fuller then; but nothing waits for more than three times as long."""
    scene = Scene(NAMES[:1], files=3, linger_seconds=0.2)
    waiting = asyncio.create_task(scene.next())
    while not scene.source.listed_from:
        await asyncio.sleep(0.001)
    scene.source.pause_seconds = pause_seconds
    while len(scene.source.listed_from) < 2:
        await asyncio.sleep(0.001)
    scene.spool.write(NAMES[1], b"x")
    scene.source.pause_seconds = 0.0
    scene.now += 0.8
    await asyncio.sleep(0.6)
    assert waiting.done() != waits
    scene.now += 0.2
    portion = await waiting
    assert portion.is_final
    assert list(portion.names) == NAMES[: 1 + waits]


async def test_enough_names_do_not_wait() -> None:
    """A message's worth is claimed at once; what is over waits."""
    scene = Scene(NAMES[:3], linger_seconds=60)
    assert list((await scene.next()).names) == NAMES[:2]
    waiting = asyncio.create_task(scene.next())
    await asyncio.sleep(0.05)
    scene.spool.write(NAMES[3], b"x")
    scene.now += 1
    assert list((await waiting).names) == NAMES[2:4]


async def test_a_name_that_is_listed_twice_is_in_a_portion_once() -> None:
    """As where a file is found out of order; what a claim has twice would be sent twice."""
    scene = Scene(NAMES[:4], files=8)
    lists = scene.source.list

    async def again(cursor: str) -> Page:
        return await lists("" if len(scene.source.listed_from) == 1 else cursor)

    scene.source.list = again  # type: ignore[method-assign]
    assert list((await scene.next()).names) == NAMES[:4]


async def test_names_that_nobody_has_are_tried_again() -> None:
    """Too few of a portion were waiting: those wait for others, and the frontier for them."""
    scene = Scene(NAMES[:6], page_files_max=6)
    first = await scene.next()
    scene.candidates.tried(first, 3, [1])
    assert list((await scene.next()).names) == [NAMES[1], NAMES[2]]
    assert scene.candidates.frontier == ""


@pytest.mark.parametrize("seed", range(40))
async def test_what_was_not_looked_up_or_has_no_owner_is_tried_again(seed: int) -> None:
    """Whatever runs a portion has: those names, each once, and what follows them."""
    dice = random.Random(seed)
    scene = Scene(NAMES, page_files_max=dice.randint(1, 9), files=dice.randint(1, 9))
    portion = await scene.next()
    names = list(portion.names)
    looked_up = dice.randint(0, len(names))
    waiting = sorted(dice.sample(range(looked_up), dice.randint(0, looked_up)))
    scene.candidates.tried(portion, looked_up, waiting)
    scene.files = 9
    left = [names[at] for at in waiting] + names[looked_up:]
    again = await scene.next()
    assert sorted(again.names) == sorted(left + NAMES[len(names) :])


async def test_more_names_are_given_where_others_have_some() -> None:
    """As many as it takes to find enough that nobody has, by what was found of late."""
    scene = Scene(NAMES, page_files_max=8)
    portion = await scene.next()
    for _ in range(9):
        scene.candidates.tried(portion, 3, (), 0.51)
        portion = Portion([], is_final=True)
    assert len((await scene.next()).names) == 4
    for _ in range(99):
        scene.candidates.tried(portion, 3, (), 0.0)
    assert scene.candidates.share == pytest.approx(0.25)


async def test_the_frontier_passes_a_page_when_all_of_it_is_tried() -> None:
    """Not before: a portion in flight may come back untried."""
    scene = Scene(NAMES)
    first, second, third, fourth = await scene.take(4)
    candidates = scene.candidates
    candidates.tried(third, len(third.names))
    candidates.tried(fourth, len(fourth.names))
    candidates.tried(first, len(first.names))
    assert candidates.frontier == ""
    candidates.put_back(second)
    assert candidates.frontier == ""
    assert (await scene.next()).names == second.names
    candidates.tried(second, len(second.names))
    assert candidates.frontier == "8"


async def test_a_worker_resumes_at_the_fleets_frontier() -> None:
    """The first listing begins there, and an unknown cursor lists everything."""
    scene = Scene(NAMES)
    scene.candidates.resume("4", "")
    assert list((await scene.next()).names) == NAMES[4:6]
    other = Scene(NAMES)
    other.candidates.resume("of-another-source", "")
    assert list((await other.next()).names) == NAMES[:2]


async def test_a_running_worker_keeps_its_own_cursor() -> None:
    """A second pass goes on where the first one was."""
    scene = Scene(NAMES)
    await scene.take(2)
    scene.candidates.resume("0", "")
    assert list((await scene.next()).names) == NAMES[4:6]


async def test_an_old_listing_is_not_claimed_from() -> None:
    """What was archived may be forgotten by now: the names are listed afresh, from the frontier."""
    scene = Scene(NAMES)
    first = await scene.next()
    scene.now += LISTING_SECONDS_MAX + 1
    fresh = await scene.next()
    assert list(fresh.names) == NAMES[:2]
    assert scene.source.listed_from == ["", ""]
    scene.candidates.put_back(first)
    assert list((await scene.next()).names) == NAMES[2:4]


async def test_a_loss_starts_over_and_says_which_files_it_touches() -> None:
    """Everything that lay there is offered again, marked; what arrives later is not."""
    scene = Scene(NAMES[:6])
    candidates = scene.candidates
    assert not candidates.in_epoch("one")
    for portion in await scene.take(3):
        candidates.tried(portion, len(portion.names))
    assert not candidates.in_epoch("one")
    assert candidates.in_epoch("two")
    assert candidates.frontier == ""
    again = await scene.take(3)
    assert [name for portion in again for name in portion.names] == NAMES[:6]
    assert all(portion.is_after_loss("two") for portion in again)
    scene.spool.write(NAMES[6], b"x")
    scene.now += 1
    assert [(list(p.names), p.is_after_loss("two")) for p in await scene.take(1)] == [
        ([NAMES[6]], False)
    ]


async def test_a_loss_that_is_counted_starts_over_and_marks_nothing() -> None:
    """The ledger has said which claims are lost, and how many files they had."""
    scene = Scene(NAMES[:6])
    candidates = scene.candidates
    assert not candidates.in_epoch("one", 0)
    for portion in await scene.take(4):
        candidates.tried(portion, len(portion.names))
    assert candidates.in_epoch("one", 1)
    assert not candidates.in_epoch("one", 1)
    again = await scene.take(3)
    assert [name for portion in again for name in portion.names] == NAMES[:6]
    assert not any(portion.is_after_loss("one") for portion in again)


@pytest.mark.parametrize(("epoch", "losses"), [("two", 0), ("one", 1)])
async def test_a_page_on_its_way_does_not_undo_a_start(epoch: str, losses: int) -> None:
    """Its cursor would go on behind the files that are to be tried again."""
    scene = Scene(NAMES[:6])
    candidates, listing = scene.candidates, scene.source.list
    candidates.in_epoch("one")
    for portion in await scene.take(2):
        candidates.tried(portion, len(portion.names))

    async def slow(cursor: str) -> Page:
        page = await listing(cursor)
        scene.source.list = listing
        candidates.in_epoch(epoch, losses)  # what another lane learns meanwhile
        return page

    scene.source.list = slow
    assert list((await scene.next()).names) == NAMES[:2]


async def test_names_of_two_spools_are_never_in_one_portion() -> None:
    """What was listed before another directory became the spool lies elsewhere: it is forgotten."""
    scene = Scene(NAMES, files=6)
    listing, notes = scene.source.list, ["one", "two", "two", "two"]

    async def noted(cursor: str) -> Page:
        return dataclasses.replace(await listing(cursor), spool_note=notes.pop(0))

    scene.source.list = noted
    portion = await scene.next()
    assert (list(portion.names), portion.spool_note) == (NAMES[:6], "two")
    assert notes == []


async def test_an_empty_listing_answers_as_long_as_another_would_wait() -> None:
    """A pass does not end later because its source is slow to list: nothing was there."""
    scene = Scene(())
    scene.source.pause_seconds = 7.0
    assert not (await scene.next()).names
    scene.spool.write(NAMES[0], b"x")
    scene.source.pause_seconds = 0.0
    scene.now += 6.9
    assert not (await scene.next()).names
    scene.now += 0.2
    assert (await scene.next()).names == [NAMES[0]]


async def test_an_empty_listing_answers_for_all_lanes() -> None:
    """Lanes that find nothing do not each list the spool again at once."""
    scene = Scene(())
    await scene.take(5)
    assert len(scene.source.listed_from) == 1
    scene.now += 1
    await scene.take(1)
    assert len(scene.source.listed_from) == 2


async def test_a_portion_put_back_while_another_lane_lists_is_offered_again() -> None:
    """Listing takes time, and a lane that was given something else puts its names back."""
    scene = Scene(NAMES[:2])
    (first,) = await scene.take(1)
    began, go_on = asyncio.Event(), asyncio.Event()
    lists = scene.source.list

    async def slowly(cursor: str) -> object:
        began.set()
        await go_on.wait()
        return await lists(cursor)

    scene.source.list = slowly  # type: ignore[method-assign, assignment]
    other = asyncio.create_task(scene.next())
    await began.wait()
    scene.candidates.put_back(first)
    go_on.set()
    assert (await other).names == first.names
