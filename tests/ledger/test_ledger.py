"""The ledger's verbs, each on the real scripts: what they do, refuse, and answer when repeated."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.ledger.ledger import Ledger
from penstock.model import Claim
from support.books import LEASE_SECONDS, Books, Repeating, claimed, files, settled

A, B, C = files(3)


async def test_waiting_candidates_are_claimed_in_their_order(books: Books) -> None:
    """A first claim is all that was asked for, attempt 1, with nothing in its journal."""
    claim = await claimed(books.worker(), [B, A, C])
    assert (claim.names, claim.attempt, claim.journal) == ((B, A, C), 1, {})


@pytest.mark.parametrize(("files", "together"), [(900, 8), (2_500, 4), (6_000, 1)])
async def test_lanes_call_over_some_thousands_of_files_at_a_time(
    books: Books, monkeypatch: pytest.MonkeyPatch, files: int, together: int
) -> None:
    """Eight lanes do not have Redis busy with all of their claims in a row; small ones may."""
    worker, running, most = books.worker(), 0, 0
    run = worker._run

    async def counting(verb: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        nonlocal running, most
        running += verb in {"claim", "commit"}
        most = max(most, running)
        await asyncio.sleep(0.001)
        answer = await run(verb, keys, args)
        running -= verb in {"claim", "commit"}
        return answer

    async def lane(number: int) -> None:
        names = [f"{number}.{at}.json" for at in range(files)]
        claim = (await worker.claim(names, files)).claim
        assert claim is not None
        assert await worker.commit(claim, settled(claim.names))

    monkeypatch.setattr(worker, "_run", counting)
    await asyncio.gather(*map(lane, range(8)))
    assert most == together


async def test_claimed_files_are_not_claimed_again(books: Books) -> None:
    """The second of two workers with the same listing gets what the first one left."""
    await claimed(books.worker("one"), [A, B])
    claim = await claimed(books.worker("two"), [A, B, C])
    assert claim.names == (C,)


async def test_nothing_waiting_is_no_claim(books: Books) -> None:
    """A claim of nothing, or of files in other hands, is None; the candidates count as tried."""
    worker = books.worker()
    nothing = await worker.claim((), 500)
    await claimed(worker, [A])
    taken = await worker.claim([A], 500)
    assert (nothing.claim, nothing.tried) == (None, True)
    assert (taken.claim, taken.tried) == (None, True)


async def test_an_expired_claim_is_taken_over_whole(books: Books) -> None:
    """The successor gets the same names in the same order, a new token, and the journal."""
    first = await claimed(books.worker("one"), [B, A], fingerprint="old")
    await books.worker("one").journal(first, {0: "id0 0-0", 2: "id2 "})
    await books.pass_seconds(LEASE_SECONDS)
    answer = await books.worker("two").claim([C], 500, fingerprint="new")
    second = answer.claim
    assert second is not None
    assert not answer.tried
    assert (second.id, second.names, second.attempt) == (first.id, (B, A), 2)
    assert second.journal == {0: "id0", 2: "id2"}
    assert second.token != first.token
    assert second.fingerprint == "old"


async def test_a_long_journal_is_kept_whole(books: Books) -> None:
    """As many messages as files of a claim hold records; Redis takes no 8,000 values at once."""
    entries = {index: f"id{index} " for index in range(5_000)}
    claim = await claimed(books.worker("one"), [A])
    assert await books.worker("one").journal(claim, entries)
    await books.pass_seconds(LEASE_SECONDS)
    taken = (await books.worker("two").claim((), 500)).claim
    assert taken is not None
    assert taken.journal == {index: f"id{index}" for index in range(5_000)}


async def test_a_live_claim_is_not_taken_over(books: Books) -> None:
    """One millisecond before its end a lease still protects its claim."""
    await claimed(books.worker("one"), [A])
    await books.pass_seconds(LEASE_SECONDS - 0.001)
    assert (await books.worker("two").claim([A], 500)).claim is None


async def test_a_former_owner_can_do_nothing(books: Books) -> None:
    """Late renew, journal, commit and release are refused, counted, and change nothing else."""
    one, two = books.worker("one"), books.worker("two")
    late = await claimed(one, [A, B])
    await books.pass_seconds(LEASE_SECONDS)
    await claimed(two, ())
    before = await books.everything()
    assert not await one.renew(late)
    assert not await one.journal(late, {0: "x 0-1"})
    assert not await one.commit(late, settled([A, B]))
    assert not await one.release(late)
    after = await books.everything()
    counted = await one.reads.counters()
    verbs = ("renewals", "journals", "commits", "releases")
    refused = [counted[f"{verb}_refused"] for verb in verbs]
    assert refused == [1, 1, 1, 1]
    before.pop("counters")
    after.pop("counters")
    assert before == after


async def test_a_freed_owner_can_do_nothing(books: Books) -> None:
    """What the checker took from its owner is refused just so, before anybody took it over."""
    one = books.worker("one")
    late = await claimed(one, [A])
    await books.pass_seconds(LEASE_SECONDS)
    assert [expired.claim for expired in await books.worker("checker").expire()] == [late.id]
    assert not await one.renew(late)
    assert not await one.commit(late, settled([A]))


async def test_a_late_worker_against_its_successor(books: Books) -> None:
    """The successor's commit holds; the late commit adds neither counters nor states."""
    one, two = books.worker("one"), books.worker("two")
    late = await claimed(one, [A, B])
    await books.pass_seconds(LEASE_SECONDS)
    successor = await claimed(two, ())
    assert await two.commit(successor, settled([A, B], rejected={A: "{}"}))
    assert not await one.commit(late, settled([A, B]))
    assert await one.reads.states([A, B]) == ["rejected", "processed"]
    assert (await one.reads.counters())["files_processed"] == 1


