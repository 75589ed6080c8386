"""Many calls to nginx at once: each is one round trip, and a claim is hundreds of files."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CONNECTIONS = 32
"""Calls in flight at once; more make one process no faster."""


async def in_lanes(lanes: int, lane: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a lane several times at once; the first error ends them all, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def each(items: Sequence[T], do: Callable[[T], Awaitable[R]]) -> list[R]:
    """Return what `do` returns for each item, in their order. Raises what it raises."""
    done: dict[int, R] = {}
    waiting = iter(range(len(items)))

    async def lane() -> None:
        for index in waiting:
            done[index] = await do(items[index])

    await in_lanes(min(CONNECTIONS, len(items)), lane)
    return [done[index] for index in range(len(items))]
