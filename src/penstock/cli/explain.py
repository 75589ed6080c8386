"""`penstock explain`: the whole story of one file."""

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from penstock import file_names, passes, settings, wiring
from penstock.cli.options import Config, Json
from penstock.operate import explain as explaining
from penstock.operate.spool_files import spool_files
from penstock.settings import Settings
from penstock.setup import survey


def explain(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Names; of a path, its last part.")
    ],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell all that is known of a file: where it is, whose claim, why it was rejected, what next.

    Exits with 1 if nobody knows one of the files.
    """
    wanted = [file.rpartition("/")[2].removesuffix(file_names.REASON_SUFFIX) for file in files]
    known = settings.load(config)
    stories = passes.run(lambda stop: _stories(wanted, known, stop))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(story) for story in stories]))
    else:
        for story in stories:
            typer.echo(survey.printable(f"{story.file}: {story.state}"))
            for line in [*story.lines, f"next: {story.next}"]:
                typer.echo(survey.printable(f"  {line}"))
    if any(story.state == "unknown" for story in stories):
        raise typer.Exit(1)


async def _stories(
    wanted: Sequence[str], known: Settings, stop: asyncio.Event
) -> list[explaining.Explained]:
    where = spool_files(known, "explain") if wiring.is_directory(known) else None
    async with AsyncExitStack() as stack:
        book = await wiring.ledger(known, stack)
        found: list[explaining.Explained] = []
        for name in wanted:
            if stop.is_set():
                break
            found.append(explaining.explained(name, await book.story(name), where))
        return found
