"""Claims of thousands of files: every verb, and what is given back of them."""

import pytest

from support.books import LEASE_SECONDS, Books, Repeating, claimed, files, settled

NAMES = files(9_000)
MANY = 8_999  # more than Lua unpacks


async def test_a_large_claim_lives_as_a_small_one(books: Books) -> None:
    """Claimed, journalled, taken over, trimmed by nobody any more, committed."""
    worker = books.worker()
    claim = (await worker.claim(NAMES, MANY)).claim
    assert claim is not None
    assert claim.names == tuple(NAMES[:MANY])
    entries = {index: f"id{index} {index}-{index}" for index in range(MANY)}
    assert await worker.journal(claim, entries)
    assert [held.files for held in await worker.reads.claims()] == [MANY]
    await books.pass_seconds(LEASE_SECONDS)
    assert [one.files for one in await worker.expire()] == [MANY]
    again = await claimed(worker, ())
    assert again.names == claim.names
    assert again.journal == {index: f"id{index}" for index in range(MANY)}
    assert not await worker.trim(again, 10)
    fate = settled(again.names, rejected={NAMES[0]: "{}"}, retry_seconds={NAMES[1]: 5})
    assert await worker.commit(again, fate)
    assert (await worker.reads.sizes())["processed"] == MANY - 2
    assert await worker.reads.verify() == []


async def test_what_is_given_back_is_due_at_once_with_what_is_waiting(books: Books) -> None:
    """Nothing is sent of it yet, so that it is not counted anew; the claim is shorter for all."""
    worker = books.worker()
    claim = (await worker.claim(NAMES[:3_000], 3_000)).claim
    assert claim is not None
    assert await worker.trim(claim, 2_000)
    await books.pass_seconds(LEASE_SECONDS)
    assert (await claimed(books.worker("two"), ())).names == tuple(NAMES[:2_000])
    assert await worker.reads.verify() == []
    rest = (await worker.claim(NAMES[3_000:4_000], 1_500)).claim
    assert rest is not None
    assert rest.names == (*NAMES[2_000:3_000], *NAMES[3_000:3_500])
    assert (await worker.reads.counters())["files_seen"] == 3_500
    assert await worker.reads.verify() == []


async def test_a_claim_may_be_given_back_whole(books: Books) -> None:
    """It is over then; asked again, the answer is the same."""
    worker = books.worker()
    claim = await claimed(worker, NAMES[:5])
    assert await worker.trim(claim, 0)
    assert await worker.trim(claim, 0)
    assert await worker.reads.claims() == []
    assert (await worker.reads.states(NAMES[:5])) == ["retry"] * 5
    assert await worker.reads.verify() == []
    assert "trims_refused" not in await worker.reads.counters()


async def test_only_its_owner_trims_a_claim_and_only_before_a_receipt(books: Books) -> None:
    """Messages bear the names of all files of their claim in their ids."""
    worker = books.worker()
    claim = await claimed(worker, NAMES[:5])
    await books.pass_seconds(LEASE_SECONDS)
    again = await claimed(books.worker("two"), ())
    assert not await worker.trim(claim, 3)
    assert await worker.journal(again, {0: "id 0-0"})
    assert not await worker.trim(again, 3)
    assert (await worker.reads.counters())["trims_refused"] == 2


async def test_too_few_files_make_no_claim(books: Books) -> None:
    """Those that are waiting are told, those that somebody has are not."""
    worker = books.worker()
    await claimed(worker, NAMES[:2])
    answer = await worker.claim(NAMES[:4], 10, least=3)
    assert (answer.claim, answer.looked_up, list(answer.waiting)) == (None, 4, [2, 3])
    answer = await worker.claim(NAMES[:6], 3, least=3)
    assert answer.claim is not None
    assert answer.claim.names == tuple(NAMES[2:5])
    assert list(answer.waiting) == [5]


async def test_few_files_that_are_due_wait_for_others_but_not_for_ever(books: Books) -> None:
    """What a claim gave back goes into the next full one, or alone when it has waited."""
    worker = books.worker()
    assert await worker.trim(await claimed(worker, NAMES[:5]), 0)
    for _ in range(2):
        answer = await worker.claim((), 10, least=6, due_for_seconds=1)
        assert answer.claim is None
        await books.pass_seconds(0.9)
    answer = await worker.claim((), 10, least=6, due_for_seconds=1)
    assert answer.claim is not None
    assert answer.claim.names == tuple(NAMES[:5])


async def test_a_large_worn_claim_is_split_in_parts_and_these_in_files(books: Books) -> None:
    """Two deaths more split a part; nobody's good files are a claim each by the thousand."""
    worker = books.worker(takeovers_max=1)
    claim = await claimed(worker, NAMES[:250])
    assert await worker.journal(claim, {0: "id0 0-9"})
    await books.pass_seconds(LEASE_SECONDS)
    last = await claimed(worker, ())
    assert await worker.journal(last, {0: "id0 0-9"})
    await books.pass_seconds(LEASE_SECONDS)
    part = await claimed(worker, ())
    assert (part.names, part.attempt) == (tuple(NAMES[10:110]), 1)
    others = [await claimed(worker, ()) for _ in range(2)]
    assert [len(other.names) for other in others] == [100, 40]
    for other in others:
        assert await worker.commit(other, settled(other.names))
    await books.pass_seconds(LEASE_SECONDS)
    again = await claimed(worker, ())
    assert (again.names, again.attempt) == (part.names, 2)
    await books.pass_seconds(LEASE_SECONDS)
    assert len((await claimed(worker, ())).names) == 1
    assert len(await worker.reads.claims()) == 100
    assert await worker.reads.verify() == []


@pytest.mark.parametrize("kept", [0, 2])
async def test_trimming_twice_changes_nothing_more(books: Books, kept: int) -> None:
    """redis-py sends a command again when its reply was lost."""
    client = Repeating(books.client)
    worker = books.worker(client=client)
    claim = await claimed(worker, NAMES[:5])
    assert await worker.trim(claim, kept)
    assert client.repeated[-1] == (1, 1)
    assert (await worker.reads.counters())["files_trimmed"] == 5 - kept
    assert await worker.reads.verify() == []


async def test_no_more_candidates_are_looked_at_than_a_claim_needs(books: Books) -> None:
    """Some belong to others: more are offered than wanted. What was not looked at is untried."""
    worker = books.worker()
    await claimed(worker, NAMES[:900:2])
    answer = await worker.claim(NAMES[:3_000], 600)
    assert answer.claim is not None
    others = set(NAMES[:900:2])
    free = [name for name in NAMES[:3_000] if name not in others]
    assert list(answer.claim.names) == free[:600]
    assert answer.looked_up == 1_500
    assert [NAMES[at] for at in answer.waiting] == free[600 : 1_500 - 450]
    assert answer.free == (1_500 - 450) / 1_500
    answer = await worker.claim(NAMES[:900], 900, least=900)
    assert (answer.claim, list(answer.waiting), answer.free) == (None, [], 0.0)
    assert (await worker.claim([], 1, least=1)).free is None, "nothing was looked at"
    assert await worker.reads.verify() == []
