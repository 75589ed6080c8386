"""What a command that puts files back says while it goes on."""

import contextlib
from collections.abc import Generator

import typer
from rich.console import Console

from penstock.operate.requeue import Progress
from penstock.wording import plural


@contextlib.contextmanager
def progress_line() -> Generator[Progress]:
    """Tell on a terminal, in one line that changes, how far it is; elsewhere why it waits, once."""
    console = Console(stderr=True)
    done = 0
    shown = set[str]()
    with console.status("putting files back …") as line:

        def progress(more: int, text: str) -> None:
            nonlocal done
            done += more
            line.update(f"{plural(done, 'file')} done  {text}")
            reason = text.partition(":")[0]  # the rest counts down
            if reason and reason not in shown and not console.is_terminal:
                typer.echo(text, err=True)
                shown.add(reason)

        yield progress
