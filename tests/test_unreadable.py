"""A claim taken over from a dead worker cannot be read: nothing of it is sent twice."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import wiring
from penstock.ledger.begun import Begun
from penstock.ledger.ledger import Ledger
from penstock.ledger.outcome import ClaimOutcome
from penstock.model import Claim, Message, QueueLimits, RecordReject, Transformed
from penstock.sqs.client import SqsClient, SqsReply
from penstock.sqs.packer import Packer
from support.box import Box
from support.messages import CLAIM

Deny = Callable[[str], bool]


class KilledError(BaseException):
    """The worker is gone."""


class Denied:
    """Which files cannot be opened: those whose name `of` is true for."""

    def __init__(self) -> None:
        self.of: Deny = lambda _: False
        self.opened: list[str] = []


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Denied]:
    """Yield what decides which files of the spool cannot be opened."""
    state, real = Denied(), os.open

    def opening(path: Any, *args: int, dir_fd: int | None = None) -> int:
        if str(path).endswith(".json"):
            state.opened.append(str(path))
            if state.of(str(path)):
                raise PermissionError(13, "Permission denied")
        return real(path, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opening)
    yield state
    monkeypatch.undo()


@pytest.fixture(params=["standard", "fifo"])
def any_box(request: pytest.FixtureRequest) -> Box:
    """Return a box with either kind of queue; one lane, two calls at a time."""
    box: Box = request.getfixturevalue("box" if request.param == "standard" else "fifo_box")
    box.set("queue", records_per_message=1, connections=2)
    box.set("worker", lanes=1)
    return box


async def die_midway(box: Box, monkeypatch: pytest.MonkeyPatch, journalled: int) -> None:
    """Let a worker send a claim, and die when that many of its messages are journalled."""
    real, noted = Ledger.journal, 0

    async def journal(self: Ledger, claim: Claim, confirmed: dict[int, str]) -> bool:
        nonlocal noted
        noted += len(confirmed)
        if noted > journalled:
            raise KilledError  # SQS has the batch, and nobody is told
        return await real(self, claim, confirmed)

    sending = SqsClient.call

    async def call(self: SqsClient, target: str, body: bytes) -> SqsReply:
        if noted > journalled:
            raise KilledError
        return await sending(self, target, body)

    async def never(*_: object, **__: object) -> bool:
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "journal", journal)
        patch.setattr(Ledger, "release", never)
        patch.setattr(SqsClient, "call", call)
        with pytest.raises(BaseExceptionGroup):
            await box.load()
    await expire(box)


async def expire(box: Box) -> None:
    """Let every lease be over, and every wait."""
    async with box.look() as client:
        key = f"penstock:{{{box.given['ledger']['spool']}}}:leases"
        for claim in await client.zrange(key, 0, -1):
            await client.zadd(key, {claim: 1})


async def claims(box: Box) -> Sequence[Any]:
    """Return the claims as they stand."""
    async with AsyncExitStack() as stack:
        return await (await wiring.ledger(box.settings, stack)).reads.claims()


async def test_files_that_cannot_be_read_are_not_sent_again(
    any_box: Box, denied: Denied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal has is processed unread; the rest keeps its ids until it can be read."""
    box = any_box
    box.write_many(120)
    await die_midway(box, monkeypatch, 100)
    in_flight = len(box.received()) - 100
    assert in_flight >= 10
    denied.of = lambda _: True
    assert (await box.load()).files_processed == 0
    sizes = await box.sizes()
    assert (sizes["processed"], sizes["processing"], sizes["retry"]) == (100, 20, 0)
    (claim,) = await claims(box)
    assert (claim.worker, claim.overdue_seconds < 0) == ("", True)
    assert "Permission denied" in claim.waits_for
    denied.opened.clear()
    assert (await box.load()).claims == 0
    assert not denied.opened  # it waits: nobody looks at it in the meantime
    await box.archive()
    denied.of = lambda _: False
    await expire(box)
    tally = await box.load()
    assert (tally.files_processed, len(denied.opened)) == (20, 20)
    copies = box.received_ids()
    assert copies.keys() == set(range(120))
    repeats = copies.total() - 120
    assert repeats == (0 if box.queue.fifo else in_flight)
    assert repeats <= tally.possible_repeats <= (0 if box.queue.fifo else 20)
    assert (
        len({stored.attributes["penstock_id"]["StringValue"] for stored in box.queue.messages()})
        == 120
    )
    assert (await box.check()).laws_broken == 0
    assert (await box.counters())["files_processed"] == 120


