"""A fleet in virtual time, and everything that can go wrong with it, drawn from one seed.

Real: the three functions, decoding, packing, the ledger and its scripts on a real Redis. Scripted:
the spool, the queue, time, and what happens to Redis, to the queue and to the processes.

A safety phase, in which everything goes wrong, then a liveness phase, in which nothing does and
everything must come to an end.
"""

import asyncio
import contextlib
import functools
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import archiver, checker, loader, telemetry, wiring, worker
from penstock.errors import Again, PenstockError
from penstock.ledger import ledger as ledger_module
from penstock.ledger.epoch import Epoch
from penstock.ledger.ledger import Ledger
from penstock.ledger.reads import LEASE_SECONDS_MAX
from penstock.ledger.scripts import Scripts
from penstock.model import Claim, FileRead, Unread
from penstock.reader import Reader
from penstock.records.transform import Transform
from penstock.settings.schema import Settings
from penstock.source import confirmed
from penstock.source.candidates import Candidates
from penstock.source.confirmed import ConfirmedSource
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer
from support.history import End, History, violations
from support.scripted_source import Folder, ScriptedSource, Spool
from support.sim_process import POINTS, Chaos, KilledError, Process
from support.sim_queue import ScriptedQueue, Sqs
from support.sim_redis import Client, Store
from support.virtual import VirtualLoop, run

LEASE_SECONDS = 10.0
TAKEOVERS_MAX = 2
SAFETY_SECONDS = 25.0
LIVENESS_SECONDS = 400.0  # a poison file alone costs six leases and the pauses between

CONTENT = "hush"  # in every record, and nowhere else
RATES = {
    "freeze": 0.002,
    "redis cut before": 0.004,
    "redis cut after": 0.004,
    "redis reply lost, sent again": 0.02,
    "redis out of memory": 0.003,
    "script cache flushed": 0.003,
    "queue throttle storm": 0.02,
    "queue gone": 0.01,
    "queue credentials expired": 0.01,
    "queue reset before accepting": 0.02,
    "queue reset after accepting": 0.02,
    "queue answered 5xx before accepting": 0.01,
    "queue answered 5xx after accepting": 0.01,
    "queue answered a wrong MD5": 0.01,
    "queue answered without an id": 0.1,
    "queue failed an entry": 0.05,
    "queue refused an entry": 0.02,
    "queue slower than the lease": 0.03,
    "listing out of order": 0.2,
    "listing lacks a file": 0.1,
    "file denied": 0.01,
    "descriptors gone, reading": 0.005,
    "descriptors gone, sending": 0.02,
    "redis clock ahead": 0.05,
    "redis clock back": 0.3,
    "redis clock behind": 0.02,
    "ledger key missing": 0.05,
    "files unreadable after a death": 0.3,
    "file still being written": 0.02,
    "file written to since it was listed": 0.01,
    "stop": 0.05,
    "deadline": 0.05,
    "redis wiped": 0.04,
    "redis restored from a snapshot": 0.04,
    "snapshot": 0.3,
    "spool away and back": 0.08,
    "spool replaced": 0.08,
}


@dataclass
class Result:
    """What one seed gave."""

    seed: int
    broken: list[str]
    fired: Counter[str]
    history: History
    copies: Counter[str]


