"""The ledger through redis-py, batched as in production, at one Redis.

    python bench/ledger.py [--files 400000] [--lanes 4] [--workers 2] [--rounds 5]

Prints files claimed and committed per second (targets: 400,000 each), beside a floor of the
same rounds: the same writes and look-ups as bare commands of the same size, without a script, a
token, an owner or an answer that is kept. What the machine allows today is the floor; what the
ledger costs is the ratio. Then the ledger's share of the time from a listing to the first claim
with 1,000 and with 1,000,000 processed files that still lie in the spool (target: within 1.5x).
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio as redis
import uvloop

from penstock.embedded.redis import EmbeddedRedis
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts
from penstock.model import Claim, Settled

CLAIM_FILES = 500


def ledger(url: str, spool: str, worker: str) -> Ledger:
    """Return a ledger as a worker has it."""
    client: Any = redis.from_url(url, decode_responses=True)
    return Ledger(Scripts(client, spool), worker=worker, lease_seconds=60, margin_seconds=11)


def names(first: int, count: int) -> list[str]:
    """Return file names as the mission's producer makes them."""
    return [
        f"20261123T{n // 3_600_000_000:02d}2745.{n % 1_000_000_000:09d}.json"
        for n in range(first, first + count)
    ]


async def claim_all(book: Ledger, portions: Sequence[Sequence[str]], lanes: int) -> list[Claim]:
    """Claim each portion, several at a time; return the claims."""
    claims: list[Claim] = []
    todo = iter(portions)

    async def lane() -> None:
        for portion in todo:
            answer = await book.claim(portion, CLAIM_FILES)
            if answer.claim is not None:
                claims.append(answer.claim)

    await asyncio.gather(*(lane() for _ in range(lanes)))
    return claims


async def commit_all(book: Ledger, claims: Sequence[Claim], lanes: int) -> None:
    """Commit each claim, several at a time."""
    todo = iter(claims)

    async def lane() -> None:
        for claim in todo:
            counters = {"files_processed": len(claim.names), "messages": 2, "batches": 1}
            if not await book.commit(claim, Settled((), {}, {}, counters)):
                raise RuntimeError("a commit was refused")

    await asyncio.gather(*(lane() for _ in range(lanes)))


async def _bare_claim(client: Any, portions: Sequence[Sequence[str]], lanes: int) -> None:
    """Do what any claim must: look in two dictionaries, write into one."""
    todo = iter(portions)

    async def lane() -> None:
        for number, portion in enumerate(todo):
            async with client.pipeline(transaction=False) as pipe:
                pipe.hmget("bare:processing", portion)
                pipe.zmscore("bare:processed", portion)
                pipe.hset("bare:processing", mapping=dict.fromkeys(portion, f"claim-{number}"))
                await pipe.execute()

    await asyncio.gather(*(lane() for _ in range(lanes)))


async def _bare_commit(client: Any, portions: Sequence[Sequence[str]], lanes: int) -> None:
    """Do what any commit must: move the names from one dictionary to the other."""
    todo = iter(portions)

    async def lane() -> None:
        for portion in todo:
            async with client.pipeline(transaction=False) as pipe:
                pipe.zadd("bare:processed", dict.fromkeys(portion, 1_800_000_000_000))
                pipe.hdel("bare:processing", *portion)
                await pipe.execute()

    await asyncio.gather(*(lane() for _ in range(lanes)))


def _bare(url: str, number: int, files: int, lanes: int, at: Any, out: Any) -> None:
    async def main() -> None:
        client: Any = redis.from_url(url, decode_responses=True)
        await client.ping()
        mine = names(number * files, files)
        portions = [mine[i : i + CLAIM_FILES] for i in range(0, files, CLAIM_FILES)]
        at.wait()
        began = time.monotonic()
        await _bare_claim(client, portions, lanes)
        claimed = time.monotonic()
        at.wait()
        restarted = time.monotonic()
        await _bare_commit(client, portions, lanes)
        out.put((began, claimed, restarted, time.monotonic()))
        await client.aclose()

    uvloop.run(main())


