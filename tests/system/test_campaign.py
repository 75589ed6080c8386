"""What a campaign says at its end: totals of what its tests report, from however many processes."""

from types import SimpleNamespace
from typing import Any

from support.campaign import summary


def report(name: str, value: Any, outcome: str = "passed") -> Any:
    """Return what a summary reads of a test's report."""
    return SimpleNamespace(outcome=outcome, user_properties=[(name, value)])


def block(first: int, red: list[int], **fired: int) -> Any:
    """Return the report of a block of ten seeds."""
    value = {"first": first, "seeds": 10, "red": red, "fired": fired}
    return report("simulation", value, "failed" if red else "passed")


def test_blocks_of_seeds_are_added_up_and_red_ones_can_be_replayed() -> None:
    """Seeds, violations and faults of all blocks together; a fault that never fired shows as 0."""
    lines = summary([block(0, [], cut=2, gone=0), block(100, [103], cut=3, gone=0)])
    text = "\n".join(lines)
    assert "20 seeds run, violations 1, faults fired 5" in text
    assert any(line.split() == ["cut", "5", "gone", "0"] for line in lines)
    assert "PENSTOCK_SEED=103 " in text
    assert "PENSTOCK_SEED=0 " not in text
    assert "1 passed" in text.replace("tests ", "")


def test_killed_workers_are_a_row_a_point() -> None:
    """Lost, in flight and repeated, summed over the runs of a point on a kind of queue."""
    lines = summary(
        report("killed", counts)
        for counts in (
            ["fifo", "p", 0, 10, 0],
            ["standard", "p", 0, 10, 4],
            ["standard", "p", 1, 2, 3],
        )
    )
    rows = [line.split() for line in lines]
    assert ["standard", "p", "2", "1", "12", "7"] in rows
    assert ["fifo", "p", "1", "0", "10", "0"] in rows


def test_planted_bugs_that_survive_are_named() -> None:
    """Killed of how many, and which are alive."""
    lines = summary([report("planted bug", "a"), report("planted bug", "b", "failed")])
    assert "planted bugs: 1 of 2 killed" in lines
    assert "  survived: b" in lines


def test_examples_are_added_up() -> None:
    """Parts of one thing give one line."""
    lines = summary(
        [report("examples", ["machine", 5, 50]), report("examples", ["machine", 6, 60])]
    )
    assert "machine: 11 examples, 110 steps, no difference" in lines
