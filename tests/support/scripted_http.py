"""A server whose connections say, each in its turn, exactly what a test lets them say.

async with ScriptedHttp(says(reply(b"good")), closes()) as server:
    server.url, server.asked, server.connections

A connection for which there is no script answers each request with the request's own body.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import NamedTuple, Self


class Asked(NamedTuple):
    """One request, and on which connection it came, counted from 0."""

    connection: int
    head: str
    body: bytes


class Line:
    """One connection, as its script sees it."""

    def __init__(
        self,
        server: "ScriptedHttp",
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server, self.number = server, number
        self.reader, self.writer = reader, writer

    async def hear(self) -> bytes:
        """Wait for a request, and return its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"content-length: (\d+)\r\n", head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        self.server.asked.append(Asked(self.number, head, body))
        return body

    async def say(self, *pieces: bytes) -> None:
        """Send some bytes, each piece for itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)  # let the client read it

    async def echo(self) -> None:
        """Answer whatever is asked with what was asked, until the client closes."""
        while True:
            await self.say(reply(await self.hear()))

    async def ended(self) -> None:
        """Wait until the client closes the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        """Close the connection so that the client sees a reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Line], Awaitable[None]]


class ScriptedHttp:
    """The server, on a free port of 127.0.0.1; its n-th connection has the n-th script."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0
        self._open: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0)  # the transports' end

    @property
    def url(self) -> str:
        """Return the address of the server."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def all_ended(self) -> None:
        """Wait until no connection is left."""
        async with asyncio.timeout(1):
            while self._open or not self.connections:
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        number, self.connections = self.connections, self.connections + 1
        line = Line(self, number, reader, writer)
        script = self._scripts[number] if number < len(self._scripts) else Line.echo
        try:
            await script(line)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client closed, or the test is over
        finally:
            writer.close()
            self._open.discard(task)
            self._changed.set()


def reply(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """Return a reply with this body and these header fields."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def says(*pieces: bytes) -> Script:
    """Answer a request with these pieces; then wait until the client closes."""

    async def script(line: Line) -> None:
        await line.hear()
        await line.say(*pieces)
        await line.ended()

    return script


def closes(*pieces: bytes) -> Script:
    """Answer a request with these pieces; then close."""

    async def script(line: Line) -> None:
        await line.hear()
        await line.say(*pieces)

    return script


async def silence(line: Line) -> None:
    """Say nothing, whatever comes."""
    await line.ended()


def tunnel(port: int) -> Script:
    """As a proxy, grant CONNECT, and carry everything to a port of 127.0.0.1 and back."""

    async def script(line: Line) -> None:
        await line.hear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await line.say(b"HTTP/1.1 200 Connection established\r\n", b"Via: penstock\r\n\r\n")
        back = asyncio.create_task(_carry(reader, line.writer))
        try:
            await _carry(line.reader, writer)
        finally:
            writer.close()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    return script


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def speaking_unasked(
    first: bytes, unasked: bytes, second: bytes
) -> Generator[tuple[str, Callable[[], None]]]:
    """Give the address of a server, and what has it say `unasked` while the event loop is busy.

    Its first connection is answered with `first`, and closed where `unasked` is nothing; another
    one, if it comes, with `second`.
    """
    replied, ended = threading.Event(), threading.Event()

    def speak(server: socket.socket) -> None:
        server.settimeout(0.2)
        with server.accept()[0] as one:
            one.recv(65_536)
            one.sendall(first)
            replied.wait(1)
            if unasked:
                one.sendall(unasked)
            else:
                one.shutdown(socket.SHUT_WR)
            ended.set()
            with contextlib.suppress(TimeoutError), server.accept()[0] as other:
                other.recv(65_536)
                other.sendall(second)

    def go() -> None:
        replied.set()
        ended.wait(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        speaking = threading.Thread(target=speak, args=(server,))
        speaking.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", go
        finally:
            speaking.join(1)
