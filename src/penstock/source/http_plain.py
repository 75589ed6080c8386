"""GETs of small answers by the thousand: many down one keep-alive connection, answered in order.

    GET a GET b GET c ──▶        one write, before the first is answered
    ◀── 200 a 200 b 200 c        cut apart as they come

    HTTP/1.1 200 …      each header field once, a Content-Length, no chunks, nothing compressed
    no connection, one that broke, another form or status, a body larger than allowed       no reply

Replies up to there count. That the next is missing says nothing of the cause: whoever asked asks
again with `HttpSite.call`, which judges it. A GET may be repeated, so one way of judging replies is
enough, and what was not answered when a connection ended is asked again on another.
"""

import asyncio
import re
import select
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, cast

Admit = Callable[[int, Mapping[str, str]], bool]

_HEAD_BYTES_MAX: Final = 16_384
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([1-5]\d\d)(?: [\t -~\x80-\xff]*)?\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
# What nginx says of a file by deploy/nginx.conf, in its order: one match instead of field by field.
_USUAL: Final = re.compile(
    rb"HTTP/1\.1 200 OK\r\nServer: [!-~]+\r\nDate: ([!-~][ -~]*[!-~])\r\nContent-Type: [!-~]+\r\n"
    rb"Content-Length: (\d{1,15})\r\nLast-Modified: ([!-~][ -~]*[!-~])\r\n"
    rb"Connection: keep-alive\r\n\r\n"
)
_USUAL_FIELDS: Final[Sequence[str]] = ("Date", "Content-Length", "Last-Modified")
_LENGTH: Final = re.compile(r"\d{1,15}", re.ASCII)
_PATH: Final = re.compile(r"/[!-~]*")
_IDLE_SECONDS = 15.0  # a connection idle for longer is not used again: servers close theirs too
# For so long a server that once answered in another form is not asked here, and one that did not
# answer several requests of one connection is asked one by one.
_OTHERWISE_SECONDS = 60.0


