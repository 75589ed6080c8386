"""What a process of `make bench` that is not Penstock is to do, and how it says when it did it."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))


class Plan(msgspec.Struct):
    """One process's share. `address` and `token` are those of the file server or of nginx."""

    names: list[str]
    records: int
    records_per_message: Literal["many", 1]
    source: Literal["directory", "server", "nginx"]
    spool: str
    address: str
    token: str
    queue_url: str
    redis_url: str


def main(run: Callable[[Plan], None]) -> None:
    """Do what the plan on standard input says; print when that began and ended, and CPU seconds."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    began, cpu = time.monotonic(), time.process_time()
    run(plan)
    ended, cpu = time.monotonic(), time.process_time() - cpu
    print(json.dumps({"began": began, "ended": ended, "cpu_seconds": cpu}))
