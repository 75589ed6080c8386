"""The demo on a local cloud: files are written, the stack's schedules drain them, all is counted.

producer ──files──▶ spool ──▶ file server ──▶ functions ──▶ SQS ──▶ consumer ──▶ corpus
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import redis.asyncio as redis

from penstock.entry import bundle, demo_box
from penstock.entry.demo import Demo, Plan
from penstock.entry.demo_consumer import Consumer
from penstock.entry.demo_result import Result
from penstock.entry.demo_tweets import SELECTION
from penstock.entry.demo_watch import Watch
from penstock.entry.local_cloud import LocalCloud, Run

_STANDSTILL_SECONDS = 200.0  # three ticks of a minute
_POLL_SECONDS = 1.0


class CloudDemo(Demo):
    """One run in `directory`, which is empty.

    `told` is given each invocation of a function, as it ends, and `say` each step of the set-up.
    `archive` is a bundle for this machine, or None to build one.
    """

    standstill_seconds = _STANDSTILL_SECONDS

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        show: Callable[[Demo], None],
        *,
        say: Callable[[str], None],
        told: Callable[[Run], None],
        max_loaders: int = 4,
        archive: Path | None = None,
    ) -> None:
        super().__init__(plan, directory, show)
        self._say = say
        self._told = told
        self._max_loaders = max_loaders
        self._archive = archive

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
            config=f"[select]\nfields = '{SELECTION}'\n",
            parameters={
                "QueueType": "fifo" if self.plan.fifo else "standard",
                "MaxLoaders": str(self._max_loaders),
            },
        ) as cloud:
            self._say(f"the stack stands; its schedules fire every minute; queue {cloud.queue_url}")
            self.consumer = Consumer(cloud.cloud, cloud.queue_url, self.comparison)
            async with redis.from_url(cloud.redis.url, decode_responses=True) as client:
                self.watch = Watch(self.directory / "spool", demo_box.ledger(client))
                telling = asyncio.create_task(self._tell(cloud))
                try:
                    await self._produce_and_consume(None, stop)
                finally:
                    telling.cancel()
                    await asyncio.gather(telling, return_exceptions=True)
                for run in await cloud.runs():
                    self._told(run)
                await self.watch.sample()
        return None if stop.is_set() else self._result()

    async def _build(self) -> Path:
        architecture, python = bundle.here()
        archive = self.directory / "built.zip"
        await asyncio.to_thread(
            bundle.build, archive, architecture=architecture, python=python, say=self._say
        )
        return archive

    async def _tell(self, cloud: LocalCloud) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for run in await cloud.runs():
                self._told(run)
