"""The command line: one command a door, each in its own module, imported when it is called."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from penstock import __version__
from penstock.errors import Again, Halt
from penstock.telemetry import one_line

EXIT_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: it may work later
EXIT_HALT = 78  # EX_CONFIG: someone has to fix something first
EXIT_STOPPED = 130  # as shells say it of Ctrl-C

# In the order of --help: name of the command, its module here, and what of it is the command.
COMMANDS = {
    "demo": ("demo", "demo"),
    "init": ("init", "init"),
    "preview": ("preview", "preview"),
    "run": ("run", "run"),
    "load": ("functions", "load"),
    "archive": ("functions", "archive"),
    "check": ("functions", "check"),
    "serve": ("serve", "serve"),
    "plan": ("plan", "plan"),
    "status": ("status", "status"),
    "console": ("console", "console"),
    "explain": ("explain", "explain"),
    "verify": ("verify", "verify"),
    "rejected": ("rejected", "app"),
    "replay": ("replay", "replay"),
    "archived": ("archived", "app"),
    "spool": ("spool", "app"),
    "config": ("config", "app"),
}


class _Commands(typer.core.TyperGroup):
    """Imports a command only when it is asked for: all of them take a second of CPU."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  the same
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
            alone.command(cmd_name)(found)
            found = alone
        return typer.main.get_command(found)


app = typer.Typer(
    cls=_Commands,
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


def _say(line: str) -> None:
    sys.stderr.write(f"penstock: {one_line(line)}\n")  # others may have chosen words in it


def main(command: Callable[[], object] = app) -> None:
    """Run a command line; errors are one line on standard error, and an exit code each kind."""
    try:
        command()
    except Again as error:
        _say(f"{error} (this may pass: try again)")
        sys.exit(EXIT_AGAIN)
    except Halt as error:
        for line in str(error).splitlines():
            _say(line)
        sys.exit(EXIT_HALT)
    except BrokenPipeError:  # `penstock … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        # A directory that may not be read, a full disk: what is to be fixed is not in here.
        _say(f"{error.filename}: {error.strerror}")
        sys.exit(EXIT_HALT)