async def test_one_file_that_is_sent_holds_up_no_other(
    any_box: Box, denied: Denied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor need not read it: it goes on behind what SQS has."""
    any_box.write_many(120)
    await die_midway(any_box, monkeypatch, 100)
    denied.of = lambda name: name.endswith("000042.json")
    assert (await any_box.load()).files_processed == 120
    assert any_box.received_ids().keys() == set(range(120))
    if any_box.queue.fifo:
        assert any_box.received_ids().total() == 120
    assert (await any_box.check()).laws_broken == 0


async def test_only_what_stands_behind_an_unreadable_file_waits(
    any_box: Box, denied: Denied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its messages were sent nobody knows, so the next ones keep their numbers."""
    any_box.write_many(150)
    await die_midway(any_box, monkeypatch, 100)
    any_box.set("worker", claim_bytes_max=1)  # files are read one by one
    denied.of = lambda name: name.endswith("000145.json")
    assert (await any_box.load()).files_processed == 0
    assert any_box.received_ids().keys() == set(range(145))
    assert (await any_box.sizes())["processing"] == 50
    await expire(any_box)
    await any_box.load()
    assert (await any_box.sizes())["processing"] == 5
    denied.of = lambda _: False
    await expire(any_box)
    await any_box.load()
    assert any_box.received_ids().keys() == set(range(150))
    if any_box.queue.fifo:
        assert any_box.received_ids().total() == 150
    assert (await any_box.check()).laws_broken == 0


async def test_a_new_claim_lets_an_unreadable_file_go(box: Box, denied: Denied) -> None:
    """Nothing was sent of it: its neighbours are not held up."""
    box.write_many(3)
    denied.of = lambda name: name.endswith("000001.json")
    assert (await box.load()).files_processed == 2
    assert (await box.sizes())["retry"] == 1


NAMES = tuple(f"{n:03d}.json" for n in range(8))


@given(
    st.lists(st.lists(st.integers(0, 700), max_size=5), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["many", 1]),
    st.data(),
)
def test_whoever_goes_on_behind_a_message_makes_the_same_next_ones(
    sizes: list[list[int]], bad: set[int], per_message: Literal["many", 1], data: st.DataObject
) -> None:
    """Reading no file that is complete, from any message on, with records rejected or too large."""

    def carried(begun: Begun) -> tuple[ClaimOutcome, list[Message]]:
        outcome = ClaimOutcome(NAMES)
        packer = Packer(
            limits=QueueLimits(message_bytes_max=1024), message_bytes=None, names=NAMES,
            records_per_message=per_message, fingerprint="", claim=CLAIM,
        )  # fmt: skip
        packer.go_on(begun.messages, begun.file, begun.records)
        for position in (at for run in begun.left(len(sizes)) for at in run):
            records = [b'"' + b"x" * size + b'"' for size in sizes[position]]
            rejects = [(position, RecordReject(99, "no object"))] if position in bad else []
            positions, indexes = [position] * len(records), range(len(records))
            done = Transformed(positions, records, indexes, 0, rejects)
            outcome.pack(done, packer.add_all(positions, records))
        outcome.sent_before(packer.sent_before)
        return outcome, packer.rest()

    first, messages = carried(Begun())
    confirmed = data.draw(st.integers(0, len(messages)))
    noted = {m.index: first.journal_entry(m) for m in messages[:confirmed]}
    begun = Begun.of(noted, "", len(sizes))
    again, rest = carried(begun)
    assert [(m.index, m.id) for m in rest] == [(m.index, m.id) for m in messages[confirmed:]]
    assert [again.journal_entry(m) for m in rest] == [
        first.journal_entry(m) for m in messages[confirmed:]
    ]
    whole, left = (outcome.settled(attempt=1, now="").rejected.keys() for outcome in (first, again))
    alone = {NAMES[at] for at in begun.passed_over(len(sizes))}  # of these there was no record
    assert left == whole - alone
    assert not {NAMES[at] for at in begun.complete} & whole
    again.confirm(rest)
    counted = Counter(again.settled(attempt=1, now="").counters)
    assert counted["records_read"] == counted["records_sent"] + counted["records_rejected"]
