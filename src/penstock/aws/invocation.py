"""One warm process of AWS Lambda: what it keeps between invocations, and when it ends.

    left of the function's time   900 s ───────────────── 60 s ───────── 25 s ── 20 s ────── 0
                                  claims, sends, commits │ no new claims │ stop  │ released │ killed

It keeps modules, event loop, settings and secrets. Each invocation opens its connections anew: a
process is frozen for minutes between invocations, an idle connection is dead afterwards, and a send
that dies with it may have arrived. Opening takes a few milliseconds (docs/aws.md), and checks that
Redis and the queue are there.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from penstock.aws.secrets import with_secrets
from penstock.errors import Halt
from penstock.settings.reading import load
from penstock.settings.schema import EMBEDDED, Settings

T = TypeVar("T")

_CLAIM_LEFT_SECONDS = 60.0
_SEND_LEFT_SECONDS = 20.0
_GRACE_SECONDS = 5.0  # to commit what is in flight, before sending stops
_WHOLE_SECONDS = 150.0  # with less time, the same shares of it apply


class Deadline(NamedTuple):
    """Seconds from the start: when to begin nothing new, when to stop; and the grace after that."""

    budget_seconds: float
    stop_seconds: float
    grace_seconds: float


def deadline(left_seconds: float) -> Deadline:
    """Return when to do what if Lambda kills us in `left_seconds`."""
    share = min(1.0, max(0.0, left_seconds) / _WHOLE_SECONDS)
    return Deadline(
        left_seconds - share * _CLAIM_LEFT_SECONDS,
        left_seconds - share * (_SEND_LEFT_SECONDS + _GRACE_SECONDS),
        share * _GRACE_SECONDS,
    )


@dataclass(frozen=True, slots=True)
class Invocation:
    """What one invocation uses; `stack` closes what it opens, `stop` is set in time."""

    settings: Settings
    stack: AsyncExitStack
    stop: asyncio.Event
    deadline: Deadline
    left_seconds: float
    function: str
    name: str
    _began: float = field(default_factory=time.monotonic)

    @property
    def budget_seconds(self) -> float:
        """How much longer work may begin; the setup has used some of the budget."""
        return self._began + self.deadline.budget_seconds - time.monotonic()


class LambdaProcess:
    """One process, which gets one invocation at a time."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()  # it makes its event loop at its first run
        self._settings: Settings | None = None

    def run(self, context: Any, work: Callable[[Invocation], Awaitable[T]]) -> T:
        """Do the work of one invocation. Raises its errors."""
        return self._runner.run(self._invoked(context, work))

    def close(self) -> None:
        """Close the event loop, in tests: Lambda kills the process instead."""
        self._runner.close()

    async def _invoked(self, context: Any, work: Callable[[Invocation], Awaitable[T]]) -> T:
        began = time.monotonic()
        left_seconds = context.get_remaining_time_in_millis() / 1000
        limits = deadline(left_seconds)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping = loop.call_later(max(0.0, limits.stop_seconds), stop.set)
        try:
            settings = self._settings or await _settings()
            self._settings = None  # read again after an error: a secret may have changed
            async with AsyncExitStack() as stack:
                invocation = Invocation(
                    settings=settings,
                    stack=stack,
                    stop=stop,
                    deadline=limits,
                    left_seconds=max(0.0, math.floor(left_seconds)),
                    function=context.invoked_function_arn,
                    name=context.aws_request_id,
                    _began=began,
                )
                answer = await work(invocation)
            self._settings = settings
            return answer
        finally:
            stopping.cancel()


async def _settings() -> Settings:
    settings = await with_secrets(load())
    for name, url in (("ledger.url", settings.ledger.url), ("queue.url", settings.queue.url)):
        if url == EMBEDDED:
            raise Halt(
                f"{name}: 'embedded' is for one box, not for functions; allowed: a Redis address"
                " and a queue URL that all functions share"
            )
    return settings
