"""Send messages with SendMessageBatch, entry by entry, for receipts. Implements `ports.Queue`.

    messages ─▶ batches ─▶ call ─┬─ confirmed ─▶ `confirmed`
                  ▲              ├─ rejected
                  └── pause ◀────┴─ again, unknown, split          (halt: everything stops)

No other code sends anything to SQS twice. On a standard queue, a resend after an unknown outcome
can be a repeat; this module counts them.

    packer.py      makes messages of records, before this
    batch.py       makes a request of messages, and sorts them by the reply
    errors.py      what SQS's error codes mean
    limiter.py     how many calls at a time
    attributes.py  what the queue is and what it accepts
    client.py      one call, signed        endpoint.py  where to, with which credentials
    ../http1.py    the connections
"""

import asyncio
import contextlib
import math
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from penstock import telemetry
from penstock.errors import Again, Halt, PenstockError, own_trouble
from penstock.http1 import NoReplyError, NotSentError
from penstock.model import Keys, Message, QueueDepth, QueueLimits, Sent
from penstock.sqs.attributes import read_depth, read_limits
from penstock.sqs.batch import BatchOutcome, batches, error_of, outcome_of, request_body
from penstock.sqs.client import SqsClient
from penstock.sqs.errors import Kind, kind_of_call, remedy_of
from penstock.sqs.limiter import ConcurrencyLimiter

# Full jitter: each pause is uniform between 0 and min(5 s, 0.1 s * 2^tries). Source: "Exponential
# Backoff And Jitter", AWS Architecture Blog. 5 s is small beside a lease of 60 s.
_PAUSE_SECONDS_FIRST: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 5.0
# FIFO drops repeats for five minutes after the first; four leave room for clocks and latency.
_DEDUPLICATION_SECONDS: Final = 240.0
# A wrong MD5 is corruption on the way; a third one for a message is a server that changes it.
_GARBLED_MAX: Final = 3
_REPORT_SECONDS: Final = 10.0
# Only a few calls above this size run at a time: each holds its request in memory, 1 MiB and more.
_LARGE_BYTES: Final = 131_072
_LARGE_IN_FLIGHT_MAX: Final = 8
# The MD5 of 1 MiB takes 1.5 ms. Hashing releases the interpreter's lock, so a thread does it while
# the event loop writes the next request. Below this size, using a thread costs more than it gains.
_HASHED_HERE_BYTES_MAX: Final = 131_072
# How SQS, and servers like it, say that a batch is empty.
_EMPTY: Final = frozenset({"EmptyBatchRequest", "MissingParameter", "InvalidParameterValue"})
# What SQS accepts as MessageGroupId: 1-128 letters, digits and punctuation.
_GROUP: Final = re.compile(r"[!-~]{1,128}")


@dataclass(slots=True)
class _Run:
    """The state of one call of `send`, shared by its batches."""

    group: str | None
    deadline: Callable[[], float]
    on_confirmed: Callable[[Sequence[Message]], Awaitable[None]]
    sent: Sent = field(default_factory=Sent)
    first_tried: dict[int, float] = field(default_factory=dict[int, float])
    unknown: set[int] = field(default_factory=set[int])
    garbled: Counter[int] = field(default_factory=Counter[int])
    failure: BaseException | None = None


