"""Which names are tried next, and how far the spool has been dealt with."""

import asyncio
from collections.abc import Sequence

from penstock.model import LISTING_SECONDS_MAX
from penstock.source.candidates import Candidates, Portion
from support.books import files
from support.scripted_source import ScriptedSource, Spool


class Scene:
    """A spool, its source and the candidates of one worker, on a clock of the test."""

    def __init__(self, names: Sequence[str], page_files_max: int = 4, files_max: int = 2) -> None:
        self.now = 1000.0
        self.spool = Spool()
        for name in names:
            self.spool.write(name, b"x")
        self.source = ScriptedSource(
            self.spool, page_files_max=page_files_max, monotonic=lambda: self.now
        )
        self.candidates = Candidates(
            self.source,
            files_max=files_max,
            bytes_max=100,
            monotonic=lambda: self.now,
            shuffle=lambda portions: portions.reverse(),  # popped from the end: the first is first
        )

    async def take(self, count: int) -> list[Portion]:
        """Take so many portions."""
        return [await self.candidates.next() for _ in range(count)]


NAMES = files(8)


async def test_every_name_is_offered_once() -> None:
    """Page after page, portion after portion, until an empty page."""
    scene = Scene(NAMES)
    portions = await scene.take(5)
    assert [name for portion in portions for name in portion.names] == NAMES
    assert list(portions[-1].names) == []


async def test_portions_are_bounded_by_bytes() -> None:
    """Files that are large together are not claimed together."""
    scene = Scene(())
    for name in NAMES[:3]:
        scene.spool.write(name, b"x" * 60)
    assert [len(portion.names) for portion in await scene.take(4)] == [1, 1, 1, 0]


async def test_the_frontier_passes_a_page_when_all_of_it_is_tried() -> None:
    """Not before: a portion in flight may come back untried."""
    scene = Scene(NAMES)
    first, second, third, fourth = await scene.take(4)
    candidates = scene.candidates
    candidates.tried(third)
    candidates.tried(fourth)
    candidates.tried(first)
    assert candidates.frontier == ""
    candidates.put_back(second)
    assert candidates.frontier == ""
    assert await candidates.next() is second
    candidates.tried(second)
    assert candidates.frontier == "8"


async def test_a_worker_resumes_at_the_fleets_frontier() -> None:
    """The first listing begins there, and an unknown cursor lists everything."""
    scene = Scene(NAMES)
    scene.candidates.resume("4", "")
    assert list((await scene.candidates.next()).names) == NAMES[4:6]
    other = Scene(NAMES)
    other.candidates.resume("of-another-source", "")
    assert list((await other.candidates.next()).names) == NAMES[:2]


async def test_a_running_worker_keeps_its_own_cursor() -> None:
    """A second pass goes on where the first one was."""
    scene = Scene(NAMES)
    await scene.take(2)
    scene.candidates.resume("0", "")
    assert list((await scene.candidates.next()).names) == NAMES[4:6]


async def test_an_old_listing_is_not_claimed_from() -> None:
    """What was archived may be forgotten by now: the names are listed afresh, from the frontier."""
    scene = Scene(NAMES)
    first = await scene.candidates.next()
    scene.now += LISTING_SECONDS_MAX + 1
    fresh = await scene.candidates.next()
    assert list(fresh.names) == NAMES[:2]
    assert scene.source.listed_from == ["", ""]
    scene.candidates.put_back(first)
    assert list((await scene.candidates.next()).names) == NAMES[2:4]


async def test_a_loss_starts_over_and_says_which_files_it_touches() -> None:
    """Everything that lay there is offered again, marked; what arrives later is not."""
    scene = Scene(NAMES[:6])
    candidates = scene.candidates
    assert not candidates.in_epoch("one")
    for portion in await scene.take(3):
        candidates.tried(portion)
    assert not candidates.in_epoch("one")
    assert candidates.in_epoch("two")
    assert candidates.frontier == ""
    again = await scene.take(3)
    assert [name for portion in again for name in portion.names] == NAMES[:6]
    assert all(portion.after_loss for portion in again)
    scene.spool.write(NAMES[6], b"x")
    assert [(list(p.names), p.after_loss) for p in await scene.take(1)] == [([NAMES[6]], False)]


async def test_an_empty_listing_answers_as_long_as_another_would_wait() -> None:
    """A pass does not end later because its source is slow to list: nothing was there."""
    scene = Scene(())
    scene.source.pause_seconds = 7.0
    assert not (await scene.candidates.next()).names
    scene.spool.write(NAMES[0], b"x")
    scene.now += 6.9
    assert not (await scene.candidates.next()).names
    scene.now += 0.2
    assert (await scene.candidates.next()).names == [NAMES[0]]


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
    other = asyncio.create_task(scene.candidates.next())
    await began.wait()
    scene.candidates.put_back(first)
    go_on.set()
    assert (await other).names == first.names
