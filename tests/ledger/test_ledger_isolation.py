"""A claim whose workers die is split, and a file that goes on killing them is rejected."""

import dataclasses
import json

import pytest

from penstock.ledger.ledger import Ledger
from penstock.model import Claim
from support.books import LEASE_SECONDS, Books, Repeating, claimed, files, settled

A, B, C, D = files(4)
DEATHS = 4  # with the default of three takeovers: one worker and three successors


async def die(books: Books, ledger: Ledger, times: int = DEATHS) -> Claim:
    """Let so many workers take the next claim and die with it; return it as the last one had it."""
    claim = await claimed(ledger, ())
    for _ in range(times - 1):
        await books.pass_seconds(LEASE_SECONDS)
        claim = await claimed(ledger, ())
    await books.pass_seconds(LEASE_SECONDS)
    return claim


async def start(books: Books, ledger: Ledger) -> Claim:
    """Claim three files, and let the first worker die with them."""
    claim = await claimed(ledger, [A, B, C])
    await books.pass_seconds(LEASE_SECONDS)
    return claim


async def test_a_claim_taken_over_three_times_is_split(books: Books) -> None:
    """The fifth worker gets one of its files alone, and so do the next two: nobody waits."""
    worker = books.worker()
    await start(books, worker)
    assert (await die(books, worker, times=3)).attempt == DEATHS
    alone = [await claimed(worker, ()) for _ in range(3)]
    assert sorted(claim.names for claim in alone) == [(A,), (B,), (C,)]
    assert {claim.attempt for claim in alone} == {1}
    assert await worker.reads.verify() == []


async def test_fewer_takeovers_split_nothing(books: Books) -> None:
    """The fourth worker still gets the claim whole."""
    worker = books.worker()
    await start(books, worker)
    await die(books, worker, times=2)
    assert (await claimed(worker, ())).names == (A, B, C)


async def test_the_limit_is_a_setting(books: Books) -> None:
    """With takeovers_max of one the second successor finds the claim split."""
    worker = books.worker(takeovers_max=1)
    await start(books, worker)
    await die(books, worker, times=1)
    assert len((await claimed(worker, ())).names) == 1


async def test_clean_releases_never_split_a_claim(books: Books) -> None:
    """Deployments and deadlines kill no file: any number of releases leaves the claim whole."""
    worker = books.worker()
    await claimed(worker, [A, B])
    for _ in range(10):
        claim = await claimed(worker, ()) if _ else None
        if claim:
            await worker.release(claim)
        else:
            await books.pass_seconds(LEASE_SECONDS)
    last = await claimed(worker, ())
    assert (last.names, last.attempt) == ((A, B), 2)


async def test_files_whose_every_message_is_confirmed_are_committed(books: Books) -> None:
    """The last owner's journal says which files are complete; only the others are tried alone."""
    worker = books.worker()
    await start(books, worker)
    last = await claimed(worker, ())
    await books.pass_seconds(LEASE_SECONDS)
    last = await die(books, worker, times=2)
    await worker.journal(last, {0: "id0 0-0", 1: "id1 1-1"})
    alone = await claimed(worker, ())
    assert alone.names == (C,)
    assert await worker.reads.states([A, B, C]) == ["processed", "processed", "processing"]
    assert (await worker.reads.counters())["files_processed"] == 2
    assert await worker.reads.verify() == []


async def test_a_gap_in_the_journal_ends_what_is_known_complete(books: Books) -> None:
    """A file may go on in a message that is not confirmed: without 0 nothing is complete."""
    worker = books.worker()
    await start(books, worker)
    last = await die(books, worker, times=3)
    await worker.journal(last, {1: "id1 0-2"})
    assert (await worker.isolate(last.id)) == (0, 0, 3)


async def test_what_an_earlier_owner_confirmed_is_trusted_only_if_it_was_made_again(
    books: Books,
) -> None:
    """Entries of two owners may be of different messages: together they prove nothing."""
    worker = books.worker()
    first = await claimed(worker, [A, B, C])
    await worker.journal(first, {1: "old1 1-2"})
    await books.pass_seconds(LEASE_SECONDS)
    last = await die(books, worker, times=3)
    assert last.journal == {1: "old1"}
    await worker.journal(last, {0: "new0 0-0"})
    assert (await worker.isolate(last.id)) == (1, 0, 2)


