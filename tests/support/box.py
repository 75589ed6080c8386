"""A whole Penstock for tests: a spool, a real Redis, an SQS stub, and passes of each function."""

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import redis.asyncio as redis

from penstock import archiver, checker, wiring, worker
from penstock.model import Tally
from penstock.operate.observer import Observer
from penstock.operate.snapshot import Snapshot
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from support.sqs_model import Queue
from support.sqs_stub import SqsStub

SECOND = "2026-11-23T06:15:00"


class Box:
    """One spool under `root`; `settings` are what a penstock.toml would say."""

    def __init__(self, root: Path, redis_url: str, stub: SqsStub, queue: Queue) -> None:
        self.root = root
        self.spool = root / "spool"
        self.spool.mkdir(parents=True)
        self.stub = stub
        self.queue = queue
        self.given: dict[str, dict[str, Any]] = {
            "source": {"url": str(self.spool), "settle_seconds": 0},
            "select": {"fields": "{id: id}"},
            "queue": {
                "url": f"{stub.url}/000000000000/{queue.name}",
                "endpoint_url": stub.url,
                "region": "us-east-1",
            },
            "ledger": {"url": redis_url, "spool": root.name[-40:]},
            # Tests run beside each other, and a port is one.
            "run": {"console": "", "state_directory": str(root / "state")},
        }

    def set(self, section: str, **values: Any) -> None:
        """Change settings for the passes that follow."""
        self.given.setdefault(section, {}).update(values)

    @property
    def settings(self) -> Settings:
        """The settings, read as every command reads them."""
        return load(overrides=self.given)

    def toml(self) -> Path:
        """Write the settings as a penstock.toml for commands, and return its path."""
        lines: list[str] = []
        for section, values in self.given.items():
            lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
        path = self.root / "penstock.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def write(self, name: str, data: bytes | str) -> str:
        """Write one file, whole at once as settle_seconds = 0 asks for; return its name."""
        draft = self.root / "draft"
        draft.write_bytes(data.encode() if isinstance(data, str) else data)
        draft.rename(self.spool / name)
        return name

    def write_many(self, count: int, first: int = 0) -> None:
        """Write `count` files of one record each, with ids from `first` on."""
        for i in range(first, first + count):
            self.write(f"{SECOND}.{i:06d}.json", f'// file {i}\n{{"id": {i}, "text": "x"}}')

    async def load(self, stop: asyncio.Event | None = None, budget_seconds: float = 60) -> Tally:
        """Run one pass of the loader with parts of its own, as another process would have."""
        async with AsyncExitStack() as stack:
            parts = await wiring.loader(self.settings, stack)
            return await worker.load(
                parts, stop=stop or asyncio.Event(), budget_seconds=budget_seconds
            )

    async def archive(self) -> archiver.ArchiverTally:
        """Run one pass of the archiver."""
        async with AsyncExitStack() as stack:
            parts = await wiring.archiver(self.settings, stack)
            return await archiver.archive(parts, stop=asyncio.Event())

    async def check(self) -> checker.CheckerTally:
        """Run one pass of the checker."""
        async with AsyncExitStack() as stack:
            parts = await wiring.checker(self.settings, stack)
            return await checker.check(parts, stop=asyncio.Event())

    async def counters(self) -> dict[str, int]:
        """Return what the ledger has counted."""
        async with AsyncExitStack() as stack:
            return await (await wiring.ledger(self.settings, stack)).reads.counters()

    async def sizes(self) -> dict[str, int]:
        """Return how many files the ledger has in each state."""
        async with AsyncExitStack() as stack:
            return await (await wiring.ledger(self.settings, stack)).reads.sizes()

    def look(self) -> Any:
        """Return a client of the ledger's Redis, for a look past the ledger."""
        return redis.from_url(self.given["ledger"]["url"], decode_responses=True)

    def received(self) -> list[Any]:
        """Return every record that lies in the queue, in no order that matters."""
        records: list[Any] = []
        for stored in self.queue.messages():
            body = json.loads(stored.body)
            records += body if isinstance(body, list) else [body]
        return records

    def received_ids(self) -> Counter[int]:
        """Return how often each id lies in the queue."""
        return Counter(record["id"] for record in self.received())

    def reason(self, name: str) -> str:
        """Return the reason kept beside a rejected file."""
        story = json.loads((self.root / "rejected" / f"{name}.reason.json").read_text())
        assert story["file"] == name
        return str(story["reason"])


async def look(box: Box) -> Snapshot:
    """Return what an observer sees at its first look."""
    observer = Observer(box.settings)
    try:
        return await observer.snapshot()
    finally:
        await observer.aclose()