class Fleet:
    """One simulated fleet; `canary` sabotages it, so that the checker must find something."""

    def __init__(self, seed: int, client: Any, *, quiet: bool = False, canary: str = "") -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.loop = VirtualLoop()
        self.history = History()
        self.chaos = Chaos(self.dice, {} if quiet else self._rates())
        self.quiet = quiet
        self.spool = Spool()
        self.store = Store(client, f"sim{seed}", self.history, lambda: self.loop.now, self.spool)
        self.pinned = self.dice.random() < 0.5  # as a directory is opened; not so over nginx
        self.poison: set[str] = set()
        self.fifo = self.dice.random() < 0.4
        self.sqs = Sqs(
            fifo=self.fifo, message_bytes_max=self.dice.choice([1024, 4096]), history=self.history
        )
        self.canary = canary
        self.sqs.drops = 1 if canary == "the queue forgets a message" else 0
        self.processes: list[Process] = []
        self.whole: set[str] = set()  # files that somebody has seen complete
        self.settings = Settings.model_validate(
            {
                "source": {"url": "/"},
                "queue": {"records_per_message": self.dice.choice(["many", 1])},
            }
        )
        self.middle = _middle()
        self.stop = asyncio.Event()
        self.unreadable_until = 0.0
        self.whole_books = True  # no key of the ledger was lost alone
        self.epoch = ""  # as loaders keep it in a file
        self.forgot = ""  # the epoch that was wiped last
        self.laws: Sequence[str] = ()
        self.said: list[str] = []

    def _rates(self) -> dict[str, float]:
        """Each seed has some of the faults, at several times their usual rate or not."""
        strength = self.dice.choice([0.5, 1, 2])
        return {fault: r * strength for fault, r in RATES.items() if self.dice.random() < 0.7}

    def _death(self, kind: str, number: int, life: int) -> dict[str, int]:
        """Return where a process dies: one point by turns for the first, others drawn."""
        points = POINTS[kind]
        if self.quiet or life > 2:
            return {}
        if life == 1 and number == 0:
            point = points[self.seed % len(points)]
            if point == "renew.before":  # seldom gets there by itself
                self.chaos.rates["queue slower than the lease"] = 0.5
                return {point: 0}
            if point == "release.before":
                self.chaos.rates["queue gone"] = 0.3
                return {point: 0}
            return {point: self.dice.randrange(3)}
        return (
            {self.dice.choice(points): self.dice.randrange(6)} if self.dice.random() < 0.3 else {}
        )

    # The spool.

    def write(self, number: int) -> None:
        """Let one file arrive: mostly good, sometimes bad, once a killer."""
        name = f"{number:04d}.json"
        records = [f"{number}.{n}" for n in range(self.dice.choice([0, 1, 1, 1, 2, 5]))]
        text = CONTENT + "x" * self.dice.choice([5, 50, 300])
        body = json.dumps([{"id": record, "text": text} for record in records])
        bad = self.dice.random() < 0.05
        data = f"// {name}\n{body}".encode()
        if bad:
            data, records = data[:-1] + b"!", []
        elif self.dice.random() < 0.02 and not self.poison and not self.quiet:
            self.poison.add(name)
        self.spool.write(name, data)
        self.history.add(
            self.loop.now, "arrive", name=name, records=records, data=data, bad=bad,
            poison=name in self.poison,
        )  # fmt: skip

    async def produce(self) -> None:
        """Let files arrive in the first part of the safety phase."""
        for number in range(self.dice.randrange(10, 50)):
            self.write(number)
            if self.dice.random() < 0.2:
                await asyncio.sleep(self.dice.uniform(0, 2))

    def source(self, process: Process) -> ScriptedSource:
        """Return the spool as this process sees it."""
        chaos = self.chaos

        def listing(names: list[str]) -> list[str]:
            if chaos.strikes("listing out of order"):
                chaos.dice.shuffle(names)
            if names and chaos.strikes("listing lacks a file"):
                names.pop(chaos.dice.randrange(len(names)))
            return names

        def reading(name: str) -> FileRead | None:
            if name in self.poison:
                process.die("by a file")
            if name not in self.spool.files:  # else it is only not mounted
                self.history.add(self.loop.now, "reread", name=name)
                return None
            if self.spool.shown is not self.spool.home and not self.pinned:
                return None
            if self._is_denied():
                self.history.add(self.loop.now, "denied", name=name)
                return FileRead(name, Unread.DENIED, 0, 0.0, "scripted")
            if chaos.strikes("file written to since it was listed"):
                self.history.add(self.loop.now, "reread", name=name)
                return FileRead(name, b'[{"id', 5, 0.0)
            return None

        source = ScriptedSource(
            self.spool, page_files_max=self.dice.choice([5, 20]), pinned=self.pinned,
            monotonic=lambda: self.loop.now, listing=listing, reading=reading,
            is_unsettled=self._is_unsettled,
        )  # fmt: skip
        return _stepped(source, process)

    # The processes.

    def _is_denied(self) -> bool:
        """Draw whether a file cannot be read now; or no file can, for want of descriptors."""
        if self.chaos.strikes("descriptors gone, reading"):
            raise Again("Too many open files: `ulimit -n`")
        is_hidden = self.loop.now < self.unreadable_until and not self.chaos.calm
        return is_hidden or self.chaos.strikes("file denied")

    def _is_unsettled(self, name: str) -> bool:
        if name not in self.whole and self.chaos.strikes("file still being written"):
            return True
        self.whole.add(name)
        return False

    def ledger(self, process: Process) -> Ledger:
        """Return the ledger as this process sees it."""
        client: Any = Client(self.store, process)
        ledger = Ledger(
            Scripts(client, f"sim{self.seed}", clock=self.store.clock), worker=process.name,
            lease_seconds=LEASE_SECONDS, margin_seconds=2.0, takeovers_max=TAKEOVERS_MAX,
            monotonic=lambda: self.loop.now,
        )  # fmt: skip
        ledger._epoch = _Remembered(self)
        return ledger

    def loader(self, process: Process) -> loader.Loader:
        """Return a worker's parts."""
        ledger = self.ledger(process)
        source: Any = ConfirmedSource(
            self.source(process), ledger.spool.confirm, ledger.spool.missing
        )
        fingerprint = self.settings.fingerprint(self.sqs.limits.message_bytes_max)

        def new_packer(claim: Claim) -> Packer:
            return Packer(
                limits=self.sqs.limits, message_bytes=None, names=claim.names,
                fingerprint=fingerprint + claim.salt, claim=claim.id,
                records_per_message=self.settings.queue.records_per_message,
            )  # fmt: skip

        files_max = self.dice.choice([1, 4, 10])
        filling = Filling(
            self.sqs.limits, self.sqs.limits.message_bytes_max,
            self.settings.queue.records_per_message, files_max,
        )  # fmt: skip
        transform = Transform(*self.middle, max_file_bytes=1_000_000)
        lanes, claim_bytes_max = self.dice.choice([1, 2, 3]), self.dice.choice([500, 100_000])
        return loader.Loader(
            reader=Reader(source, transform, filling, claim_bytes_max, settle_seconds=1),
            candidates=Candidates(
                source, linger_seconds=self.dice.choice([0, 1]), monotonic=lambda: self.loop.now,
                shuffle=self.dice.shuffle,
            ),
            ledger=ledger, queue=ScriptedQueue(self.sqs, process),
            new_packer=new_packer, fingerprint=fingerprint, lanes=lanes, filling=filling,
        )  # fmt: skip

    async def keep(self, kind: str, number: int) -> None:
        """Run one function pass after pass, as a new process after each death."""
        life = 0
        while not self.stop.is_set():
            life += 1
            deaths = self._death(kind, number, life)
            name = f"{kind}{number}.{life}"
            process = Process(name, self.loop, self.chaos, self.history, deaths)
            self.processes.append(process)
            try:
                await self._passes(kind, process)
            except BaseException:
                if not process.is_dead:
                    raise
                if self.chaos.strikes("files unreadable after a death"):
                    self.unreadable_until = self.loop.now + self.dice.uniform(5, 40)
            await asyncio.sleep(self.dice.uniform(0.5, 3))

    async def _passes(self, kind: str, process: Process) -> None:
        parts: Any = None
        while not self.stop.is_set():
            process.living()
            stop = asyncio.Event()
            if self.chaos.strikes("stop"):
                self.loop.call_later(self.dice.uniform(0, 1), stop.set)
            try:
                parts = parts or self._parts(kind, process)
                await self._one_pass(kind, parts, stop)
            except PenstockError:
                parts = None  # opened anew, as `penstock load --every` does
            process.living()
            await asyncio.sleep(self._pause_seconds(kind))

    def _pause_seconds(self, kind: str) -> float:
        """Return how long a function waits between passes; a calm fleet has nothing to hurry for.

        Three quarters of all calls to Redis would otherwise be made while only leases run out.
        """
        calm = (3 if self.spool.files else 10) if self.chaos.calm else 1
        return self.dice.uniform(0.2, 2) * calm * (1 if kind == "loader" else 3)

    def _parts(self, kind: str, process: Process) -> Any:
        if kind == "loader":
            return self.loader(process)
        ledger = self.ledger(process)
        source = ConfirmedSource(self.source(process), ledger.spool.confirm, ledger.spool.missing)
        if kind == "checker":
            return checker.Checker(source, ledger, LEASE_SECONDS, 15.0, self.fifo)
        return archiver.Archiver(source, ledger, 0)

    async def _one_pass(self, kind: str, parts: Any, stop: asyncio.Event) -> None:
        match kind:
            case "loader":
                hurry = self.chaos.strikes("deadline")
                budget_seconds = self.dice.uniform(0, 1) if hurry else math.inf
                await worker.load(parts, stop=stop, budget_seconds=budget_seconds)
            case "checker":
                await checker.check(parts, stop=stop)
            case _:
                await archiver.archive(parts, stop=stop)

    # What happens to Redis and to files.

    async def meddle(self) -> None:
        """Lose Redis once in a while, and let files vanish."""
        snapshot = self.store.snapshot()
        while True:
            await asyncio.sleep(self.dice.uniform(1, 8))
            if self.chaos.strikes("redis wiped"):
                self.forgot = self.epoch
                self.store.lose({})
            elif self.chaos.strikes("redis restored from a snapshot"):
                self.forgot = ""
                self.store.lose(snapshot)
            if self.chaos.strikes("snapshot"):
                snapshot = self.store.snapshot()
            if self.chaos.strikes("ledger key missing"):
                self.store.delete_one(self.dice)
                self.whole_books = False
            self._meddle_with_the_clock()
            if self.chaos.strikes("spool away and back"):
                await self.show(Folder("the mount point"))
            elif self.holds_files() and self.pinned and self.chaos.strikes("spool replaced"):
                names = [*self.dice.sample(sorted(self.spool.files), len(self.spool.files) // 2)]
                files = dict.fromkeys([*names, "other.json"], b'[{"id": "of another spool"}]')
                await self.show(Folder("another", files))

    def _meddle_with_the_clock(self) -> None:
        if self.store.ahead_seconds:
            if self.chaos.strikes("redis clock back"):
                self.store.set_clock(0)
        elif self.chaos.strikes("redis clock ahead"):
            self.store.set_clock(self.dice.choice([30, 7200, 1e8]))
        elif self.chaos.strikes("redis clock behind"):
            self.store.set_clock(-self.dice.choice([30, 7200]))

    def holds_files(self) -> bool:
        """Tell whether the ledger holds files of a spool it knows: else it may take another."""
        keys = ("processing", "processed", "rejected")
        held = self.store.client.exists(*(f"{self.store.prefix}json_files_{key}" for key in keys))
        return bool(held and self.store.client.exists(f"{self.store.prefix}spool"))

    async def show(self, folder: Folder) -> None:
        """Let something else lie at the spool's path for a while."""
        self.spool.shown = folder
        try:
            await asyncio.sleep(self.dice.uniform(1, 12))
        finally:
            self.spool.shown = self.spool.home

    def is_done(self) -> bool:
        """Tell whether every file has left the spool and nobody holds anything."""
        keys = ("leases", "retry", "json_files_processing", "json_files_processed",
                "json_files_rejected", "out_of_spool")  # fmt: skip
        prefixed = [self.store.prefix + key for key in keys]
        return not self.spool.files and not self.store.client.exists(*prefixed)

    async def live(self) -> None:
        """Safety, then liveness."""
        tasks = [
            asyncio.create_task(self.keep(kind, number))
            for kind, count in (("loader", 2), ("checker", 1), ("archiver", 1))
            for number in range(count)
        ]
        meddling = asyncio.create_task(self.meddle())
        await self.produce()
        await asyncio.sleep(SAFETY_SECONDS)
        meddling.cancel()
        self.chaos.calm = True
        until = self.loop.now + LIVENESS_SECONDS
        if self.chaos.fired["redis clock ahead"] or self.chaos.fired["redis clock behind"]:
            self.store.set_clock(0)
            await asyncio.sleep(60)  # each function corrects what is late
            until += 60 + 2 * LEASE_SECONDS_MAX  # a lease that is corrected ends as late as any can
        while self.loop.now < until and not self.is_done():
            await asyncio.sleep(5)
            for task in tasks:
                if task.done():
                    task.result()
        self.stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        calm = Process("end", self.loop, self.chaos, self.history, {})
        reads = self.ledger(calm).reads
        self.laws = await reads.verify() if self.whole_books else ()
        noticed = (await reads.counters()).get("ledger_losses", 0)
        asked = self.store.client.exists(f"{self.store.prefix}epoch")
        if self.forgot and asked and self.whole_books and not noticed:
            self.laws = [*self.laws, "Redis came back empty, and nobody noticed"]

    def end(self) -> End:
        """Return how it ended."""
        prefix = self.store.prefix
        return End(
            queue=self.sqs.records, fifo=self.fifo, spool=set(self.spool.files),
            archived=self.spool.archived, rejected=self.spool.rejected, reasons=self.spool.reasons,
            redis_keys={key.removeprefix(prefix) for key in self.store.held()},
            laws_broken=self.laws, said=self.said, content=CONTENT,
        )  # fmt: skip


class _Remembered(Epoch):
    """The epoch, kept beyond each process as in a file."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        super().__init__()

    def kept(self) -> str:
        return self._fleet.epoch

    def keep(self, name: str) -> None:
        self._fleet.epoch = name


@functools.cache
def _middle() -> Any:
    """Return preamble, decoder and selection: pure, so all processes may share them."""
    return wiring.decode_side(Settings.model_validate({"source": {"url": "/"}}))


def _stepped(source: ScriptedSource, process: Process) -> Any:
    """Return the source with a step before and after what it does."""

    def stepped(name: str, point: str) -> Any:
        async def call(*args: Any) -> Any:
            await process.step(f"{point}.before")
            answer = await getattr(source, name)(*args)
            await process.step(f"{point}.after")
            return answer

        return call

    return SimpleNamespace(
        list=stepped("list", "list"), read=stepped("read", "read"),
        archive=stepped("archive", "archive"), reject=stepped("reject", "archive"),
        delete_archived=source.delete_archived, close=source.close, identity=source.identity,
    )  # fmt: skip


def simulate(seed: int, client: Any, *, quiet: bool = False, canary: str = "") -> Result:
    """Run one seed; the same seed gives the same history."""
    fleet = Fleet(seed, client, quiet=quiet, canary=canary)
    now = SimpleNamespace(monotonic=lambda: fleet.loop.now)
    dice = random.Random(seed + 1)

    def token_hex(size: int) -> str:
        return f"{dice.getrandbits(8 * size):0{2 * size}x}"

    def say(_: int, step: str, *, extra: Mapping[str, object]) -> None:
        fleet.said.append(f"{step} {extra}")

    def quietly(*_: object) -> None:
        """Say nothing of tasks of the killed."""

    tokens = SimpleNamespace(token_hex=token_hex)
    with pytest.MonkeyPatch.context() as patch:
        for module in (loader, worker, checker, archiver, confirmed):
            patch.setattr(module, "time", now)
        patch.setattr(worker, "random", dice)
        patch.setattr(worker, "_IDLE_SECONDS", 1.0)
        patch.setattr(
            archiver, "_FILES_MIN", (1, 3, 500)[seed % 3]
        )  # one batch, or one upon another
        patch.setattr(ledger_module, "secrets", tokens)
        patch.setattr(checker, "secrets", tokens)
        patch.setattr(telemetry, "LOG", SimpleNamespace(log=say))
        fleet.loop.set_exception_handler(quietly)
        try:
            with contextlib.suppress(KilledError):
                run(fleet.loop, fleet.live())
            broken = violations(fleet.history, fleet.end())
            waits = sum(line.startswith("claim.waits ") for line in fleet.said)
            forgot = sum(line.startswith("redis.forgot ") for line in fleet.said)
            seen = {"claim taken over unreadable": waits, "redis empty again, noticed": forgot}
            fleet.chaos.fired.update({what: times for what, times in seen.items() if times})
        finally:
            fleet.store.clear()
    return Result(seed, broken, fleet.chaos.fired, fleet.history, Counter(fleet.sqs.records))