async def test_the_checker_against_a_live_but_slow_worker(books: Books) -> None:
    """A worker that renews in time is left alone, however long it holds its claim."""
    slow, checker = books.worker("slow"), books.worker("checker")
    claim = await claimed(slow, [A])
    for _ in range(10):
        await books.pass_seconds(LEASE_SECONDS - 1)
        assert await slow.renew(claim)
        assert await checker.expire() == []
    assert await slow.commit(claim, settled([A]))


async def test_renew_starts_the_lease_anew(books: Books) -> None:
    """After a renewal the claim is safe for a whole lease from then on."""
    one = books.worker("one")
    claim = await claimed(one, [A])
    await books.pass_seconds(LEASE_SECONDS - 1)
    assert await one.renew(claim)
    await books.pass_seconds(LEASE_SECONDS - 1)
    assert (await books.worker("two").claim((), 500)).claim is None


async def test_commit_gives_each_file_its_state(books: Books) -> None:
    """Processed, rejected, vanished and waiting for a retry, all in one act."""
    worker = books.worker()
    names = files(4)
    claim = await claimed(worker, names)
    fate = settled(
        names, vanished=[names[1]], rejected={names[2]: "{}"}, retry_seconds={names[3]: 5}
    )
    assert await worker.commit(claim, fate)
    assert await worker.reads.states(names) == ["processed", "waiting", "rejected", "retry"]
    assert await worker.reads.sizes() == {
        "processing": 0, "processed": 1, "archived": 0, "rejected": 1, "retry": 1, "claims": 0,
    }  # fmt: skip
    assert await worker.reads.verify() == []


async def test_a_retry_is_due_when_its_time_has_come(books: Books) -> None:
    """A file put back is not claimed before its time, listed or not; then it comes first."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [A]), settled([A], retry_seconds={A: 5}))
    assert (await worker.claim([A], 500)).claim is None
    await books.pass_seconds(5)
    answer = await worker.claim([B], 500)
    assert answer.claim is not None
    assert answer.claim.names == (A, B)


async def test_an_expired_claim_comes_before_a_retry(books: Books) -> None:
    """What may be half sent is finished first: SQS FIFO forgets after five minutes."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [A]), settled([A], retry_seconds={A: 5}))
    await claimed(worker, [B])
    await books.pass_seconds(LEASE_SECONDS)
    assert (await claimed(worker, [C])).names == (B,)
    assert (await claimed(worker, [C])).names == (A, C)


async def test_at_most_so_many_retries_make_one_claim(books: Books) -> None:
    """Files that are due together are claimed in portions of files_max."""
    worker = books.worker()
    names = files(5)
    await worker.commit(
        await claimed(worker, names), settled(names, retry_seconds=dict.fromkeys(names, 1.0))
    )
    await books.pass_seconds(1)
    sizes = [len((await worker.claim((), 2)).claim.names) for _ in range(3)]  # type: ignore[union-attr]
    assert sizes == [2, 2, 1]


