"""A server with an event loop of its own, for tests that call it with a blocking client."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def threaded(server: AbstractAsyncContextManager[T]) -> Generator[T]:
    """Run an asynchronous context in a thread while this one lasts; give what it gives."""
    started: list[T | BaseException] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        try:
            async with server as running:
                started.append(running)
                ready.set()
                await asyncio.to_thread(over.wait)
        except BaseException as error:
            started.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(60)
    try:
        first = started[0]
        if isinstance(first, BaseException):
            raise first
        yield first
    finally:
        over.set()
        thread.join(60)
