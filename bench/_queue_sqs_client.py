"""What the clients of queue_sqs.py have in common: messages, count, command line."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from penstock.model import CLAIM_ID_LIKE, Message, QueueLimits
from penstock.sqs.batch import request_body
from penstock.sqs.packer import Packer

CONNECTIONS = 16
WORKLOADS = {"tens of 500 B": 1, "collections of 1 MiB": "many"}
_CLAIM_MESSAGES = 500
_RECORD_BYTES = 500
_RECORDS_OF_EIGHT_MIB = 16_600


def messages_of(workload: str) -> list[Message]:
    """Return the messages of one claim: 500 single records, or 8 collections."""
    single = WORKLOADS[workload] == 1
    record = json.dumps({"text": 'Zürich "quoted" text, ' * 30})[: _RECORD_BYTES - 2] + '"}'
    packer = Packer(
        limits=QueueLimits(message_bytes_max=1_048_576),
        message_bytes=None,
        records_per_message=1 if single else "many",
        fingerprint="bench",
        names=("20261123T062745.000001.json",),
        claim=CLAIM_ID_LIKE,
    )
    packer.add_file(0, [record.encode()] * (_CLAIM_MESSAGES if single else _RECORDS_OF_EIGHT_MIB))
    return packer.rest()[: _CLAIM_MESSAGES if single else 8]


def entries_of(messages: Sequence[Message]) -> list[list[dict[str, Any]]]:
    """Return the same messages as batches of entries, as a client of botocore's is given them."""
    size = 10 if len(messages) == _CLAIM_MESSAGES else 1
    entries = json.loads(request_body("", messages, None))["Entries"]
    return [entries[at : at + size] for at in range(0, len(entries), size)]


class Count:
    """What a client has done so far."""

    def __init__(self, seconds: float) -> None:
        self.until = time.perf_counter() + seconds
        self.messages = 0
        self.calls = 0

    def over(self) -> bool:
        """Return whether the time is up."""
        return time.perf_counter() > self.until


async def from_tasks(
    count: Count,
    batches: list[list[dict[str, Any]]],
    send: Callable[[list[dict[str, Any]]], Awaitable[Any]],
) -> None:
    """Send batches from so many tasks, over and over."""

    async def one(first: int) -> None:
        at = first
        while not count.over():
            batch = batches[at % len(batches)]
            await send(batch)
            count.messages += len(batch)
            count.calls += 1
            at += CONNECTIONS

    await asyncio.gather(*[one(first) for first in range(CONNECTIONS)])


def main(client: Callable[[str, str, Count], Coroutine[Any, Any, None] | None]) -> None:
    """Be one client for a while; print what it did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("workload")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    count = Count(options.seconds)
    began, cpu = time.perf_counter(), time.process_time()
    running = client(options.url, options.workload, count)
    if running is not None:
        _run(running)
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    report = {
        "messages_per_second": round(count.messages / elapsed),
        "calls_per_second": round(count.calls / elapsed),
        "cpu_ms_per_call": round(cpu / count.calls * 1000, 3),
    }
    print(json.dumps(report))


def _run(running: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(running)
    else:
        uvloop.run(running)
