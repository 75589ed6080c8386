"""One function of Penstock as a process: one pass, or pass after pass until it is told to stop."""

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

# glibc's mallopt(3): what is to be set, and to what, in bytes.
_M_TRIM_THRESHOLD, _TRIMMED_BYTES = -1, 67_108_864
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 4_718_592  # a body of 1 MiB takes 4 as text
_M_ARENA_MAX, _ARENAS = -8, 1

T = TypeVar("T")

OnePass = Callable[[asyncio.Event], Awaitable[T]]
"""One pass of a function over opened parts; it ends early when the event is set."""

Open = Callable[[AsyncExitStack], Awaitable[OnePass[T]]]


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on the fastest event loop there is; SIGTERM and Ctrl-C set its event."""
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
    """Have freed memory kept for what is read and sent next, up to 64 MiB.

    Claims come and go by the megabyte; glibc would give that back to the kernel each time, which
    clears every page before it gives it out anew: up to a tenth of a loader's time. All threads
    share one heap, which has fewer holes: of Python's only one runs at a time. Another C library is
    left as it is.
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
        _freeze()
        return await one_pass(stop)


async def every(seconds: float, open_parts: Open[T], stop: asyncio.Event, *, what: str) -> None:
    """Run pass after pass, `seconds` apart, until `stop`; what may pass is waited for.

    After an error the parts are opened anew, with a pause that doubles up to 30 s. Raises Halt:
    then someone has to mend something.
    """
    again = 0
    while not stop.is_set():
        try:
            async with AsyncExitStack() as stack:
                one_pass = await open_parts(stack)
                _freeze()
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
        except Halt as error:  # `penstock run` starts this anew: the log says why it ended
            telemetry.warn(f"{what}.halts", pid=os.getpid(), cause=str(error))
            raise


def _freeze() -> None:
    """Keep what imports and opening have made out of every collection of garbage to come.

    Some 200,000 objects: to look at them took a loader 1.2 µs a file. What was frozen for parts
    that have been closed since is let go.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
