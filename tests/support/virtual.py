"""Virtual time: an event loop on which every sleep is over at once, and in the right order."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """Everything waits for something that will never happen."""


class _Selector(selectors.SelectSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for nothing: move the clock to the next timer."""
        if timeout is None:
            raise StuckError
        self.loop.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop without I/O whose `time()` is `now`."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 1_000.0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


def run(loop: VirtualLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on this loop, and close it with all that is left on it."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
