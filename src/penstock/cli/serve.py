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

_LOOK_SECONDS = 5.0  # between two looks whether the spool is still the one that is served


def serve(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The spool; by default, source.url."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; by default serve.listen, 127.0.0.1:8080. Port 0: any.",
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
            help="Holds the moving token that callers must have; two while they change over.",
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

    They reach it with source.url = "http://host:port" and a token. Where none is set, the first
    start makes two in run.state_directory, and the log says where; on a Unix socket it asks for
    none. Listens on this machine alone unless told otherwise; for other machines it wants TLS.
    Needs no Redis and no queue. Ctrl-C or SIGTERM stops it; calls in flight are finished.
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
    app = file_server.new_app(wiring.served_directory(settings), access)
    console.add_console(app, settings, access)
    async with web.serving(app, settings.serve) as address:
        telemetry.event(
            "server.listens", address=address, spool=settings.source.url, **access.how_to_use()
        )
        await _while_it_is_the_spool(spool_directory(settings.source.url, "serve").path, stop)


async def _while_it_is_the_spool(spool: Path, stop: asyncio.Event) -> None:
    """Wait for the stop. Raises Again if another directory takes the place of the one served."""
    served = spool.stat()  # noqa: ASYNC240  one look in five seconds
    while not await sleep_unless(stop, _LOOK_SECONDS):
        with contextlib.suppress(OSError):  # not mounted now: it may come back
            if not os.path.samestat(served, spool.stat()):  # noqa: ASYNC240
                raise Again(f"spool: another directory is at {spool} now; restart this server")
