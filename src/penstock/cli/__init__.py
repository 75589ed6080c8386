"""The command line: how it begins, how it ends, and nothing that takes time to import."""

import importlib
import os
import sys
from collections.abc import Callable

from penstock import __version__, import_at_once
from penstock.errors import Again, Halt

EXIT_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: it may work later
EXIT_HALT = 78  # EX_CONFIG: someone has to fix something first
EXIT_STOPPED = 130  # as shells say it of Ctrl-C


def _say(line: str) -> None:
    one_line = importlib.import_module("penstock.telemetry").one_line
    sys.stderr.write(f"penstock: {one_line(line)}\n")  # others may have chosen words in it


def main(command: Callable[[], object] | None = None) -> None:
    """Run a command line; errors are one line on standard error, and an exit code each kind."""
    if sys.argv[1:] == ["--version"]:  # asked by scripts, of a process that does nothing else
        sys.stdout.write(f"{__version__}\n")
        return
    try:
        (command or import_at_once("penstock.cli.commands").app)()
    except KeyboardInterrupt:  # typer says so itself, but not before it is imported
        sys.exit(EXIT_STOPPED)
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
