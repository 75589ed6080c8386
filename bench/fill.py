"""How full are messages? Real loaders over a backlog; arriving.py does the same at a rate.

    python bench/fill.py [--bytes 50000000]

A backlog of files whose records have so many bytes selected, two `penstock load`. Fill is what
messages held of what they had room for, the last of each loader included. Billed is what SQS bills
for sending (64 KiB a request) beside the least possible.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from _rounds import AWS

HERE = Path(__file__).parent
BILLED_BYTES = 65_536


class Bench:
    """A sink, a Redis, a spool; begun anew for each measurement."""

    def __init__(self, stack: ExitStack, root: Path) -> None:
        self.root = root
        command = [sys.executable, str(HERE / "_sink.py")]
        sink = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(sink.kill)
        self.sink = sink.stdout.readline().strip() if sink.stdout else ""
        socket = root / "redis.sock"
        server = subprocess.Popen(
            [
                "redis-server",
                "--port",
                "0",
                "--unixsocket",
                str(socket),
                "--save",
                "",
                "--dir",
                root,
            ],
            stdout=subprocess.DEVNULL,
        )
        stack.callback(server.kill)
        while not socket.exists():
            time.sleep(0.05)
        self.client = redis.Redis(unix_socket_path=str(socket), decode_responses=True)
        self.number = 0

    def begin(self, *, fifo: bool) -> Path:
        """Make an empty spool and its penstock.toml."""
        self.client.flushall()
        self.number += 1
        spool = self.root / f"spool{self.number}"
        spool.mkdir()
        queue = f"{self.sink}/000000000000/{'q.fifo' if fifo else 'q'}"
        lines = [
            "[source]", f'url = "{spool}"', "settle_seconds = 0", "[select]", 'fields = "{t: t}"',
            "[queue]", f'url = "{queue}"', f'endpoint_url = "{self.sink}"',
            "[ledger]", f'url = "unix://{self.root}/redis.sock"', f'spool = "fill{self.number}"',
            "[run]", f'state_directory = "{self.root}/state"',
        ]  # fmt: skip
        (self.root / "penstock.toml").write_text("\n".join(lines) + "\n")
        return spool

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start one loader."""
        config = ["--config", str(self.root / "penstock.toml")]
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", "load", *options, *config],
            env={**os.environ, **AWS},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def counters(self) -> dict[str, int]:
        """Return what the ledger counted."""
        key = f"penstock:{{fill{self.number}}}:counters"
        counted: Any = self.client.hgetall(key)
        return {name: int(value) for name, value in counted.items()}


def write(spool: Path, number: int, records: int, record_bytes: int) -> None:
    """Write one file, whole at once."""
    record = json.dumps({"t": "x" * (record_bytes - 8)}, separators=(",", ":"))
    draft = spool / ".draft"
    draft.write_text(f"[{','.join([record] * records)}]")
    draft.rename(spool / f"20261128T{number // 1_000_000:06d}.{number % 1_000_000:06d}.json")


def told(what: str, counted: dict[str, int]) -> None:
    """Print one row."""
    messages, sent = counted.get("messages", 0), counted.get("bytes_sent", 0)
    fill = sent / max(counted.get("bytes_room", 0), 1)
    billed = counted.get("requests_billed", 0) / max(sent / BILLED_BYTES, 1)
    files = counted.get("files_processed", 0)
    print(f"| {what} | {files:,} | {messages:,} | {fill:.3f} | {billed:.3f} |", flush=True)


def backlog(bench: Bench, total_bytes: int) -> None:
    """Drain backlogs of every shape."""
    print("| bytes selected a record, records a file, queue | files | messages | fill | billed x |")
    print("|---|--:|--:|--:|--:|")
    for record_bytes in (50, 200, 500, 2_000, 20_000):
        for records in (1, 100):
            for fifo in (False, True):
                spool = bench.begin(fifo=fifo)
                files = max(20, min(100_000, total_bytes // (record_bytes * records)))
                for number in range(files):
                    write(spool, number, records, record_bytes)
                for loader in [bench.start("--json"), bench.start("--json")]:
                    loader.wait()
                kind = "FIFO" if fifo else "standard"
                told(f"{record_bytes:,}, {records}, {kind}", bench.counters())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=50_000_000, help="selected, of a backlog")
    given = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(stack, root)
        backlog(bench, given.bytes)


if __name__ == "__main__":
    main()
