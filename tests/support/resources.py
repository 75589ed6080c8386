"""What a tree of processes and a Redis hold, and whether it grows."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """What was held at one moment; `pids` are the processes it was summed over."""

    at_seconds: float
    rss_bytes: int
    loader_bytes: int  # the largest loader's part of it
    descriptors: int
    keys: int
    redis_bytes: int
    pids: frozenset[int]


@dataclass(frozen=True)
class Gate:
    """What a figure may grow by from the first sample to the last: a part of its mean, and more."""

    figure: str
    part: float
    more: float
    unit: float = 1.0  # what it is told in


GATES = (
    Gate("rss_bytes", 0.05, 8 * MIB, MIB),
    Gate("loader_bytes", 0.05, 4 * MIB, MIB),
    Gate("descriptors", 0.02, 4),
    Gate("keys", 0.10, 10),
    Gate("redis_bytes", 0.10, 4 * MIB, MIB),
)
"""The allowances are noise: allocators, and a claim or a backlog more or less at either end."""


def processes(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                stat = (directory / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents[int(directory.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def held_by(pids: Sequence[int]) -> tuple[int, int]:
    """Return the resident bytes and the open descriptors of processes, in sum."""
    rss_bytes = descriptors = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            rss_bytes += _resident_bytes(pid)
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return rss_bytes, descriptors


def largest_bytes(pids: Sequence[int], argument: str) -> int:
    """Return the most resident bytes of any one process that was started with this argument."""
    most = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            if argument.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                most = max(most, _resident_bytes(pid))
    return most


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def course(samples: Sequence[Sample]) -> str:
    """Tell what the largest loader held at the start, after five minutes, and at the end."""
    running = [one for one in samples if one.loader_bytes] or samples
    five_minutes = min(running, key=lambda one: abs(one.at_seconds - 300))
    return "the largest loader: " + ", ".join(
        f"{one.loader_bytes / MIB:.1f} MiB at {one.at_seconds:,.0f} s"
        for one in (running[0], five_minutes, running[-1])
    )


def growth(samples: Sequence[Sample], figure: str) -> tuple[float, float]:
    """Return the mean, and the growth from first to last, by a line of least squares."""
    times = [sample.at_seconds for sample in samples]
    values = [float(getattr(sample, figure)) for sample in samples]
    mean_time, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_time) ** 2 for at in times)
    slope = sum((at - mean_time) * (v - mean) for at, v in zip(times, values, strict=True)) / spread
    return mean, slope * (times[-1] - times[0])


def judged(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """Return a line a figure, and those of them that grow by more than they may."""
    lines: list[str] = []
    grown: list[str] = []
    hours = (samples[-1].at_seconds - samples[0].at_seconds) / 3600
    for gate in GATES:
        mean, more = growth(samples, gate.figure)
        allowed = gate.part * mean + gate.more
        line = (
            f"{gate.figure} mean {mean / gate.unit:,.1f}, {more / gate.unit:+,.2f}"
            f" (allowed {allowed / gate.unit:+,.2f}), {more / gate.unit / hours:+,.2f} an hour"
        )
        lines.append(line)
        if more > allowed:
            grown.append(line)
    return lines, grown