async def test_a_file_that_kills_alone_is_rejected_with_the_reason(books: Books) -> None:
    """After as many deaths alone the file is rejected; the others were long processed."""
    worker = books.worker()
    await start(books, worker)
    await die(books, worker, times=3)
    poison = None
    for _ in range(3):
        claim = await claimed(worker, ())
        if claim.names == (B,):
            poison = claim
        else:
            assert await worker.commit(claim, settled(claim.names))
    assert poison is not None
    await books.pass_seconds(LEASE_SECONDS)
    await die(books, worker, times=3)
    assert (await worker.claim((), 500)).claim is None
    _, rejected = await worker.reads.rejected(0)
    reason = json.loads(rejected[B])
    assert reason["reason"] == "its worker died 4 times"
    assert (reason["file"], reason["attempt"], reason["records"]) == (B, 4, [])
    assert await worker.reads.states([A, B, C]) == ["processed", "rejected", "processed"]
    assert await worker.reads.verify() == []


async def test_the_checker_isolates_as_well(books: Books) -> None:
    """What the checker frees for the fourth time it splits; a worker then finds single files."""
    worker, checker = books.worker(), books.worker("checker")
    await start(books, worker)
    await die(books, worker, times=3)
    freed = await checker.expire()
    assert [claim.attempt for claim in freed] == [DEATHS]
    assert await checker.isolate(freed[0].claim) == (0, 0, 3)
    assert len((await claimed(worker, ())).names) == 1


async def test_a_live_claim_is_never_split(books: Books) -> None:
    """Not by the checker, however often it was taken over: its owner may be nearly done."""
    worker = books.worker()
    await start(books, worker)
    await die(books, worker, times=2)
    last = await claimed(worker, ())
    assert await worker.isolate(last.id) == (0, 0, 0)
    assert await worker.commit(last, settled(last.names))


async def test_isolating_twice_answers_the_same(books: Books) -> None:
    """A lost reply does not hide what was done: the second run says it again, and does no more."""
    client = Repeating(books.client)
    worker, checker = books.worker(), books.worker("checker", client=client)
    await start(books, worker)
    last = await die(books, worker, times=3)
    assert await checker.isolate(last.id) == (0, 0, 3)
    assert client.repeated[-1] == ("[0,0,3]", "[0,0,3]")
    assert (await worker.reads.sizes())["claims"] == 3
    assert await worker.isolate("never-made") == (0, 0, 0)


@pytest.mark.parametrize("name", ['a"b.json', "a\\b.json", "é.json", "a b.json"])
async def test_any_name_makes_a_valid_reason(books: Books, name: str) -> None:
    """The reason is JSON whatever characters the file's name has."""
    worker = books.worker(takeovers_max=1)
    await claimed(worker, [name])
    await books.pass_seconds(LEASE_SECONDS)
    await die(books, worker, times=1)
    await claimed(worker, [A])
    _, rejected = await worker.reads.rejected(0)
    assert json.loads(rejected[name])["file"] == name


async def test_a_worker_holds_one_suspect_at_a_time(books: Books) -> None:
    """Neighbours of a killer in other lanes are not blamed along with it again and again."""
    gone, worker = books.worker("gone"), books.worker()
    await claimed(gone, [A])
    await claimed(gone, [B])
    await books.pass_seconds(LEASE_SECONDS)
    suspect = await claimed(worker, [C])
    fresh = await claimed(worker, [C])
    assert (suspect.attempt, fresh.names, fresh.attempt) == (2, (C,), 1)
    assert (await worker.claim((), 500)).claim is None
    assert await worker.commit(suspect, settled(suspect.names))
    assert (await claimed(worker, ())).attempt == 2


