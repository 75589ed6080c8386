"""The queue of the simulated fleet: SQS's behaviour, and everything that can go wrong with it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from penstock.errors import Again, Halt
from penstock.model import Message, MessageReject, QueueLimits, Sent
from support.history import History
from support.sim_process import KilledError, Process

_WINDOW_SECONDS = 300.0


class Sqs:
    """What the queue holds. `drops` makes it a liar, for a canary: it confirms and forgets."""

    def __init__(self, *, fifo: bool, message_bytes_max: int, history: History) -> None:
        self.limits = QueueLimits(message_bytes_max=message_bytes_max, fifo=fifo)
        self.records: list[str] = []
        self.drops = 0
        self.throttled_until = 0.0
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


def _shape(message: Message) -> tuple[int, int, int]:
    """Return a message's index, its size, and that of its first record (0: it is no collection)."""
    body: Any = json.loads(message.body)
    first = len(json.dumps(body[0])) if isinstance(body, list) else 0
    return message.index, message.size_bytes, first


@dataclass
class _Run:
    """One call of `send`."""

    confirmed: Callable[[Sequence[Message]], Awaitable[None]]
    done: list[Message] = field(default_factory=list[Message])
    rejected: list[MessageReject] = field(default_factory=list[MessageReject])
    unknown: set[int] = field(default_factory=set[int])
    batches: int = 0
    repeats: int = 0

    def unheard(self, messages: list[Message]) -> list[Message]:
        """Note messages of which nobody knows whether SQS has them, and return them."""
        self.unknown |= {message.index for message in messages}
        return messages


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
        deadline: Callable[[], float],
        confirmed: Callable[[Sequence[Message]], Awaitable[None]],
        tried: bool = False,
    ) -> Sent:
        """See `Queue.send`."""
        self._process.history.add(
            self._process.loop.now, "pack", claim=messages[0].claim,
            limit=self._sqs.limits.message_bytes_max,
            messages=[_shape(message) for message in messages],
        )  # fmt: skip
        run = _Run(confirmed)
        run.unheard([*messages] if tried else [])
        todo = [list(messages[i : i + 3]) for i in range(0, len(messages), 3)]
        while todo:
            batch = todo.pop(0)
            if self._process.loop.now >= deadline():
                raise Again("the lease leaves no time")
            run.repeats += sum(message.index in run.unknown for message in batch)
            if again := await self._call(run, batch, group):
                todo.append(again)
        return Sent(run.done, run.rejected, run.batches, run.repeats)

    async def _call(self, run: "_Run", batch: list[Message], group: str) -> list[Message]:
        """Make one call; return what of the batch is to be sent again."""
        process, chaos = self._process, self._process.chaos
        assert {message.claim for message in batch} == {group}
        await process.step("send.before")
        if again := await self._stopped_on_the_way(run, batch):
            return again
        failed, refused = self._entries_failed(batch)
        taken = [message for message in batch if message not in (*failed, *refused)]
        if not await process.wire():
            raise KilledError(process.name)
        self._sqs.take(taken, group, process.loop.now)
        process.living()
        if self._is_reply_useless():
            self._note("unknown", taken)
            return run.unheard(batch)
        if chaos.strikes("queue slower than the lease"):
            await asyncio.sleep(chaos.dice.uniform(9, 15))
        unheard: list[Message] = []
        if len(taken) > 1 and chaos.strikes("queue answered without an id"):
            unheard = [taken.pop()]
        await process.wire()
        process.living()
        self._note("unknown", unheard)
        self._note("refuse", refused)
        run.rejected += [MessageReject(message, "scripted") for message in refused]
        if taken:
            run.batches += 1
            run.done += taken
            await process.step("send.after")
            await run.confirmed(taken)
        return [*failed, *run.unheard(unheard)]

    async def _stopped_on_the_way(self, run: "_Run", batch: list[Message]) -> list[Message]:
        """Return the batch, to be sent again, if SQS did not take it up."""
        process, chaos = self._process, self._process.chaos
        if chaos.strikes("queue gone"):
            raise Halt("the queue does not exist")
        if chaos.strikes("queue credentials expired"):
            raise Halt("ExpiredToken: renew the credentials")
        if chaos.strikes("descriptors gone, sending"):
            raise Again("Too many open files: `ulimit -n`")
        if chaos.strikes("queue throttle storm"):
            self._sqs.throttled_until = process.loop.now + chaos.dice.uniform(0.1, 5)
        if self._sqs.throttled_until > process.loop.now and not chaos.calm:
            await process.wire()
            await asyncio.sleep(chaos.dice.uniform(0, 0.5))
            return batch
        for lost in ("queue reset before accepting", "queue answered 5xx before accepting"):
            if chaos.strikes(lost):
                await process.wire()
                return run.unheard(batch)
        return []

    def _is_reply_useless(self) -> bool:
        """Draw whether SQS took a batch and nobody can know it."""
        return any(
            self._process.chaos.strikes(f"queue {fault}")
            for fault in ("reset after accepting", "answered 5xx after accepting",
                          "answered a wrong MD5")
        )  # fmt: skip

    def _entries_failed(self, batch: list[Message]) -> tuple[list[Message], list[Message]]:
        """Return the entries that SQS does not take now, and those that it never will."""
        chaos = self._process.chaos
        if len(batch) > 1 and chaos.strikes("queue failed an entry"):
            return batch[:1], []
        if chaos.strikes("queue refused an entry"):
            return [], batch[:1]
        return [], []

    def _note(self, what: str, messages: Sequence[Message]) -> None:
        records = [record for message in messages for record in records_of(message)]
        if records:
            self._process.history.add(self._process.loop.now, what, records=records)

    async def close(self) -> None:
        """Nothing is open."""
