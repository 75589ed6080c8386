"""What `penstock plan` rests on: the loader's CPU by what causes it, Redis's bytes a file.

    python bench/plan.py [--files 20000] [--rounds 3]

One loader in this process, as in a function: it reads over HTTP, from `penstock serve` over a spool
in memory. That, a real Redis and an SQS stub are processes of their own. Four workloads give the
four figures:

    1 x 2,400 B       file + record + 2.4 KB
    100 x 2,400 B     file + 100 records + 240 KB
    100 x 600 B       file + 100 records + 60 KB
    1 x 2,400 B, one record a message     file + record + 2.4 KB + message (sent in tens)

CPU is this process's own, best of the rounds; what the others take is theirs. 500 B of each record
are selected. Prints the three lines that stand in src/penstock/setup/plan.py, and nowhere else: put
them there, then `make docs` writes the dollars that follow from them into deploy/README.md.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import redis
from _servers import EmbeddedFileServer

from penstock import telemetry, wiring, worker
from penstock.embedded.redis import EmbeddedRedis
from penstock.settings.reading import load

SELECTED_BYTES = 500


class Workload(NamedTuple):
    """Files of so many records of so many bytes, and how they are packed."""

    title: str
    records: int
    record_bytes: int
    records_per_message: Literal["many", 1]


ONE = Workload("1 x 2,400 B", 1, 2400, "many")
HUNDRED = Workload("100 x 2,400 B", 100, 2400, "many")
SMALL = Workload("100 x 600 B", 100, 600, "many")
SINGLE = Workload("1 x 2,400 B, one a message", 1, 2400, 1)


def record(number: int, record_bytes: int) -> bytes:
    """Return a record of so many bytes, of which the selection takes 500."""
    kept = {"id": 10**18 + number, "lang": "en", "text": ""}
    kept["text"] = "x" * (SELECTED_BYTES - len(json.dumps(kept, separators=(",", ":"))))
    rest: dict[str, Any] = {f"field_{n}": n for n in range(5)}
    whole = json.dumps(kept | rest, separators=(",", ":"))
    return json.dumps(
        kept | rest | {"padding": "y" * max(0, record_bytes - len(whole) - 13)},
        separators=(",", ":"),
    ).encode()


def write(spool: Path, workload: Workload, files: int) -> None:
    """Fill the spool."""
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir()
    for file in range(files):
        body = b",".join(
            record(file * workload.records + n, workload.record_bytes)
            for n in range(workload.records)
        )
        name = f"2026-11-23T06-15-{file // 1_000_000:02d}.{file % 1_000_000:06d}Z.json"
        (spool / name).write_bytes(b"// written by a container\n[" + body + b"]")


async def measure(
    workload: Workload, server: EmbeddedFileServer, redis_url: str, sqs_url: str, files: int
) -> float:
    """Return the CPU seconds of one pass over the spool."""
    settings = load(
        overrides={
            "source": {"url": server.address, "token": server.token, "settle_seconds": 0},
            "select": {"fields": "{id: id, lang: lang, text: text}"},
            "queue": {
                "url": f"{sqs_url}/000000000000/q",
                "endpoint_url": sqs_url,
                "region": "us-east-1",
                "records_per_message": workload.records_per_message,
            },
            "ledger": {"url": redis_url, "spool": "bench"},
        }
    )
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(settings, stack)
        began = time.process_time()
        tally = await worker.load(parts, stop=asyncio.Event())
        seconds = time.process_time() - began
    if (tally.files_processed, tally.records_sent) != (files, files * workload.records):
        raise SystemExit(f"not all was sent: {tally}")
    return seconds


def best(
    workload: Workload,
    server: EmbeddedFileServer,
    redis_url: str,
    sqs_url: str,
    files: int,
    rounds: int,
) -> float:
    """Return the best round's CPU a file, in microseconds."""
    client: Any = redis.Redis.from_url(redis_url)
    seconds: list[float] = []
    for _ in range(rounds):
        client.flushall()
        with asyncio.Runner() as runner:  # Lambda has no uvloop
            seconds.append(runner.run(measure(workload, server, redis_url, sqs_url, files)))
    microseconds = min(seconds) / files * 1e6
    print(f"  {workload.title:28} {microseconds:>8.1f} µs of CPU a file")
    return microseconds


def redis_bytes(redis_url: str) -> float:
    """Return what a processed file takes in Redis, from what the last run left there."""
    client: Any = redis.Redis.from_url(redis_url)
    (key,) = client.keys("*json_files_processed")
    return client.memory_usage(key, samples=0) / client.zcard(key)


async def run(files: int, rounds: int, directory: Path, sqs_url: str) -> None:
    """Measure all, print the table."""
    spool, config = directory / "spool", directory / "penstock.toml"
    config.write_text("[source]\nsettle_seconds = 0\n")
    async with EmbeddedRedis(directory / "state") as ledger:

        async def cpu(workload: Workload, files: int) -> float:
            write(spool, workload, files)
            async with EmbeddedFileServer(directory, spool=spool, config=config) as server:
                return await asyncio.to_thread(
                    best, workload, server, ledger.address, sqs_url, files, rounds
                )

        a = await cpu(ONE, files)
        held = redis_bytes(ledger.address)
        few = max(200, files // 50)
        b, c, d = await cpu(HUNDRED, few), await cpu(SMALL, few), await cpu(SINGLE, files)
    kilobyte = (b - c) / 180
    a_record = (b - a - 237.6 * kilobyte) / 99
    file = a - a_record - 2.4 * kilobyte
    print(f'MEASURED: Final = "{datetime.now(UTC):%Y-%m-%d}"')
    print(
        f"CPU: Final = Cpu(file={file:.1f}, record={a_record:.2f}, kilobyte={kilobyte:.2f},"
        f" message={d - a:.1f})"
    )
    print(f"REDIS_FILE_BYTES: Final = {held:.0f}")


def main() -> None:
    """Read the arguments, start the stub, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    telemetry.configure(verbose=False, as_json=False)
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    tests = Path(__file__).parent.parent / "tests"
    command = [sys.executable, "-m", "support.sqs_stub", "--queue", "q", "--discard"]
    directory = Path(tempfile.mkdtemp(prefix="penstock-bench-", dir="/dev/shm"))
    stub = subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True)
    try:
        address = stub.stdout.readline().strip() if stub.stdout else ""
        asyncio.run(run(given.files, given.rounds, directory, address))
    finally:
        stub.terminate()
        stub.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
