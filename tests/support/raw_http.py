"""HTTP as nobody's library would send it: request lines byte by byte, replies read to their end."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple

_SECONDS = 20.0


class RawReply(NamedTuple):
    """One reply; a status of 0 means that the connection was closed without one."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(
    address: str,
    target: str | bytes,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> RawReply:
    """Send one request for exactly `target` to `http://host:port`, on a connection of its own."""
    fields = {"Host": "localhost", "Connection": "close"}
    fields |= {"Content-Length": str(len(body))} if body else {}
    lines = [f"{name}: {value}" for name, value in (fields | dict(headers or {})).items()]
    raw = target.encode() if isinstance(target, str) else target
    head = method.encode() + b" " + raw + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode("latin-1")
    return parsed(await exchange(address, head + b"\r\n\r\n" + body))


async def exchange(address: str, request: bytes) -> bytes:
    """Send bytes; return what comes back, up to one whole reply or until the server closes."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    came = b""
    with contextlib.suppress(ConnectionError):  # it may be closed while we are still sending
        async with asyncio.timeout(_SECONDS):
            writer.write(request)
            await writer.drain()
            while not _is_whole(came) and (more := await reader.read(65_536)):
                came += more
    writer.close()
    return came


def _is_whole(raw: bytes) -> bool:
    announced = re.search(rb"\r\nContent-Length: (\d+)\r\n", raw)
    return bool(announced) and len(raw.partition(b"\r\n\r\n")[2]) >= int(announced[1])


def parsed(raw: bytes) -> RawReply:
    """Take a reply apart; its body is as it was sent, in chunks where it was."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return RawReply(int(first.split()[1]) if first else 0, headers, body)
