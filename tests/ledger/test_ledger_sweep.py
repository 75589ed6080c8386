"""What the checker needs of the ledger: sweeps, ages, workers, conservation."""

from support.books import LEASE_SECONDS, START_MS, Books, claimed, files, settled

A, B, C = files(3)


async def test_a_file_seen_waiting_for_a_lease_is_put_in_line(books: Books) -> None:
    """The first sweep only remembers it; a sweep a lease later hands it to the workers, once."""
    checker, worker = books.worker("checker"), books.worker()
    assert await checker.upkeep.sweep("s", [A]) == 0
    await books.pass_seconds(LEASE_SECONDS - 0.001)
    assert await checker.upkeep.sweep("s", [A]) == 0
    await books.pass_seconds(0.001)
    assert await checker.upkeep.sweep("s", [A]) == 1
    assert await checker.upkeep.sweep("s", [A]) == 0
    assert (await claimed(worker, ())).names == (A,)
    assert await worker.reads.verify() == []


async def test_a_file_that_somebody_took_up_is_left_alone(books: Books) -> None:
    """Between two sweeps most files are claimed in the ordinary way."""
    checker, worker = books.worker("checker"), books.worker()
    names = files(4)
    assert await checker.upkeep.sweep("s", names) == 0
    fate = settled(names[:3], rejected={names[1]: "{}"}, retry_seconds={names[2]: 1000})
    await worker.commit(await claimed(worker, names[:3]), fate)
    await claimed(worker, [names[3]])
    await books.pass_seconds(LEASE_SECONDS - 1)
    assert await checker.upkeep.sweep("s", names) == 0
    assert "overlooked" not in await books.everything()


async def test_one_sweeper_at_a_time(books: Books) -> None:
    """A second sweeper is refused until the first one ends, and for a pause after that."""
    checker = books.worker("checker")
    assert await checker.upkeep.sweep("one", ()) == 0
    assert await checker.upkeep.sweep("two", ()) is None
    await checker.upkeep.swept("one", pause_seconds=300)
    assert await checker.upkeep.sweep("two", ()) is None
    await books.pass_seconds(300)
    assert await checker.upkeep.sweep("two", ()) == 0


async def test_a_dead_sweepers_lease_runs_out(books: Books) -> None:
    """The next one goes on after a lease; the first one, should it wake, is refused."""
    checker = books.worker("checker")
    await checker.upkeep.sweep("dead", ())
    await books.pass_seconds(LEASE_SECONDS)
    assert await checker.upkeep.sweep("next", ()) == 0
    assert await checker.upkeep.sweep("dead", [A]) is None
    await checker.upkeep.swept("dead", pause_seconds=1000)
    assert await checker.upkeep.sweep("next", [A]) == 0


async def test_sweeping_remembers_at_most_so_many_names(books: Books) -> None:
    """A backlog of any size costs a bounded amount of memory."""
    checker = books.worker("checker")
    for first in range(0, 10_500, 500):
        await checker.upkeep.sweep("s", files(500, first))
    assert await books.client.zcard(f"{books.prefix}overlooked") == 10_000


async def test_claims_are_told_by_age(books: Books) -> None:
    """The oldest comes first, with its worker, age and time to or since the end of its lease."""
    one, two = books.worker("one"), books.worker("two")
    old = await claimed(one, [A, B])
    await books.pass_seconds(30)
    unsettled = await claimed(two, [C])
    await books.pass_seconds(10)
    assert await one.reads.claims() == [
        (old.id, "one", 1, 40.0, -20.0, 2, ""),
        (unsettled.id, "two", 1, 10.0, -50.0, 1, ""),
    ]
    await two.release(unsettled)
    await books.pass_seconds(25)
    await one.expire()
    assert await one.reads.claims() == [
        (old.id, "", 1, 65.0, 5.0, 2, ""),
        (unsettled.id, "", 1, 35.0, 25.0, 1, ""),
    ]
    assert len(await one.reads.claims(1)) == 1


async def test_workers_are_known_since_their_first_claim(books: Books) -> None:
    """Each worker has the time of its first and of its last claim, and is pruned when silent."""
    one, two = books.worker("one"), books.worker("two")
    began = START_MS / 1000
    await one.claim((), 500)
    await books.pass_seconds(500)
    await two.claim((), 500)
    await one.claim((), 500)
    await books.pass_seconds(300)
    await one.claim((), 500)
    assert await one.reads.workers() == {
        "one": (began, began + 800),
        "two": (began + 500, began + 500),
    }
    await books.pass_seconds(400)
    assert await one.upkeep.prune() == 1
    assert list(await one.reads.workers()) == ["one"]


async def test_the_frontier_is_kept_for_the_next_worker(books: Books) -> None:
    """A cursor goes along with a claim and is read by whoever starts."""
    worker = books.worker()
    assert await worker.reads.frontier() == ""
    await worker.claim((), 500)
    await worker.claim((), 500, frontier="page-7")
    assert await worker.reads.frontier() == "page-7"


async def test_a_worker_whose_files_were_forgotten_cannot_set_the_frontier(books: Books) -> None:
    """After a wipe or a restored snapshot its cursor is of another history."""
    worker = books.worker()
    await worker.claim([A], 500, frontier="1")
    snapshot = await books.snapshot()
    await worker.claim([B], 500, frontier="2")
    await books.restore(snapshot)
    await worker.claim([C], 500, frontier="3")
    assert await worker.reads.frontier() == ""
    await worker.claim((), 500, frontier="4")
    assert await worker.reads.frontier() == "4"
    await books.forget_all()
    await worker.claim((), 500, frontier="5")
    assert await worker.reads.frontier() == ""


async def test_a_broken_law_is_told(books: Books) -> None:
    """A file that comes from nowhere shows in the books, with the difference."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [A]), settled([A]))
    assert await worker.reads.verify() == []
    await books.client.zadd(f"{books.prefix}json_files_processed", {B: 1})
    laws = await worker.reads.verify()
    assert [law.rpartition(" ")[2] for law in laws] == ["-1", "-1"]
