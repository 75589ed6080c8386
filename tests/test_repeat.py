"""A process that opens its parts anew after an error keeps nothing of those that it closed."""

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack

from penstock.entry import repeat
from penstock.errors import Again


class Parts:
    """Parts that refer to themselves, as clients with connections do."""

    def __init__(self) -> None:
        self.itself = self


async def test_closed_parts_are_not_kept_frozen() -> None:
    """Else each minute without Redis would cost memory for good."""
    opened: list[weakref.ref[Parts]] = []
    stop = asyncio.Event()

    async def open_parts(_: AsyncExitStack) -> repeat.OnePass[None]:
        parts = Parts()
        opened.append(weakref.ref(parts))

        async def one_pass(stop: asyncio.Event) -> None:
            assert parts.itself is parts
            if len(opened) == 1:
                raise Again("away")
            stop.set()

        return one_pass

    try:
        await repeat.every(0, open_parts, stop, what="test")
        assert len(opened) == 2
        assert opened[0]() is None
    finally:
        gc.unfreeze()
