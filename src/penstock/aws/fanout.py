"""Start another loader when the backlog grows: a tick of the schedule starts only one.

    waited, s  ▲        / it grows: too few loaders
               │   ____/
               │──╯          loaders take files in order of arrival, so if files come faster than
               └─────────▶   they are sent, each has waited longer than the one before

The ledger counts running loaders; never more than `aws.max_loaders` are started. The loader's own
code does not know of this: it only reports how long files had waited.
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
"""The length of a window for comparing ages; one page of a busy spool covers only 1 or 2 s."""

_AGE_SECONDS_MIN = 20.0  # shorter waiting times are not a backlog
_GROWTH_MIN = 0.1  # of the time passed: for slower growth, the schedule's ticks suffice


class Growth:
    """Collects the ages that a pass meets; `grows` compares two windows."""

    def __init__(self) -> None:
        self._ages: list[float] = []
        self._before: float | None = None

    def seen(self, age_seconds: float) -> None:
        """Note the age of the oldest file of one claim."""
        self._ages.append(age_seconds)

    def grows(self) -> bool:
        """End a window; tell whether files waited longer than before, by the median age."""
        if not self._ages:
            self._before = None
            return False
        before, now = self._before, statistics.median(self._ages)
        self._before, self._ages = now, []
        if before is None or now < _AGE_SECONDS_MIN:
            return False
        return now - before > _GROWTH_MIN * WINDOW_SECONDS


def given_name(event: Any) -> str:
    """Return the name that another loader gave this one at its start; empty if none did."""
    given = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    return str(given.get("loader") or "")


@contextlib.asynccontextmanager
async def counted(
    run: Invocation, loaders: LedgerLoaders, event: Any
) -> AsyncGenerator[Callable[[float], None]]:
    """Count this loader; start another if the backlog grows. Yields a function for files' ages."""
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
        with contextlib.suppress(PenstockError):  # its entry then expires by itself
            await loaders.leave(name)


async def _start_another(run: Invocation, loaders: LedgerLoaders) -> None:
    """Start one more loader if fewer run than allowed; if that fails, this one goes on."""
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
    """Start a function without waiting. Never retry: a lost answer may mean success."""
    payload = json.dumps({"loader": name}).encode()
    call(
        "lambda", "invoke", f"start another {function}", tries=1,
        FunctionName=function, InvocationType="Event", Payload=payload,
    )  # fmt: skip
