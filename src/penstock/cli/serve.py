"""`penstock serve`: the spool over HTTP."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock import passes, telemetry, wiring
from penstock.aio import sleep_unless
from penstock.cli.options import Config, Verbose
from penstock.errors import Again
from penstock.serve import console, file_server, web
from penstock.serve.guard import access_of
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.settings.spool_place import spool_directory

_LOOK_SECONDS = 5.0  # between two checks that the served spool is still the same


def serve(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The spool; default: source.url."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; default: serve.listen, 127.0.0.1:8080. Port 0: any.",
        ),
    ] = None,
    unix: Annotated[
        Path | None,
        typer.Option(metavar="SOCKET", help="Listen on a Unix socket instead."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the moving token that callers need; two during a change.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate chain, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key, PEM."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow other machines without TLS.")
    ] = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Serve the spool over HTTP, to workers on other machines or in AWS Lambda.

    They need source.url = "http://host:port" and a token. If none is set, the first start makes two
    in run.state_directory, and logs where; a Unix socket needs none. By default it listens on this
    machine only; to listen for other machines, it needs TLS. Needs no Redis and no queue. Ctrl-C or
    SIGTERM stops it after finishing the calls in flight.
    """
    telemetry.configure(verbose=verbose)
    given: dict[str, Any] = {
        "listen": listen,
        "unix_socket": unix and str(unix.absolute()),
        "token_file": token_file and str(token_file.absolute()),
        "tls_cert": tls_cert and str(tls_cert.absolute()),
        "tls_key": tls_key and str(tls_key.absolute()),
        "insecure": insecure or None,
    }
    overrides = {"serve": given, "source": {"url": directory and str(directory.absolute())}}
    passes.run(lambda stop: _until_stopped(load(config, overrides), stop))


async def _until_stopped(settings: Settings, stop: asyncio.Event) -> None:
    access = access_of(settings.serve, Path(settings.run.state_directory))
    spool = spool_directory(settings.source.url, "serve")
    app = file_server.new_app(wiring.directory_source(settings, spool, served=True), access)
    console.add_console(app, settings, access)
    async with web.serving(app, settings.serve) as address:
        telemetry.event(
            "server.listens", address=address, spool=settings.source.url, **access.how_to_use()
        )
        await _while_it_is_the_spool(spool.path, stop)


async def _while_it_is_the_spool(spool: Path, stop: asyncio.Event) -> None:
    """Wait for the stop. Raises Again if another directory replaces the served one."""
    served = spool.stat()  # noqa: ASYNC240  one call in five seconds
    while not await sleep_unless(stop, _LOOK_SECONDS):
        with contextlib.suppress(OSError):  # not mounted now: it may come back
            if not os.path.samestat(served, spool.stat()):  # noqa: ASYNC240
                raise Again(f"spool: another directory is now at {spool}; restart this server")
