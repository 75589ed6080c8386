"""The queue of the simulated fleet: SQS's behaviour, and everything that can go wrong with it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from penstock.errors import Again, Halt
from penstock.model import Message, QueueLimits, Sent
from support.history import History
from support.sim_process import KilledError, Process

_WINDOW_SECONDS = 300.0


class Sqs:
    """What the queue holds. `drops` makes it a liar, for a canary: it confirms and forgets."""

    def __init__(self, *, fifo: bool, message_bytes_max: int, history: History) -> None:
        self.limits = QueueLimits(message_bytes_max=message_bytes_max, fifo=fifo)
        self.records: list[str] = []
        self.drops = 0
        self.history = history
        self._seen: dict[tuple[str, str], float] = {}

    def take(self, batch: Sequence[Message], group: str, at: float) -> None:
        """Take a batch, but on a FIFO queue not what came within the last five minutes."""
        records = [record for message in batch for record in records_of(message)]
        self.history.add(
            at, "accept", records=records, entries=len(batch),
            bytes=sum(message.size_bytes for message in batch),
        )  # fmt: skip
        for message in batch:
            key = (group, message.id)
            if self.limits.fifo and at - self._seen.get(key, -1e9) < _WINDOW_SECONDS:
                continue
            self._seen[key] = at
            if self.drops:
                self.drops -= 1
                continue
            self.records += records_of(message)


def records_of(message: Message) -> list[str]:
    """Return the ids of the records in a message, read from its body."""
    body: Any = json.loads(message.body)
    records = cast("list[Any]", body if isinstance(body, list) else [body])
    return [record["id"] for record in records]


class ScriptedQueue:
    """`Queue` for one process: batch by batch, each with its own fate."""

    def __init__(self, sqs: Sqs, process: Process) -> None:
        self._sqs = sqs
        self._process = process

    async def open(self) -> QueueLimits:
        """See `Queue.open`."""
        return self._sqs.limits

    async def send(
        self,
        messages: Sequence[Message],
        *,
        group: str,
        before: Callable[[], float],
        confirmed: Callable[[Sequence[Message]], Awaitable[None]],
    ) -> Sent:
        """See `Queue.send`."""
        done: list[Message] = []
        batches = repeats = 0
        todo = [list(messages[i : i + 3]) for i in range(0, len(messages), 3)]
        unknown: set[int] = set()
        while todo:
            batch = todo.pop(0)
            if self._process.loop.now >= before():
                raise Again("the lease leaves no time")
            repeats += sum(message.index in unknown for message in batch)
            good, again, lost = await self._call(batch, group)
            unknown |= {message.index for message in lost}
            if good:
                batches += 1
                done += good
                await self._process.step("send.after")
                await confirmed(good)
            if again or lost:
                todo.append([*again, *lost])
        return Sent(done, [], batches, repeats)

    async def _call(
        self, batch: list[Message], group: str
    ) -> tuple[list[Message], list[Message], list[Message]]:
        """Return what was confirmed, what was not taken, and what nobody knows of."""
        process, chaos = self._process, self._process.chaos
        history, now = process.history, lambda: process.loop.now
        await process.step("send.before")
        if chaos.strikes("queue gone"):
            raise Halt("the queue does not exist")
        if chaos.strikes("queue throttled"):
            await process.wire()
            return [], batch, []
        if chaos.strikes("queue reset before accepting"):
            await process.wire()
            return [], [], batch
        taken = batch
        if len(batch) > 1 and chaos.strikes("queue failed an entry"):
            taken = batch[1:]
        if not await process.wire():
            raise KilledError(process.name)
        self._sqs.take(taken, group, now())
        if process.is_dead:
            raise KilledError(process.name)
        records = [record for message in taken for record in records_of(message)]
        if chaos.strikes("queue reset after accepting"):
            history.add(now(), "unknown", records=records)
            return [], [message for message in batch if message not in taken], taken
        if chaos.strikes("queue slower than the lease"):
            await asyncio.sleep(chaos.dice.uniform(9, 15))
        await process.wire()
        process.living()
        return taken, [message for message in batch if message not in taken], []

    async def close(self) -> None:
        """Nothing is open."""
