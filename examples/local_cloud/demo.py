"""The demo on a local cloud: files are written, the stack's schedules drain them, all is counted.

producer ──files──▶ spool ──▶ file server ──▶ functions ──▶ SQS ──▶ consumer ──▶ corpus
"""

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as redis

from examples.local_cloud.stack import FUNCTIONS, FunctionRun, LocalCloud
from penstock.demo import box as demo_box
from penstock.demo.consumer import Consumer
from penstock.demo.demo import Demo, DemoPlan
from penstock.demo.result import Result
from penstock.demo.tweets import SELECTION
from penstock.demo.watch import Watch
from scripts import bundle

_STANDSTILL_SECONDS = 200.0  # three ticks of a minute
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CloudResult(Result):
    """The figures of `make demo-aws ARGS=--json`: those of the demo, and runs of functions.

    `loaders_started` of the `loader_runs` were started by a loader that saw the backlog grow, the
    others by the schedule.
    """

    loader_runs: int
    loaders_started: int
    archiver_runs: int
    checker_runs: int
    runs_failed: int


class CloudDemo(Demo):
    """One run in `directory`, which is empty.

    `on_run` is given each invocation of a function, as it ends, and `say` each step of the set-up.
    With few `claim_files` in a claim a loader is slow, and loaders start others.
    `archive` is a bundle for this machine, or None to build one.
    """

    standstill_seconds = _STANDSTILL_SECONDS

    def __init__(
        self,
        plan: DemoPlan,
        directory: Path,
        show: Callable[[Demo], None],
        *,
        say: Callable[[str], None],
        on_run: Callable[[FunctionRun], None],
        max_loaders: int = 4,
        claim_files: int = 500,
        archive: Path | None = None,
    ) -> None:
        super().__init__(plan, directory, show)
        self._say = say
        self._on_run = on_run
        self._max_loaders = max_loaders
        self._claim_files = claim_files
        self._archive = archive
        self._runs: list[FunctionRun] = []

    async def run(self, stop: asyncio.Event) -> Result | None:
        """Run until all is accounted for, or nothing moves any more; None if `stop` was set.

        Raises Again or Halt if a part fails.
        """
        for name in ("spool", "archive", "rejected"):
            (self.directory / name).mkdir()
        archive = self._archive or await self._build()
        self._say("starting ministack, Redis and the file server; deploying deploy/template.yaml")
        async with LocalCloud(
            self.directory,
            archive,
            spool_name=demo_box.SPOOL_NAME,
            config=self._config(),
            parameters={
                "QueueType": "fifo" if self.plan.fifo else "standard",
                "MaxLoaders": str(self._max_loaders),
            },
        ) as cloud:
            self._say(f"the stack stands; its schedules fire every minute; queue {cloud.queue_url}")
            self.consumer = Consumer(cloud.cloud, cloud.queue_url, self.comparison)
            async with redis.from_url(cloud.redis.address, decode_responses=True) as client:
                self.watch = Watch(self.directory / "spool", demo_box.ledger(client))
                reporting = asyncio.create_task(self._report(cloud))
                try:
                    await self._produce_and_consume(None, stop)
                finally:
                    reporting.cancel()
                    await asyncio.gather(reporting, return_exceptions=True)
                await self._report_new(cloud)
                await self.watch.sample()
        return None if stop.is_set() else self._result()

    def _config(self) -> str:
        claim_files = f"[worker]\nclaim_files_max = {self._claim_files}\n"
        return f"[select]\nfields = '{SELECTION}'\n{claim_files}"

    def _result(self) -> CloudResult:
        functions = [run.function for run in self._runs]
        loaders, archivers, checkers = map(functions.count, FUNCTIONS)
        return CloudResult(
            **dataclasses.asdict(super()._result()),
            loader_runs=loaders,
            loaders_started=sum(bool(run.loader) for run in self._runs),
            archiver_runs=archivers,
            checker_runs=checkers,
            runs_failed=sum(bool(run.error) for run in self._runs),
        )

    async def _build(self) -> Path:
        architecture, python = bundle.here()
        archive = self.directory / "built.zip"
        await asyncio.to_thread(
            bundle.build, archive, architecture=architecture, python=python, say=self._say
        )
        return archive

    async def _report(self, cloud: LocalCloud) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self._report_new(cloud)

    async def _report_new(self, cloud: LocalCloud) -> None:
        for run in await cloud.runs():
            self._runs.append(run)
            self._on_run(run)
