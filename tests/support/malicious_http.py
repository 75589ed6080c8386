"""A server that means ill: it answers any path with whatever bytes the test says, and notes it all.

async with MaliciousHttp() as server:
    server.answers["/spool/"] = reply(body=b"[]")
    server.answers["/spool/a.json"] = endless()
"""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple, Self

Answer = Callable[[], AsyncIterator[bytes]]

DATE = "Wed, 25 Nov 2026 12:00:00 GMT"
METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
_BLOCK = b"x" * 65_536


class Asked(NamedTuple):
    """One request that came in; the names of its header fields are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class MaliciousHttp:
    """The server, on a free port; used as an async context manager. Unscripted paths are 404."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.bytes_sent = 0
        self.address = ""
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task, writer in list(self._serving.items()):
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving[task] = writer
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            del self._serving[task]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                await reader.readexactly(int(fields.get("content-length", "0")))
                method, target, _ = first.split(" ")
                self.asked.append(Asked(method, target, fields))
                answer = self.answers.get(target.partition("?")[0], reply(404))
                async for part in answer():
                    writer.write(part)
                    await writer.drain()
                    self.bytes_sent += len(part)


def reply(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with a status, a body, and header fields; a field of "" is left out.

    Without `headers` there are a date, a time of change, and the body's true length.
    """
    usual = {"Date": DATE, "Last-Modified": DATE, "Content-Length": str(len(body))}
    fields = usual | dict(headers or {})
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    head = "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode("latin-1")
    return _all_of(head + body)


def raw(data: bytes) -> Answer:
    """Answer with these bytes."""
    return _all_of(data)


def redirect(status: int = 302, to: str = METADATA) -> Answer:
    """Send the client elsewhere: by default to where a cloud machine finds its credentials."""
    return reply(status, headers={"Location": to})


def short(body: bytes, announced: int) -> Answer:
    """Announce more bytes than come before the connection is closed."""
    return _then_close(reply(body=body, headers={"Content-Length": str(announced)}))


def endless(head: bytes = b"") -> Answer:
    """Send a body in chunks that never ends; `head` is its beginning."""

    async def answer() -> AsyncIterator[bytes]:
        fields = {"Content-Length": "", "Transfer-Encoding": "chunked"}
        async for part in reply(headers=fields)():
            yield part + (_chunk(head) if head else b"")
        while True:
            yield _chunk(_BLOCK)

    return answer


def gzip_bomb(size_bytes: int, head: bytes = b"") -> Answer:
    """Send a small body that becomes `size_bytes` of spaces when it is decompressed."""
    body = gzip.compress(head + b" " * size_bytes, 9)
    return reply(body=body, headers={"Content-Encoding": "gzip"})


def silence() -> Answer:
    """Take the request, and say nothing for ever."""

    async def answer() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    return answer


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _all_of(data: bytes) -> Answer:
    async def answer() -> AsyncIterator[bytes]:
        yield data

    return answer


def _then_close(first: Answer) -> Answer:
    async def answer() -> AsyncIterator[bytes]:
        async for part in first():
            yield part
        raise ConnectionResetError

    return answer
