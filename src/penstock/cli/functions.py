"""`penstock load | archive | check`: the three functions, for one pass or repeatedly."""

import asyncio
import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from penstock import archiver, checker, passes, telemetry, wiring, worker
from penstock.cli import EXIT_STOPPED
from penstock.cli.options import Config, Json, Verbose
from penstock.model import Tally
from penstock.settings import reading

_WRONG = ("files_stuck", "laws_broken")  # exit code 1 if a tally has these

Every = Annotated[
    float | None,
    typer.Option(
        "--every",
        min=0,
        metavar="SECONDS",
        help="Repeat with this pause, until SIGTERM or Ctrl-C.",
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget-seconds", min=0, help="Begin nothing new after this time.", show_default=False
    ),
]


def load(
    config: Config = None,
    every: Every = None,
    budget_seconds: Budget = math.inf,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Send waiting files to SQS (sqs_loader), and end when none is left.

    Any number of these may run at once, here or on other machines.
    """

    async def open_parts(stack: AsyncExitStack) -> passes.OnePass[Tally]:
        settings = reading.load(config)
        linger_seconds = settings.queue.linger_seconds if every is not None else 0
        parts = await wiring.loader(settings, stack, linger_seconds=linger_seconds)
        return lambda stop: worker.load(
            parts, stop=stop, budget_seconds=budget_seconds, is_only_pass=every is None
        )

    _go("loader", open_parts, every, as_json=as_json, verbose=verbose)


def archive(
    config: Config = None,
    every: Every = None,
    budget_seconds: Budget = math.inf,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Move processed files out of the spool (json_files_processed_archiver).

    Moves rejected files to the rejects directory, each beside its reason. Deletes archived files
    past their retention.
    """

    async def open_parts(stack: AsyncExitStack) -> passes.OnePass[archiver.ArchiverTally]:
        settings = reading.load(config)
        parts = await wiring.archiver(settings, stack, is_only_pass=every is None)
        return lambda stop: archiver.archive(parts, stop=stop, budget_seconds=budget_seconds)

    _go("archiver", open_parts, every, as_json=as_json, verbose=verbose)


def check(
    config: Config = None,
    every: Every = None,
    budget_seconds: Budget = math.inf,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Free files of dead workers (json_files_processing_checker), and report them."""

    async def open_parts(stack: AsyncExitStack) -> passes.OnePass[checker.CheckerTally]:
        parts = await wiring.checker(reading.load(config), stack)
        return lambda stop: checker.check(parts, stop=stop, budget_seconds=budget_seconds)

    _go("checker", open_parts, every, as_json=as_json, verbose=verbose)


def _go(
    what: str, open_parts: passes.Open[Any], every: float | None, *, as_json: bool, verbose: bool
) -> None:
    telemetry.configure(verbose=verbose)
    if every is not None:
        passes.run(functools.partial(passes.every, every, open_parts, what=what))
        return

    async def one_pass(stop: asyncio.Event) -> tuple[Any, bool]:
        return await passes.once(open_parts, stop), stop.is_set()

    found, stopped = passes.run(one_pass)
    tally = dataclasses.asdict(found)
    _print(tally, as_json=as_json)
    if stopped:
        raise typer.Exit(EXIT_STOPPED)
    if any(tally.get(name) for name in _WRONG):
        raise typer.Exit(1)


def _print(tally: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(tally))
        return
    for name, value in tally.items():
        if value or name.startswith("files_processed"):
            typer.echo(f"{name:24} {value:>14,}")
    if tally.get("files_rejected"):
        typer.echo("rejected files are kept: `penstock rejected list` says why", err=True)
