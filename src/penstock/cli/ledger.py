"""Open the ledger and show progress, for the commands that need it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from typing import TypeVar

import typer
from rich.console import Console

from penstock import passes, wiring
from penstock.ledger.ledger import Ledger
from penstock.operate.requeue import Progress
from penstock.operate.wording import plural
from penstock.settings.schema import Settings

T = TypeVar("T")


def with_ledger(settings: Settings, act: Callable[[Ledger, asyncio.Event], Awaitable[T]]) -> T:
    """Run `act` with the open ledger, and with the event that SIGTERM and Ctrl-C set."""

    async def main(stop: asyncio.Event) -> T:
        async with AsyncExitStack() as stack:
            return await act(await wiring.ledger(settings, stack), stop)

    return passes.run(main)


@contextlib.contextmanager
def progress_line() -> Generator[Progress]:
    """Show progress in one changing line; without a terminal, print each cause of waiting once."""
    console = Console(stderr=True)
    done = 0
    shown = set[str]()
    with console.status("putting files back …") as line:

        def progress(more: int, text: str) -> None:
            nonlocal done
            done += more
            line.update(f"{plural(done, 'file')} done  {text}")
            reason = text.partition(":")[0]  # the rest is a countdown
            if reason and reason not in shown and not console.is_terminal:
                typer.echo(text, err=True)
                shown.add(reason)

        yield progress
