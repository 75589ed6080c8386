"""`penstock archived list | get | extract`: archived files, packed or not."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock import beneath
from penstock.cli.options import Config, Json, file_name, say
from penstock.cli.rejected import time_range
from penstock.cli.replay import BeforeStamp, FromStamp
from penstock.operate.archived import Archived, write_out
from penstock.operate.spool_files import iso_time, spool_files
from penstock.operate.wording import plural
from penstock.settings.reading import load

app = typer.Typer(
    name="archived",
    help="List, show or extract archived files, also packed ones.",
    no_args_is_help=True,
    add_completion=False,
)


def _archived(config: Path | None) -> Archived:
    return Archived(spool_files(load(config), "archived"))


@app.command("list")
def list_(
    since: FromStamp = None,
    until: BeforeStamp = None,
    names: Annotated[
        bool, typer.Option("--names", help="Print each file's name, not a line per segment.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the segments of a time, or with --names every archived file."""
    begins, ends = time_range(since, until)
    archived = _archived(config)
    if names:
        for name in archived.names_between(begins, ends):
            say(json.dumps({"file": name}) if as_json else name)
        return
    for one in archived.segments(begins, ends):
        line = {"segment": one.path, "files": one.files,
                "first": iso_time(one.first), "last": iso_time(one.last)}  # fmt: skip
        say(json.dumps(line) if as_json else f"{one.path}  {plural(one.files, 'file')}")


@app.command()
def get(
    file: Annotated[str, typer.Argument(metavar="NAME")],
    every: Annotated[bool, typer.Option("--all", help="Write all copies, latest first.")] = False,
    config: Config = None,
) -> None:
    """Write the bytes of an archived file to standard output, its latest copy by default.

    A file that was sent again has several copies. Exits with 1 if it is not in the archive.
    """
    found = False
    archived = _archived(config)
    for copy in archived.copies(file_name(file)):
        found = True
        sys.stdout.buffer.write(archived.member(copy.file).data)
        if not every:
            break
    if not found:
        say(f"{file}: not in the archive; `penstock explain {file}` tells more", err=True)
        raise typer.Exit(1)


@app.command()
def extract(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is missing.")],
    since: FromStamp = None,
    until: BeforeStamp = None,
    config: Config = None,
) -> None:
    """Copy the archived files of a time into a directory; skip names that exist there."""
    begins, ends = time_range(since, until)
    copied = there = 0
    folder_fd, archived = beneath.open_root(directory, make=True), _archived(config)
    for file in archived.between(begins, ends):
        try:
            write_out(folder_fd, archived.member(file))
            copied += 1
        except FileExistsError:
            there += 1
    passed = f"; {there:,} skipped: they exist" if there else ""
    typer.echo(f"{plural(copied, 'file')} copied{passed}", err=True)
