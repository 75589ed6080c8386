"""Run one of Penstock's functions as a process: for one pass, or repeatedly until stopped."""

import asyncio
import ctypes
import gc
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from penstock import telemetry
from penstock.aio import sleep_unless
from penstock.errors import Again, Halt

_AGAIN_SECONDS_MAX = 30.0

# glibc's mallopt(3): what to set, and its value in bytes.
_M_TRIM_THRESHOLD, _TRIMMED_BYTES = -1, 67_108_864
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 4_718_592  # a body of 1 MiB takes 4 as text
_M_ARENA_MAX, _ARENAS = -8, 1

T = TypeVar("T")

OnePass = Callable[[asyncio.Event], Awaitable[T]]
"""One pass of a function over opened parts; it ends early when the event is set."""

Open = Callable[[AsyncExitStack], Awaitable[OnePass[T]]]


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on the fastest event loop available; SIGTERM and Ctrl-C set its event."""
    keep_memory()

    async def signalled() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(signalled())


def keep_memory() -> None:
    """Keep up to 64 MiB of freed memory for the next reads and sends.

    glibc would return it to the kernel, which clears every page before it hands it out again. That
    takes up to a tenth of a loader's time. All threads share one heap, which leaves fewer holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  an extra that may be missing
    except ImportError:
        return None
    return uvloop.new_event_loop


async def once(open_parts: Open[T], stop: asyncio.Event) -> T:
    """Open the parts, run one pass, close them. Raises what either raises."""
    async with AsyncExitStack() as stack:
        one_pass = await open_parts(stack)
        _freeze(again=False)
        return await one_pass(stop)


async def every(seconds: float, open_parts: Open[T], stop: asyncio.Event, *, what: str) -> None:
    """Run passes until `stop`; after an Again, pause and open all parts again. Raises Halt."""
    again = 0
    while not stop.is_set():
        try:
            async with AsyncExitStack() as stack:
                one_pass = await open_parts(stack)
                _freeze(again=bool(again))
                while not stop.is_set():
                    await one_pass(stop)
                    again = 0
                    await sleep_unless(stop, seconds)
        except Again as error:
            again += 1
            pause = random.uniform(0.5, 1) * min(2.0**again, _AGAIN_SECONDS_MAX)  # noqa: S311  jitter
            telemetry.warn(
                f"{what}.waits", pid=os.getpid(), cause=str(error), again_in_seconds=round(pause, 1)
            )
            await sleep_unless(stop, pause)
        except Halt as error:  # `penstock run` restarts this: the log says why it ended
            telemetry.warn(f"{what}.halts", pid=os.getpid(), cause=str(error))
            raise


def _freeze(*, again: bool) -> None:
    """Exclude the 200,000 objects of imports from garbage collection: saves a loader 1.2 µs a file.

    `again`: first release what was frozen for parts that are now closed.
    """
    if again:
        gc.unfreeze()
        gc.collect()
    gc.freeze()
