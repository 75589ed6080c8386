"""`penstock replay`: puts archived files back into the spool for another pass."""

import asyncio
import fnmatch
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from penstock import telemetry
from penstock.archive.segment import Member
from penstock.cli.ledger import progress_line, with_ledger
from penstock.cli.options import Config, Json, file_name
from penstock.cli.rejected import DryRun, Yes, agreed, print_report, time_option, time_range
from penstock.errors import Halt
from penstock.ledger.ledger import Ledger
from penstock.model import PutBack
from penstock.operate import requeue
from penstock.operate.archived import Archived
from penstock.operate.reject_filter import is_pattern
from penstock.operate.requeue import Report, Returning
from penstock.operate.spool_files import iso_time, spool_files
from penstock.settings.reading import load

_BY = "by the time stamp in its name, in UTC"
FromStamp = Annotated[float | None, time_option("--since", f"From this time on, {_BY}.")]
BeforeStamp = Annotated[float | None, time_option("--until", f"Before this time, {_BY}.")]


def replay(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Names, or patterns.")
    ] = None,
    since: FromStamp = None,
    until: BeforeStamp = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Put archived files back into the spool, so that all their records are sent again.

    Chooses by name or pattern, or by the UTC time stamp in the name; a name without one goes by the
    file's last modification. The time of archiving does not matter. The messages get new ids, so
    neither a FIFO queue nor a consumer drops them as repeats. Safe while workers run. Waits for
    files that left the spool less than a minute ago. Run it where the directory is. Exits with 1 if
    a file could not be put back.
    """
    if not files and since is None:
        raise typer.BadParameter("which? give names, or --since (and --until)")
    if files and (since is not None or until is not None):
        raise typer.BadParameter("give names, or a time, not both")
    begins, ends = time_range(since, until)
    telemetry.configure(verbose=False)
    settings = load(config)
    where = spool_files(settings, "replay")
    if where.deletes:
        raise Halt("archive.action is 'delete': processed files are not kept, so none can be sent"
                   " again")  # fmt: skip
    archived = Archived(where)
    names = _names(archived, files or ())

    def chosen() -> Iterator[Path | Member]:
        if names:
            copies = (next(archived.copies(name), None) for name in names)
            return (copy.file for copy in copies if copy)
        return archived.between(begins, ends)

    held = archived.held(names)
    missing = [name for name in names if name not in held]
    found = held if files else archived.names_between(begins, ends)
    window = "" if files else f" of {iso_time(begins)} to {iso_time(ends)}, {_BY},"
    go = agreed(found, "sent again", of=window, dry_run=dry_run, yes=yes)

    async def replayed(ledger: Ledger, stop: asyncio.Event) -> Report:
        token = requeue.operator_token()
        with progress_line() as progress, archived.own_files() as own:
            paths = map(own, chosen())
            returning = (Returning(path, PutBack(token, salt=token)) for path in paths)
            return await requeue.put_back(ledger, where, returning, stop=stop, progress=progress)

    report = with_ledger(settings, replayed) if go else Report()
    report.refused |= dict.fromkeys(missing, "it is not in the archive")
    verb = f"put back{'; workers send them again' * bool(report.done)}"
    print_report(report, verb, as_json=as_json, dry_run=dry_run)


def _names(archived: Archived, given: Iterable[str]) -> list[str]:
    """Return the chosen names, those of patterns from the archive; unmatched patterns stay."""
    wanted = list(dict.fromkeys(map(file_name, given)))
    patterns = {name for name in wanted if is_pattern(name)}
    found: dict[str, str] = {}  # by name: the pattern that matches it
    for name in archived.names_between(0.0, time.time()) if patterns else ():
        found.update((name, one) for one in patterns if fnmatch.fnmatchcase(name, one))
    matched = {*found.values()}
    return [*(name for name in wanted if name not in matched), *sorted(found)]
