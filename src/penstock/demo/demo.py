"""The demo: a live spool, the real parts, a whole `penstock run`, and a check of every record.

    producer ──files──▶ spool ──▶ penstock run ──▶ SQS ──▶ consumer ──compares with──▶ corpus
    (process)                  (its own processes)        (here)

One directory holds all of it: spool/ archive/ rejected/, penstock.toml, penstock.log, and in state/
the ledger and the queue.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as redis

from penstock.aio import sleep_unless
from penstock.demo import box as demo_box
from penstock.demo.consumer import Comparison, Consumer
from penstock.demo.corpus import Corpus, broken_files
from penstock.demo.result import Result, count_archived, count_rejected
from penstock.demo.watch import Watch
from penstock.embedded.redis import EmbeddedRedis
from penstock.embedded.sqs import EmbeddedSqs
from penstock.errors import Halt

SAMPLE_SECONDS = 0.5
_SEED = 1
_TWEET_BYTES = 2_600
_LEDGER_BYTES = 1_024  # per file, in the append-only file and the logs
_READY_SECONDS = 30.0
_DUPLICATES_SECONDS = 2.0  # after this long without a message, expect no more duplicates


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo does; `rate` is in files a second."""

    rate: float
    seconds: float
    records_per_file: int
    workers: int
    fifo: bool

    @property
    def files(self) -> int:
        """How many files will be written."""
        return max(1, round(self.rate * self.seconds))

    @property
    def disk_bytes(self) -> int:
        """Roughly what the run takes on disk: the files in blocks of 4 KiB, ledger and logs."""
        blocks = 1 + self.records_per_file * _TWEET_BYTES // 4096
        return self.files * (blocks * 4096 + _LEDGER_BYTES)


