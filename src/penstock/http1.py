"""One HTTP/1.1 client for many small, equal calls to one server.

    connect ──▶ one POST, or several GETs in one write ──▶ replies, in the order of the requests
       ▲                                                      │
       └──────── kept 3 s, unless the server sent more ◀──────┘

    POST   made once. NotSentError: it was surely not sent. NoReplyError: it may have arrived
    GET    returns the replies up to the first that is missing or not plain. A plain reply has
           HTTP/1.1, a Content-Length, each field that we read once, no chunks, no compression

A call carries ten records, or one file. A general client's work for any request (cookies,
redirects, forms, tracing) costs more than all other work on those. Libraries do the hard parts:
httptools reads replies, aiohappyeyeballs tries addresses, the event loop does TLS.
"""

import asyncio
import base64
import platform
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import aiohappyeyeballs
import httptools
from yarl import URL

from penstock import __version__

Admit = Callable[[int, Mapping[str, str]], bool]
"""Decides whether to read a body, by its reply's position and header fields."""

_CONNECT_SECONDS_MAX: Final = 3.0
# SQS and its load balancers may close a connection that idles for seconds; a call sent at that
# moment is reset with its outcome unknown. A new connection costs 2 round trips.
_IDLE_SECONDS_MAX: Final = 3.0
_ADDRESSES_SECONDS_MAX: Final = 10.0  # before a name is looked up again
_NEXT_ADDRESS_SECONDS: Final = 0.25  # recommended by RFC 8305, "Happy Eyeballs"
_JOINED_BYTES_MAX: Final = 65_536  # up to here, a copy costs less than a second buffer
_BODY_BYTES_MAX: Final = 4_194_304  # of a POST's reply; one for ten messages takes 3,000
_HEAD_BYTES_MAX: Final = 16_384
_INFORMATIONAL: Final = 200  # below: 100 Continue and the like, which we never ask for
# After replies that are not plain, make no GETs for this time. If a server does not answer several
# requests on one connection, send one at a time.
_OTHERWISE_SECONDS: Final = 60.0
# The header fields that we read. Keeping the others would cost about 3 µs per GET.
_KEPT: Final = frozenset({
    "Content-Encoding", "Content-Length", "Date", "Last-Modified", "Location", "Transfer-Encoding",
    "X-Amzn-Query-Error",
})  # fmt: skip
_PATH: Final = re.compile(r"/[!-~]*")
_USER_AGENT: Final = f"user-agent: penstock/{__version__} Python/{platform.python_version()}\r\n"

_Address = tuple[int, int, int, str, tuple[Any, ...]]  # from getaddrinfo


