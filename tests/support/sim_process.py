"""A process of the simulated fleet: it may die or freeze at every step it takes."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from support.history import History
from support.virtual import VirtualLoop

POINTS = {
    "loader": (
        "claim.before", "claim.after", "read.before", "read.after", "send.before", "send.after",
        "journal.before", "journal.after", "commit.before", "commit.after", "renew.before",
        "release.before",
    ),
    "archiver": ("archive.before", "archive.after", "archived.before", "archived.after"),
    "checker": ("expire.before", "expire.after", "sweep.before", "sweep.after"),
}  # fmt: skip
"""Where a process of each kind can be killed."""


class KilledError(BaseException):
    """The process is gone: nothing of it runs any more."""


@dataclass
class Chaos:
    """How much goes wrong: a rate by fault, drawn from `dice`; `fired` counts what did."""

    dice: random.Random
    rates: dict[str, float]
    fired: Counter[str] = field(default_factory=Counter[str])
    calm: bool = False

    def strikes(self, fault: str) -> bool:
        """Draw whether this fault happens now."""
        if self.calm or self.dice.random() >= self.rates.get(fault, 0.0):
            return False
        self.fired[fault] += 1
        return True


class Process:
    """One run of a function; `deaths` maps a point to how often it is passed alive."""

    def __init__(
        self, name: str, loop: VirtualLoop, chaos: Chaos, history: History, deaths: dict[str, int]
    ) -> None:
        self.name = name
        self.loop = loop
        self.chaos = chaos
        self.history = history
        self.deaths = deaths
        self.is_dead = False
        self.frozen_until = 0.0

    def die(self, point: str) -> None:
        """Let the process be killed. Raises KilledError."""
        if not self.is_dead:
            self.is_dead = True
            self.chaos.fired[f"kill {point}"] += 1
            self.history.add(self.loop.now, "die", process=self.name, point=point)
        raise KilledError(self.name)

    def living(self) -> None:
        """Raise KilledError if the process is dead."""
        if self.is_dead:
            raise KilledError(self.name)

    async def step(self, point: str) -> None:
        """Pass a point of the path: perhaps die there, perhaps freeze for longer than a lease."""
        self.living()
        if point in self.deaths and not self.chaos.calm:
            self.deaths[point] -= 1
            if self.deaths[point] < 0:
                self.die(point)
        if self.chaos.strikes("freeze"):
            self.frozen_until = self.loop.now + self.chaos.dice.uniform(8, 25)
        while self.loop.now < self.frozen_until:
            await asyncio.sleep(self.frozen_until - self.loop.now)
        self.living()

    async def wire(self) -> bool:
        """Pass the time a message is on the wire; tell whether it arrives.

        What a process has sent arrives or not after its death: that is drawn.
        """
        await asyncio.sleep(self.chaos.dice.uniform(0.0005, 0.02))
        return not self.is_dead or self.chaos.dice.random() < 0.5