async def test_release_frees_at_once_and_is_no_failed_attempt(books: Books) -> None:
    """A worker that stops cleanly leaves its claim to the next, journal and attempt count kept."""
    one = books.worker("one")
    claim = await claimed(one, [A, B])
    await one.journal(claim, {0: "id0 0-0"})
    assert await one.release(claim)
    successor = await claimed(books.worker("two"), ())
    assert (successor.names, successor.attempt, successor.journal) == ((A, B), 1, {0: "id0"})


async def test_expire_reports_each_claim_once(books: Books) -> None:
    """The checker learns id, worker, attempt, overdue time and files; a second look finds none."""
    claim = await claimed(books.worker("gone"), [A, B])
    await books.pass_seconds(LEASE_SECONDS + 2.5)
    checker = books.worker("checker")
    assert await checker.expire() == [(claim.id, "gone", 1, 2.5, 2)]
    assert await checker.expire() == []
    assert (await claimed(checker, ())).attempt == 2


async def test_archived_files_are_remembered_for_a_minute(books: Books) -> None:
    """A stale listing cannot bring an archived file back; after a minute its name is free again."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [A, B]), settled([A, B], rejected={B: "{}"}))
    assert await worker.upkeep.archived([A, B]) == 2
    assert await worker.reads.states([A, B]) == ["archived", "archived"]
    await books.pass_seconds(59)
    assert await worker.upkeep.forget() == 0
    assert (await worker.claim([A, B], 500)).claim is None
    await books.pass_seconds(1)
    assert await worker.upkeep.forget() == 2
    assert (await claimed(worker, [A])).names == (A,)
    assert await worker.reads.verify() == []


async def test_any_number_of_files_is_noted(books: Books) -> None:
    """More than one script may take are noted in several calls, and each file is counted once."""
    worker = books.worker()
    names = [f"{i:04}.json" for i in range(500)]
    for at in range(0, 500, 250):
        part = names[at : at + 250]
        await worker.commit(await claimed(worker, part), settled(part))
    assert (
        await worker.upkeep.archived([*names, *(f"other-{name}" for name in names), "last.json"])
        == 500
    )
    assert (await worker.reads.sizes())["archived"] == 1_001
    assert await worker.upkeep.archived(names) == 0
    assert await worker.upkeep.archived([]) == 0


async def test_the_archiver_sees_what_to_move(books: Books) -> None:
    """Processed names come oldest first, after those skipped; rejects with their JSON."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [B]), settled([B]))
    await books.pass_seconds(1)
    await worker.commit(await claimed(worker, [A, C]), settled([A, C], rejected={C: '{"x":1}'}))
    assert await worker.reads.processed(0, 500) == [B, A]
    assert await worker.reads.processed(0, 1) == [B]
    assert await worker.reads.processed(1, 500) == [A]
    assert await worker.reads.rejected(0) == (0, {C: '{"x":1}'})


async def test_a_wiped_redis_is_another_epoch(books: Books) -> None:
    """A worker notices that everything was forgotten by the epoch in the next answer."""
    worker = books.worker()
    before = await worker.claim([A], 500)
    assert (await worker.claim([B], 500)).epoch == before.epoch
    await books.forget_all()
    assert (await worker.claim([A], 500)).epoch != before.epoch


async def test_a_redis_restored_from_a_snapshot_is_another_epoch(books: Books) -> None:
    """A worker that knew of a claim of another one, which Redis has forgotten, notices, once."""
    worker = books.worker()
    first = await worker.claim([A], 500)
    snapshot = await books.snapshot()
    await claimed(books.worker("other"), [B])
    await worker.claim((), 500)
    await books.restore(snapshot)
    after = await worker.claim([C], 500)
    assert after.epoch != first.epoch
    assert (await worker.claim((), 500)).epoch == after.epoch


