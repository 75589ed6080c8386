"""`penstock verify`: checks that every file is accounted for."""

import asyncio
import dataclasses
import json
from typing import Annotated

import typer

from penstock.cli.ledger import with_ledger
from penstock.cli.options import Config, Json, say
from penstock.ledger.ledger import Ledger
from penstock.operate import verify as verifying
from penstock.operate.spool_files import local_places
from penstock.operate.verify import Verified
from penstock.operate.wording import plural
from penstock.settings.reading import load

_SHOWN_MAX = 1_000


def verify(
    archive: Annotated[
        bool,
        typer.Option("--archive", help="Also scan, count and compare the whole archive."),
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Verify the conservation law: every file seen is in one place, in one state, or sent.

    Checks spool, ledger, archive, rejects and counters, while everything runs. Names every file
    that it cannot account for. Exits with 1 if there is one, or if a law does not hold. If the
    directory is behind HTTP, it can check only the ledger's own laws.
    """
    settings = load(config)
    where = local_places(settings)

    async def look(ledger: Ledger, _: asyncio.Event) -> Verified:
        if where is None:
            return Verified(
                files_gone=(await ledger.reads.counters()).get("files_gone", 0),
                laws_broken=list(await ledger.reads.verify()),
                skipped=["spool, archive and rejects are on another machine: verify them there"],
            )
        return await verifying.verify(ledger, where, settings.source.pattern, archive=archive)

    found = with_ledger(settings, look)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found) | {"holds": found.holds}))
    else:
        _print(found)
    if not found.holds:
        raise typer.Exit(1)


def _print(found: Verified) -> None:
    for law in found.laws_broken:
        typer.echo(f"law broken: {law}")
    for name, what in list(found.unaccounted.items())[:_SHOWN_MAX]:
        say(f"{name}: {what}")
    if len(found.unaccounted) > _SHOWN_MAX:
        typer.echo(f"and {len(found.unaccounted) - _SHOWN_MAX:,} more; --json names all")
    for line in found.skipped:
        typer.echo(f"not checked: {line}")
    if not found.skipped:
        archived = (
            "" if found.files_in_archive is None else f", {found.files_in_archive:,} archived"
        )
        typer.echo(
            f"{plural(found.files_in_spool, 'file')} in the spool, {found.files_waiting:,} of them"
            f" waiting; {found.files_in_ledger:,} in the ledger (archived ones for a minute),"
            f" {found.files_in_rejects:,} in the rejects directory{archived}"
        )
    if found.entries_ignored:
        entries = plural(found.entries_ignored, "entry", "entries")
        say(f"{entries} of the spool will never be sent, such as {found.ignored_example}")
    if found.files_gone:
        gone = plural(found.files_gone, "file was", "files were")
        typer.echo(f"{gone} sent, but gone before the archiver came: something else took them")
    if found.skipped:
        typer.echo("the ledger's own laws hold" if found.holds else "a law of the ledger is broken")
    else:
        all_or_not = "every" if found.holds else "NOT every"
        typer.echo(f"{all_or_not} file is accounted for")