class Reply(NamedTuple):
    """An answer: its status, its header fields, and its whole body, decompressed.

    `is_whole` is false where the body was not read because it was not admitted.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True


class PlainGets:
    """Connections to one server, at most as many as there are calls at a time.

    `tls` is None for http. `fields` are the header fields of every request, Host among them. No
    call waits longer for its next reply than `timeout_seconds` and a quarter.
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
        self._one_by_one_until_seconds = 0.0

    async def get(
        self, paths: Sequence[str], *, takes: Collection[int], body_bytes_max: int, admit: Admit
    ) -> Sequence[Reply]:
        """Ask for paths at once; return the replies to the first of them, or to none.

        Parameters as of `HttpSite.get`. Raises TimeoutError.
        """
        now = time.monotonic()
        if now < self._not_before_seconds or not all(map(_PATH.fullmatch, paths)):
            return ()
        if now < self._one_by_one_until_seconds:
            paths = paths[:1]
        connection = self._free() or await self._connect()
        if connection is None:
            return ()
        self._busy.add(connection)
        if self._watch is None:
            self._look()
        try:
            questions = "".join([f"GET {path}{self._rest}" for path in paths]).encode("latin-1")
            return await connection.ask(questions, len(paths), takes, body_bytes_max, admit)
        finally:
            self._busy.discard(connection)
            if connection.may_be_asked:
                self._idle.append(connection)
            else:
                connection.abort()
            if connection.has_other_form:
                self._not_before_seconds = time.monotonic() + _OTHERWISE_SECONDS
            if connection.answers_one_by_one:
                self._one_by_one_until_seconds = time.monotonic() + _OTHERWISE_SECONDS

    def _free(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            is_fresh = time.monotonic() - connection.asked_at_seconds < _IDLE_SECONDS
            if is_fresh and connection.may_be_asked and not connection.has_unread():
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
        self.asked_at_seconds = time.monotonic()  # or when the last reply came
        self.has_other_form = False
        self.answers_one_by_one = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Sequence[Reply]] | None = None
        self._usable = False
        self._replied = 0  # to all calls
        self._replies: list[Reply] = []  # to this one
        self._head = b""  # as far as it came
        self._body_of: Reply | None = None  # the reply whose body has not come to its end
        self._parts: list[bytes] = []
        self._missing_bytes = 0

    @property
    def may_be_asked(self) -> bool:
        """Whether the last reply has ended, where it should, and the server keeps it open."""
        return self._usable and self._waiting is None

    def has_unread(self) -> bool:
        """Whether something came, an end perhaps, that a busy event loop has not seen yet.

        It would be taken for the first of the next replies: for another file.
        """
        transport = cast("asyncio.Transport", self._transport)
        readable = select.poll()
        readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(readable.poll(0))

    def ask(
        self,
        questions: bytes,
        count: int,
        takes: Collection[int],
        body_bytes_max: int,
        admit: Admit,
    ) -> "asyncio.Future[Sequence[Reply]]":
        """Send `count` requests; the future has the replies to the first of them, or to none."""
        waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or not self._usable:
            waiting.set_result(())
            return waiting
        self.asked_at_seconds = time.monotonic()
        self._waiting, self._count, self._replies = waiting, count, []
        self._takes, self._body_bytes_max, self._admit = takes, body_bytes_max, admit
        self._transport.write(questions)
        return waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._usable = True

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        waiting = self._waiting
        if waiting is None or waiting.done():  # nobody asked for this
            self.abort()
            return
        at, replied = 0, self._replied
        if self._body_of is not None:
            at = self._take_body(self._body_of, data)
        elif self._head:
            data, self._head = self._head + data, b""
        while at < len(data) and not waiting.done():
            at = self._take(data, at)
        if self._replied > replied:
            self.asked_at_seconds = time.monotonic()
        # What follows the last body is not the next reply: such a connection is not used again.
        self._usable = self._usable and at == len(data)

    def _take(self, data: bytes, at: int) -> int:
        """Take one reply, or as much of it as is there; return where that ends."""
        head: tuple[int, Mapping[str, str], int] | None
        if usual := _USUAL.match(data, at):
            values = map(bytes.decode, usual.groups())
            head = (200, dict(zip(_USUAL_FIELDS, values, strict=True)), usual.end())
        elif data.find(b"\r\n\r\n", at) < 0 and len(data) - at < _HEAD_BYTES_MAX:
            self._head = data[at:]
            return len(data)
        else:
            head = _head(data, at)
        self.has_other_form = head is None
        if head is None or head[0] not in self._takes:
            self._end(again=False)
            return len(data)
        status, headers, begin = head
        if headers.get("Connection", "keep-alive").lower() != "keep-alive":
            self._usable = False
        until = begin + int(headers["Content-Length"])
        if not self._admit(len(self._replies), headers):
            self._replies.append(Reply(status, headers, b"", is_whole=False))
            self._end(again=False)
        elif until - begin > self._body_bytes_max:
            self._end(again=False)
        elif until <= len(data):
            self._reply(Reply(status, headers, data[begin:until]))
            return until
        else:
            self._body_of, self._parts = Reply(status, headers, b""), [data[begin:]]
            self._missing_bytes = until - len(data)
        return len(data)

    def _take_body(self, reply: Reply, data: bytes) -> int:
        """Take more of a body that has begun; return where it ends."""
        part = data[: self._missing_bytes]
        self._parts.append(part)
        self._missing_bytes -= len(part)
        if not self._missing_bytes:
            self._body_of = None
            self._reply(reply._replace(body=b"".join(self._parts)))
        return len(part)

    def _reply(self, reply: Reply) -> None:
        """Add a whole reply; end the call if it is the last, or the server says that it is."""
        self._replies.append(reply)
        self._replied += 1
        if len(self._replies) == self._count:
            self._end()
        elif not self._usable:
            self.answers_one_by_one = self._replied == 1
            self._end(again=False)

    def _end(self, *, again: bool = True) -> None:
        """End the call with the replies that came; with `again` false, the connection too."""
        waiting, self._waiting = self._waiting, None
        self._head, self._body_of, self._parts = b"", None, []
        if waiting is not None and not waiting.done():
            waiting.set_result(self._replies)
        if not again:
            self.abort()

    def give_up(self) -> None:
        """End a call that waits too long for its next reply."""
        self.answers_one_by_one = self._count > 1
        if self._waiting is not None and not self._waiting.done() and not self._replies:
            self._waiting.set_exception(TimeoutError())
        self._end(again=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  whatever it was
        """See asyncio.Protocol."""
        self._usable = False
        # One that lay idle may have been closed before it was asked: that tells nothing.
        if self._waiting is not None and self._count > 1 and (self._replies or not self._replied):
            self.answers_one_by_one = True
        self._end()

    def abort(self) -> None:
        """Close the connection at once."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()


def _head(data: bytes, at: int) -> tuple[int, Mapping[str, str], int] | None:
    """Return status, header fields, and where the body begins; None if it is no plain reply."""
    end = data.find(b"\r\n\r\n", at, at + _HEAD_BYTES_MAX) + 4
    match = _HEAD.fullmatch(data, at, max(at, end))
    fields = _fields(match[2]) if match else None
    return None if match is None or fields is None else (int(match[1]), fields, end)


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
