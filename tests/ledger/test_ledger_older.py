"""Claims of version 0.1, which kept them under `claims` and their journals among their fields."""

from support.books import Books, claimed, files

A, B, C = files(3)


async def leave(books: Books, until_ms: int, claim: str = "old") -> None:
    """Leave a claim of two files as a worker of version 0.1 does, one message journalled."""
    key = f"{books.prefix}claim:{claim}"
    fields = {
        "names": f"{A}/{B}", "token": "t", "worker": "w", "attempt": "1", "fingerprint": "f",
        "made_ms": str(books.now_ms), "#0": "id0 0-0", "~1": "id1 ",
    }  # fmt: skip
    await books.client.hset(key, mapping=fields)
    await books.client.zadd(f"{books.prefix}claims", {claim: until_ms})
    await books.client.hset(f"{books.prefix}json_files_processing", mapping={A: claim, B: claim})
    await books.client.hset(f"{books.prefix}counters", "files_seen", 2)


async def test_what_an_older_worker_left_is_finished_with_its_journal(books: Books) -> None:
    """Its lease is over: the claim is ours, and what SQS has of it is known."""
    worker = books.worker()
    await leave(books, books.now_ms - 1)
    assert await worker.upkeep.adopt() == 0
    claim = await claimed(worker, [C])
    assert (claim.id, claim.names, claim.journal) == ("old", (A, B), {0: "id0", 1: "id1"})
    assert claim.tried
    assert not await books.client.exists(f"{books.prefix}claims")
    assert await worker.reads.verify() == []


async def test_what_an_older_worker_holds_is_left_to_it(books: Books) -> None:
    """Nobody else claims its files, and they are no orphans, until its lease is over."""
    worker = books.worker()
    await leave(books, books.now_ms + 5000)
    assert await worker.upkeep.adopt() == 1
    answer = await worker.claim([A, B], 10)
    assert answer.claim is None
    assert await worker.reads.verify() == []
    await books.pass_seconds(5)
    assert await worker.upkeep.adopt() == 0
    assert await books.client.hget(f"{books.prefix}claim:old", "token") == ""
    assert (await claimed(worker, ())).names == (A, B)


async def test_many_are_taken_over_at_once(books: Books) -> None:
    """And one that nobody can go on with is let go of: its files are orphans."""
    worker = books.worker()
    for number in range(25):
        await leave(books, books.now_ms - 1, f"old{number}")
    await books.client.zadd(f"{books.prefix}claims", {"lost": 1})
    assert await worker.upkeep.adopt() == 0
    assert (await worker.reads.sizes())["claims"] == 25
