"""A sender under test: the real SqsQueue at the stub, on a clock that only `sleep` moves."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from penstock.model import Message, Sent
from penstock.sqs.queue import SqsQueue
from support.sqs_stub import SqsStub


class Clock:
    """A monotonic clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, at once."""
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Sender:
    """A queue at the stub, and what it has confirmed."""

    def __init__(self, stub: SqsStub, clock: Clock) -> None:
        self.stub = stub
        self.clock = clock
        self.confirmed: list[Message] = []
        self.queue: SqsQueue = None  # type: ignore[assignment]

    async def open(self, name: str = "q", **settings: object) -> SqsQueue:
        """Make the queue at the stub and open a sender to it."""
        queue = self.stub.model.create(name)
        self.queue = SqsQueue(
            queue.url,
            region="us-east-1",
            monotonic=self.clock,
            sleep=self.clock.sleep,
            uniform=lambda _, most: most,
            **settings,  # type: ignore[arg-type]
        )
        self.limits = await self.queue.open()
        return self.queue

    async def send(
        self,
        messages: Sequence[Message],
        deadline: Callable[[], float] = lambda: math.inf,
        confirmed: Callable[[Sequence[Message]], Awaitable[None]] | None = None,
    ) -> Sent:
        """Send with the defaults of a test."""
        return await self.queue.send(
            messages, group="g", deadline=deadline, confirmed=confirmed or self.keep
        )

    async def keep(self, messages: Sequence[Message]) -> None:
        """Keep what was confirmed."""
        self.confirmed += messages

    def copies(self, name: str = "q") -> Counter[str]:
        """Count what the queue holds, by message id."""
        return Counter(
            stored.attributes["penstock_id"]["StringValue"]
            for stored in self.stub.model.queues[name].messages()
        )


def once(messages: Sequence[Message]) -> Counter[str]:
    """Return each message's id, once."""
    return Counter(message.id for message in messages)
