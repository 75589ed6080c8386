"""GETs of small answers by the thousand: keep-alive connections that read one plain form of reply.

    HTTP/1.1 200 …      each header field once, a Content-Length, no chunks, nothing compressed
    no connection, one that broke, any other form or status, a body larger than allowed      None

None says nothing of the cause: whoever asked asks again with `HttpSite.call`, which judges it. A
GET may be repeated, so one way of judging replies is enough.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, cast

Admit = Callable[[Mapping[str, str]], bool]

_HEAD_BYTES_MAX: Final = 16_384
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([1-5]\d\d)(?: [\t -~\x80-\xff]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_LENGTH: Final = re.compile(r"\d{1,15}", re.ASCII)
_PATH: Final = re.compile(r"/[!-~]*")
_IDLE_SECONDS = 15.0  # a connection idle for longer is not used again: servers close theirs too
_OTHER_FORM_SECONDS = 60.0  # a server that once answered in another form is not asked here so long


class Reply(NamedTuple):
    """An answer: its status, its header fields, and its whole body, decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class PlainGets:
    """Connections to one server, at most as many as there are calls at a time.

    `tls` is None for http. `fields` are the header fields of every request, Host among them. No
    call takes longer than `timeout_seconds` and a quarter.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        fields: Mapping[str, str],
        timeout_seconds: float,
    ) -> None:
        self._host, self._port, self._tls = host, port, tls
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._rest = f" HTTP/1.1\r\n{lines}\r\n"
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._not_before_seconds = 0.0

    async def get(
        self, path: str, *, takes: Collection[int], body_bytes_max: int, admit: Admit | None
    ) -> Reply | None:
        """Ask for a path; parameters as of `HttpSite.call`. Raises TimeoutError."""
        if time.monotonic() < self._not_before_seconds or not _PATH.fullmatch(path):
            return None
        connection = self._free() or await self._connect()
        if connection is None:
            return None
        self._busy.add(connection)
        if self._watch is None:
            self._look()
        try:
            question = f"GET {path}{self._rest}".encode("latin-1")
            reply = await connection.ask(question, takes, body_bytes_max, admit)
        finally:
            self._busy.discard(connection)
            if connection.may_be_asked:
                self._idle.append(connection)
            else:
                connection.abort()
        if connection.has_other_form:
            self._not_before_seconds = time.monotonic() + _OTHER_FORM_SECONDS
        return reply

    def _free(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            used_ago_seconds = time.monotonic() - connection.asked_at_seconds
            if connection.may_be_asked and used_ago_seconds < _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection | None":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, made = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise
        except OSError:  # certificates that are not trusted among them
            return None
        return made

    def _look(self) -> None:
        """End the calls that have lasted too long; look again as long as there are any."""
        too_old = time.monotonic() - self._timeout_seconds
        for connection in self._busy:
            if connection.asked_at_seconds < too_old:
                connection.give_up()
        loop = asyncio.get_running_loop()
        pause = self._timeout_seconds / 4
        self._watch = loop.call_later(pause, self._look) if self._busy else None

    def close(self) -> None:
        """Close the connections; nothing is called afterwards."""
        if self._watch is not None:
            self._watch.cancel()
        for connection in (*self._idle, *self._busy):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, on which one call at a time is made."""

    def __init__(self) -> None:
        self.asked_at_seconds = time.monotonic()
        self.has_other_form = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply | None] | None = None
        self._usable = False
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._length: int | None = None  # of the body, once the head is there
        self._head = b""
        self._parts: list[bytes] = []
        self._came_bytes = 0

    @property
    def may_be_asked(self) -> bool:
        """Whether the last reply has ended, where it should, and the server keeps it open."""
        return self._usable and self._waiting is None

    def ask(
        self, question: bytes, takes: Collection[int], body_bytes_max: int, admit: Admit | None
    ) -> "asyncio.Future[Reply | None]":
        """Send a request; the future has its reply, or None."""
        waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or not self._usable:
            waiting.set_result(None)
            return waiting
        self.asked_at_seconds = time.monotonic()
        self._waiting = waiting
        self._takes, self._body_bytes_max, self._admit = takes, body_bytes_max, admit
        self._length, self._parts, self._came_bytes = None, [], 0
        self._transport.write(question)
        return waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._usable = True

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._waiting is None or self._waiting.done():  # nobody asked for this
            self.abort()
            return
        if self._length is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:  # noqa: PLR2004  not found
                if len(self._head) > _HEAD_BYTES_MAX:
                    self._end_otherwise()
                return
            head, data, self._head = self._head[:end], self._head[end:], b""
            self._length = self._admitted(head)
            if self._length is None:
                return
        self._parts.append(data)
        self._came_bytes += len(data)
        if self._came_bytes >= self._length:
            body = data if len(self._parts) == 1 else b"".join(self._parts)
            # What follows a body is not the next reply: such a connection is not used again.
            self._usable = self._usable and self._came_bytes == self._length
            self._end(Reply(self._status, self._headers, body[: self._length]))

    def _admitted(self, head: bytes) -> int | None:
        """Return how long the body is that shall be read; None if the call has ended here."""
        match = _HEAD.fullmatch(head) if len(head) <= _HEAD_BYTES_MAX else None
        headers = _fields(match[2]) if match else None
        if match is None or headers is None:
            return self._end_otherwise()
        self._status, self._headers = int(match[1]), headers
        if self._status not in self._takes:
            return self._end(None, again=False)
        if headers.get("Connection", "keep-alive").lower() != "keep-alive":
            self._usable = False
        if self._admit and not self._admit(headers):
            return self._end(Reply(self._status, headers, b""), again=False)
        length = int(headers["Content-Length"])
        return length if length <= self._body_bytes_max else self._end(None, again=False)

    def _end(self, reply: Reply | None, *, again: bool = True) -> None:
        """End the call; with `again` false, the connection too."""
        waiting, self._waiting = self._waiting, None
        self._parts = []
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)
        if not again:
            self.abort()

    def _end_otherwise(self) -> None:
        self.has_other_form = True
        self._end(None, again=False)

    def give_up(self) -> None:
        """End a call that takes too long."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(TimeoutError())
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  whatever it was
        """See asyncio.Protocol."""
        self._usable = False
        self._end(None)

    def abort(self) -> None:
        """Close the connection at once."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()


def _fields(lines: bytes) -> Mapping[str, str] | None:
    """Return the header fields of a plain reply; None if it has another form."""
    fields: dict[str, str] = {}
    for line in lines.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.title()
        if name in fields:
            return None
        fields[name] = value.strip(" \t")
    if "Transfer-Encoding" in fields or not _LENGTH.fullmatch(fields.get("Content-Length", "")):
        return None
    return fields if fields.get("Content-Encoding", "identity") == "identity" else None
