"""Where a microsecond goes: workloads of `make bench` under py-spy, by stage of the path.

    make profile [ARGS="a b d"]
    uv run --with py-spy python bench/profiling.py [--rounds 3] [--scale 1.0] [NAME …]

Of each workload, one `penstock load` at a time: first alone, for its CPU a file, without that of
its start (as in `make bench`); then under py-spy, for the share of each stage (_stages.py) in the
samples of what ran. A file server is sampled at the same time. Prints medians of the rounds, in
Markdown. py-spy samples without stopping the process: stopping threads that wait would have them
look busy.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import _rounds
import _stages
import run
from _workloads import WORKLOADS, Contestant, Workload

_PER_SECOND = 200
_ONE = Contestant("penstock", workers=1)
_RECORD = ["record", "--nonblocking", "--threads", "--format", "raw", "--rate", str(_PER_SECOND)]


class Profile:
    """What the rounds of one process gave: its CPU a file, and its samples by stage."""

    def __init__(self) -> None:
        self.cpu_us: list[float] = []
        self.samples: list[Counter[str]] = []

    def table(self) -> str:
        """Return the median share and microseconds of each stage, in Markdown."""
        shares: defaultdict[str, list[float]] = defaultdict(list)
        taken: defaultdict[str, list[float]] = defaultdict(list)
        stages = {stage for samples in self.samples for stage in samples} - {_stages.START}
        for cpu_us, samples in zip(self.cpu_us, self.samples, strict=True):
            total = samples.total() - samples[_stages.START]
            for stage in stages:
                shares[stage].append(samples[stage] / total)
                taken[stage].append(samples[stage] / total * cpu_us)
        order = [*_stages.STAGES, *_stages.FALLBACKS, _stages.OTHER]
        lines = ["| stage | share | µs a file | of all rounds |", "|---|--:|--:|--:|"]
        for stage in sorted(stages, key=order.index):
            us = taken[stage]
            lines.append(
                f"| {stage} | {statistics.median(shares[stage]):.1%} | {statistics.median(us):.2f}"
                f" | {min(us):.2f} to {max(us):.2f} |"
            )
        cpu = self.cpu_us
        lines.append(f"| all | | {statistics.median(cpu):.2f} | {min(cpu):.2f} to {max(cpu):.2f} |")
        return "\n".join(lines)


def _py_spy() -> str:
    """Return the profiler's path. Exits if there is none."""
    found = shutil.which("py-spy")
    if not found:
        sys.exit(
            "py-spy is not on PATH, and is no dependency of ours: `make profile`, or"
            " `uv run --with py-spy python bench/profiling.py`, gets it for this run alone"
        )
    return found


async def profile(workload: Workload, directory: Path, rounds: int) -> None:
    """Profile a workload, and print its tables."""
    profiler = _py_spy()
    profiles: defaultdict[str, Profile] = defaultdict(Profile)
    rates: list[float] = []
    root = Path(tempfile.mkdtemp(prefix="penstock-profile-", dir=directory))
    try:
        async with run.place(workload, root, workload.files) as place:
            idle = await asyncio.to_thread(_rounds.idle_seconds, place, workload)
            for _ in range(rounds):
                alone = await asyncio.to_thread(_rounds.run, place, workload, _ONE, idle)
                rates.append(alone.per_second)
                seen = await asyncio.to_thread(_sampled, place, workload, profiler)
                for name, samples in seen.items():
                    profiles[name].cpu_us.append(alone.cpu_us[name])
                    profiles[name].samples.append(samples)
                told = f"{alone.per_second:,.0f} {workload.unit}/s, start {idle:.2f} s of CPU"
                print(f"   {told}", file=sys.stderr)
    finally:
        shutil.rmtree(root)
    for name, one in profiles.items():
        samples = sum(each.total() - each[_stages.START] for each in one.samples)
        print(
            f"({workload.name}) {workload.title}: {name}, one loader at"
            f" {statistics.median(rates):,.0f} {workload.unit}/s; {rounds} rounds,"
            f" {samples:,} samples\n\n{one.table()}\n",
            flush=True,
        )


def _sampled(place: _rounds.Place, workload: Workload, profiler: str) -> Mapping[str, Counter[str]]:
    """Run a `penstock load` under the profiler; return the samples of each process by stage.

    Exits if it did not take every file.
    """
    _rounds.forget(place)
    config = _rounds.configured(place, workload)
    out = place.root / "raw"
    load = [sys.executable, "-m", "penstock", "load", "--json", "--config", str(config)]
    command = [profiler, *_RECORD, "--output", str(out), "--", *load]
    with contextlib.ExitStack() as stack:
        if "server" in place.services:
            stack.enter_context(_attached(place, profiler))
        with place.log.open("ab") as log:
            environment = {**os.environ, **_rounds.AWS}
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, check=False
            )
    tally = next((line for line in done.stdout.splitlines() if line.startswith("{")), "{}")
    if done.returncode or json.loads(tally).get("files_processed") != len(place.names):
        sys.exit(f"{workload.name}: the loader failed\n{place.log.read_text()[-3000:]}")
    found = {"loader": _counted(out)}
    if "server" in place.services:
        found["server"] = _counted(place.root / "raw-server")
    return found


def _counted(raw: Path) -> Counter[str]:
    return _stages.counted(raw.read_text(errors="replace").splitlines())


@contextlib.contextmanager
def _attached(place: _rounds.Place, profiler: str) -> Generator[None]:
    """Sample the file server meanwhile."""
    out = ["--output", str(place.root / "raw-server"), "--pid", str(place.services["server"])]
    with place.log.open("ab") as log:
        server = subprocess.Popen([profiler, *_RECORD, *out], stdout=log, stderr=log)
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)  # it writes what it has
        server.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile what was named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    by_name = {workload.name: workload for workload in WORKLOADS}
    parser.add_argument("names", nargs="*", metavar="NAME", help="a workload; by default a, b, d")
    parser.add_argument("--rounds", type=int, default=3, help="of each workload, 3 by default")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the files")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for the spools")  # noqa: S108  mkdtemp in it
    given = parser.parse_args(arguments)
    for name in given.names or ["a", "b", "d"]:
        if name not in by_name:
            parser.error(f"no such workload: {name}; there are {', '.join(by_name)}")
        workload = run.smaller(by_name[name], given.scale)
        asyncio.run(profile(workload, given.directory, given.rounds))


if __name__ == "__main__":
    main()