class Reply(NamedTuple):
    """A status, the header fields of `_KEPT`, and the body, empty if it was not admitted."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True


class NotSentError(Exception):
    """The server was not reached: it has received nothing of this call."""


class NoReplyError(Exception):
    """The call may have been sent, and no reply came: the server may have acted on it."""


class Http1Client:
    """The connections to one server, one for each call in flight.

    `tls` verifies server and proxy; a `proxy` may have a user and a password. `timeout_seconds`
    limits connecting and the first reply, then each further one.
    """

    def __init__(
        self,
        url: URL,
        *,
        proxy: URL | None = None,
        tls: ssl.SSLContext | None,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._proxy, self._tls = url, proxy, tls
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._idle: list[_Connection] = []  # the most recently used one is last
        self._busy: set[_Connection] = set()
        self._addresses: list[_Address] = []
        self._addresses_until_seconds = 0.0
        self._asking = asyncio.Lock()
        self._not_plain_until_seconds = self._one_by_one_until_seconds = 0.0
        # Through a proxy without TLS, each request names the server.
        of_proxy = proxy is not None and url.scheme == "http"
        self._origin = str(url.origin()) if of_proxy else ""
        self._authorization = _authorization(proxy) if of_proxy else ""

    async def post(self, fields: Mapping[str, str], body: bytes) -> Reply:
        """Make one call; `fields` must be printable ASCII. Raises NotSentError or NoReplyError."""
        call = _Call(self._timeout_seconds, body_bytes_max=_BODY_BYTES_MAX)
        head = (
            f"POST {self._origin}{self._url.raw_path} HTTP/1.1\r\n{_USER_AGENT}"
            f"{self._authorization}{_lines(fields)}content-length: {len(body)}\r\n\r\n"
        )
        await self._make(call, head.encode(), body)
        if not call.replies:
            raise NoReplyError(f"no reply from {self._url}: the server {call.cause}")
        return call.replies[0]

    async def get(
        self,
        paths: Sequence[str],
        fields: Mapping[str, str],
        *,
        takes: Collection[int],
        body_bytes_max: int,
        admit: Admit,
    ) -> Sequence[Reply]:
        """Request paths in one write; return the plain replies to the first ones, or none.

        Each has a status in `takes` and at most `body_bytes_max`; if `admit` refuses a body, that
        reply is the last. Raises TimeoutError if no reply came in time.
        """
        now = self._monotonic()
        if now < self._not_plain_until_seconds or not all(map(_PATH.fullmatch, paths)):
            return ()
        if now < self._one_by_one_until_seconds:
            paths = paths[:1]
        rest = f" HTTP/1.1\r\n{self._authorization}{_lines(fields)}\r\n"
        requests = "".join([f"GET {self._origin}{path}{rest}" for path in paths]).encode()
        call = _Call(self._timeout_seconds, len(paths), body_bytes_max, takes, admit, plain=True)
        try:
            await self._make(call, requests)
        except NotSentError:
            return ()
        if call.was_not_plain:
            self._not_plain_until_seconds = self._monotonic() + _OTHERWISE_SECONDS
        if call.count > 1 and call.answers_one_by_one:
            self._one_by_one_until_seconds = self._monotonic() + _OTHERWISE_SECONDS
        if call.timed_out and not call.replies:
            raise TimeoutError
        return call.replies

    async def _make(self, call: "_Call", head: bytes, body: bytes = b"") -> None:
        """Make a call and collect its replies in it. Raises NotSentError."""
        call.until_seconds = asyncio.get_running_loop().time() + self._timeout_seconds
        connection = self._free() or await self._connect(call.until_seconds)
        self._busy.add(connection)
        try:
            connection.ask(call, head, body)
            connection.watch(call)
            await call.ended
        finally:
            if call.watching is not None:
                call.watching.cancel()
            self._busy.discard(connection)
            if connection.may_be_asked:
                connection.idle_since_seconds = self._monotonic()
                self._idle.append(connection)
            else:
                connection.abort()

    def _free(self) -> "_Connection | None":
        """Return a recently used connection, if any; close older ones."""
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
        failure: Exception | None = None
        try:
            async with asyncio.timeout_at(limit):
                connection = await self._connected()
            if connection.may_be_asked:
                return connection
            connection.abort()
            cause = "the server closed the connection, or sent data before any request"
        except TimeoutError as error:
            failure = error
            cause = f"not within {min(self._timeout_seconds, _CONNECT_SECONDS_MAX):g} s"
        # RuntimeError: uvloop's for a socket. UnicodeError: the host cannot be a name.
        except (OSError, RuntimeError, UnicodeError) as error:
            failure = error
            cause = str(error) or repr(error)
        through = f" through the proxy {self._proxy.origin()}" if self._proxy else ""
        raise NotSentError(f"cannot connect to {self._url}{through}: {cause}") from failure

    async def _connected(self) -> "_Connection":
        peer = self._proxy or self._url
        made = await aiohappyeyeballs.start_connection(
            await self._look_up(peer), happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
        )
        is_tls = peer.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection,
            sock=made,
            ssl=self._tls if is_tls else None,
            server_hostname=peer.host if is_tls else None,
        )
        try:
            if self._proxy is not None and self._url.scheme == "https":
                connection = await self._dig(connection)
            # Let the loop see data that came with the connection: asyncio reads after one turn.
            for _ in range(2):
                await asyncio.sleep(0)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _dig(self, outer: "_Connection") -> "_Connection":
        """Have the proxy open a tunnel to the server: CONNECT, RFC 9110, section 9.3.6."""
        host = f"{self._url.host_subcomponent}:{self._url.port}"
        call = _Call(self._timeout_seconds, takes=range(200, 300), admit=lambda _, __: False)
        request = f"CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{_authorization(self._proxy)}\r\n"
        outer.ask(call, request.encode())
        await call.ended
        if not call.replies:
            raise ConnectionError(f"the proxy {call.cause}")
        inner = _Connection()
        transport = await asyncio.get_running_loop().start_tls(
            cast(asyncio.Transport, outer.transport), inner, cast(ssl.SSLContext, self._tls),
            server_hostname=self._url.host,
        )  # fmt: skip
        inner.connection_made(cast(asyncio.BaseTransport, transport))
        return inner

    async def _look_up(self, peer: URL) -> list[_Address]:
        """Return the addresses of a host; one call at a time looks them up."""
        async with self._asking:
            if not self._addresses or self._monotonic() >= self._addresses_until_seconds:
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
                self._addresses = [*found]
                self._addresses_until_seconds = self._monotonic() + _ADDRESSES_SECONDS_MAX
            return self._addresses

    def close(self) -> None:
        """Close the connections; no method is called afterwards."""
        for connection in (*self._idle, *self._busy):
            connection.abort()


@dataclass(slots=True)
class _Call:
    """One write: how many replies it expects, which ones it accepts, and its result."""

    timeout_seconds: float
    count: int = 1
    body_bytes_max: int = 0
    takes: Collection[int] = range(1000)
    admit: Admit | None = None
    plain: bool = False  # whether replies must be plain
    replies: list[Reply] = field(default_factory=list[Reply])
    cause: str = ""  # why replies are missing: "the server …"
    ended: asyncio.Future[None] = field(init=False)
    until_seconds: float = 0.0  # by the loop's clock, for the next reply
    watching: asyncio.TimerHandle | None = None
    timed_out: bool = False
    was_not_plain: bool = False
    answers_one_by_one: bool = False


class _Connection(asyncio.Protocol):
    """One connection, with one call at a time. httptools also calls it."""

    def __init__(self) -> None:
        self.idle_since_seconds = 0.0
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._call: _Call | None = None
        self._calls = 0
        self._usable = True
        self._head_bytes = 0  # received since the last body or reply
        self._readable = select.poll()
        self._is_open_ended = False  # whether the current reply ends with its connection

    @property
    def may_be_asked(self) -> bool:
        """Whether the last reply has ended properly, and the server keeps the connection open."""
        return self._usable and self._call is None

    def has_unread(self) -> bool:
        """Whether data, or the end, arrived that the busy event loop has not seen."""
        return bool(self._readable.poll(0))

    def ask(self, call: _Call, head: bytes, body: bytes = b"") -> None:
        """Send the requests of a call."""
        self._call, self._calls = call, self._calls + 1
        call.ended = asyncio.get_running_loop().create_future()
        transport = cast(asyncio.Transport, self.transport)
        if len(body) > _JOINED_BYTES_MAX:
            transport.writelines((head, body))
        else:
            transport.write(head + body)

    def watch(self, call: _Call) -> None:
        """End a call if its next reply takes too long."""
        loop = asyncio.get_running_loop()
        if loop.time() < call.until_seconds:
            call.watching = loop.call_at(call.until_seconds, self.watch, call)
        else:
            call.timed_out = call.answers_one_by_one = True
            self._end(f"did not answer within {call.timeout_seconds:g} s")

    def abort(self) -> None:
        """Close the connection at once."""
        self._usable = False
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def eof_received(self) -> None:
        """Note that nothing more will come."""
        self._usable = False

    def data_received(self, data: bytes) -> None:
        """Parse what came; unrequested data ends the connection."""
        if (call := self._call) is None:
            self.abort()
            return
        replies = len(call.replies)
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._call is call:
                call.was_not_plain = True
            self._end(f"sent an invalid HTTP/1.1 reply ({error})")
        if self._head_bytes > _HEAD_BYTES_MAX:
            self._end(f"sent a head of more than {_HEAD_BYTES_MAX} bytes")
        if len(call.replies) > replies:
            call.until_seconds = asyncio.get_running_loop().time() + call.timeout_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call; for a reply without a length, this is its end."""
        self._usable = False
        if self._is_open_ended and exc is None:
            self._take()
        self._cut(f"broke the connection ({exc!r})" if exc else "closed the connection")

    # httptools calls these, in this order.

    def on_message_begin(self) -> None:
        """Begin a reply; one that was not requested makes the connection unusable."""
        self._usable = self._usable and self._call is not None
        self._headers: dict[str, str] = {}
        self._is_doubled = False  # whether it has a field twice
        self._parts: list[bytes] = []
        self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        if title := _kept(name):
            headers = self._headers
            if title in headers:
                self._is_doubled = True
            headers[title] = str(value, "latin-1")

    def on_headers_complete(self) -> None:
        """Check the head: whether the call accepts this reply, and its body."""
        call, status = self._call, self._parser.get_status_code()
        if call is None or status < _INFORMATIONAL:
            return
        headers = self._headers
        self._is_open_ended = not ("Content-Length" in headers or "Transfer-Encoding" in headers)
        if call.plain and (
            self._is_open_ended
            or self._is_doubled
            or "Transfer-Encoding" in headers
            or headers.get("Content-Encoding", "identity") != "identity"
            or self._parser.get_http_version() != "1.1"
        ):
            call.was_not_plain = True
            self._end("sent a reply that is not plain")
        elif status not in call.takes:
            self._end(f"answered {status}")
        elif call.admit and not call.admit(len(call.replies), headers):
            call.replies.append(Reply(status, headers, b"", is_whole=False))
            self._usable = False
            self._end()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(body)
        self._head_bytes = 0
        self._body_bytes += len(body)
        if self._call is not None and self._body_bytes > self._call.body_bytes_max:
            self._end(f"sent a reply of more than {self._call.body_bytes_max} bytes")

    def on_message_complete(self) -> None:
        """End the reply, and with the last one the call."""
        self._is_open_ended = False
        self._head_bytes = 0
        if self._parser.get_status_code() >= _INFORMATIONAL:
            self._usable = self._usable and self._parser.should_keep_alive()
            self._take()

    def _take(self) -> None:
        """Add a whole reply; end the call if it is the last, or the server wants to close."""
        if (call := self._call) is None:
            return
        status = self._parser.get_status_code()
        call.replies.append(Reply(status, self._headers, b"".join(self._parts)))
        if len(call.replies) == call.count:
            self._end()
        elif not self._usable:
            self._cut("announced the end of the connection")

    def _cut(self, cause: str) -> None:
        """End a call because the server closed; an idle connection may have closed before it."""
        if self._call is not None and self._calls == 1:
            self._call.answers_one_by_one = len(self._call.replies) <= 1
        self._end(cause)

    def _end(self, cause: str = "") -> None:
        """End the call; a `cause`, why replies are missing, also ends the connection."""
        call, self._call = self._call, None
        if call is not None and not call.ended.done():
            call.cause = cause
            call.ended.set_result(None)
        if cause:
            self.abort()


def _authorization(proxy: URL | None) -> str:
    """Return the header line that authorizes us at a proxy; "" if its URL has no user."""
    if proxy is None or proxy.user is None:
        return ""
    pair = f"{proxy.user}:{proxy.password or ''}".encode()
    return f"proxy-authorization: Basic {base64.b64encode(pair).decode()}\r\n"


def _lines(fields: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


@lru_cache(maxsize=256)
def _kept(name: bytes) -> str:
    """Return the name of a field as in `_KEPT`; "" for others."""
    title = name.decode("latin-1").title()
    return title if title in _KEPT else ""
