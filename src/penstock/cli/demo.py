"""`penstock demo`: everything on this box, with an account of every record."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from penstock import passes
from penstock.cli import EXIT_STOPPED
from penstock.cli.options import Json, Keep, QueueKind
from penstock.demo.demo import SAMPLE_SECONDS, Demo, DemoPlan
from penstock.demo.result import Result
from penstock.errors import Halt

_RATE_SECONDS = 2.0  # the period of a rate
_MEMORY = "/dev/shm"  # noqa: S108  its subdirectory is made by mkdtemp
_MEMORY_SHARE_MAX = 0.25  # of the free space there
_LATE = 1.1  # report a run longer than planned by this factor
_LINE_EVERY = 4  # samples per line of progress without a terminal


def demo(
    rate: Annotated[float, typer.Option(min=0.1, help="Files a second.")] = 6000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of writing files.")] = 10,
    records_per_file: Annotated[int, typer.Option(min=1, help="Records in a file.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Loader processes.")] = 2,
    queue: QueueKind = "standard",
    as_json: Json = False,
    keep: Keep = None,
) -> None:
    """Show Penstock at work: write files, drain them into a local SQS, receive and compare.

    Exits with 0 only if nothing was lost, doubled or changed, and every file is in its place.
    """
    plan = DemoPlan(rate, seconds, records_per_file, workers, fifo=queue == "fifo")
    console = Console(stderr=True)
    with working_directory(keep, plan.disk_bytes) as place:
        with Progress(console, quiet=as_json) as progress:
            run = Demo(plan, place.path, progress.show)
            result = passes.run(run.run)
        account(console, run, result, place, as_json=as_json)


def account(
    console: Console, run: Demo, result: Result | None, place: "Place", *, as_json: bool
) -> None:
    """Print the result of a run, and exit with its code; `result` is None if it was stopped."""
    if result is None:
        say(console, "stopped")
        raise typer.Exit(EXIT_STOPPED)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
    else:
        summarize(Console(), result)
    if run.producing_seconds > _LATE * run.plan.seconds:
        reached, rate = result.files_written / run.producing_seconds, run.plan.rate
        say(
            console,
            f"the producer reached {reached:,.0f} files a second, not {rate:,.0f}: this machine"
            f" is too busy, or the file system of {place.path.parent} too slow",
        )
    wrong = result.disagreements()
    for line in wrong:
        say(console, f"disagrees: {line}", style="red")
    place.keep = place.keep or bool(wrong)
    if place.keep:
        say(console, f"everything is kept in {place.path}")
    if wrong:
        raise typer.Exit(1)


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line as it is, without markup."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


class Place:
    """Where the demo works, and whether that is kept."""

    def __init__(self, path: Path, *, keep: bool) -> None:
        self.path = path
        self.keep = keep


def _temporary(disk_bytes: int) -> str:
    """Return where temporary directories go: in memory, if TMPDIR is unset and there is room.

    Otherwise the demo may measure the disk: ext4 without a journal, as in small virtual machines,
    needs up to 0.5 ms to make a file in the minutes after an earlier run's files were deleted.
    """
    with contextlib.suppress(OSError):
        if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK | os.X_OK):
            free_bytes = shutil.disk_usage(_MEMORY).free
            if disk_bytes < free_bytes * _MEMORY_SHARE_MAX:
                return _MEMORY
    return tempfile.gettempdir()


@contextlib.contextmanager
def working_directory(keep: Path | None, disk_bytes: int) -> Generator[Place]:
    """Give the demo an empty directory; delete a temporary one unless it holds evidence."""
    if keep is None:
        made = tempfile.mkdtemp(prefix="penstock-demo-", dir=_temporary(disk_bytes))
        place = Place(Path(made), keep=False)
    else:
        place = Place(keep.absolute(), keep=True)
        place.path.mkdir(parents=True, exist_ok=True)
        if any(place.path.iterdir()):
            raise Halt(f"--keep {keep}: not empty; give a new directory")
    try:
        yield place
    except Halt:
        place.keep = True  # the message names a log in it
        raise
    finally:
        if not place.keep:
            shutil.rmtree(place.path, ignore_errors=True)


class Progress:
    """Live figures on a terminal, else a line now and then; none without one with `--json`."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._history: list[tuple[float, dict[str, float]]] = []
        self._samples = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, run: Demo) -> None:
        """Show one sample."""
        watch = run.watch
        figures: dict[str, float] = {
            "written": run.files_written,
            "waiting": watch.waiting,
            "processed": watch.counters.get("files_processed", 0),
            "archived": watch.counters.get("files_archived", 0),
            "rejected": watch.counters.get("files_rejected", 0),
            "records sent": watch.counters.get("records_sent", 0),
            "records received": run.comparison.received,
        }
        self._history.append((time.monotonic(), figures))
        del self._history[: -round(_RATE_SECONDS / SAMPLE_SECONDS) - 1]
        self._samples += 1
        oldest = watch.oldest_waiting_seconds
        if self._console.is_terminal:
            self._live.update(self._table(figures, oldest), refresh=True)
        elif not self._quiet and self._samples % _LINE_EVERY == 0:
            words = [f"{name} {value:,.0f}" for name, value in figures.items()]
            say(self._console, ", ".join([*words, f"oldest waiting {oldest:.2f} s"]))

    def _table(self, figures: dict[str, float], oldest: float) -> Table:
        table = Table("files, records", "count", "a second", box=None, padding=(0, 2))
        for column in table.columns[1:]:
            column.justify = "right"
        before_at, before = self._history[0]
        passed = max(SAMPLE_SECONDS, self._history[-1][0] - before_at)
        for name, value in figures.items():
            rate = "" if name == "waiting" else f"{(value - before[name]) / passed:,.0f}"
            table.add_row(name, f"{value:,.0f}", rate)
        table.add_row("oldest waiting", f"{oldest:.2f} s", "")
        return table


def summarize(console: Console, result: Result) -> None:
    """Print the figures, and the conclusion."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, value in dataclasses.asdict(result).items():
        table.add_row(name, f"{value:,}")
    console.print(table)
    if not result.disagreements():
        console.print(
            "all agrees: nothing lost, nothing doubled, nothing changed", style="bold green"
        )
