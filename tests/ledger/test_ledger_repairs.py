"""Files put back for another pass: held, due, refused, and what was said of them kept with them."""

import pytest

from penstock.ledger.repairs import FORGET_AFTER_SECONDS, HOLD_SECONDS
from penstock.model import PutBack
from support.books import LEASE_SECONDS, Books, claimed, files, settled

A, B, C = files(3)
SAID = PutBack("operator", "salt", None)


async def archived(books: Books, *names: str) -> None:
    """Take files through the ledger until they are out of the spool, and long so."""
    worker = books.worker()
    await worker.commit(await claimed(worker, names), settled(names))
    await worker.upkeep.archived(names)
    await books.pass_seconds(FORGET_AFTER_SECONDS)


async def test_a_held_file_is_nobodys_until_it_is_put_back(books: Books) -> None:
    """While it is moved no worker gets it, listed or not; then it is due at once, with the word."""
    worker = books.worker()
    await archived(books, A)
    assert await worker.repairs.hold({A: SAID}) == {A: "held"}
    assert (await worker.claim([A], 500)).claim is None
    assert await worker.repairs.put_back([A], {}) == 1
    claim = await claimed(worker, [])
    assert (claim.names, claim.put_back) == ((A,), {A: SAID})
    assert claim.salt == f"{A}=salt/"
    assert await worker.reads.verify() == []


async def test_what_was_said_is_frozen_with_the_claim(books: Books) -> None:
    """Whoever takes the claim over is told the same, and nobody any more once it is settled."""
    worker = books.worker()
    await archived(books, A, B)
    said = {A: PutBack("operator", "", (0, 7)), B: SAID}
    await worker.repairs.hold(said)
    await worker.repairs.put_back([A, B], {})
    first = await claimed(worker, [])
    await books.pass_seconds(LEASE_SECONDS)
    second = await claimed(books.worker("two"), [])
    assert (first.put_back, second.put_back) == (said, said)
    assert await books.worker("two").commit(second, settled(second.names))
    assert "put_back" not in await books.everything()


async def test_a_file_looked_at_again_keeps_what_was_said_of_it(books: Books) -> None:
    """A file that could not be read yet goes back in line with its word, alone."""
    worker = books.worker()
    await archived(books, A, B)
    await worker.repairs.hold({A: SAID, B: SAID})
    await worker.repairs.put_back([A, B], {})
    claim = await claimed(worker, [])
    await worker.commit(claim, settled(claim.names, retry_seconds={A: 5}))
    await books.pass_seconds(5)
    assert (await claimed(worker, [])).put_back == {A: SAID}


async def test_an_isolated_file_keeps_what_was_said_of_it(books: Books) -> None:
    """A claim that wears out its workers is split, and each single claim is told of its file."""
    worker = books.worker()
    await archived(books, A, B)
    await worker.repairs.hold({A: SAID, B: SAID})
    await worker.repairs.put_back([A, B], {})
    claim = await claimed(worker, [])
    for _ in range(4):
        await books.pass_seconds(LEASE_SECONDS)
        claim = await claimed(worker, [])
    assert len(claim.names) == 1
    assert claim.put_back == {claim.names[0]: SAID}


@pytest.mark.parametrize("state", ["processing", "processed", "rejected", "retry", "leaving"])
async def test_a_file_that_the_ledger_knows_is_not_put_back(books: Books, state: str) -> None:
    """It is in somebody's hands, or an archiver may be at it: refused, and nothing changes."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    if state != "processing":
        fate = settled(
            [A],
            rejected={A: "{}"} if state == "rejected" else None,
            retry_seconds={A: 5} if state == "retry" else None,
        )
        await worker.commit(claim, fate)
    if state == "leaving":
        await worker.upkeep.archived([A])
    before = await books.everything()
    answer = await worker.repairs.hold({A: SAID})
    assert answer[A].split()[0] == state
    assert await books.everything() == before


async def test_hold_and_put_back_answer_their_repetition_as_the_first_time(books: Books) -> None:
    """A command sent again because its reply was lost changes nothing more, in the counters too."""
    worker = books.worker()
    await archived(books, A, B)
    files_held = {A: SAID, B: SAID}
    assert await worker.repairs.hold(files_held) == await worker.repairs.hold(files_held)
    once = await worker.repairs.put_back([A], {B: SAID})
    before = await books.everything()
    assert await worker.repairs.put_back([A], {B: SAID}) == once
    assert await books.everything() == before
    assert await worker.reads.verify() == []


async def test_what_could_not_be_moved_is_let_go_of(books: Books) -> None:
    """Its name is free again: a file of that name is a new one, of which nothing was said."""
    worker = books.worker()
    await archived(books, A)
    await worker.repairs.hold({A: SAID})
    await worker.repairs.put_back([], {A: SAID})
    assert (await claimed(worker, [A])).put_back == {}
    assert await worker.reads.verify() == []


async def test_another_operators_hold_is_left_alone(books: Books) -> None:
    """The second of two gets no file that the first one has, and lets go of none of them."""
    worker = books.worker()
    await archived(books, A)
    await worker.repairs.hold({A: SAID})
    other = PutBack("other")
    assert await worker.repairs.hold({A: other}) == {A: "retry"}
    await worker.repairs.put_back([], {A: other})
    await books.pass_seconds(HOLD_SECONDS)
    assert (await claimed(worker, [])).put_back == {A: SAID}


async def test_an_operator_who_died_holds_nothing_for_ever(books: Books) -> None:
    """After the hold a worker looks: the file is gone, counted as vanished, its name free again."""
    worker = books.worker()
    await archived(books, A)
    await worker.repairs.hold({A: SAID})
    await books.pass_seconds(HOLD_SECONDS)
    claim = await claimed(worker, [])
    await worker.commit(claim, settled([A], vanished=[A]))
    assert await worker.repairs.hold({A: SAID}) == {A: "held"}
    assert await worker.reads.verify() == []


async def test_the_last_hour_is_counted_minute_by_minute(books: Books) -> None:
    """Each minute has its own counts, and none is kept for longer than an hour."""
    worker = books.worker()
    for minute in range(70):
        name = files(1, first=minute)
        await worker.commit(await claimed(worker, name), settled(name))
        await worker.upkeep.archived(name)
        await books.pass_seconds(60)
    seen = await worker.overview.read()
    counts = [counted["files_processed"] for counted in seen.minutes.values()]
    assert len(counts) == 60 - 1  # the minute that runs has none yet
    assert set(counts) == {1}
    assert await books.client.hlen(books.prefix + "minutes") <= 2 * 61
