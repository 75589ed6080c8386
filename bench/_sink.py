"""A process that answers as SQS does and keeps nothing: the cheapest sink whose receipts are right.

    python bench/_sink.py          prints its address; ends with its standard input
    GET  /                         {"records": …, "messages": …, "calls": …} so far
    POST /latency?SECONDS          every later answer comes so late

Every receipt bears the MD5 of the body that came, so whoever checks receipts can be told nothing
wrong. No signature is checked. A queue whose name ends in .fifo is a FIFO queue.
"""

import asyncio
import hashlib
import sys
from typing import cast

import msgspec
import uvloop

from penstock.passes import keep_memory

_ATTRIBUTES = {
    "QueueArn": "arn:aws:sqs:us-east-1:000000000000:q",
    "MaximumMessageSize": "1048576",
    "VisibilityTimeout": "30",
}
_PAUSE_BYTES = 64 * 1_048_576  # no request is larger


class _Value(msgspec.Struct, rename="pascal", gc=False):
    string_value: str


class _Entry(msgspec.Struct, rename="pascal"):
    id: str
    message_body: str
    message_attributes: dict[str, _Value] = {}


class _Batch(msgspec.Struct, rename="pascal"):
    queue_url: str
    entries: list[_Entry]


class _Receipt(msgspec.Struct, rename="pascal", gc=False):
    id: str
    message_id: str
    md5: str = msgspec.field(name="MD5OfMessageBody")


_batch = msgspec.json.Decoder(_Batch).decode
_encode = msgspec.json.Encoder().encode


class Sink:
    """What came so far, and how late answers are."""

    def __init__(self) -> None:
        self.latency_seconds = 0.0
        self.calls = self.messages = self.records = 0

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Return the reply's body to one request."""
        first = head.partition(b"\r\n")[0]
        if first.startswith(b"POST /latency?"):
            self.latency_seconds = float(first.split(b" ")[1].partition(b"?")[2])
        if not first.startswith(b"POST / "):
            done = {"records": self.records, "messages": self.messages, "calls": self.calls}
            return _encode(done)
        if b"GetQueueAttributes" in head:
            fifo = {"FifoQueue": "true"} if b".fifo" in body else {}
            return _encode({"Attributes": _ATTRIBUTES | fifo})
        return self._take(_batch(body))

    def _take(self, batch: _Batch) -> bytes:
        receipts: list[_Receipt] = []
        for entry in batch.entries:
            md5 = hashlib.md5(entry.message_body.encode(), usedforsecurity=False).hexdigest()
            receipts.append(_Receipt(entry.id, f"{self.messages:032x}", md5))
            count = entry.message_attributes.get("penstock_records")
            self.records += int(count.string_value) if count else 1
            self.messages += 1
        self.calls += 1
        return _encode({"Successful": receipts})


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as the clients of a benchmark speak it: a length, no chunks, one call at a time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._came = bytearray()
        self._wanted = 0  # bytes of head and body, once the head is there
        self._head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._came += data
        while len(self._came) > self._wanted or (self._wanted and len(self._came) == self._wanted):
            if not self._wanted:
                end = self._came.find(b"\r\n\r\n")
                if end < 0:
                    return
                self._head = end + 4
                self._wanted = self._head + _length(bytes(self._came[:end]).lower())
                continue
            head, body = self._came[: self._head], self._came[self._head : self._wanted]
            del self._came[: self._wanted]
            self._wanted = 0
            self._reply(self._sink.answer(bytes(head), bytes(body)))

    def _reply(self, body: bytes) -> None:
        reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
        reply += b"Content-Length: %d\r\n\r\n" % len(body) + body
        if self._sink.latency_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self._sink.latency_seconds, self._transport.write, reply)
        else:
            self._transport.write(reply)


def _length(head: bytes) -> int:
    after = head.partition(b"\r\ncontent-length:")[2]
    return min(int(after.partition(b"\r\n")[0] or b"0"), _PAUSE_BYTES)


async def main() -> None:
    """Listen, say where, and end when nobody is there any more to tell us anything."""
    sink = Sink()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(sink), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    keep_memory()
    uvloop.run(main())
