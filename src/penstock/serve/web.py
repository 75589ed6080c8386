"""What all our HTTP servers share: how they listen, and what errors look like."""

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler

from penstock import telemetry
from penstock.errors import Again, Halt
from penstock.loopback import is_loopback
from penstock.serve.guard import Access, Refused
from penstock.settings.schema import FD, ServeSettings

BODY_BYTES_MAX = 16 << 20  # a thousand names, or the reasons of a thousand rejects
_PROBE_SECONDS = 5.0  # for another server on our socket to accept a connection
_IDLE_SECONDS = 75.0  # after this, close a connection without a whole request
_PORT_MAX = 65_535
_RECEIVE_BYTES = 32_768  # buffer of a connection; Linux doubles it for its own needs
_ACCESS = web.AppKey("access", Access)
_STOP_SECONDS = 5.0  # for calls in flight to end after a stop


def application(access: Access) -> web.Application:
    """Return an application with the guard before every route."""
    app = web.Application(middlewares=[_guarded], client_max_size=BODY_BYTES_MAX)
    app[_ACCESS] = access
    app.on_response_prepare.append(_add_headers)
    return app


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through if it is allowed; answer every error as `{"error": "…"}`."""
    try:
        request.app[_ACCESS].check(request)
        response = await handler(request)
    except Refused as error:
        response = error_reply(error.status, str(error))
    except Again as error:
        response = error_reply(503, str(error))
    except web.HTTPException as error:
        response = error_reply(error.status, error.reason)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    except Exception as error:  # noqa: BLE001  a bug fails only one call
        telemetry.warn("http.failed", path=request.path, cause=repr(error))
        response = error_reply(500, "internal error; see the server's log")
    return response


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "penstock"  # no versions
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.status == 401:  # noqa: PLR2004
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="penstock"'


def reply(answer: object, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    body = msgspec.json.encode(answer)
    return web.Response(body=body, status=status, content_type="application/json")


def error_reply(status: int, why: str) -> web.Response:
    """Return an error in JSON."""
    return reply({"error": why}, status)


class _Logged(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        telemetry.event(
            "http.request", method=request.method, path=request.path, status=response.status,
            bytes=response.body_length, seconds=round(time, 4), remote=request.remote,
        )  # fmt: skip


class _Handler(web.RequestHandler):
    """aiohttp's own, but it never quotes an invalid request, which may hold a token.

    Also, an unread body waits in the system's small buffer, not in a large one of ours.
    """

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with contextlib.suppress(OSError):
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  the signature is aiohttp's
    ) -> web.StreamResponse:
        if status >= 500:  # noqa: PLR2004  a bug of ours, or of aiohttp's
            telemetry.warn("http.failed", cause=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has already begun")
        response = error_reply(status, "this is not a valid HTTP request")
        response.headers[hdrs.SERVER] = "penstock"
        response.force_close()
        return response


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, serve: ServeSettings) -> None:
        self._given: dict[str, Any] = {
            "access_log": telemetry.LOG if serve.access_log else None,
            "access_log_class": _Logged,
            "keepalive_timeout": _IDLE_SECONDS,
            "read_bufsize": _RECEIVE_BYTES // 2,
            "auto_decompress": False,  # or a small body could fill our memory
        }
        super().__init__(app, shutdown_timeout=_STOP_SECONDS, **self._given)

    @property
    def server(self) -> Any:
        """A function that makes a handler for each connection; called without arguments."""
        server = super().server
        loop = asyncio.get_running_loop()
        return server and functools.partial(_Handler, server, loop=loop, **self._given)


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, serve: ServeSettings, listen: str = "serve.listen"
) -> AsyncGenerator[str]:
    """Serve an application as the settings say; yields its address. Raises Halt."""
    tls, inherited = _tls(serve), _inherited(serve)
    host, _, port = serve.listen.rpartition(":")
    host = str(inherited.getsockname()[0]) if inherited else host.strip("[]")
    if inherited is None and int(port) > _PORT_MAX:  # uvloop would use another one
        raise Halt(f"{listen}: {serve.listen}: no such port; allowed: 0 to {_PORT_MAX}")
    path = serve.unix_socket
    if not path:
        _check_exposure(host, has_tls=tls is not None, serve=serve, listen=listen)
    runner = _Runner(app, serve)
    await runner.setup()
    ours: tuple[int, int] | None = None
    try:
        site: web.BaseSite
        if path:
            await _check_free(path)
            site = web.UnixSite(runner, path, ssl_context=tls)
        elif inherited is not None:
            site = web.SockSite(runner, inherited, ssl_context=tls)
        else:
            site = web.TCPSite(runner, host, int(port), ssl_context=tls)
        await _start(site, serve, listen)
        if path:
            ours = _identity(path)
            yield f"http+unix://{path}"
        else:
            listens = runner.addresses[0]
            shown = f"[{listens[0]}]" if ":" in listens[0] else listens[0]
            yield f"{'https' if tls else 'http'}://{shown}:{listens[1]}"
    finally:
        await runner.cleanup()
        if ours is not None and _identity(path) == ours:
            with contextlib.suppress(OSError):
                Path(path).unlink()  # noqa: ASYNC240  one call, at the end


async def _start(site: web.BaseSite, serve: ServeSettings, listen: str) -> None:
    mask = os.umask(0o077)
    os.umask(mask | (0o007 if serve.unix_socket else 0))  # not everybody may use a socket
    try:
        await site.start()
    except OSError as error:
        where = serve.unix_socket or serve.listen
        setting = "serve.unix_socket" if serve.unix_socket else listen
        # asyncio's own text repeats itself.
        why = os.strerror(error.errno) if error.errno else str(error)
        in_use = error.errno == errno.EADDRINUSE
        more = "; choose another port, or stop the program that listens there" if in_use else ""
        raise Halt(f"{setting}: cannot listen on {where}: {why}{more}") from None
    finally:
        os.umask(mask)


async def _check_free(path: str) -> None:
    """Refuse a socket on which a server listens; binding takes over a stale one."""
    if _identity(path) is None:  # binding shows whether it can be made
        return
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        why = "another server listens on it"
    except (FileNotFoundError, ConnectionRefusedError):  # it may have disappeared meanwhile
        return
    except OSError as error:  # not permitted, or too busy to answer
        why = f"another server may listen on it ({error or 'no answer'})"
    raise Halt(
        f"serve.unix_socket: {path}: {why}; allowed: another path, or stop that server, or delete"
        " the socket if no server uses it"
    )


def _identity(path: str) -> tuple[int, int] | None:
    """Return which socket is at a path, because another server may have replaced it."""
    try:
        status = Path(path).lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _inherited(serve: ServeSettings) -> socket.socket | None:
    """Return the listening socket from our parent, such as systemd; None if there is none."""
    if serve.unix_socket or not serve.listen.startswith(FD):
        return None
    try:
        return socket.socket(fileno=int(serve.listen.removeprefix(FD)))
    except OSError as error:
        raise Halt(f"serve.listen: {serve.listen} is not a socket: {error.strerror}") from None


def _check_exposure(host: str, *, has_tls: bool, serve: ServeSettings, listen: str) -> None:
    """Refuse to listen beyond this machine in clear text, unless serve.insecure is set."""
    if not (is_loopback(host) or has_tls or serve.insecure):
        raise Halt(
            f"{listen}: {serve.listen} is reachable from other machines, and without TLS the"
            " token crosses the network in clear text; allowed: set serve.tls_cert and"
            " serve.tls_key, or serve.insecure = true if the network is private"
        )


def _tls(serve: ServeSettings) -> ssl.SSLContext | None:
    if not (serve.tls_cert or serve.tls_key):
        return None
    if not (serve.tls_cert and serve.tls_key):
        raise Halt("serve.tls_cert, serve.tls_key: one is missing; allowed: both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(serve.tls_cert, serve.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise Halt(f"serve.tls_cert: {serve.tls_cert} cannot be used: {error}") from None
    return context
