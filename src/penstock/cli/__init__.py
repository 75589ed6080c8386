"""The command line's start and end. Imports nothing that takes time."""

import importlib
import os
import sys
from collections.abc import Callable

from penstock import __version__, import_at_once
from penstock.errors import Again, Halt

EXIT_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: a retry may work
EXIT_HALT = 78  # EX_CONFIG: someone has to fix something first
EXIT_STOPPED = 130  # as in shells after Ctrl-C


def _say(line: str) -> None:
    one_line = importlib.import_module("penstock.telemetry").one_line
    sys.stderr.write(f"penstock: {one_line(line)}\n")  # it may quote text of others


def main(command: Callable[[], object] | None = None) -> None:
    """Run a command line. An error is one line on standard error, and its kind an exit code."""
    if sys.argv[1:] == ["--version"]:  # skips all imports, because scripts ask this
        sys.stdout.write(f"{__version__}\n")
        return
    try:
        (command or import_at_once("penstock.cli.commands").app)()
    except KeyboardInterrupt:  # typer handles it only once it is imported
        sys.exit(EXIT_STOPPED)
    except Again as error:
        _say(f"{error} (this may pass: retry later)")
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
        # An unreadable directory, a full disk: the cause is outside Penstock.
        _say(f"{error.filename}: {error.strerror}")
        sys.exit(EXIT_HALT)
