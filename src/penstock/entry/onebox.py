"""One box: loaders, archiver and checker as processes under one supervisor.

Each process is a public command (`penstock load --every …`), so what runs here is what runs
elsewhere. A process that dies is started again, with a pause that doubles; all of them end when the
supervisor does, however it ends.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from penstock import telemetry
from penstock.entry.embedded_redis import EmbeddedRedis
from penstock.entry.embedded_sqs import EmbeddedSqs
from penstock.settings import EMBEDDED, Settings

_STOP_SECONDS = 15.0  # a loader gives its claims five to commit; what takes longer is killed
_RESTART_SECONDS_MIN = 0.5
_RESTART_SECONDS_MAX = 30.0
_HEALTHY_SECONDS = 60.0  # a process that lived so long starts over with a short pause


@dataclass(frozen=True, slots=True)
class Member:
    """One supervised process: its name in the log, and the arguments of `penstock`."""

    name: str
    arguments: Sequence[str]


def members(settings: Settings, config: Path | None, *, verbose: bool) -> list[Member]:
    """Return the processes of one box."""
    run = settings.run
    options = ["--config", str(config)] if config else []
    options += ["--verbose"] if verbose else []

    def member(name: str, command: str, every_seconds: float) -> Member:
        return Member(name, [command, "--every", str(every_seconds), *options])

    loaders = [
        member(f"loader-{number}", "load", run.loader_interval_seconds)
        for number in range(1, run.workers + 1)
    ]
    return [
        *loaders,
        member("archiver", "archive", run.archiver_interval_seconds),
        member("checker", "check", run.checker_interval_seconds),
    ]


async def supervise(
    settings: Settings, config: Path | None, stop: asyncio.Event, *, verbose: bool
) -> None:
    """Run one box until `stop`; its embedded parts start first and stop last.

    Raises Halt if an embedded part cannot be started.
    """
    async with AsyncExitStack() as stack:
        state = Path(settings.run.state_directory)
        if settings.ledger.url == EMBEDDED:
            await stack.enter_async_context(EmbeddedRedis(state))
        if settings.queue.url == EMBEDDED:
            await stack.enter_async_context(EmbeddedSqs(state))
        async with asyncio.TaskGroup() as group:
            for member in members(settings, config, verbose=verbose):
                group.create_task(_keep_alive(member, stop))


async def _keep_alive(member: Member, stop: asyncio.Event) -> None:
    pause = _RESTART_SECONDS_MIN
    while not stop.is_set():
        began = time.monotonic()
        process = await _start(member)
        telemetry.event("process.started", name=member.name, pid=process.pid)
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await _end(process, ended)
            return
        if time.monotonic() - began > _HEALTHY_SECONDS:
            pause = _RESTART_SECONDS_MIN
        telemetry.warn(
            "process.ended", name=member.name, exit_code=ended.result(), again_in_seconds=pause
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(2 * pause, _RESTART_SECONDS_MAX)


async def _start(member: Member) -> asyncio.subprocess.Process:
    tether = Path(__file__).with_name("tether.py")
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-I", "-S", str(tether), str(os.getpid())],
        *[sys.executable, "-m", "penstock", *member.arguments],
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the supervisor, which stops its processes in order
    )


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    _, late = await asyncio.wait({ended}, timeout=_STOP_SECONDS)
    if late:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await ended
