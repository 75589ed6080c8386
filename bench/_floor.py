"""The floor: a process that reads, cuts, decodes, packs, signs and posts, and nothing else.

    python bench/_floor.py PLAN      PLAN: the JSON of _plan.Plan; prints {"began": …, "ended": …}

No ledger, no receipt looked at, no UTF-8 check, no lease, no error handled, a preamble whose length
it knows, a listing that is given to it. No loader on the same stack can be faster.
"""

import asyncio
import http.client
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop
from _plan import Plan, main
from _queue_sqs_floor import sender
from _spool import COMMENT

from penstock.passes import keep_memory
from penstock.source import frames as wire

Read = Callable[[Sequence[str]], Sequence[bytes]]

_CLAIM_FILES = 500
_MESSAGE_BYTES = 1_000_000
_IN_FLIGHT = 4
_PIPELINED = 50


class _Fields(msgspec.Struct, gc=False):
    id: msgspec.Raw
    created_at: msgspec.Raw
    text: msgspec.Raw
    lang: msgspec.Raw
    retweet_count: msgspec.Raw


_one = msgspec.json.Decoder(_Fields).decode
_many = msgspec.json.Decoder(list[_Fields]).decode
_encode = msgspec.json.Encoder().encode


def reader(plan: Plan) -> Read:
    """Return what reads files: of the directory, many a call from the server, or from nginx."""
    if plan.source == "directory":
        directory = os.open(plan.spool, os.O_RDONLY | os.O_DIRECTORY)

        def read_one(name: str) -> bytes:
            fd = os.open(name, os.O_RDONLY, dir_fd=directory)
            data = os.read(fd, 1 << 20)
            os.close(fd)
            return data

        return lambda names: [read_one(name) for name in names]
    return (_of_server if plan.source == "server" else _of_nginx)(plan)


def _of_server(plan: Plan) -> Read:
    connection = http.client.HTTPConnection(urlsplit(plan.address).netloc)
    headers = {"Authorization": f"Bearer {plan.token}", "Content-Type": "application/json"}

    def read(names: Sequence[str]) -> Sequence[bytes]:
        question = _encode({"names": names, "bytes_max": 16_777_216})
        connection.request("POST", "/v1/files:read", question, headers)
        return [file.data for file in wire.unframed(connection.getresponse().read(), names)]  # type: ignore[misc]

    return read


def _of_nginx(plan: Plan) -> Read:
    """Return what sends many GETs at once down one connection, and cuts the answers apart."""
    host, port = urlsplit(plan.address).netloc.split(":")
    connection = socket.create_connection((host, int(port)))
    rest = f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {plan.token}\r\n\r\n"

    def read(names: Sequence[str]) -> Sequence[bytes]:
        files: list[bytes] = []
        for at in range(0, len(names), _PIPELINED):
            some = names[at : at + _PIPELINED]
            connection.sendall("".join([f"GET /spool/{name}{rest}" for name in some]).encode())
            files += _answers(connection, len(some))
        return files

    return read


def _answers(connection: socket.socket, count: int) -> Sequence[bytes]:
    came, files = b"", list[bytes]()
    while len(files) < count:
        came += connection.recv(1 << 20)
        at = 0
        while (end := came.find(b"\r\n\r\n", at)) > 0:
            length = came.find(b"Content-Length: ", at, end) + 16
            until = end + 4 + int(came[length : came.find(b"\r", length)])
            if until > len(came):
                break
            files.append(came[end + 4 : until])
            at = until
        came = came[at:]
    return files


async def run(plan: Plan) -> None:
    """Do this process's share of the files."""
    read = reader(plan)
    decode: Callable[[bytes], Sequence[_Fields]] = (
        _many if plan.records > 1 else lambda json: (_one(json),)
    )
    skip = len(COMMENT)
    posts: set[asyncio.Task[None]] = set()
    async with sender(plan.queue_url) as send:

        async def post(entries: Sequence[dict[str, Any]]) -> None:
            while len(posts) >= _IN_FLIGHT:
                await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(send(entries))
            posts.add(task)
            task.add_done_callback(posts.discard)
            await asyncio.sleep(0)

        for at in range(0, len(plan.names), _CLAIM_FILES):
            open_: list[_Fields] = []
            size = 0
            for data in read(plan.names[at : at + _CLAIM_FILES]):
                records = decode(data[skip:])
                if plan.records_per_message == 1:
                    open_ += records
                    continue
                body_bytes = len(records) * 400  # about what they take
                if open_ and size + body_bytes > _MESSAGE_BYTES:
                    await post([_entry(0, _encode(open_), len(open_))])
                    open_, size = [], 0
                open_ += records
                size += body_bytes
            if plan.records_per_message == 1:
                for ten in range(0, len(open_), 10):
                    some = open_[ten : ten + 10]
                    await post([_entry(n, _encode(record), 1) for n, record in enumerate(some)])
            elif open_:
                await post([_entry(0, _encode(open_), len(open_))])
        await asyncio.gather(*posts)


def _entry(index: int, body: bytes, records: int) -> dict[str, Any]:
    count = {"StringValue": str(records), "DataType": "String"}
    return {
        "Id": str(index),
        "MessageBody": body.decode(),
        "MessageAttributes": {"penstock_records": count},
        "MessageGroupId": "floor",
        "MessageDeduplicationId": str(time.monotonic_ns()),
    }


if __name__ == "__main__":
    keep_memory()
    main(lambda plan: uvloop.run(run(plan)))
