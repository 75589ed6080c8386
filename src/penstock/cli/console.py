"""`penstock console`: the console and /metrics, for workers that run elsewhere."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from penstock import passes, telemetry
from penstock.cli.options import Config, Verbose
from penstock.serve import web
from penstock.serve.console import add_console
from penstock.serve.guard import access_of
from penstock.settings.reading import load
from penstock.settings.schema import RunSettings, Settings
from penstock.settings.spool_place import spool_place


def console(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where to listen; default: run.console. Port 0: any."
        ),
    ] = None,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Serve the console, a page that shows the spool live, and /metrics for Prometheus.

    `penstock run` also does this. The page asks for a token of [serve]. If none is set, the first
    start makes two in run.state_directory, and logs where. By default it listens on this machine
    only; to listen for other machines, it needs the TLS of [serve]. Ctrl-C or SIGTERM stops it.
    """
    telemetry.configure(verbose=verbose)
    settings = load(config, {"run": {"console": listen or None}})
    spool_place(settings.source.url)  # without a spool there is nothing to show
    passes.run(lambda stop: _until_stopped(settings, stop))


async def _until_stopped(settings: Settings, stop: asyncio.Event) -> None:
    where = settings.run.console or RunSettings.model_fields["console"].default
    serve = settings.serve.model_copy(update={"listen": where, "unix_socket": ""})
    access = access_of(serve, Path(settings.run.state_directory))
    app = web.application(access)
    add_console(app, settings, access)
    async with web.serving(app, serve, "run.console") as address:
        telemetry.event("console.listens", address=address, **access.how_to_use())
        await stop.wait()
