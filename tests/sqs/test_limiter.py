"""The gate: never more inside than the limit, nobody left waiting, whatever the order."""

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from penstock.sqs.limiter import ConcurrencyLimiter


async def test_it_lets_in_as_many_as_the_limit() -> None:
    """The one too many waits until someone leaves."""
    gate = ConcurrencyLimiter(2)
    tickets = [await gate.enter(), await gate.enter()]
    third = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    assert not third.done()
    gate.leave(tickets[0], throttled=False)
    assert await third == 3


async def test_one_round_of_throttles_halves_once() -> None:
    """Calls that were in flight at the halving do not halve again; later ones do."""
    gate = ConcurrencyLimiter(16)
    tickets = [await gate.enter() for _ in range(16)]
    for ticket in tickets:
        gate.leave(ticket, throttled=True)
    assert gate.limit == 8
    gate.leave(await gate.enter(), throttled=True)
    assert gate.limit == 4


async def test_a_place_given_to_the_cancelled_goes_to_the_next() -> None:
    """Woken and cancelled in one step, a call takes no place, and no other waits for it."""
    gate = ConcurrencyLimiter(1)
    ticket = await gate.enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave(ticket, throttled=False)
    first.cancel()
    assert await asyncio.wait_for(second, 1) == 2


async def test_it_never_closes() -> None:
    """However often it is halved, one call goes through."""
    gate = ConcurrencyLimiter(16)
    for _ in range(20):
        gate.leave(await gate.enter(), throttled=True)
    assert gate.limit == 1


async def test_it_grows_by_one_a_round() -> None:
    """A full round of calls that pass adds about one place, up to the first limit."""
    gate = ConcurrencyLimiter(16)
    gate.leave(await gate.enter(), throttled=True)
    for _ in range(9):
        gate.leave(await gate.enter(), throttled=False)
    assert gate.limit == 9
    for _ in range(200):
        gate.leave(await gate.enter(), throttled=False)
    assert gate.limit == 16


@given(steps=st.lists(st.sampled_from(["enter", "pass", "throttle", "cancel"]), max_size=80))
def test_places_are_neither_lost_nor_invented(steps: list[str]) -> None:
    """After any history of entering, leaving and cancelling, all who wait get in, in the end."""

    async def play() -> None:
        gate, inside, waiting = ConcurrencyLimiter(3), list[int](), list[asyncio.Task[int]]()
        for step in steps:
            if step == "enter":
                waiting.append(asyncio.create_task(gate.enter()))
            elif step == "cancel" and waiting:
                task = waiting.pop(len(waiting) // 2)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    inside.append(await task)
            elif step in ("pass", "throttle") and inside:
                gate.leave(inside.pop(0), throttled=step == "throttle")
            for _ in range(3):
                await asyncio.sleep(0)
            inside += [task.result() for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]
            assert gate._inside == len(inside) <= 3
            assert not waiting or len(inside) >= gate.limit
        while inside or waiting:
            if inside:
                gate.leave(inside.pop(), throttled=False)
            await asyncio.sleep(0)
            inside += [task.result() for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]

    asyncio.run(asyncio.wait_for(play(), 5))
