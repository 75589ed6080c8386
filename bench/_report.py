"""From rounds to results.json, and from that to RESULTS.md."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _rounds import Round
from _workloads import LOADER_MEMORY_BYTES_MAX, TARGETS, WORKLOADS, Target, Workload

Results = dict[str, dict[str, Any]]

_INTRODUCTION = """\
Written by `make bench` from results.json; [README.md](README.md) says how it
measures."""
_VERSIONS = ("aiohttp", "botocore", "hiredis", "httptools", "msgspec", "redis", "uvloop")


def kept(
    workload: Workload, done: Mapping[str, Sequence[Round]], directory: Path
) -> dict[str, Any]:
    """Return what is kept of a workload's rounds."""
    return {
        "title": workload.title,
        "unit": workload.unit,
        "machine": _machine(directory),
        "contestants": {
            one.name: {
                "files": one.files or workload.files,
                "workers": one.workers,
                "per_second": [round(took.per_second) for took in done[one.name]],
                "cpu_us_per_file": {
                    what: round(statistics.median([r.cpu_us[what] for r in done[one.name]]), 2)
                    for what in done[one.name][0].cpu_us
                },
                "memory_bytes": max(took.memory_bytes for took in done[one.name]),
            }
            for one in workload.contestants
        },
    }


def _machine(directory: Path) -> Mapping[str, str]:
    """Return what the figures depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=True
    )
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "cpus": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "spool": kind.stdout.strip(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{n} {importlib.metadata.version(n)}" for n in _VERSIONS),
        "redis_server": _server_version(["redis-server", "--version"]),
        "nginx": _server_version(["/usr/sbin/nginx", "-v"]),
        "commit": commit.stdout.strip(),
    }


def _server_version(command: Sequence[str]) -> str:
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    words = (told.stdout + told.stderr).split()
    return next((w.removeprefix("v=") for w in words if any(c.isdigit() for c in w)), "unknown")


def read(directory: Path) -> Results:
    """Return the results that are there."""
    path = directory / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _median(result: Mapping[str, Any], who: str) -> float:
    return statistics.median(result["contestants"][who]["per_second"])


def table(result: Mapping[str, Any]) -> str:
    """Return a workload's table, in Markdown."""
    unit = result["unit"]
    contestants: Mapping[str, Any] = result["contestants"]
    first = next(iter(contestants))
    beside = "penstock is" if first == "penstock" else "time a file"
    lines = [
        f"| | {unit}/s, median | of all rounds | {beside} | CPU a file, µs | memory of a loader |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for name, one in contestants.items():
        rates: Sequence[int] = one["per_second"]
        median = statistics.median(rates)
        ratio = f"{_median(result, first) / median:.2f} x" if first == "penstock" else ""
        ratio = ratio or f"{1e6 / median:.1f} µs"
        cpu = ", ".join(
            f"{what} {took:.1f}" for what, took in one["cpu_us_per_file"].items() if took
        )
        memory = f"{one['memory_bytes'] / 1e6:.0f} MB" if "floor" not in name else ""
        lines.append(
            f"| {name} | {median:,.0f} | {min(rates):,} to {max(rates):,} | {ratio} | {cpu} |"
            f" {memory} |"
        )
    return "\n".join(lines)


def page(results: Results) -> str:
    """Return RESULTS.md: what must be reached, then every table."""
    parts = [
        "# Results",
        _INTRODUCTION,
        "## What must be reached",
        _targets(results),
    ]
    for workload in WORKLOADS:
        if workload.name not in results:
            continue
        result = results[workload.name]
        rounds = len(next(iter(result["contestants"].values()))["per_second"])
        parts += [
            f"## ({workload.name}) {result['title']}",
            table(result),
            f"{result['measured_at']}, {rounds} rounds. {_told(result['machine'])}",
        ]
    return "\n\n".join(parts) + "\n"


def _told(machine: Mapping[str, str]) -> str:
    return (
        f"Commit {machine['commit']}, spool on {machine['spool']}; {machine['cpus']},"
        f" {machine['kernel']}, {machine['python']}, {machine['libraries']},"
        f" redis-server {machine['redis_server']}, nginx {machine['nginx']}."
    )


def _targets(results: Results) -> str:
    lines = ["| | at least | measured | |", "|---|--:|--:|---|"]
    lines += [_target(one, results[one.workload]) for one in TARGETS if one.workload in results]
    memory = [
        one["memory_bytes"]
        for result in results.values()
        for name, one in result["contestants"].items()
        if name not in {"floor", "first script"}
    ]
    if memory:
        most = max(memory)
        reached = "reached" if most <= LOADER_MEMORY_BYTES_MAX else "**not reached**"
        lines.append(
            f"| resident memory of a loader, at most | {LOADER_MEMORY_BYTES_MAX / 1e6:.0f} MB |"
            f" {most / 1e6:.0f} MB | {reached} |"
        )
    return "\n".join(lines)


def _target(target: Target, result: Mapping[str, Any]) -> str:
    what = f"({target.workload}) {target.who}"
    if target.over:
        measured = _median(result, target.who) / _median(result, target.over)
        cells = f"{target.least:.2f} x {target.over} | {measured:.2f} x"
    else:
        measured = _median(result, target.who)
        cells = f"{target.least:,.0f} {result['unit']}/s | {measured:,.0f}"
    return f"| {what} | {cells} | {'reached' if measured >= target.least else '**not reached**'} |"
