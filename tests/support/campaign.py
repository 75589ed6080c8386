"""How long a campaign is, and what it says at its end.

PENSTOCK_CAMPAIGN_SCALE=0.01 is a taste of it, unset is all of it. A campaign test says what it did
with `record_property`; `summary` puts it together, also from several processes:

    simulation    {"first": seed, "seeds": count, "red": [seeds], "fired": {fault: times}}
    killed        [queue, point, records lost, in flight, repeated]
    planted bug   its name; killed if the test passed
    examples      [what, how many, how many steps of them]
    campaign      a line of its own
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

SCALE = float(os.environ.get("PENSTOCK_CAMPAIGN_SCALE") or 1)
_BEGAN_SECONDS = time.monotonic()
_COLUMNS = 2


def scaled(amount: int) -> int:
    """Return so much of an amount as this campaign is to do, at least one."""
    return max(1, round(amount * SCALE))


def replay(seed: int) -> str:
    """Return the command that runs one seed of the simulation again."""
    return f"PENSTOCK_SEED={seed} .venv/bin/pytest tests/system/test_simulation.py -k one_seed"


def summary(reports: Iterable[Any]) -> list[str]:
    """Return what a campaign has to show, from the reports of its tests, line by line."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    outcomes: Counter[str] = Counter()
    for report in reports:
        outcomes[report.outcome] += 1
        for name, value in report.user_properties:
            found[name].append((value, report.outcome) if name == "planted bug" else value)
    seconds = round(time.monotonic() - _BEGAN_SECONDS)
    tests = f"{outcomes['passed']} tests passed, {outcomes['failed']} failed, at scale {SCALE:g}"
    return [
        *_simulation(found["simulation"]),
        *_processes(found["killed"]),
        *_planted(found["planted bug"]),
        *_examples(found["examples"]),
        *sorted(found["campaign"]),
        "",
        f"{tests}; wall time {seconds // 60} min {seconds % 60:02} s",
    ]


def _simulation(blocks: Sequence[Any]) -> list[str]:
    if not blocks:
        return []
    fired: Counter[str] = Counter()
    for block in blocks:
        fired.update(block["fired"])
    red = sorted(seed for block in blocks for seed in block["red"])
    seeds = sum(block["seeds"] for block in blocks)
    firsts = sorted(block["first"] for block in blocks)
    cells = [f"{fault:<37}{times:>7,}" for fault, times in sorted(fired.items())]
    height = -(-len(cells) // _COLUMNS)
    rows = ["   ".join(cells[row::height]) for row in range(height)]
    return [
        f"simulation: {seeds:,} seeds run, violations {len(red)}, faults fired {fired.total():,}:",
        *(f"  {row}" for row in rows),
        f"  seeds {firsts[0]}… to {firsts[-1]}…, {len(firsts)} blocks; this replays one:",
        *(f"  {replay(seed)}" for seed in red or firsts[:1]),
    ]


def _processes(runs: Sequence[Any]) -> list[str]:
    if not runs:
        return []
    points: defaultdict[tuple[str, str], list[Sequence[int]]] = defaultdict(list)
    for queue, point, *counts in runs:
        points[queue, point].append(counts)
    lines = ["", f"processes: {len(runs):,} workers killed; records, all runs of a point together:"]
    lines.append("  queue     killed at          runs   lost  in flight  repeated")
    for (queue, point), counts in sorted(points.items(), reverse=True):
        lost, flying, repeated = (sum(count[at] for count in counts) for at in range(3))
        lines.append(
            f"  {queue:<9} {point:<17} {len(counts):>5} {lost:>6} {flying:>10} {repeated:>9}"
        )
    return lines


def _examples(parts: Sequence[Any]) -> list[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for what, examples, steps in parts:
        counts[what].update(examples=examples, steps=steps)
    return [
        f"{what}: {count['examples']:,} examples, {count['steps']:,} steps, no difference"
        for what, count in counts.items()
    ]


def _planted(bugs: Sequence[Any]) -> list[str]:
    if not bugs:
        return []
    alive = sorted(name for name, outcome in bugs if outcome != "passed")
    told = f"planted bugs: {len(bugs) - len(alive)} of {len(bugs)} killed"
    return ["", told, *(f"  survived: {name}" for name in alive), ""]
