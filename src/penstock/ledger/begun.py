"""Work out from a claim's journal how far its earlier owners came: pure.

    message   0 0 0 1 1 1 2 2 2 2 ·  3 3        confirmed without a gap: 0, 1 and 2
    file      0 1 1 1 1 2 2 2 3 3 ·  3 4        complete: 0, 1 and 2
                                  ↑             the next message begins with the third record of 3

A successor continues from there without reading the complete files.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_ENTRY = re.compile(r"\S+ (\S*) (\d{1,9}):(\d{1,9}) (\S*)")
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


class Begun(NamedTuple):
    """What SQS has confirmed of a claim, from its first message on without a gap.

    `messages` is the number of the next message; it begins with record `records` of the file at
    position `file`. `complete` holds the positions of the processed files; the ledger already has
    `done` of them. `rejected` holds the positions of files sent except for rejected records.
    """

    messages: int = 0
    file: int = 0
    records: int = 0
    complete: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()
    done: int = 0

    @staticmethod
    def of(noted: Mapping[int, str], done: str, count: int) -> "Begun":
        """Read the journal entries of one owner, index to entry, and which files are `done`.

        `count` is the claim's number of files. Reading stops at an older version's entry.
        """
        file = records = messages = 0
        complete, rejected = _positions(done, count), set[int]()
        already = len(complete)
        while entry := _ENTRY.fullmatch(noted.get(messages, "")):
            complete |= _positions(entry[1], count)
            rejected |= _positions(entry[4], count)
            file, records = int(entry[2]), int(entry[3])
            messages += 1
        return Begun(messages, file, records, frozenset(complete), frozenset(rejected), already)

    def left(self, count: int) -> list[list[int]]:
        """Return which of a claim's `count` files must be read, as runs of positions."""
        return _runs(
            at for at in range(count)
            if at not in self.complete and (at >= self.file or at in self.rejected)
        )  # fmt: skip

    def passed_over(self, count: int) -> Sequence[int]:
        """Return the files that the messages were made without: they got claims of their own."""
        known = self.complete | self.rejected
        return [at for at in range(min(self.file, count)) if at not in known]


def ranges(positions: Sequence[int]) -> str:
    """Return ascending positions as ranges: [0, 1, 3] is `0-1,3-3`."""
    if positions and positions[-1] - positions[0] == len(positions) - 1:  # the usual case
        return f"{positions[0]}-{positions[-1]}"
    return ",".join(f"{run[0]}-{run[-1]}" for run in _runs(positions))


def _runs(positions: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _positions(text: str, count: int) -> set[int]:
    found: set[int] = set()
    for first, last in _RANGE.findall(text):
        found.update(range(int(first), min(int(last), count - 1) + 1))
    return found
