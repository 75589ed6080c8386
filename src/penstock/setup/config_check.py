"""Whether the settings can work: what is wrong with them, and what may not be meant."""

import contextlib
from collections.abc import Generator
from contextlib import AsyncExitStack

from penstock import wiring
from penstock.embedded.owner_mark import UNMARKED
from penstock.errors import Halt
from penstock.settings.schema import EMBEDDED, Settings
from penstock.settings.spool_place import Directory, spool_place


async def mistakes(settings: Settings) -> list[str]:
    """Return what cannot work as configured, a line each; asks neither Redis nor the queue."""
    lines: list[str] = []
    async with AsyncExitStack() as stack:
        with _noted(lines):
            wiring.decode_side(settings)
        with _noted(lines):
            await wiring.source(settings, stack)
        with _noted(lines):
            if settings.ledger.url != EMBEDDED:
                wiring.unopened_ledger(settings, settings.ledger.url)
        with _noted(lines):
            wiring.check_queue(settings.queue)
    return list(dict.fromkeys(lines))


def warnings(settings: Settings) -> list[str]:
    """Return what can work as configured, and may not be meant, a line each."""
    if settings.ledger.url == EMBEDDED:
        with contextlib.suppress(Halt):  # which is one of the mistakes
            if not isinstance(spool_place(settings.source.url), Directory):
                return [UNMARKED]
    return []


@contextlib.contextmanager
def _noted(lines: list[str]) -> Generator[None]:
    try:
        yield
    except Halt as error:
        lines += str(error).splitlines()
