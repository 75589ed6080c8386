"""Receipts on their way to the journal: together where they can, and told of in time."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import pytest

from penstock.errors import Again
from penstock.ledger.receipts import Receipts
from penstock.model import Claim

CLAIM = Claim("claim", "token", ("a", "b"), 1, {})


class SlowBook:
    """A ledger that answers when it is told to, in order: True, False or an error a call."""

    def __init__(self) -> None:
        self.calls: list[Mapping[int, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._answers: asyncio.Queue[bool | Exception] = asyncio.Queue()

    async def journal(self, claim: Claim, confirmed: Mapping[int, str]) -> bool:
        """Note the call; wait for its answer."""
        assert claim is CLAIM
        self.calls.append(dict(confirmed))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = await self._answers.get()
        finally:
            self._at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answer(self, answer: bool | Exception = True) -> None:  # noqa: FBT001, FBT002
        """Answer the call that waits; return when all that follows from it has happened."""
        self._answers.put_nowait(answer)
        await _settled()


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Batches:
    """Batches of one claim, each noted by a task of its own."""

    def __init__(self, receipts: Receipts) -> None:
        self.receipts = receipts
        self.tasks: list[asyncio.Task[bool]] = []

    async def note(self, *indexes: int) -> None:
        """Note a batch of each index."""
        for index in indexes:
            entries = {index: f"id{index} "}
            self.tasks.append(asyncio.create_task(self.receipts.note(entries)))
        await _settled()

    def done(self) -> list[bool]:
        """Tell of each batch whether it has returned."""
        return [task.done() for task in self.tasks]


@pytest.fixture
def book() -> SlowBook:
    """Return a ledger."""
    return SlowBook()


@pytest.fixture
async def batches(book: SlowBook) -> AsyncGenerator[Batches]:
    """Give batches whose receipts go to the ledger; what still waits at the end is cancelled."""
    made = Batches(Receipts(book.journal, CLAIM))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_what_comes_during_a_call_goes_together_in_the_next(
    book: SlowBook, batches: Batches
) -> None:
    """The first batch goes at once; the two that come meanwhile make one more call, not two."""
    await batches.note(0)
    await batches.note(1, 2)
    assert book.calls == [{0: "id0 "}]
    await book.answer()
    assert book.calls == [{0: "id0 "}, {1: "id1 ", 2: "id2 "}]
    await book.answer()
    assert [task.result() for task in batches.tasks] == [True] * 3
    assert book.most_at_once == 1


async def test_no_batch_returns_before_it_is_noted(book: SlowBook, batches: Batches) -> None:
    """A call that was under way when a batch came says nothing of that batch."""
    await batches.note(0)
    await batches.note(1)
    await book.answer()
    assert batches.done() == [True, False]
    await batches.note(2)
    await book.answer()
    assert batches.done() == [True, True, False]
    await book.answer()
    assert batches.done() == [True] * 3


async def test_a_lost_claim_reaches_every_batch_of_the_call(
    book: SlowBook, batches: Batches
) -> None:
    """All that went together are told that somebody else owns the claim, and nobody asks again."""
    await batches.note(0)
    await batches.note(1, 2, 3)
    await book.answer()
    await book.answer(answer=False)
    assert [task.result() for task in batches.tasks] == [True, False, False, False]
    assert len(book.calls) == 2


async def test_an_error_reaches_every_batch_of_the_call(book: SlowBook, batches: Batches) -> None:
    """None of them is noted; what comes later is tried anew."""
    await batches.note(0)
    await batches.note(1, 2)
    await book.answer()
    await batches.note(3)
    await book.answer(Again("Redis cannot be reached"))
    await book.answer()
    first, *failed, last = batches.tasks
    assert (first.result(), last.result()) == (True, True)
    for task in failed:
        with pytest.raises(Again, match="cannot be reached"):
            task.result()
    assert len(book.calls) == 3


async def test_a_batch_that_is_cancelled_leaves_no_other_behind(
    book: SlowBook, batches: Batches
) -> None:
    """Where the batch that makes the call is cancelled in it, the next one makes it again."""
    await batches.note(0)
    await batches.note(1, 2)
    await book.answer()
    await batches.note(3)
    batches.tasks[1].cancel()
    await _settled()
    await book.answer()
    await book.answer()
    assert [task.result() for at, task in enumerate(batches.tasks) if at != 1] == [True] * 3
    assert book.calls[1:] == [{1: "id1 ", 2: "id2 "}, {1: "id1 ", 2: "id2 "}, {3: "id3 "}]
