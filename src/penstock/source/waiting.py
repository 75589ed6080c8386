"""The files that are known to be in the spool but have no place in its order yet.

found by a scan ───┐                ┌──▶ complete: gets its place
                   ├──▶ looked at ──┤
named by an event ─┘        ▲       └──▶ unsettled ──┐
                            └──── settle_seconds ────┘
"""

import heapq
import itertools
import math
import time
from collections.abc import Iterator, Sequence

from penstock.model import Unsettled
from penstock.source.order import UNPLACED, Order
from penstock.source.scan import Seen
from penstock.source.settling import Settling

_LOOK_MAX = 2_000  # names looked at in one go: 6 ms


class Waiting:
    """Which files to look at next, and which of them are complete.

    A file is complete when its writer is done, or when its last change is `settle_seconds` old.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._settling = Settling(settle_seconds)
        self._found: list[str] = []  # by scans, the first one last
        self._closed: dict[str, None] = {}  # events say that their writer is done
        self._unsettled: list[tuple[float, str]] = []  # a heap: when to look again

    @property
    def is_found(self) -> bool:
        """Whether something that a scan found has not been looked at."""
        return bool(self._found)

    @property
    def next_at_seconds(self) -> float:
        """The time on our monotonic clock to look at the next unsettled file again."""
        return self._unsettled[0][0] if self._unsettled else math.inf

    @property
    def unsettled(self) -> Unsettled:
        """The files that were looked at and are not complete."""
        return self._settling.unsettled

    def found(self, last_first: list[str]) -> None:
        """Add files that a scan found, the first one last; takes the list over."""
        self._found = last_first + self._found if self._found else last_first

    def closed(self, name: str) -> None:
        """Add a file whose writer is done."""
        self._closed[name] = None

    def gone(self, name: str) -> None:
        """Note that a file left: if its name comes back, it has another writer."""
        self._closed.pop(name, None)

    def take(self) -> Sequence[str]:
        """Take some names to look at, in order; those that events named go first."""
        if self._closed:
            names = [*itertools.islice(self._closed, _LOOK_MAX)]
        else:
            names = self._found[: -_LOOK_MAX - 1 : -1]
            del self._found[-_LOOK_MAX:]
        due = [*self._due()]
        return sorted({*names, *due}) if due or self._closed else names

    def _due(self) -> Iterator[str]:
        """Take names whose time to look again has come."""
        now = time.monotonic()
        for _ in range(_LOOK_MAX):
            if self.next_at_seconds > now:
                return
            yield heapq.heappop(self._unsettled)[1]

    def give_back(self, names: Sequence[str]) -> None:
        """Take back names that were not looked at."""
        self._found += reversed(names)

    def complete(
        self, names: Sequence[str], seen: Seen, now_ns: int, order: Order
    ) -> Sequence[int]:
        """Return the positions of the complete files among `names`, as `seen` at `now_ns`.

        Files that are gone leave the order. `take` returns the others again later.
        """
        kept = self._kept(names, seen, now_ns, order)
        for name in names if self._closed else ():
            self._closed.pop(name, None)
        self._settling.forget(names[at] for at in kept)
        return kept

    def _kept(self, names: Sequence[str], seen: Seen, now_ns: int, order: Order) -> Sequence[int]:
        known = order.known
        settled_ns = now_ns - round(self._settle_seconds * 1e9)
        are_old = min(seen.sizes_bytes) >= 0 and max(seen.changed_ns) <= settled_ns
        if are_old and {*map(known.get, names)} == {UNPLACED}:  # the usual case
            return range(len(names))
        kept: list[int] = []
        for at, (name, size, modified, changed_ns) in enumerate(zip(names, *seen, strict=True)):
            chunk = known.get(name)
            if chunk is None or size < 0:  # gone, perhaps while we looked
                order.drop([name])
                self._settling.forget([name])
                continue
            if chunk is not UNPLACED:
                if chunk.has(name, size, modified):  # an event named it twice
                    continue
                order.drop([name])  # written again, against the rules: it is a new file
                order.add(name)
            age_seconds = (now_ns - changed_ns) / 1e9
            if name in self._closed or self._settling.is_complete(name, changed_ns, age_seconds):
                kept.append(at)
            else:
                wait_seconds = min(self._settle_seconds - age_seconds, self._settle_seconds)
                again_at_seconds = time.monotonic() + max(wait_seconds, 0.001)
                heapq.heappush(self._unsettled, (again_at_seconds, name))
        return kept
