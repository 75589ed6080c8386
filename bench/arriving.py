"""Does it keep up? Files arrive at a rate, two loaders send them, an archiver clears them away.

    python bench/arriving.py [--rate 6000] [--seconds 60] [--action move|pack|delete]
        [--directory DIR]

Prints how full messages were, the oldest that waited, what each process took, what the archive
takes, and how long it takes to find one of the last files again. Without --action nobody archives.
The writer is the demo's; it is late where the machine is too busy, which is said.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import redis.asyncio as redis
from _rounds import AWS
from run import sink

from penstock.demo.box import ledger
from penstock.demo.tweets import SELECTION
from penstock.demo.watch import Watch
from penstock.embedded.redis import EmbeddedRedis

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE_SECONDS = 0.5
_BILLED_BYTES = 65_536
_DRAIN_SECONDS_MAX = 120.0


def settings(root: Path, ledger_url: str, sink_url: str, action: str) -> str:
    """Return penstock.toml."""
    return "\n".join([
        "[source]", f'url = "{root}/spool"', f"settle_seconds = {_SETTLE_SECONDS}",
        "[select]", f"fields = {json.dumps(SELECTION)}",
        "[queue]", f'url = "{sink_url}/000000000000/q"', f'endpoint_url = "{sink_url}"',
        "[ledger]", f'url = "{ledger_url}"', 'spool = "demo"',
        "[archive]", f'action = "{action or "move"}"',
        "[run]", f'state_directory = "{root}/state"', "",
    ])  # fmt: skip


@contextlib.contextmanager
def processes(root: Path, action: str) -> Generator[dict[str, subprocess.Popen[bytes]]]:
    """Run two loaders and, if asked for, an archiver; they stop as they do on SIGTERM."""
    wanted = {"loader 1": ["load", "--every", "0.1"], "loader 2": ["load", "--every", "0.1"]}
    if action:
        wanted["archiver"] = ["archive", "--every", "0.5"]
    with contextlib.ExitStack() as stack:
        started: dict[str, subprocess.Popen[bytes]] = {}
        for name, arguments in wanted.items():
            log = stack.enter_context((root / f"{name}.log").open("wb"))
            config = ["--config", str(root / "penstock.toml")]
            started[name] = subprocess.Popen(
                [sys.executable, "-m", "penstock", *arguments, *config],
                env={**os.environ, **AWS}, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield started
        finally:
            for process in started.values():
                process.send_signal(signal.SIGTERM)
            for process in started.values():
                process.wait(60)


def took(pid: int) -> tuple[float, int]:
    """Return a process's CPU seconds and its most memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(peak) // 1024


async def produce(root: Path, rate: float, seconds: float, watch: Watch) -> tuple[int, float, str]:
    """Write files at the rate, looking twice a second; return how many, how long, and one."""
    arguments = {"spool": root / "spool", "rate": rate, "seconds": seconds}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    more = ["--records-per-file", "1", "--seed", "1"]
    began = time.monotonic()
    producer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock.demo.producer", *words, *more,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert producer.stdout  # noqa: S101  for the type checker: it was started with a pipe
    written, said_at, seen = 0, began, ""
    async for line in producer.stdout:
        written = json.loads(line)["files"]
        if time.monotonic() > said_at:
            said_at = time.monotonic() + 0.5
            with os.scandir(root / "spool") as entries:
                seen = next((e.name for e in entries if e.name[0] != "."), seen)
            await watch.sample()
            text = f"written {written:,}  in the spool {watch.in_spool:,}"
            print(f"\r{text}  oldest {watch.oldest_waiting_seconds:.2f} s  ", end="",
                  file=sys.stderr, flush=True)  # fmt: skip
    return written, time.monotonic() - began, seen


async def drained(watch: Watch, files: int, *, archived: bool) -> float:
    """Wait until all is done; return the seconds that took."""
    began = time.monotonic()
    done = "files_archived" if archived else "files_processed"
    while time.monotonic() - began < _DRAIN_SECONDS_MAX:
        await watch.sample()
        counted = watch.counters
        if counted.get(done, 0) + counted.get("files_rejected", 0) >= files:
            break
        await asyncio.sleep(0.5)
    return time.monotonic() - began


def timed(root: Path, words: Sequence[str]) -> str:
    """Run a command; return its seconds and its exit code."""
    began = time.monotonic()
    command = [sys.executable, "-m", "penstock", *words, "--config", str(root / "penstock.toml")]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **AWS})
    return f"{time.monotonic() - began:.2f} s, exit code {done.returncode}"


def told(name: str, value: object) -> None:
    """Print one row."""
    print(f"| {name} | {value} |", flush=True)


def tell_archive(root: Path, name: str) -> None:
    """Say what the archive takes, and how soon a file is found in it."""
    sizes = [path.lstat() for path in (root / "archive").rglob("*")]
    told("archive, inodes", f"{len(sizes):,}")
    told("archive, MB", f"{sum(size.st_size for size in sizes) / 1e6:,.1f}")
    told("explain", timed(root, ["explain", name]))
    told("archived get", timed(root, ["archived", "get", name]))
    told("verify", timed(root, ["verify"]))


async def measure(given: argparse.Namespace, root: Path) -> None:
    """Run it and print a table."""
    (root / "spool").mkdir()
    async with AsyncExitStack() as stack:
        url, sink_pid = stack.enter_context(sink())
        store = await stack.enter_async_context(EmbeddedRedis(root / "state"))
        client = await stack.enter_async_context(
            redis.from_url(store.address, decode_responses=True)
        )
        (root / "penstock.toml").write_text(settings(root, store.address, url, given.action))
        watch = Watch(root / "spool", ledger(client))
        with processes(root, given.action) as started:
            await asyncio.sleep(3)  # their start is no part of keeping up
            files, seconds, seen = await produce(root, given.rate, given.seconds, watch)
            oldest = watch.oldest_waiting_seconds_max
            more = await drained(watch, files, archived=bool(given.action))
            pids = {name: process.pid for name, process in started.items()}
            pids |= {"redis": store.pid or 0, "sink": sink_pid}
            spent = {name: took(pid) for name, pid in pids.items() if pid}
        await watch.sample()
        print(file=sys.stderr)
        counted = watch.counters
        sent = counted.get("bytes_sent", 0)
        print(f"| {given.rate:,.0f} files/s, {given.action or 'no archive'} | |\n|---|--:|")
        told("files written", f"{files:,} in {seconds:.1f} s: {files / seconds:,.0f} a second")
        told(
            "processed, archived", [counted.get(f"files_{n}", 0) for n in ("processed", "archived")]
        )
        told("messages a second", f"{counted.get('messages', 0) / seconds:.2f}")
        told("fill", f"{sent / max(counted.get('bytes_room', 0), 1):.3f}")
        billed = counted.get("requests_billed", 0) / max(sent / _BILLED_BYTES, 1)
        told("billed x the least", f"{billed:.3f}")
        told("oldest that waited, s", f"{oldest:.2f}")
        told("done after the last file, s", f"{more:.1f}")
        for name, (cpu, peak) in spent.items():
            share = f"{cpu / (seconds + more):.2f} core, {cpu / files * 1e6:.1f} us a file"
            told(name, f"{share}, {peak} MB at most")
        if given.action in {"move", "pack"}:
            tell_archive(root, seen)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=6000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--action", choices=["move", "pack", "delete"], default="")
    parser.add_argument("--directory", type=Path, help="where to work, such as a real disk")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as made:
        asyncio.run(measure(given, Path(made)))


if __name__ == "__main__":
    main()