class Demo:
    """One run in an empty `directory`; `show` is called with this object at every sample."""

    standstill_seconds = 20.0  # twice the lease in the demo's settings, the longest pause there
    """The run ends after nothing has moved for this long."""

    def __init__(
        self,
        plan: DemoPlan,
        directory: Path,
        show: Callable[["Demo"], None],
    ) -> None:
        self.plan = plan
        self.directory = directory
        self.log = directory / "penstock.log"
        self.corpus = Corpus(_SEED, plan.records_per_file)
        self.comparison = Comparison(self.corpus, plan.files * plan.records_per_file)
        self.files_written = 0
        self.producing_seconds = 0.0
        self.watch: Watch
        self.consumer: Consumer
        self._show = show
        self._began = time.monotonic()
        self._seconds = 0.0

    def served(self) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """Yield the settings in section `source`; a subclass may run a server for the spool."""
        return contextlib.nullcontext({"url": str(self.directory / "spool")})

    async def run(self, stop: asyncio.Event) -> Result | None:
        """Run until all files are accounted for or nothing moves; return None after `stop`."""
        for name in ("spool", "archive", "rejected"):
            (self.directory / name).mkdir()
        state = self.directory / "state"
        async with (
            EmbeddedRedis(state) as ledger_server,
            EmbeddedSqs(state) as sqs,
            redis.from_url(ledger_server.address, decode_responses=True) as client,
            self.served() as spool,
        ):
            plan = self.plan
            queue_url = await sqs.create_queue("demo.fifo" if plan.fifo else "demo")
            self.consumer = Consumer(sqs, queue_url, self.comparison)
            self.watch = Watch(self.directory / "spool", demo_box.ledger(client))
            config = self.directory / "penstock.toml"
            config.touch(mode=0o600)  # a token may be in it
            config.write_text(
                demo_box.settings(
                    self.directory, spool, ledger_server.address, sqs, queue_url, plan.workers
                )
            )
            command = [sys.executable, "-m", "penstock", "run", "--config", str(config)]
            environment = demo_box.environment(sqs)
            async with demo_box.running(command, environment, self.log) as penstock:
                await self._ready(client, penstock)
                await self._produce_and_consume(penstock, stop)
            if stop.is_set():
                return None
            if penstock.returncode:
                raise Halt(f"penstock run: ended with {penstock.returncode}; see {self.log}")
            await self.watch.sample()
        return self._result()

    async def _ready(self, client: "redis.Redis", penstock: asyncio.subprocess.Process) -> None:
        """Wait until all processes are connected: their start-up is not part of draining."""
        wanted = self.plan.workers + 2 + 1  # archiver, checker; and this connection
        deadline = time.monotonic() + _READY_SECONDS
        while (await client.info("clients"))["connected_clients"] < wanted:
            if penstock.returncode is not None or time.monotonic() > deadline:
                raise Halt(f"penstock run: its processes did not start; see {self.log}")
            await asyncio.sleep(0.1)

    async def _produce_and_consume(
        self, penstock: asyncio.subprocess.Process | None, stop: asyncio.Event
    ) -> None:
        plan = self.plan
        command = [sys.executable, "-m", "penstock.demo.producer"]
        command += ["--spool", str(self.directory / "spool"), "--seed", str(_SEED)]
        command += ["--rate", str(plan.rate), "--seconds", str(plan.seconds)]
        command += ["--records-per-file", str(plan.records_per_file)]
        consuming = asyncio.create_task(self.consumer.run())
        try:
            async with demo_box.running(command, os.environ, self.log, reading=True) as producer:
                counting = asyncio.create_task(self._count(producer))
                await self._until_over(stop, penstock, consuming, counting)
            await counting
            self._seconds = max(SAMPLE_SECONDS, self.consumer.last_message_at - self._began)
            while time.monotonic() < self.consumer.last_message_at + _DUPLICATES_SECONDS:
                if await sleep_unless(stop, SAMPLE_SECONDS):
                    break
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)

    async def _until_over(
        self,
        stop: asyncio.Event,
        penstock: asyncio.subprocess.Process | None,
        consuming: asyncio.Task[None],
        counting: asyncio.Task[None],
    ) -> None:
        """Return when all files are accounted for, when nothing moves, or on `stop`."""
        before, moved_at = (0, 0, 0), time.monotonic()
        while not stop.is_set():
            await self.watch.sample()
            self._show(self)
            if consuming.done():
                consuming.result()  # it ends only by an error
            if penstock is not None and penstock.returncode is not None:
                raise Halt(f"penstock run: ended with {penstock.returncode}; see {self.log}")
            if counting.done() and self._all_accounted_for():
                return
            now = (self.files_written, self.comparison.received, self.watch.in_spool)
            if now != before:
                before, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > self.standstill_seconds:
                return
            await sleep_unless(stop, SAMPLE_SECONDS)

    def _all_accounted_for(self) -> bool:
        return (
            self.watch.in_spool == 0
            and self.comparison.distinct >= self.corpus.records_expected(self.files_written)
            and self.files_rejected() == len(broken_files(self.files_written))
        )

    def files_rejected(self) -> int:
        """Count the files in rejected/ that have their reason."""
        return count_rejected(self.directory / "rejected")

    async def _count(self, producer: asyncio.subprocess.Process) -> None:
        assert producer.stdout  # noqa: S101  for the type checker: it was started with a pipe
        async for line in producer.stdout:
            self.files_written = json.loads(line)["files"]
            if not self.files_written:  # its first line, when it begins
                self._began = time.monotonic()
        self.producing_seconds = time.monotonic() - self._began

    def _result(self) -> Result:
        files, counted = self.files_written, self.watch.counters
        lost, duplicated, unexpected = self.comparison.discrepancies(files)
        if lost:
            ids = "\n".join(map(str, self.comparison.lost_ids(files)))
            (self.directory / "lost.txt").write_text(ids + "\n")
        if unexpected:
            samples = "\n".join(self.comparison.unexpected_samples)
            (self.directory / "unexpected.jsonl").write_text(samples + "\n")
        return Result(
            files_written=files,
            records_written=self.corpus.records_written(files),
            records_expected=self.corpus.records_expected(files),
            records_received=self.comparison.received,
            records_lost=lost,
            records_duplicated=duplicated,
            records_unexpected=unexpected,
            files_archived=count_archived(self.directory / "archive"),
            files_rejected=self.files_rejected(),
            files_rejected_expected=len(broken_files(files)),
            files_left_in_spool=sum(1 for _ in (self.directory / "spool").glob("[!.]*")),
            seconds=round(self._seconds, 3),
            files_per_second=round(files / self._seconds, 1),
            records_per_second=round(self.comparison.distinct / self._seconds, 1),
            oldest_waiting_seconds_max=round(self.watch.oldest_waiting_seconds_max, 3),
            messages=self.consumer.messages,
            messages_full=round(counted.get("bytes_sent", 0) / (counted.get("bytes_room") or 1), 3),
            batches=counted.get("batches", 0),
        )