async def test_a_stale_commit_after_a_wipe_is_refused(books: Books) -> None:
    """A claim that Redis has forgotten cannot be committed: its files are claimed anew."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    await books.forget_all()
    assert not await worker.commit(claim, settled([A]))
    assert (await claimed(worker, [A])).names == (A,)


@pytest.fixture
def doubled(books: Books) -> tuple[Ledger, Repeating]:
    """Return a worker whose scripts all run twice, and the record of their answers."""
    client = Repeating(books.client)
    return books.worker("doubled", client=client), client


async def test_every_script_run_twice_changes_nothing_more(
    books: Books, doubled: tuple[Ledger, Repeating]
) -> None:
    """A whole life of claims with every script repeated ends as the same life without."""
    worker, client = doubled
    names = files(6)

    async def live(ledger: Ledger) -> Any:
        one = await claimed(ledger, names[:3])
        assert one.names == tuple(names[:3])
        await ledger.journal(one, {0: "id0 0-0"})
        await ledger.renew(one)
        assert await ledger.release(one)
        again = await claimed(ledger, ())
        assert (again.names, again.attempt, again.journal) == (one.names, 1, {0: "id0"})
        fate = settled(again.names, rejected={again.names[1]: "{}"}, retry_seconds={A: 1})
        assert await ledger.commit(again, fate)
        await books.pass_seconds(1)
        due = await claimed(ledger, names)
        assert due.names == (A, *names[3:])
        assert await ledger.trim(due, 1)
        due = due.of_first(1)
        await books.pass_seconds(LEASE_SECONDS)
        expired = await ledger.expire()
        assert [(e.claim, e.files) for e in expired] == [(due.id, 1)]
        last = await claimed(ledger, ())
        assert (last.names, last.attempt) == ((A,), 2)
        assert await ledger.commit(last, settled([A]))
        await ledger.upkeep.archived([A])
        await books.pass_seconds(60)
        await ledger.upkeep.forget()
        await ledger.upkeep.sweep("s", names)
        await books.pass_seconds(LEASE_SECONDS)
        await ledger.upkeep.sweep("s", names)
        await ledger.upkeep.swept("s", 10)
        await ledger.upkeep.prune()
        return {
            key: value
            for key, value in (await books.everything()).items()
            if not key.startswith(("call:", "epoch", "workers", "suspects", "claims_given"))
        }

    twice = await live(worker)
    await books.forget_all()
    books.now_ms -= int((1 + 2 * LEASE_SECONDS + 60) * 1000)
    await books.start()
    assert twice == await live(books.worker("single"))
    assert len(client.repeated) >= 15


@pytest.mark.parametrize("verb", ["commit", "release"])
async def test_a_settling_act_answers_its_repetition_as_the_first_time(
    doubled: tuple[Ledger, Repeating], verb: str
) -> None:
    """Commit and release say yes again to the same token, and count nothing twice."""
    worker, client = doubled
    claim = await claimed(worker, [A])
    act = worker.commit(claim, settled([A])) if verb == "commit" else worker.release(claim)
    assert await act
    assert client.repeated[-1] == (1, 1)
    assert f"{verb}s_refused" not in await worker.reads.counters()


async def test_a_claim_repeated_gets_the_same_claim(
    books: Books, doubled: tuple[Ledger, Repeating]
) -> None:
    """A re-sent claim takes no second portion: new, retried and taken over alike."""
    worker, _ = doubled
    new = await claimed(worker, [A, B])
    await books.pass_seconds(LEASE_SECONDS)
    taken = await claimed(worker, [C])
    assert (taken.names, taken.attempt) == ((A, B), 2)
    assert (await worker.reads.sizes())["claims"] == 1
    assert new.token != taken.token


async def test_a_claim_delivered_late_takes_nothing(books: Books) -> None:
    """A copy of the command that arrives after the claim was committed makes no orphan."""
    worker = books.worker()
    sent: list[tuple[Any, dict[str, Any]]] = []

    class Recording(Repeating):
        def register_script(self, text: str) -> Any:
            script = self._client.register_script(text)

            async def once(**given: Any) -> object:
                sent.append((script, given))
                return await script(**given)

            return once

    recorded = books.worker("r", client=Recording(books.client))
    claim = await claimed(recorded, [A])
    script, given = sent[-1]
    given["args"] = [*given["args"][:-1], B]
    await worker.commit(claim, settled([A]))
    assert (await script(**given))[0] == "late"
    assert (await worker.reads.sizes())["claims"] == 0


async def test_a_flushed_script_cache_costs_nothing(books: Books) -> None:
    """After SCRIPT FLUSH every verb loads its script again and goes on."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    for verb in (
        worker.renew(claim),
        worker.journal(claim, {0: "x "}),
        worker.commit(claim, settled([A])),
    ):
        await books.client.script_flush()
        assert await verb
    await books.client.script_flush()
    assert await worker.expire() == []
    assert await worker.upkeep.archived([A]) == 1


