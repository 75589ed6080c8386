"""A loader that sees the backlog grow starts another one: a tick of the schedule starts only one.

    waited, s  ▲        / it grows: too few loaders
               │   ____/
               │──╯          files are taken up in the order in which they came, so while files
               └─────────▶   come faster than they go, each has waited longer than the one before

How many run is counted in the ledger, and never are more started than `aws.max_loaders`. The loader
itself knows nothing of this: it tells how long files had waited.
"""

import asyncio
import contextlib
import json
import secrets
import statistics
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

from penstock import telemetry
from penstock.aws.calls import call
from penstock.aws.invocation import Invocation
from penstock.errors import PenstockError
from penstock.ledger.loaders import LedgerLoaders

WINDOW_SECONDS = 15.0
"""Ages are compared window by window: a page of a busy spool is a second or two of it."""

_AGE_SECONDS_MIN = 20.0  # what waits no longer than this is no backlog
_GROWTH_MIN = 0.1  # of the time that passed: slower than that, a tick of the schedule makes up for


class Growth:
    """Takes the ages as a pass meets them; `grows` says how two windows compare."""

    def __init__(self) -> None:
        self._ages: list[float] = []
        self._before: float | None = None

    def seen(self, age_seconds: float) -> None:
        """Take the age of the oldest file of one claim."""
        self._ages.append(age_seconds)

    def grows(self) -> bool:
        """Close a window, and tell whether files had waited longer in it than in the one before.

        By the median: what a dead worker left, or an operator put back, is old and says nothing.
        """
        if not self._ages:
            self._before = None
            return False
        before, now = self._before, statistics.median(self._ages)
        self._before, self._ages = now, []
        if before is None or now < _AGE_SECONDS_MIN:
            return False
        return now - before > _GROWTH_MIN * WINDOW_SECONDS


def given_name(event: Any) -> str:
    """Return the name that another loader gave this one as it started it; empty if none did.

    `event` is what the function was invoked with, by its schedule, by a person, or by a loader.
    """
    given = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    return str(given.get("loader") or "")


@contextlib.asynccontextmanager
async def counted(
    run: Invocation, loaders: LedgerLoaders, event: Any
) -> AsyncGenerator[Callable[[float], None]]:
    """Count this loader while it runs; meanwhile start another one where the backlog grows.

    One that another loader started is counted already, under the name it was given. Yields what is
    to be told the age of each claim's oldest file.
    """
    name = given_name(event) or run.name
    growth = Growth()

    async def watch() -> None:
        while True:
            await asyncio.sleep(WINDOW_SECONDS)
            if growth.grows():
                await _start_another(run, loaders)

    await loaders.enlist(name, run.left_seconds)
    watching = asyncio.create_task(watch()) if run.settings.aws.max_loaders > 1 else None
    try:
        yield growth.seen
    finally:
        if watching:
            watching.cancel()
        with contextlib.suppress(PenstockError):  # then its time runs out by itself
            await loaders.leave(name)


async def _start_another(run: Invocation, loaders: LedgerLoaders) -> None:
    """Start one more loader if fewer run than are wanted; this one goes on if that fails."""
    name = secrets.token_hex(8)
    try:
        if not await loaders.reserve(name, run.settings.aws.max_loaders):
            return
        await asyncio.to_thread(_start, run.function, name)
    except PenstockError as error:
        telemetry.warn("loader.not_started", cause=str(error))
        with contextlib.suppress(PenstockError):
            await loaders.leave(name)
    else:
        telemetry.event("loader.started", loader=name, function=run.function)


def _start(function: str, name: str) -> None:
    """Start a function once more, without waiting for it; it is told its name in the ledger.

    Tried once only: a start whose answer was lost may have happened. Raises Again or Halt.
    """
    payload = json.dumps({"loader": name}).encode()
    call(
        "lambda", "invoke", f"start another {function}", tries=1,
        FunctionName=function, InvocationType="Event", Payload=payload,
    )  # fmt: skip
