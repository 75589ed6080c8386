"""`penstock run`: one box."""

import asyncio

import typer

from penstock import passes, supervisor, telemetry
from penstock.cli.options import Config, Verbose
from penstock.errors import Halt
from penstock.settings.reading import load
from penstock.settings.schema import EMBEDDED
from penstock.setup import config_check


def run(config: Config = None, verbose: Verbose = False) -> None:
    """Drain the spool on this box: loaders, archiver and checker, until SIGTERM or Ctrl-C.

    Exits at once if the settings cannot work. Restarts a process that dies. Waits if Redis or the
    queue is away. On a stop, claims in flight are finished or released, nothing is lost, and the
    exit code is 0.
    """
    telemetry.configure(verbose=verbose)
    settings = load(config)
    if wrong := asyncio.run(config_check.mistakes(settings)):
        raise Halt("\n".join(wrong))
    queue = "the embedded SQS" if settings.queue.url == EMBEDDED else settings.queue.url
    typer.echo(
        f"draining {settings.source.url} into {queue}; `penstock status` shows how it goes, Ctrl-C"
        " stops it",
        err=True,
    )
    passes.run(lambda stop: supervisor.supervise(settings, config, stop, verbose=verbose))