async def test_two_claims_at_once_share_nothing(books: Books) -> None:
    """Twenty workers racing for the same page get disjoint claims that cover it."""
    names = files(400)
    workers = [books.worker(f"w{n}") for n in range(20)]
    portions = [names[n * 10 : n * 10 + 40] for n in range(20)]
    answers = await asyncio.gather(
        *(w.claim(p, 500) for w, p in zip(workers, portions, strict=True))
    )
    got = [name for answer in answers if answer.claim for name in answer.claim.names]
    assert sorted(got) == sorted(set(got)) == names[:230]


def test_a_claim_never_shows_its_token() -> None:
    """What a log or an error may print of a claim proves nothing to anybody."""
    claim = Claim("id", "secret", (A,), 1, {})
    assert "secret" not in f"{claim} {claim!r}"


async def test_answers_that_overtake_each_other_are_no_loss(books: Books) -> None:
    """Two lanes of one worker claim at once, and the later answer is read first."""
    worker = books.worker()
    one, two, three = files(3)
    first_read = asyncio.Event()
    run = worker._run

    async def overtaken(verb: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        answer = await run(verb, keys, args)
        if one in args:
            await first_read.wait()
        return answer

    worker._run = overtaken
    slow = asyncio.create_task(worker.claim([one], 500))
    while not await worker.reads.counters():
        await asyncio.sleep(0)
    epochs = {(await worker.claim([two], 500)).epoch}
    first_read.set()
    epochs |= {(await slow).epoch, (await worker.claim([three], 500)).epoch}
    assert len(epochs) == 1


class Beats:
    """The clock of a heartbeat: each sleep lets time pass, for the worker and for Redis."""

    def __init__(self, books: Books, beats: int) -> None:
        self._books = books
        self._left = beats
        self.now = 1000.0
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; after the last beat, for ever."""
        if not self._left:
            self.over.set()
            await asyncio.Event().wait()
        self._left -= 1
        self.now += seconds
        await self._books.pass_seconds(seconds)


async def test_a_heartbeat_keeps_the_lease(books: Books) -> None:
    """Held for three leases, a claim is still its owner's, who may send until the margin."""
    beats = Beats(books, 9)
    worker = books.worker(sleep=beats.sleep, monotonic=lambda: beats.now)
    claim = await claimed(worker, [A])
    async with worker.holding(claim, since_seconds=1000.0) as lease:
        assert lease.send_before() == 1000 + LEASE_SECONDS - 11
        await beats.over.wait()
        assert lease.send_before() == 1000 + 3 * LEASE_SECONDS + LEASE_SECONDS - 11
        assert not lease.is_lost
    assert (await books.worker("two").claim((), 500)).claim is None


async def test_a_refused_renewal_loses_the_lease(books: Books) -> None:
    """A worker whose claim was freed learns it at its next beat, and sends nothing more."""
    beats = Beats(books, 1)
    worker = books.worker(sleep=beats.sleep, monotonic=lambda: beats.now)
    claim = await claimed(worker, [A])
    await books.pass_seconds(LEASE_SECONDS)
    await books.worker("checker").expire()
    async with worker.holding(claim, since_seconds=1000.0) as lease:
        while not lease.is_lost:
            await asyncio.sleep(0)
        assert lease.send_before() < beats.now


async def test_a_lease_runs_out_by_itself_while_redis_is_away(books: Books) -> None:
    """Renewals that fail move nothing: the worker stops sending in time without being told."""
    beats = Beats(books, 3)
    worker = books.worker(sleep=beats.sleep, monotonic=lambda: beats.now)
    claim = await claimed(worker, [A])

    async def away(verb: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        raise ConnectionError(verb, keys, args)

    worker._run = away
    async with worker.holding(claim, since_seconds=1000.0) as lease:
        await beats.over.wait()
        assert lease.send_before() == 1000 + LEASE_SECONDS - 11 < beats.now
        assert not lease.is_lost
