"""`penstock replay`: archived files back into the spool for another pass."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from penstock import passes, telemetry, wiring
from penstock.cli.options import Config, Json
from penstock.cli.progress import progress_line
from penstock.cli.rejected import DryRun, Since, Until, Yes, not_empty, print_report
from penstock.errors import Halt
from penstock.model import PutBack
from penstock.operate import requeue
from penstock.operate.requeue import Report, Returning
from penstock.operate.spool_files import SpoolFiles, iso_time, spool_files
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.setup import survey
from penstock.wording import plural

_SHOWN = 20


def replay(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Names of archived files.")
    ] = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Put archived files back into the spool, so that all their records are sent once more.

    By name, or by the time stamp in the name (without one: by last modification), in UTC. The
    messages get new ids, so neither a FIFO queue nor a consumer takes them for repeats. Safe beside
    running workers. Files that left the spool less than a minute ago are waited for. Works where
    the directory is. Exits with 1 if a file could not be put back.
    """
    if not files and since is None:
        raise typer.BadParameter("which? give names, or --since (and --until)")
    if files and (since is not None or until is not None):
        raise typer.BadParameter("give names, or a time, not both")
    not_empty(since, until)
    telemetry.configure(verbose=False)
    settings = load(config)
    where = spool_files(settings, "replay")
    if where.deletes:
        raise Halt("archive.action is 'delete': processed files are not kept, so none can be sent"
                   " again")  # fmt: skip
    ends = time.time() if until is None else until
    names = list(dict.fromkeys(name.rpartition("/")[2] for name in files or ()))
    missing = [name for name in names if where.archived(name) is None]
    window = "" if names else f" of {iso_time(since or 0)} to {iso_time(ends)}"
    count = _announce(where, names, since, ends)
    if dry_run:
        typer.echo(f"{plural(count, 'file')}{window} would be sent again", err=True)
    elif count and not yes:
        question = f"{plural(count, 'file')}{window} will be sent again: go on?"
        typer.confirm(question, abort=True, err=True)
    report = Report(refused=dict.fromkeys(missing, "it is not in the archive"))
    if count and not dry_run:
        done = passes.run(lambda stop: _replayed(settings, where, names, since, ends, stop))
        report.done += done.done
        report.refused |= done.refused
    verb = f"put back{'; workers send them again' * bool(report.done)}"
    print_report(report, verb, as_json=as_json, dry_run=dry_run)


def _files(
    where: SpoolFiles, names: list[str], since: float | None, until: float, put_back: PutBack
) -> Iterator[Returning]:
    if names:
        found = (where.archived(name) for name in names)
        yield from (Returning(path, put_back) for path in found if path is not None)
    else:
        yield from (Returning(p, put_back) for p in where.archived_between(since or 0.0, until))


def _announce(where: SpoolFiles, names: list[str], since: float | None, until: float) -> int:
    count = 0
    for count, file in enumerate(_files(where, names, since, until, PutBack("")), 1):
        if count <= _SHOWN:
            typer.echo(survey.printable(file.name), err=True)
    if count > _SHOWN:
        typer.echo(f"and {count - _SHOWN:,} more", err=True)
    return count


async def _replayed(
    settings: Settings,
    where: SpoolFiles,
    names: list[str],
    since: float | None,
    until: float,
    stop: asyncio.Event,
) -> Report:
    token = requeue.operator_token()
    returning = _files(where, names, since, until, PutBack(token, salt=token))
    async with AsyncExitStack() as stack:
        ledger = await wiring.ledger(settings, stack)
        progress = stack.enter_context(progress_line())
        return await requeue.put_back(ledger, where, returning, stop=stop, progress=progress)
