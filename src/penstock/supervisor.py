"""One box: loaders, archiver and checker as processes under one supervisor.

Each process is a public command (`penstock load --every …`), so what runs here is what runs
elsewhere. A process that dies is started again, with a pause that doubles; all of them end when the
supervisor does, however it ends.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import penstock
from penstock import telemetry, wiring
from penstock.aio import sleep_unless
from penstock.embedded import owner_mark
from penstock.embedded.process import EmbeddedProcess
from penstock.embedded.redis import EmbeddedRedis
from penstock.embedded.sqs import EmbeddedSqs
from penstock.embedded.tether import tethered
from penstock.errors import Halt, PenstockError
from penstock.settings.schema import EMBEDDED, EMBEDDED_QUEUE, Settings
from penstock.settings.spool_place import spool_name, spool_place

_STOP_SECONDS = 15.0  # a loader gives its claims five to commit; what takes longer is killed
_RESTART_SECONDS_MIN = 0.5
_RESTART_SECONDS_MAX = 30.0
_FIGURES = ("files_processed", "files_archived", "files_rejected", "records_sent", "messages")
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
    others = [
        member("archiver", "archive", run.archiver_interval_seconds),
        member("checker", "check", run.checker_interval_seconds),
    ]
    servers = [Member("server", ["serve", *options])] if run.serve else []
    console = [Member("console", ["console", *options])] if run.console else []
    return [*loaders, *others, *servers, *console]


async def supervise(
    settings: Settings, config: Path | None, stop: asyncio.Event, *, verbose: bool
) -> None:
    """Run one box until `stop`; its embedded parts start first and stop last.

    Raises Halt if an embedded part cannot be started.
    """
    async with AsyncExitStack() as stack:
        state = Path(settings.run.state_directory)
        parts: list[EmbeddedProcess] = []
        environment = dict(os.environ)  # says where the parts are: no member runs one itself
        if settings.ledger.url == EMBEDDED:
            owner_mark.bind(spool_place(settings.source.url), state)
            redis = await stack.enter_async_context(EmbeddedRedis(state))
            environment |= {
                "PENSTOCK_LEDGER__URL": redis.url,
                "PENSTOCK_LEDGER__SPOOL": spool_name(settings),
            }
            parts.append(redis)
        if settings.queue.url == EMBEDDED:
            sqs = await stack.enter_async_context(EmbeddedSqs(state))
            environment |= {
                **sqs.environment,
                "PENSTOCK_QUEUE__URL": await sqs.create_queue(EMBEDDED_QUEUE),
                "PENSTOCK_QUEUE__ENDPOINT_URL": sqs.endpoint_url,
            }
            parts.append(sqs)
        async with _watched(settings, environment), asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(_keep_answering(part, stop))
            for member in members(settings, config, verbose=verbose):
                group.create_task(_keep_alive(member, environment, stop))


@contextlib.asynccontextmanager
async def _watched(settings: Settings, environment: Mapping[str, str]) -> AsyncGenerator[None]:
    """Log every ten seconds how much was done, as the ledger counts it."""
    url = environment.get("PENSTOCK_LEDGER__URL", settings.ledger.url)
    ledger = wiring.unopened_ledger(settings, url)

    async def figures() -> Mapping[str, float]:
        with contextlib.suppress(PenstockError):  # the members say what is wrong
            counted = await ledger.reads.counters()
            return {name: counted.get(name, 0) for name in _FIGURES}
        return {}

    try:
        async with telemetry.progress("run.progress", figures):
            yield
    finally:
        await ledger.close()


async def _keep_answering(part: EmbeddedProcess, stop: asyncio.Event) -> None:
    """Start an embedded part again when it has died, with the data that it wrote."""
    pause = _RESTART_SECONDS_MIN
    while not await sleep_unless(stop, pause):
        if part.exit_code is None:
            pause = _RESTART_SECONDS_MIN
            continue
        telemetry.warn("process.ended", name=part.title, exit_code=part.exit_code)
        try:
            await part.stop()
            await part.start()
        except Halt as error:
            pause = min(2 * pause, _RESTART_SECONDS_MAX)
            telemetry.warn(
                "process.waits", name=part.title, cause=str(error), again_in_seconds=pause
            )


async def _keep_alive(member: Member, environment: Mapping[str, str], stop: asyncio.Event) -> None:
    pause = _RESTART_SECONDS_MIN
    while not stop.is_set():
        began = time.monotonic()
        process = await _start(member, environment)
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
        await sleep_unless(stop, pause)
        pause = min(2 * pause, _RESTART_SECONDS_MAX)


def penstock_command(*arguments: str) -> Sequence[str]:
    """Return the command line of `penstock …` as a process of this one's own, tied to it."""
    return tethered(sys.executable, "-m", "penstock", *arguments)


def _version_on_disk() -> str:
    """Return the version that a process started now would have; ours if that cannot be told."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path(penstock.__file__).read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else penstock.__version__


async def _start(member: Member, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    if (version := _version_on_disk()) != penstock.__version__:
        telemetry.warn(
            "process.other_version", name=member.name, version=version,
            supervisor=penstock.__version__, remedy="restart `penstock run`: an upgrade ends so",
        )  # fmt: skip
    return await asyncio.create_subprocess_exec(
        *penstock_command(*member.arguments),
        env=environment,
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
