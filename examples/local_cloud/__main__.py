"""`python -m examples.local_cloud`, or `make demo-aws`: its command line."""

import time
from typing import Annotated

import typer
from rich.console import Console

from examples.local_cloud.demo import CloudDemo
from examples.local_cloud.stack import FunctionRun
from penstock import passes
from penstock.cli import main
from penstock.cli.demo import Progress, account, say, working_directory
from penstock.cli.options import Json, Keep, QueueKind
from penstock.demo.demo import DemoPlan

_FIGURES = (
    "files_processed", "records_sent", "messages", "claims_taken_over", "files_archived",
    "files_rejected", "claims_expired", "files_waiting", "laws_broken",
)  # fmt: skip

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def local_cloud(
    rate: Annotated[float, typer.Option(min=0.1, help="Files a second.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of writing files.")] = 60,
    records_per_file: Annotated[int, typer.Option(min=1, help="Records in a file.")] = 1,
    queue: QueueKind = "standard",
    max_loaders: Annotated[
        int, typer.Option(min=1, max=1000, help="The template's MaxLoaders.")
    ] = 4,
    claim_files: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Files in a claim; with few, a loader is slow, and starts others.",
        ),
    ] = 500,
    as_json: Json = False,
    keep: Keep = None,
) -> None:
    """Deploy the AWS template on this machine, and watch its schedules drain a live directory.

    Starts ministack, a Redis and the file server, deploys deploy/template.yaml with the bundle,
    writes files, and waits for the schedules, which fire every minute, to do their work. Receives
    every message, and compares. Exits 0 only if nothing was lost, doubled or changed.
    """
    plan = DemoPlan(rate, seconds, records_per_file, 1, fifo=queue == "fifo")
    console = Console(stderr=True)
    began = time.monotonic()

    def line(text: str) -> None:
        say(console, f"{time.monotonic() - began:6.1f} s  {text}")

    def show_run(run: FunctionRun) -> None:
        counts = [f"{n} {run.tally[n]:,}" for n in _FIGURES if run.tally.get(n)]
        how = f"failed: {run.error}" if run.error else ", ".join(counts) or "nothing to do"
        by = "started by another" if run.loader else "by its schedule"
        line(f"{run.function} ran {by}: {how}")

    with working_directory(keep, plan.disk_bytes) as place:
        with Progress(console, quiet=as_json) as progress:
            run = CloudDemo(
                plan,
                place.path,
                progress.show,
                say=line,
                on_run=show_run,
                max_loaders=max_loaders,
                claim_files=claim_files,
            )
            result = passes.run(run.run)
        account(console, run, result, place, as_json=as_json)


if __name__ == "__main__":
    main(app)
