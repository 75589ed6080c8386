"""`penstock console`: the console and /metrics, beside workers that run elsewhere."""

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
            metavar="HOST:PORT", help="Where to listen; by default run.console. Port 0: any."
        ),
    ] = None,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Serve the console, a page that shows the spool live, and /metrics for Prometheus.

    `penstock run` does this by itself. The page asks for a token of [serve]. Where none is set,
    the first start makes two in run.state_directory, and the log says where. Listens on this
    machine alone unless told otherwise; for other machines it wants the TLS of [serve]. Ctrl-C or
    SIGTERM stops it.
    """
    telemetry.configure(verbose=verbose)
    settings = load(config, {"run": {"console": listen or None}})
    spool_place(settings.source.url)  # nothing else is worth a look without one
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
