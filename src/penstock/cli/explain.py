"""`penstock explain`: the whole story of one file."""

import asyncio
import dataclasses
import json
from typing import Annotated

import typer

from penstock.cli.ledger import with_ledger
from penstock.cli.options import Config, Json, file_name, say
from penstock.ledger.ledger import Ledger
from penstock.operate.explain import Explained, explained
from penstock.operate.spool_files import local_places
from penstock.settings.reading import load


def explain(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Names, or paths that end in them.")
    ],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell everything known about a file: its place, its claim, why it was rejected, what next.

    Exits with 1 if one of the files is unknown.
    """
    wanted = [file_name(file) for file in files]
    settings = load(config)
    where = local_places(settings)

    async def tell(ledger: Ledger, stop: asyncio.Event) -> list[Explained]:
        stories = ledger.overview.story
        return [explained(n, await stories(n), where) for n in wanted if not stop.is_set()]

    stories = with_ledger(settings, tell)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(story) for story in stories]))
    else:
        for story in stories:
            say(f"{story.file}: {story.state}")
            for line in [*story.lines, f"next: {story.next}"]:
                say(f"  {line}")
    if any(story.state == "unknown" for story in stories):
        raise typer.Exit(1)
