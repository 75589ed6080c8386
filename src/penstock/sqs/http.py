"""POSTs to one HTTP/1.1 server, one at a time on each connection, and none ever made twice.

    connect ──▶ request ──▶ reply      nothing of it was sent: NotSentError
       ▲                      │        something may have come: NoReplyError
       └──── kept 3 s ◀───────┘

Where a message holds one record, a call carries ten of them, and what a general client does for any
request (cookies, redirects, forms, tracing) costs more than all else that is done for those ten.
What is hard is other people's: httptools reads replies, aiohappyeyeballs tries addresses, TLS is
the event loop's.
"""

import asyncio
import base64
import platform
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import aiohappyeyeballs
import httptools
from yarl import URL

from penstock import __version__

_CONNECT_SECONDS_MAX: Final = 3.0
# SQS and what stands before it may close an idle connection after some seconds; a call sent on one
# that is just being closed is reset with its outcome unknown. A new connection costs 2 round trips.
_IDLE_SECONDS_MAX: Final = 3.0
_ADDRESSES_SECONDS_MAX: Final = 10.0  # how long a name's addresses are used without asking again
_NEXT_ADDRESS_SECONDS: Final = 0.25  # RFC 8305, "Happy Eyeballs", recommends as much
_JOINED_BYTES_MAX: Final = 65_536  # below, one more copy costs less than a second buffer
_REPLY_BYTES_MAX: Final = 4_194_304  # head and body; one for ten messages takes 3,000
_HEAD_BYTES_MAX: Final = 16_384
_INFORMATIONAL: Final = 200  # below: 100 Continue and its like, which no request of ours asks for

_Address = tuple[int, int, int, str, tuple[Any, ...]]  # as of getaddrinfo


class Reply(NamedTuple):
    """What came back, whatever the status; `query_error` is the x-amzn-query-error header."""

    status: int
    query_error: str
    body: bytes


class NotSentError(Exception):
    """The server was not reached: it has nothing of this call."""


class NoReplyError(Exception):
    """The call was sent, perhaps, and no reply came: the server may have acted on it."""


