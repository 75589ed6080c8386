"""Messages are full while there is enough to fill them, and nothing is lost or doubled for it."""

import asyncio
import contextlib
import json
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from penstock import wiring, worker
from penstock.errors import Again
from penstock.ledger.ledger import Ledger
from support.box import Box
from support.sqs_model import size_of


@pytest.mark.parametrize(("records", "text_bytes"), [(1, 10_000), (7, 3_000)])
async def test_messages_of_a_backlog_are_full(box: Box, records: int, text_bytes: int) -> None:
    """All but the last ones of a worker, however many records a file has."""
    box.set("worker", lanes=1)
    box.set("select", fields="{id: id, text: text}")
    files, text = 1_000, "x" * text_bytes
    for number in range(files):
        several = [f'{{"id": {number * records + n}, "text": "{text}"}}' for n in range(records)]
        box.write(f"20261123T062745.{number:06d}.json", f"[{','.join(several)}]")
    tally = await box.load()
    assert box.received_ids() == dict.fromkeys(range(files * records), 1)
    sizes = sorted(size_of(stored.body, stored.attributes) for stored in box.queue.messages())
    assert len(sizes) > 8
    assert sizes[2] > 0.9 * 1_048_576  # but for the last one, and what that gave back
    assert tally.bytes_room == len(sizes) * 1_048_576
    assert tally.bytes_sent == sum(sizes)
    assert (await box.check()).laws_broken == 0


async def test_the_first_claims_are_right_too(box: Box) -> None:
    """One lane learns first what files give: little is claimed only to be given back."""
    box.set("worker", lanes=4)
    box.set("select", fields="{id: id, text: text}")
    text = "x" * 10_000
    for number in range(800):
        box.write(f"20261123T062745.{number:06d}.json", f'{{"id": {number}, "text": "{text}"}}')
    tally = await box.load()
    assert box.received_ids() == dict.fromkeys(range(800), 1)
    assert tally.messages <= 8 + 3
    assert (await box.counters())["files_trimmed"] <= 100


async def test_files_that_trickle_in_wait_for_each_other(box: Box) -> None:
    """With a linger, ten passes' worth of files are one message; alone, they are sent at once."""
    box.set("queue", linger_seconds=1.0)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(box.settings, stack, linger_seconds=0.5)
        box.write_many(1)
        working = asyncio.create_task(worker.load(parts, stop=stop))
        for number in range(1, 10):
            await asyncio.sleep(0.03)
            box.write_many(1, number)
        tally = await working
    assert (tally.files_processed, tally.messages) == (10, 1)
    box.write_many(1, 10)
    assert (await box.load()).messages == 1
    assert box.received_ids() == dict.fromkeys(range(11), 1)


async def test_a_successor_of_a_trimmed_claim_sends_the_same_messages(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker died when its first message was accepted, and not yet journalled."""
    box.set("queue", message_bytes=5_000)
    box.set("ledger", lease_seconds=5)
    box.set("worker", lanes=1)
    box.write_many(700)

    async def cut(*_: object, **__: object) -> bool:
        raise Again("scripted")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "journal", cut)
        patch.setattr(Ledger, "release", cut)
        with contextlib.suppress(Again):
            await box.load()
    assert box.queue.messages()
    await asyncio.sleep(5.1)
    tally = await box.load()
    assert tally.claims_taken_over > 0
    bodies = {m.attributes["penstock_id"]["StringValue"]: m.body for m in box.queue.messages()}
    assert len(bodies) < len(box.queue.messages())
    once = [record["id"] for body in bodies.values() for record in json.loads(body)]
    assert Counter(once) == dict.fromkeys(range(700), 1)
    assert (await box.check()).laws_broken == 0


async def test_a_claim_is_read_no_further_than_its_messages_need(box: Box) -> None:
    """Files turn out to give far more than those before: the rest is given back unread."""
    box.set("queue", message_bytes=5_000)
    box.set("worker", lanes=1, claim_bytes_max=20_000)
    box.set("select", fields="{id: id, text: text}")
    for number in range(500):
        box.write(f"20261123T062745.{number:06d}.json", f'{{"id": {number}, "text": "x"}}')
    for number in range(500, 600):
        text = "x" * 2_000
        box.write(f"20261123T062746.{number:06d}.json", f'{{"id": {number}, "text": "{text}"}}')
    tally = await box.load()
    assert tally.files_processed == 600
    assert box.received_ids() == dict.fromkeys(range(600), 1)
    assert (await box.check()).laws_broken == 0
