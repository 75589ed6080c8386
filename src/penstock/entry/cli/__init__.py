"""The command line: one command a door, each with its own module."""

import os
import sys
from typing import Annotated

import typer

from penstock import __version__
from penstock.entry.cli import config, demo, functions, init, preview, run
from penstock.errors import Again, Halt

EXIT_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: it may work later
EXIT_HALT = 78  # EX_CONFIG: someone has to mend something first

app = typer.Typer(
    name="penstock",
    help="Drains a directory of timestamped JSON files into Amazon SQS: each file once, nothing"
    " lost.\n\nStart with `penstock demo`, then `penstock init DIR` on your own directory.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    """Take options that stand before the command."""


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("preview")(preview.preview)
app.command("run")(run.run)
app.command("load")(functions.load)
app.command("archive")(functions.archive)
app.command("check")(functions.check)
app.add_typer(config.app, name="config")


def main() -> None:
    """Run the command line; errors are one line on standard error, and an exit code each kind."""
    try:
        app()
    except Again as error:
        sys.stderr.write(f"penstock: {error} (this may pass: try again)\n")
        sys.exit(EXIT_AGAIN)
    except Halt as error:
        sys.stderr.write("".join(f"penstock: {line}\n" for line in str(error).splitlines()))
        sys.exit(EXIT_HALT)
    except BrokenPipeError:  # `penstock … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
