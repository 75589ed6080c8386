"""Options of several commands, and safe output."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from penstock import file_names
from penstock.cli import EXIT_STOPPED
from penstock.operate.wording import printable

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The settings; default: ./penstock.toml."),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Work in this new directory, and keep it; default: memory or TMPDIR.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QueueKind = Annotated[Literal["standard", "fifo"], typer.Option(help="The kind of queue.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log every claim, also on a terminal.")
]


def agree(question: str) -> None:
    """Ask; end the command unless the answer is yes. If nobody can answer, name --yes."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise typer.Exit(EXIT_STOPPED) from None
        typer.echo("\npenstock: there is no terminal to ask on; to agree, add --yes", err=True)
        raise typer.Exit(1) from None
    if not agreed:
        raise typer.Abort


def say(text: str, *, err: bool = False) -> None:
    """Print a line that may hold file contents or names."""
    typer.echo(printable(text), err=err)


def file_name(text: str) -> str:
    """Return the file's name from a path, or from the path of its reason."""
    return text.rpartition("/")[2].removesuffix(file_names.REASON_SUFFIX)