def _work(url: str, number: int, files: int, lanes: int, at: Any, out: Any) -> None:
    async def main() -> None:
        book = ledger(url, "bench", f"w{number}")
        await book.open()
        mine = names(number * files, files)
        portions = [mine[i : i + CLAIM_FILES] for i in range(0, files, CLAIM_FILES)]
        at.wait()
        began = time.monotonic()
        claims = await claim_all(book, portions, lanes)
        claimed = time.monotonic()
        at.wait()
        restarted = time.monotonic()
        await commit_all(book, claims, lanes)
        out.put((began, claimed, restarted, time.monotonic()))
        await book.close()

    uvloop.run(main())


def throughput(
    url: str, files: int, lanes: int, workers: int, work: Callable[..., None] = _work
) -> tuple[float, float]:
    """Return files claimed and committed per second by all workers together."""
    context = multiprocessing.get_context("fork")
    at, out = context.Barrier(workers), context.Queue()
    each = files // workers // CLAIM_FILES * CLAIM_FILES
    processes = [
        context.Process(target=work, args=(url, number, each, lanes, at, out))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    times = [out.get() for _ in processes]
    for process in processes:
        process.join()
    began, claimed, restarted, done = zip(*times, strict=True)
    total = each * workers
    return total / (max(claimed) - min(began)), total / (max(done) - min(restarted))


async def first_claim_seconds(url: str, processed: int) -> float:
    """Return the median time from a listing to its first claim of 500 waiting files.

    The listing is what a starting worker sees: processed files first, in portions of 500 of which
    one is tried here, then the waiting ones.
    """
    await _flush(url)
    client: Any = redis.from_url(url, decode_responses=True)
    spool = f"p{processed}"
    old = names(0, processed)
    for i in range(0, processed, 10_000):
        scores = dict.fromkeys(old[i : i + 10_000], 1_800_000_000_000)
        await client.zadd(f"penstock:{{{spool}}}:json_files_processed", scores)
    await _written_anew(client)
    book = ledger(url, spool, "w")
    taken: list[float] = []
    for number in range(51):
        waiting = names(processed + number * CLAIM_FILES, CLAIM_FILES)
        began = time.perf_counter()
        none = await book.claim(old[:CLAIM_FILES], CLAIM_FILES)
        first = await book.claim(waiting, CLAIM_FILES)
        taken.append(time.perf_counter() - began)
        if none.claim is not None or first.claim is None:
            raise RuntimeError("the ledger does not know what is processed")
    await client.aclose()
    await book.close()
    return statistics.median(taken)


async def _main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedRedis(Path(directory)) as server:
            rows: dict[Callable[..., None], list[tuple[float, float]]] = {_bare: [], _work: []}
            for _ in range(options.rounds):
                for work, row in rows.items():
                    await _flush(server.address)
                    size = options.files, options.lanes, options.workers
                    row.append(throughput(server.address, *size, work))
            async for line in _server_side(server.address):
                print(line)
            for title, i in (("claimed", 0), ("committed", 1)):
                bare, ours = (statistics.median(row[i] for row in rows[w]) for w in (_bare, _work))
                print(
                    f"{title:<10} {ours:>10,.0f} files/s   (target 400,000)   bare commands"
                    f" {bare:>10,.0f}, {ours / bare:.2f}x"
                )
            few = await first_claim_seconds(server.address, 1_000)
            many = await first_claim_seconds(server.address, 1_000_000)
            print(f"first claim, 1,000 processed     {few * 1000:6.2f} ms")
            print(f"first claim, 1,000,000 processed {many * 1000:6.2f} ms, {many / few:.2f}x")


async def _server_side(url: str) -> AsyncIterator[str]:
    """Yield what Redis itself spent on the scripts of the last round."""
    client: Any = redis.from_url(url, decode_responses=True)
    stats = await client.info("commandstats")
    for name in ("cmdstat_evalsha", "cmdstat_hset", "cmdstat_zadd", "cmdstat_hdel"):
        if name in stats:
            calls, each = stats[name]["calls"], stats[name]["usec_per_call"]
            yield f"  {name[8:]:8} {calls:>7} calls {each:>8} us each"
    await client.aclose()


async def _written_anew(client: Any) -> None:
    """Wait until Redis is done writing its append-only file anew, which all this growth started."""
    while (await client.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.1)


async def _flush(url: str) -> None:
    client: Any = redis.from_url(url)
    await client.flushall()
    await _written_anew(client)
    await client.config_resetstat()
    await client.aclose()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=400_000)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
