"""What several commands have: options, the kinds of queue, and lines that are safe to show."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penstock import file_names
from penstock.cli import EXIT_STOPPED
from penstock.wording import printable

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The settings; by default ./penstock.toml."),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Work in this new directory, and keep it; by default, in memory or TMPDIR.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log every claim on a terminal, too.")
]


class QueueKind(StrEnum):
    """The two kinds of SQS queue."""

    standard = "standard"
    fifo = "fifo"


def agree(question: str) -> None:
    """Ask; what is not agreed to ends the command. Where nobody can answer, name --yes."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise typer.Exit(EXIT_STOPPED) from None
        typer.echo("\npenstock: there is nobody here to ask: agree with --yes", err=True)
        raise typer.Exit(1) from None
    if not agreed:
        raise typer.Abort


def say(text: str, *, err: bool = False) -> None:
    """Print a line with text of files or their names in it."""
    typer.echo(printable(text), err=err)


def file_name(text: str) -> str:
    """Return the name of the file that a path, or the path of a reason, names."""
    return text.rpartition("/")[2].removesuffix(file_names.REASON_SUFFIX)
