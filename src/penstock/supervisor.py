"""One box: loaders, archiver and checker as processes under one supervisor.

Each process is a public command (`penstock load --every …`), the same as elsewhere. A process that
dies is restarted, with a pause that doubles. All of them end when the supervisor ends, for any
reason.
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
from pathlib import Path

import penstock
from penstock import telemetry, wiring
from penstock.aio import sleep_unless
from penstock.embedded import owner_mark
from penstock.embedded.process import EmbeddedProcess
from penstock.embedded.redis import EmbeddedRedis
from penstock.embedded.sqs import EmbeddedSqs
from penstock.embedded.tether import tethered
from penstock.errors import PenstockError
from penstock.settings.schema import EMBEDDED, EMBEDDED_QUEUE, Settings
from penstock.settings.spool_place import spool_name, spool_place

_STOP_SECONDS = 15.0  # then it is killed; a loader gives its claims five seconds to commit
_RESTART_SECONDS_MIN = 0.5
_RESTART_SECONDS_MAX = 30.0
_FIGURES = ("files_processed", "files_archived", "files_rejected", "records_sent", "messages")
_HEALTHY_SECONDS = 60.0  # after a life of this length, the restart pause is reset


def members(settings: Settings, config: Path | None, *, verbose: bool) -> dict[str, Sequence[str]]:
    """Return the processes of one box: name in the log, and arguments of `penstock`."""
    run = settings.run
    options = ["--config", str(config)] if config else []
    options += ["--verbose"] if verbose else []
    commands = {
        f"loader-{number}": ["load", "--every", str(run.loader_interval_seconds)]
        for number in range(1, run.workers + 1)
    }
    commands["archiver"] = ["archive", "--every", str(run.archiver_interval_seconds)]
    commands["checker"] = ["check", "--every", str(run.checker_interval_seconds)]
    commands |= {"server": ["serve"]} if run.serve else {}
    commands |= {"console": ["console"]} if run.console else {}
    return {name: [*command, *options] for name, command in commands.items()}


async def supervise(
    settings: Settings, config: Path | None, stop: asyncio.Event, *, verbose: bool
) -> None:
    """Run one box until `stop`; its embedded parts start first and stop last. Raises Halt."""
    async with AsyncExitStack() as stack:
        state = Path(settings.run.state_directory)
        parts: list[EmbeddedProcess] = []
        environment = dict(os.environ)  # with the parts' addresses, so that members start no parts
        if settings.ledger.url == EMBEDDED:
            owner_mark.bind(spool_place(settings.source.url), state)
            redis = await stack.enter_async_context(EmbeddedRedis(state))
            environment |= {
                "PENSTOCK_LEDGER__URL": redis.address,
                "PENSTOCK_LEDGER__SPOOL": spool_name(settings),
            }
            parts.append(redis)
        if settings.queue.url == EMBEDDED:
            sqs = await stack.enter_async_context(EmbeddedSqs(state))
            environment |= {
                **sqs.environment,
                "PENSTOCK_QUEUE__URL": await sqs.create_queue(EMBEDDED_QUEUE),
                "PENSTOCK_QUEUE__ENDPOINT_URL": sqs.address,
            }
            parts.append(sqs)
        async with _watched(settings, environment), asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(_keep_answering(part, stop))
            for name, arguments in members(settings, config, verbose=verbose).items():
                group.create_task(_keep_alive(name, arguments, environment, stop))


@contextlib.asynccontextmanager
async def _watched(settings: Settings, environment: Mapping[str, str]) -> AsyncGenerator[None]:
    url = environment.get("PENSTOCK_LEDGER__URL", settings.ledger.url)
    ledger = wiring.unopened_ledger(settings, url)

    async def figures() -> Mapping[str, float]:
        with contextlib.suppress(PenstockError):  # the members log the error
            counted = await ledger.reads.counters()
            return {name: counted.get(name, 0) for name in _FIGURES}
        return {}

    try:
        async with telemetry.progress("run.progress", figures):
            yield
    finally:
        await ledger.close()


async def _keep_answering(part: EmbeddedProcess, stop: asyncio.Event) -> None:
    """Restart an embedded part that died, with the data that it wrote."""
    pause, is_down = _RESTART_SECONDS_MIN, False
    while not await sleep_unless(stop, pause):
        if part.exit_code is None and not is_down:
            continue
        if not is_down:
            telemetry.warn("process.ended", name=part.title, exit_code=part.exit_code)
        is_down = True  # until all of this succeeds: a start may fail before there is a process
        try:
            await part.stop()
            await part.start()
            if isinstance(part, EmbeddedSqs):  # if it was killed, its queues are lost
                await part.create_queue(EMBEDDED_QUEUE)
            pause, is_down = _RESTART_SECONDS_MIN, False
        except PenstockError as error:
            pause = min(2 * pause, _RESTART_SECONDS_MAX)
            telemetry.warn(
                "process.waits", name=part.title, cause=str(error), again_in_seconds=pause
            )


async def _keep_alive(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], stop: asyncio.Event
) -> None:
    pause = _RESTART_SECONDS_MIN
    while not stop.is_set():
        began = time.monotonic()
        process = await _start(name, arguments, environment)
        telemetry.event("process.started", name=name, pid=process.pid)
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await _end(process, ended)
            return
        if time.monotonic() - began > _HEALTHY_SECONDS:
            pause = _RESTART_SECONDS_MIN
        code = ended.result()
        telemetry.warn("process.ended", name=name, exit_code=code, again_in_seconds=pause)
        await sleep_unless(stop, pause)
        pause = min(2 * pause, _RESTART_SECONDS_MAX)


def penstock_command(*arguments: str) -> Sequence[str]:
    """Return the command line of `penstock …` as a process tied to this one."""
    return tethered(sys.executable, "-m", "penstock", *arguments)


def _version_on_disk() -> str:
    """Return the version that a new process would have; ours if that is unknown."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path(penstock.__file__).read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else penstock.__version__


async def _start(
    name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    if (version := _version_on_disk()) != penstock.__version__:
        telemetry.warn(
            "process.other_version", name=name, version=version,
            supervisor=penstock.__version__, remedy="restart `penstock run` after an upgrade",
        )  # fmt: skip
    return await asyncio.create_subprocess_exec(
        *penstock_command(*arguments),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the supervisor, which stops processes in order
    )


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    _, late = await asyncio.wait({ended}, timeout=_STOP_SECONDS)
    if late:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await ended
