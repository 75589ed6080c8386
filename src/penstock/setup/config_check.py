"""Check whether the settings can work, and are probably intended."""

import contextlib
import os
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from penstock import wiring
from penstock.archive.forecast import archive_space, arrival_rate, forecast
from penstock.embedded.owner_mark import UNMARKED
from penstock.errors import Halt
from penstock.settings.schema import EMBEDDED, Settings
from penstock.settings.spool_place import Directory, spool_place
from penstock.setup.hints import hints
from penstock.setup.survey import listed


async def mistakes(settings: Settings) -> list[str]:
    """Return mistakes that cannot work, a line each; contacts neither Redis nor the queue."""
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
    """Return settings that can work but are probably not intended, a line each."""
    found: list[str] = []
    directories = {"run.state_directory": Path(settings.run.state_directory)}
    with contextlib.suppress(Halt):  # `mistakes` reports it
        place = spool_place(settings.source.url)
        if isinstance(place, Directory):
            names = listed(place.path, settings.source.pattern)[0]
            found += _archive_warnings(settings, place, names)
            found += hints(settings, [place.path / name for name in names])
            if not settings.archive.bucket:
                directories["archive.directory"] = place.archive_directory(settings.archive)
            directories["archive.rejected_directory"] = place.rejects_directory(settings.archive)
        elif settings.ledger.url == EMBEDDED:
            found.append(UNMARKED)
    for setting, directory in directories.items():
        found += [f"{setting}: {line}" for line in _shared(directory)]
    return found


def _shared(directory: Path) -> Iterator[str]:
    """Yield who else could put links, FIFOs or files into a directory, or replace it."""
    for path in (directory, directory.absolute().parent):
        with contextlib.suppress(OSError):
            status = path.stat()
            is_sticky = path != directory and status.st_mode & stat.S_ISVTX
            who = ""
            if status.st_uid not in {0, os.geteuid()}:
                who = f"user {status.st_uid}"
            elif status.st_mode & stat.S_IWOTH and not is_sticky:
                who = "every user"
            elif status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}:
                who = f"group {status.st_gid}"
            if who:
                yield f"{who} may write to {path}; docs/security.md says what that allows"


def _archive_warnings(settings: Settings, spool: Directory, names: Sequence[str]) -> list[str]:
    """Warn if the archive's disk is too small for the rate at which files arrived."""
    kept = settings.archive
    space = None
    if not kept.bucket:
        space = archive_space(spool.archive_directory(kept), kept.action, time.time())
    rate = arrival_rate(names)
    seen = forecast(space, rate, kept.retention_days)
    if seen is None or seen.fits:
        return []
    line = (
        f"archive.action = {kept.action!r}: at {rate:,.0f} files a second (from the names in the"
        f" spool), the archive's disk has {seen.scarce} for {seen.lasts_days:.1f} days, but must"
        f" last {seen.needed_days:.1f}; 'pack' takes a fifth of the bytes and hardly any inodes"
    )
    return [line]


@contextlib.contextmanager
def _noted(lines: list[str]) -> Generator[None]:
    try:
        yield
    except Halt as error:
        lines += str(error).splitlines()