class Posts:
    """The connections to one server; there are as many as there are calls at a time.

    `tls` says how to check certificates, of the server's and of the proxy's; a `proxy` may have a
    user and a password. A call, connecting included, takes no longer than `timeout_seconds`.
    """

    def __init__(
        self,
        url: URL,
        *,
        proxy: URL | None,
        tls: ssl.SSLContext | None,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._proxy, self._tls = url, proxy, tls
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._idle: list[_Connection] = []  # the one that was used last, last
        self._addresses: list[_Address] = []
        self._addresses_until_seconds = 0.0
        self._asking = asyncio.Lock()
        # Through a proxy without TLS, the server is named in each request.
        of_proxy = proxy is not None and url.scheme == "http"
        self._begin = (
            f"POST {url if of_proxy else url.raw_path} HTTP/1.1\r\n"
            f"user-agent: penstock/{__version__} Python/{platform.python_version()}\r\n"
            f"{_authorization(proxy) if of_proxy else ''}"
        )

    async def post(self, fields: Mapping[str, str], body: bytes) -> Reply:
        """Make one call; `fields` are its header fields, Host among them, all printable ASCII.

        Raises NotSentError or NoReplyError.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_seconds
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        head = f"{self._begin}{lines}content-length: {len(body)}\r\n\r\n".encode()
        connection = self._free() or await self._connect(until)
        ending = loop.call_at(until, connection.give_up, self._timeout_seconds)
        try:
            return await connection.ask(head, body)
        except NoReplyError as error:
            raise NoReplyError(f"no reply from {self._url}: {error}") from None
        finally:
            ending.cancel()
            if connection.may_be_asked:
                connection.idle_since_seconds = self._monotonic()
                self._idle.append(connection)
            else:
                connection.abort()

    def _free(self) -> "_Connection | None":
        """Return a connection that was used just now; close those that were not."""
        too_old = self._monotonic() - _IDLE_SECONDS_MAX
        while self._idle:
            connection = self._idle.pop()
            is_fresh = connection.idle_since_seconds > too_old
            if is_fresh and connection.may_be_asked and not connection.has_unread():
                return connection
            connection.abort()
        return None

    async def _connect(self, until: float) -> "_Connection":
        """Open a connection. Raises NotSentError."""
        limit = min(until, asyncio.get_running_loop().time() + _CONNECT_SECONDS_MAX)
        try:
            async with asyncio.timeout_at(limit):
                connection = await self._connected()
                await connection.settle()
            if connection.may_be_asked:
                return connection
            connection.abort()
            cause = "the server closed the connection, or spoke before it was asked"
        except TimeoutError:
            cause = f"not within {min(self._timeout_seconds, _CONNECT_SECONDS_MAX):g} s"
        # RuntimeError is uvloop's of a socket, UnicodeError a host's that cannot be a name.
        except (OSError, RuntimeError, UnicodeError) as error:
            cause = str(error) or repr(error)
        through = f" through the proxy {self._proxy.origin()}" if self._proxy else ""
        raise NotSentError(f"cannot connect to {self._url}{through}: {cause}")

    async def _connected(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        peer = self._proxy or self._url
        in_tunnel = self._proxy is not None and self._url.scheme == "https"
        addresses = await self._look_up(peer)
        made = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
        )
        is_tls = peer.scheme == "https"
        transport, protocol = await loop.create_connection(
            (lambda: _Tunnel(self._url, self._proxy)) if in_tunnel else _Connection,
            sock=made,
            ssl=self._tls if is_tls else None,
            server_hostname=peer.host if is_tls else None,
        )
        if isinstance(protocol, _Connection):
            return protocol
        connection = _Connection()
        try:
            await protocol.dug
            inner = await loop.start_tls(
                transport, connection, cast(ssl.SSLContext, self._tls),
                server_hostname=self._url.host,
            )  # fmt: skip
        except BaseException:
            transport.abort()
            raise
        connection.connection_made(cast(asyncio.BaseTransport, inner))
        return connection

    async def _look_up(self, peer: URL) -> list[_Address]:
        """Return the addresses of a host, asked for by one call at a time."""
        async with self._asking:
            if not self._addresses or self._monotonic() >= self._addresses_until_seconds:
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
                self._addresses = [*found]
                self._addresses_until_seconds = self._monotonic() + _ADDRESSES_SECONDS_MAX
            return self._addresses

    def close(self) -> None:
        """Close the connections; nothing is called afterwards."""
        for connection in self._idle:
            connection.abort()
        self._idle = []


class _Connection(asyncio.Protocol):
    """One connection, on which one call at a time is made. Called by httptools, too."""

    def __init__(self) -> None:
        self.idle_since_seconds = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Reply] | None = None
        self._usable = True
        self._came_bytes = 0  # of the reply to this call
        self._readable = select.poll()
        self._begin_reply()

    @property
    def may_be_asked(self) -> bool:
        """Whether the last reply has ended, where it should, and the server keeps it open."""
        return self._usable and self._waiting is None

    async def settle(self) -> None:
        """Let the event loop see what came with the connection; closes it if that is cancelled."""
        try:
            for _ in range(2):  # asyncio's own takes us up again once before it reads
                await asyncio.sleep(0)
        except BaseException:
            self.abort()
            raise

    def has_unread(self) -> bool:
        """Whether something came, an end perhaps, that a busy event loop has not seen yet.

        It would be taken for the reply to the next call.
        """
        return bool(self._readable.poll(0))

    def ask(self, head: bytes, body: bytes) -> "asyncio.Future[Reply]":
        """Send one request; the future has its reply, or raises NoReplyError with the cause."""
        transport = cast(asyncio.Transport, self._transport)
        self._waiting = asyncio.get_running_loop().create_future()
        self._came_bytes = 0
        if len(body) > _JOINED_BYTES_MAX:
            transport.writelines((head, body))
        else:
            transport.write(head + body)
        return self._waiting

    def give_up(self, after_seconds: float) -> None:
        """End a call that has taken too long."""
        self._fail(f"not within {after_seconds:g} s")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        self._usable = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._came_bytes += len(data)
        if self._waiting is None:  # nobody asked for this
            self.abort()
        elif self._came_bytes > _REPLY_BYTES_MAX:
            self._fail(f"a reply of more than {_REPLY_BYTES_MAX} bytes")
        else:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self._fail(f"what came is no HTTP/1.1 reply ({error})")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol; where a reply bears no length, this is its end."""
        self._usable = False
        if self._is_open_ended and exc is None:
            self._end()
        self._fail(repr(exc) if exc else "the server closed the connection")

    def abort(self) -> None:
        """Close the connection at once."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()

    # What httptools finds in a reply, in this order.

    def on_message_begin(self) -> None:
        """Begin a reply; one that nobody asked for ends the use of the connection."""
        self._usable = self._usable and self._waiting is not None
        self._begin_reply()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        match name.lower():
            case b"x-amzn-query-error":
                self._query_error = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self._has_length = True
            case _:
                pass

    def on_headers_complete(self) -> None:
        """Note where the body will end."""
        self._is_open_ended = not self._has_length

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """End the reply, and with it the call."""
        self._is_open_ended = False
        if self._parser.get_status_code() >= _INFORMATIONAL:
            self._usable = self._usable and self._parser.should_keep_alive()
            self._end()

    def _begin_reply(self) -> None:
        self._query_error = ""
        self._parts: list[bytes] = []
        self._has_length = self._is_open_ended = False

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            status = self._parser.get_status_code()
            waiting.set_result(Reply(status, self._query_error, b"".join(self._parts)))

    def _fail(self, cause: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(NoReplyError(cause))
        self.abort()


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way through to a server: CONNECT, RFC 9110, section 9.3.6.

    `dug` is done when there is one, and raises ConnectionError if the proxy gives none.
    """

    def __init__(self, url: URL, proxy: URL | None) -> None:
        self.dug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came = b""
        host = f"{url.host_subcomponent}:{url.port}"
        self._request = f"CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{_authorization(proxy)}\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        cast(asyncio.Transport, transport).write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._came += data
        if self.dug.done() or (b"\r\n\r\n" not in self._came and len(self._came) < _HEAD_BYTES_MAX):
            return
        status = re.match(rb"HTTP/1\.[01] ([1-5]\d\d)\b", self._came)
        if status and status[1][:1] == b"2":
            self.dug.set_result(None)
        else:
            said = status[1].decode() if status else "what is no HTTP/1.1 reply"
            self.dug.set_exception(ConnectionError(f"the proxy answers {said}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self.dug.done():
            self.dug.set_exception(exc or ConnectionError("the proxy closed the connection"))


def _authorization(proxy: URL | None) -> str:
    """Return the header line that tells a proxy who asks; none where its URL names no user."""
    if proxy is None or proxy.user is None:
        return ""
    pair = f"{proxy.user}:{proxy.password or ''}".encode()
    return f"proxy-authorization: Basic {base64.b64encode(pair).decode()}\r\n"