async def test_released_claims_are_no_suspects(books: Books) -> None:
    """What was given back cleanly is taken up by any lane at once, behind suspects or not."""
    gone, worker = books.worker("gone"), books.worker()
    await claimed(gone, [A])
    await claimed(gone, [B])
    for name in (C, D):
        await gone.release(await claimed(gone, [name]))
        await claimed(books.worker("idle"), ()) if name == C else None
    await books.pass_seconds(LEASE_SECONDS)
    attempts = [(await claimed(worker, ())).attempt for _ in range(2)]
    assert sorted(attempts) == [1, 2]


async def test_a_claim_whose_files_cannot_be_read_waits_longer_each_time(books: Books) -> None:
    """Nobody has it meanwhile; it is whole, with its journal, when its time has come; no death."""
    worker, checker = books.worker(), books.worker("checker")
    await start(books, worker)
    pauses: list[int] = []
    for _ in range(8):
        claim = await claimed(worker, ())
        assert (claim.names, claim.journal, claim.tried) == ((A, B, C), {}, True)
        assert await worker.release(claim, waits_for="b: denied")
        assert [held.waits_for for held in await worker.reads.claims()] == ["b: denied"]
        pauses.append(0)
        while (await worker.claim((), 500)).claim is None:
            pauses[-1] += 1
            await books.pass_seconds(1)
            if pauses[-1] > 60:
                break
            assert await checker.expire() == []
        # As if it had never been asked for: it is released as it was.
        (held,) = await worker.reads.claims()
        await books.client.zadd(f"{books.prefix}leases", {held.claim: 0})
        await books.client.hset(f"{books.prefix}claim:{held.claim}", "released", 1)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert (await claimed(worker, ())).attempt == 2


@pytest.mark.parametrize("end", ["commit", "isolate"])
async def test_files_processed_without_the_others_are_their_claims_no_more(
    books: Books, end: str
) -> None:
    """Neither its commit nor its end touches them, though their names may have come again."""
    worker = books.worker(client=Repeating(books.client))
    first = await claimed(worker, [A, B, C])
    await worker.journal(first, {0: "id0 0-1 2:0 "})
    await books.pass_seconds(LEASE_SECONDS)
    claim = await claimed(worker, ())
    assert await worker.release(claim, waits_for="c: denied", processed="0-1")
    assert await worker.reads.states([A, B, C]) == ["processed", "processed", "processing"]
    assert await worker.reads.verify() == []
    await worker.upkeep.archived([A, B])
    await books.pass_seconds(61)
    await worker.upkeep.forget()
    other = await claimed(books.worker("other"), [A, B], frontier="")
    while other.names == (A, B, C):  # the one that waited, first
        claim, other = other, await claimed(books.worker("other"), [A, B])
    assert (claim.done, claim.noted, other.names) == (",0-0,1-1", {0: "id0 0-1 2:0 "}, (A, B))
    if end == "commit":
        assert await worker.commit(claim, settled([C]))
        assert await worker.reads.states([A, B, C]) == ["processing", "processing", "processed"]
    else:
        assert await worker.commit(other, settled([A, B]))
        for _ in range(DEATHS):
            await books.pass_seconds(LEASE_SECONDS)
            claim = await claimed(worker, ())
        assert claim.names == (C,)
        assert await worker.reads.states([A, B, C]) == ["processed", "processed", "processing"]
    assert await worker.reads.verify() == []


async def test_who_goes_on_keeps_what_was_noted(books: Books) -> None:
    """Its own entries continue those of the dead owner; who makes all anew sets them aside."""
    worker = books.worker()
    first = await claimed(worker, [A, B, C])
    await worker.journal(first, {0: "id0 0-0 1:0 "})
    for goes_on, noted in (
        (True, {0: "id0 0-0 1:0 ", 1: "id1 1-1 2:0 "}),
        (False, {1: "id1 1-1 2:0 "}),
    ):
        await worker.release(first)
        first = await claimed(worker, ())
        await worker.journal(dataclasses.replace(first, goes_on=goes_on), {1: "id1 1-1 2:0 "})
        await worker.release(first)
        first = claim = await claimed(worker, ())
        assert (claim.noted, claim.journal) == (noted, {0: "id0", 1: "id1"})