class SqsQueue:
    """One SQS queue, standard or FIFO, at AWS or any server that speaks its JSON protocol.

    Calls are signed with `keys`, or else as AWS's own settings say. `connections` bounds the calls
    in flight; at most 8 of them are above 128 KiB. `timeout_seconds` bounds one call; `deadline`
    must leave that much of the lease. The rest is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        keys: Keys | None = None,
        connections: int = 16,
        timeout_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._url = url
        self._client = SqsClient(
            url,
            endpoint_url=endpoint_url,
            region=region,
            keys=keys,
            timeout_seconds=timeout_seconds,
            monotonic=monotonic,
        )
        self._limiter = ConcurrencyLimiter(connections)
        self._large = asyncio.Semaphore(_LARGE_IN_FLIGHT_MAX)
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._limits: QueueLimits | None = None
        self._resends = 0
        self._silent_until = -math.inf

    async def open(self) -> QueueLimits:
        """Read the queue's attributes: its kind and its own limit for one message."""
        try:
            await self._client.open()
            await self._client.refresh()
            self._limits = await read_limits(self._client, self._url)
        except BaseException:
            self._client.close()
            raise
        return self._limits

    async def depth(self) -> QueueDepth:
        """Return how many messages the queue holds. Raises as `open` does."""
        await self._client.refresh()
        return await read_depth(self._client, self._url)

    async def try_sending(self) -> str:
        """Send an empty batch as a test; return SQS's clock, if told. Raises Again or Halt."""
        await self._client.refresh()
        try:
            reply = await self._client.call(
                "SendMessageBatch", msgspec.json.encode({"QueueUrl": self._url, "Entries": []})
            )
        except (NotSentError, NoReplyError) as error:
            raise Again(f"cannot reach the queue {self._url}: {error}") from None
        code, text = error_of(reply.body, reply.query_error)
        if reply.status == 200 or code in _EMPTY:  # noqa: PLR2004  HTTP's own
            return self._client.date
        error = Halt if kind_of_call(code, reply.status) is Kind.HALT else Again
        raise error(f"the queue {self._url} accepts no messages: {code}: {text}; {remedy_of(code)}")

    async def close(self) -> None:
        """Close all connections."""
        self._client.close()

    async def send(
        self,
        messages: Sequence[Message],
        *,
        group: str,
        deadline: Callable[[], float],
        confirmed: Callable[[Sequence[Message]], Awaitable[None]],
        tried: bool = False,
    ) -> Sent:
        """Send every message; see `ports.Queue.send`."""
        if self._limits is None:
            raise RuntimeError("the queue is not open")
        if not _GROUP.fullmatch(group):
            raise ValueError(f"{group!r} is not a message group: 1-128 letters, digits or signs")
        run = _Run(group if self._limits.fifo else None, deadline, confirmed)
        if tried:
            run.unknown.update(message.index for message in messages)
        deliveries = [self._deliver(run, batch) for batch in batches(messages, self._limits)]
        await asyncio.gather(*deliveries)
        if run.failure is not None:
            if run.group is None and isinstance(run.failure, PenstockError):
                # The claim's next owner sends these again.
                run.failure.possible_repeats = len(run.unknown & run.first_tried.keys())
            raise run.failure
        return run.sent

    async def _deliver(self, run: _Run, batch: list[Message]) -> None:
        """Send one batch until every message is settled, or until the run has failed.

        A failure stops the other batches between their calls, never during one. So `confirmed` gets
        everything that SQS has confirmed before an error is raised.
        """
        todo, tries = [batch], 0
        while todo and run.failure is None:
            try:
                messages = todo.pop()
                is_large = sum(message.size_bytes for message in messages) > _LARGE_BYTES
                async with self._large if is_large else contextlib.nullcontext():
                    outcome = await self._call_and_confirm(run, messages)
            except Exception as error:  # noqa: BLE001 - raised by `send`, after the other batches
                run.failure = run.failure or error
                return
            if outcome.split:
                half = len(outcome.split) // 2
                todo += [outcome.split[half:], outcome.split[:half]]
            left = outcome.again + outcome.unknown + outcome.garbled
            if left:
                todo.append(left)
                tries += 1
                self._report(outcome.cause, tries)
                await self._pause(run, tries)

    async def _call_and_confirm(self, run: _Run, batch: Sequence[Message]) -> BatchOutcome:
        """Make one call, unless the run has failed, and pass its receipts on.

        Keep the slot until the receipts are journaled: the number of slots then bounds what a
        worker's death can repeat.
        """
        ticket = await self._limiter.enter()
        throttled = False
        try:
            if run.failure is not None:
                return BatchOutcome()
            outcome = await self._call(run, batch)
            throttled = outcome.throttled
            await self._take(run, outcome)
        finally:
            self._limiter.leave(ticket, throttled=throttled)
        return outcome

    async def _call(self, run: _Run, batch: Sequence[Message]) -> BatchOutcome:
        """Make one call, unless its time is over; return each message's outcome."""
        try:
            body = request_body(self._url, batch, run.group)
            await self._client.refresh()
            self._note_try(run, batch)
            reply = await self._client.call("SendMessageBatch", body)
            run.sent.batches += 1
            if len(body) < _HASHED_HERE_BYTES_MAX:
                return outcome_of(batch, *reply)
            return await asyncio.to_thread(outcome_of, batch, *reply)
        except NotSentError as error:
            if own := own_trouble(error):
                raise Again(f"send: {len(batch)} messages were not sent: {own}") from None
            return BatchOutcome(again=list(batch), cause=str(error))
        except NoReplyError as error:
            return BatchOutcome(unknown=list(batch), cause=str(error))

    def _note_try(self, run: _Run, batch: Sequence[Message]) -> None:
        """Refuse a call that the lease does not cover; count possible repeats."""
        now = self._monotonic()
        if now >= run.deadline():
            raise Again(
                f"{len(batch)} messages could not be sent before the lease ends: the claim's next"
                " owner sends them"
            )
        for message in batch:
            first = run.first_tried.setdefault(message.index, now)
            dropped = run.group is not None and now - first < _DEDUPLICATION_SECONDS
            if message.index in run.unknown and not dropped:
                run.unknown.discard(message.index)
                run.sent.possible_repeats += 1

    async def _take(self, run: _Run, outcome: BatchOutcome) -> None:
        """Record a call's outcome; pass receipts on before anything else happens."""
        run.sent.throttled += outcome.throttled
        run.sent.rejected += outcome.rejected
        run.unknown.update([message.index for message in outcome.unknown + outcome.garbled])
        if outcome.garbled:
            run.garbled.update([message.index for message in outcome.garbled])
        if outcome.confirmed:
            run.sent.confirmed += outcome.confirmed
            indexes = {message.index for message in outcome.confirmed}
            run.unknown |= indexes  # to the claim's next owner, until they are journaled
            await run.on_confirmed(outcome.confirmed)
            run.unknown -= indexes
        if outcome.halt:
            raise Halt(f"the queue {self._url} accepts no messages: {outcome.halt}")
        if any(run.garbled[message.index] >= _GARBLED_MAX for message in outcome.garbled):
            raise Halt(
                f"the queue {self._url} changes messages: {outcome.cause}; check what "
                "stands between here and SQS"
            )

    def _report(self, cause: str, tries: int) -> None:
        """Log that something is sent again, at most one line every ten seconds."""
        self._resends += 1
        now = self._monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + _REPORT_SECONDS
        telemetry.warn(
            "queue.again",
            queue=self._url,
            cause=cause,
            tries=tries,
            resends=self._resends,
            connections=self._limiter.limit,
        )

    async def _pause(self, run: _Run, tries: int) -> None:
        """Wait a random time before a resend, but not beyond the deadline."""
        bound = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_FIRST * 2 ** (tries - 1))
        left = run.deadline() - self._monotonic()
        await self._sleep(max(0.0, min(self._uniform(0.0, bound), left)))
