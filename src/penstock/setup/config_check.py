"""Whether the settings can work: what is wrong with them, and what may not be meant."""

import contextlib
import time
from collections.abc import Generator
from contextlib import AsyncExitStack

from penstock import wiring
from penstock.archive.forecast import archive_space, arrival_rate, forecast
from penstock.embedded.owner_mark import UNMARKED
from penstock.errors import Halt
from penstock.settings.schema import EMBEDDED, Settings
from penstock.settings.spool_place import Directory, spool_place
from penstock.setup.survey import listed


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
    with contextlib.suppress(Halt):  # which is one of the mistakes
        place = spool_place(settings.source.url)
        if isinstance(place, Directory):
            return _archive_warnings(settings, place)
        if settings.ledger.url == EMBEDDED:
            return [UNMARKED]
    return []


def _archive_warnings(settings: Settings, spool: Directory) -> list[str]:
    """Say whether the archive's disk bears the rate at which the files in the spool came."""
    kept = settings.archive
    space = None
    if not kept.bucket:
        space = archive_space(spool.archive_directory(kept), kept.action, time.time())
    rate = arrival_rate(listed(spool.path, settings.source.pattern)[0])
    seen = forecast(space, rate, kept.retention_days)
    if seen is None or seen.fits:
        return []
    line = (
        f"archive.action = {kept.action!r}: at {rate:,.0f} files a second, by the names in the"
        f" spool, the archive's disk has {seen.scarce} for {seen.lasts_days:.1f} days, and must"
        f" last {seen.needed_days:.1f}; 'pack' takes a fifth of the bytes and hardly an inode"
    )
    return [line]


@contextlib.contextmanager
def _noted(lines: list[str]) -> Generator[None]:
    try:
        yield
    except Halt as error:
        lines += str(error).splitlines()
