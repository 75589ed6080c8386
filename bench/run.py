"""`make bench`: the whole path, in real processes, beside its floor and the script written first.

    python bench/run.py [--quick] [--rounds 5] [--directory DIR] [NAME …]

NAME is a workload of _workloads.py (all by default), or a part alone: decode, queue_sqs, ledger,
source, backlog, plan, each a script of this directory. The contestants of a workload take turns,
the order turned on each round. Writes bench/results.json, in which a run replaces what it measured
anew, and bench/RESULTS.md from it. --quick is a taste: a tenth of the files, one round, printed
and not written.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _report
import _rounds
import _spool
from _servers import EmbeddedFileServer, EmbeddedNginx
from _workloads import WORKLOADS, Contestant, Workload

from penstock.embedded.redis import EmbeddedRedis

HERE = Path(__file__).parent
PARTS = ("decode", "queue_sqs", "ledger", "source", "backlog", "plan")


@contextlib.contextmanager
def sink() -> Generator[tuple[str, int]]:
    """Run the sink; give its address and process id."""
    command = [sys.executable, str(HERE / "_sink.py")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else "", process.pid
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def place(workload: Workload, root: Path, files: int) -> AsyncGenerator[_rounds.Place]:
    """Write the spool and start what a workload needs."""
    print(f"   writing {files:,} files", file=sys.stderr)
    await asyncio.to_thread(_spool.write, root / "spool", files, workload.records)
    async with AsyncExitStack() as stack:
        url, pid = stack.enter_context(sink())
        store = await stack.enter_async_context(EmbeddedRedis(root / "state"))
        here = _rounds.Place(root, store.address, url, {}, str(root / "spool"))
        services = {"sink": pid, "redis": store.pid}
        if workload.source == "server":
            (root / "serve.toml").write_text("[source]\nsettle_seconds = 0\n")
            server = await stack.enter_async_context(
                EmbeddedFileServer(root / "state", spool=root / "spool", config=root / "serve.toml")
            )
            here.source_url = here.address = server.address
            here.token = server.token
            services["server"] = server.pid
        elif workload.source == "nginx":
            nginx = await stack.enter_async_context(EmbeddedNginx(root / "state", root=root))
            here.source_url, here.address, here.token = (
                nginx.url,
                nginx.address,
                nginx.read_token,
            )
            services["nginx"] = nginx.pid
        here.services = {name: pid for name, pid in services.items() if pid is not None}
        here.names = [_spool.name(number) for number in range(files)]
        yield here


async def measure(workload: Workload, directory: Path, rounds: int) -> dict[str, Any]:
    """Do all rounds of a workload; return what is kept of them."""
    done: dict[str, list[_rounds.Round]] = {one.name: [] for one in workload.contestants}
    for files, contestants in _spools(workload):
        root = Path(tempfile.mkdtemp(prefix="penstock-bench-", dir=directory))
        try:
            async with place(workload, root, files) as here:
                idle = await asyncio.to_thread(_rounds.idle_seconds, here, workload)
                for number in range(rounds):
                    turn = number % len(contestants)
                    for one in (*contestants[turn:], *contestants[:turn]):
                        took = await asyncio.to_thread(_rounds.run, here, workload, one, idle)
                        done[one.name].append(took)
                        print(f"   {one.name:20} {took.per_second:12,.0f} {workload.unit}/s",
                              file=sys.stderr)  # fmt: skip
        finally:
            shutil.rmtree(root)
    return _report.kept(workload, done, directory)


def _spools(workload: Workload) -> Sequence[tuple[int, Sequence[Contestant]]]:
    """Return the spools that are needed, and who is given each: a loader takes a whole one."""
    takes = {one.files or workload.files for one in workload.contestants if one.kind == "penstock"}
    return [
        (files, [o for o in workload.contestants if len(takes) == 1 or o.files == files])
        for files in sorted(takes)
    ]


def smaller(workload: Workload, scale: float) -> Workload:
    """Return a workload of fewer files."""

    def files(count: int) -> int:
        return max(20, round(count * scale)) if count else 0

    contestants = tuple(replace(one, files=files(one.files)) for one in workload.contestants)
    return replace(workload, files=files(workload.files), contestants=contestants)


def main() -> None:
    """Measure what was named, write and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a taste; nothing is written")
    parser.add_argument("--rounds", type=int, default=0, help="of each workload, 5 by default")
    parser.add_argument(
        "--scale", type=float, default=0.0, help="so many times the files, but for depth"
    )
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for the spools")  # noqa: S108  mkdtemp in it
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    given = parser.parse_args()
    by_name = {workload.name: workload for workload in WORKLOADS}
    names: list[str] = given.names or [*by_name]
    if unknown := [name for name in names if name not in by_name and name not in PARTS]:
        parser.error(f"no such workload: {unknown[0]}; there are {', '.join([*by_name, *PARTS])}")
    scale = given.scale or (0.1 if given.quick else 1.0)
    rounds = given.rounds or (1 if given.quick else 5)
    results = _report.read(given.out)
    for name in names:
        if name in PARTS:
            subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
            continue
        workload = by_name[name]
        if workload.is_scaled or given.quick:
            workload = smaller(workload, scale)
        print(f"({name}) {workload.title}", file=sys.stderr)
        results[name] = asyncio.run(measure(workload, given.directory, rounds))
        print(_report.table(results[name]), flush=True)
        if not given.quick:
            results[name]["measured_at"] = datetime.now(UTC).isoformat(timespec="minutes")
            (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            (given.out / "RESULTS.md").write_text(_report.page(results))


if __name__ == "__main__":
    main()
