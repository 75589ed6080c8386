"""The limiter: never more inside than the limit, nobody left waiting, whatever the order."""

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from penstock.sqs.limiter import ConcurrencyLimiter


async def test_it_lets_in_as_many_as_the_limit() -> None:
    """The one too many waits until someone leaves."""
    limiter = ConcurrencyLimiter(2)
    tickets = [await limiter.enter(), await limiter.enter()]
    third = asyncio.create_task(limiter.enter())
    await asyncio.sleep(0)
    assert not third.done()
    limiter.leave(tickets[0], throttled=False)
    assert await third == 3


async def test_one_round_of_throttles_halves_once() -> None:
    """Calls that were in flight at the halving do not halve again; later ones do."""
    limiter = ConcurrencyLimiter(16)
    tickets = [await limiter.enter() for _ in range(16)]
    for ticket in tickets:
        limiter.leave(ticket, throttled=True)
    assert limiter.limit == 8
    limiter.leave(await limiter.enter(), throttled=True)
    assert limiter.limit == 4


async def test_a_place_given_to_the_cancelled_goes_to_the_next() -> None:
    """Woken and cancelled in one step, a call takes no place, and no other waits for it."""
    limiter = ConcurrencyLimiter(1)
    ticket = await limiter.enter()
    first, second = (asyncio.create_task(limiter.enter()) for _ in range(2))
    await asyncio.sleep(0)
    limiter.leave(ticket, throttled=False)
    first.cancel()
    assert await asyncio.wait_for(second, 1) == 2


async def test_it_never_closes() -> None:
    """However often it is halved, one call goes through."""
    limiter = ConcurrencyLimiter(16)
    for _ in range(20):
        limiter.leave(await limiter.enter(), throttled=True)
    assert limiter.limit == 1


async def test_it_grows_by_one_a_round() -> None:
    """A full round of calls that pass adds about one place, up to the first limit."""
    limiter = ConcurrencyLimiter(16)
    limiter.leave(await limiter.enter(), throttled=True)
    for _ in range(9):
        limiter.leave(await limiter.enter(), throttled=False)
    assert limiter.limit == 9
    for _ in range(200):
        limiter.leave(await limiter.enter(), throttled=False)
    assert limiter.limit == 16


@given(steps=st.lists(st.sampled_from(["enter", "pass", "throttle", "cancel"]), max_size=80))
def test_places_are_neither_lost_nor_invented(steps: list[str]) -> None:
    """After any history of entering, leaving and cancelling, all who wait get in, in the end."""

    async def play() -> None:
        limiter, inside, waiting = ConcurrencyLimiter(3), list[int](), list[asyncio.Task[int]]()
        for step in steps:
            if step == "enter":
                waiting.append(asyncio.create_task(limiter.enter()))
            elif step == "cancel" and waiting:
                task = waiting.pop(len(waiting) // 2)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    inside.append(await task)
            elif step in ("pass", "throttle") and inside:
                limiter.leave(inside.pop(0), throttled=step == "throttle")
            for _ in range(3):
                await asyncio.sleep(0)
            inside += [task.result() for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]
            assert limiter._inside == len(inside) <= 3
            assert not waiting or len(inside) >= limiter.limit
        while inside or waiting:
            if inside:
                limiter.leave(inside.pop(), throttled=False)
            await asyncio.sleep(0)
            inside += [task.result() for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]

    asyncio.run(asyncio.wait_for(play(), 5))
