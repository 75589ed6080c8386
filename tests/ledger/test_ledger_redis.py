"""What Redis itself may say, and what the ledger makes of it: Again or Halt, never nothing."""

import asyncio
import errno
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from redis import exceptions as failed
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from penstock import checker, wiring
from penstock.checker import Checker
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, Halt
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts, translate_redis_errors
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from support.books import Books, claimed, files, settled
from support.require import require_redis
from support.scripted_source import ScriptedSource, Spool

A, B = files(2)


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a redis-server that these tests may maltreat."""
    require_redis()
    server = EmbeddedRedis(tmp_path_factory.mktemp("own"))
    asyncio.run(server.start())
    yield server.address
    asyncio.run(server.stop())


@pytest.fixture
async def books(own_url: str) -> AsyncIterator[Books]:
    """Yield a spool at the maltreated server, which is mended afterwards."""
    book = Books(own_url, "maltreated")
    await book.start()
    yield book
    await book.client.config_set("maxmemory", 0)
    await book.client.config_set("maxmemory-policy", "noeviction")
    await book.client.replicaof("NO", "ONE")
    await book.client.flushall()
    await book.close()


async def test_a_good_redis_is_accepted(books: Books) -> None:
    """The embedded server passes the check of every start."""
    await books.worker().open()


async def test_an_evicting_redis_is_refused(books: Books) -> None:
    """Another policy than noeviction halts, and the message says what to set."""
    await books.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Halt, match="CONFIG SET maxmemory-policy noeviction"):
        await books.worker().open()


async def test_an_eviction_policy_set_under_running_workers_is_told(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """The checker looks at each pass, and names policy, evicted keys and remedy."""
    scripts = Scripts(books.client, books.spool)  # the test's clock would be evicted, too
    ledger = Ledger(scripts, worker="c", lease_seconds=60, margin_seconds=11)
    parts = Checker(ScriptedSource(Spool(), page_files_max=2), ledger, 60, 10, fifo=False)
    await checker.check(parts, stop=asyncio.Event())
    assert "redis.evicts" not in caplog.text
    for _ in range(1000):
        await books.client.hset(f"{books.prefix}json_files_rejected", uuid.uuid4().hex, "x" * 3000)
    used = (await books.client.info("memory"))["used_memory"]
    await books.client.config_set("maxmemory", used - 500_000)
    await books.client.config_set("maxmemory-policy", "allkeys-lru")
    await books.client.set("one", "more")
    await checker.check(parts, stop=asyncio.Event())
    (said,) = [vars(r)["fields"]["cause"] for r in caplog.records if r.message == "redis.evicts"]
    assert re.search(r"maxmemory-policy allkeys-lru and has evicted [1-9]\d* keys", said)
    assert "CONFIG SET maxmemory-policy noeviction" in said


async def test_an_old_redis_is_refused(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server before 6.2 halts with the version that is allowed."""

    async def info() -> dict[str, str]:
        return {"redis_version": "6.0.16"}

    monkeypatch.setattr(books.client, "info", info)
    with pytest.raises(Halt, match=r"6\.0\.16; allowed: 6\.2 or newer"):
        await books.worker().open()


async def test_a_replica_is_again(books: Books) -> None:
    """A read-only replica, at the start or after a failover, is waited out."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    await books.client.replicaof("127.0.0.1", "1")
    with pytest.raises(Again, match="replica"):
        await worker.open()
    for verb in (worker.claim([B], 500), worker.renew(claim), worker.commit(claim, settled([A]))):
        with pytest.raises(Again, match="not ready"):
            await verb


async def test_a_full_redis_is_again_and_changes_nothing(books: Books) -> None:
    """Out of memory, each verb that must write says Again; with memory it goes on."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    before = await books.everything()
    await books.client.config_set("maxmemory", 1)
    for verb in (worker.claim([B], 500), worker.journal(claim, {0: "x "}),
                 worker.commit(claim, settled([A]))):  # fmt: skip
        with pytest.raises(Again, match=r"full|not ready"):
            await verb
    await books.client.config_set("maxmemory", 0)
    assert await books.everything() == before
    assert await worker.commit(claim, settled([A]))


async def test_a_redis_that_cannot_save_is_again() -> None:
    """MISCONF, a disk that is full, passes."""
    with pytest.raises(Again, match="cannot write its data to disk"):
        await _raising(failed.ResponseError("MISCONF Redis is configured to save RDB snapshots"))


async def test_missing_rights_halt(books: Books, own_url: str) -> None:
    """A user without the right to a command halts: somebody must grant it."""
    await books.client.acl_setuser("reader", enabled=True, nopass=True, keys="*", commands=["+get"])
    address = own_url.replace("unix://", "unix://reader:any@")
    client: Any = redis.from_url(address, decode_responses=True)
    with pytest.raises(Halt, match="refuses us"):
        await books.worker(client=client).claim([A], 500)
    await client.aclose()
    await books.client.acl_deluser("reader")


async def test_an_absent_redis_is_again(tmp_path: Path) -> None:
    """No server at the address is Again, for every verb and for the start."""
    client: Any = redis.from_url(
        f"unix://{tmp_path}/none.sock", decode_responses=True, retry=Retry(NoBackoff(), 0)
    )
    ledger = Ledger(Scripts(client, "s"), worker="w", lease_seconds=60, margin_seconds=11)
    for verb in (ledger.open(), ledger.claim([A], 500), ledger.reads.sizes(), ledger.expire()):
        with pytest.raises(Again, match="cannot be reached"):
            await verb


async def test_more_calls_than_connections_wait_their_turn(own_url: str, books: Books) -> None:
    """What is asked faster than Redis answers is done all the same, over few connections.

    redis-py's own pool refuses the hundred and first call.
    """
    known = few_connections(own_url)
    claim = await claimed(books.worker(), [A])
    worker = wiring.unopened_ledger(known, own_url)
    before = {row["id"] for row in await books.client.client_list()}
    noted = await asyncio.gather(*(worker.journal(claim, {i: f"id{i} "}) for i in range(300)))
    made = {row["id"] for row in await books.client.client_list()} - before
    await worker.close()
    assert noted == [True] * 300
    assert len(made) <= 7  # a lane with its heartbeat and its receipts, and four


async def test_a_redis_too_slow_for_its_connections_is_again(own_url: str) -> None:
    """Whoever waits for a connection in vain is told that all are busy, not that Redis is away."""
    worker = wiring.unopened_ledger(few_connections(own_url), own_url)
    pool: Any = worker._scripts.client.connection_pool
    pool.timeout = 0.2  # of waiting for one; to connect may take longer
    held = [await pool.get_connection() for _ in range(7)]
    with pytest.raises(Again, match=r"every connection .* busy .* lower worker\.lanes"):
        await worker.upkeep.prune()
    for connection in held:
        await pool.release(connection)
    await worker.upkeep.prune()
    await worker.close()


def few_connections(url: str) -> Settings:
    """Return settings of a worker with one lane."""
    return load(
        overrides={
            "ledger": {"url": url, "spool": "maltreated"},
            "worker": {"lanes": 1},
        }
    )


async def test_a_cut_connection_is_mended_by_itself(books: Books) -> None:
    """A connection that the server closes between two calls is opened again unseen."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    killer: Any = redis.Redis(connection_pool=books.client.connection_pool)
    await killer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await worker.renew(claim)
    assert await worker.commit(claim, settled([A]))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failed.AuthenticationError("WRONGPASS"), Halt),
        (failed.NoPermissionError("NOPERM"), Halt),
        (failed.OutOfMemoryError("OOM"), Again),
        (failed.ReadOnlyError("READONLY"), Again),
        (failed.BusyLoadingError("LOADING"), Again),
        (failed.TryAgainError("TRYAGAIN"), Again),
        (failed.NoScriptError("No matching script."), Again),  # a node that was just made primary
        (failed.ConnectionError("reset"), Again),
        (failed.TimeoutError("late"), Again),
        (OSError("no route"), Again),
        (failed.ResponseError("BUSY Redis is busy running a script"), Again),
        (failed.ResponseError("ERR Error running script: @user_script: -OOM command"), Again),
        (failed.ResponseError("MASTERDOWN Link with MASTER is down"), Again),
        (failed.ResponseError("CLUSTERDOWN The cluster is down"), Again),
        (failed.ResponseError("WRONGTYPE Operation against a key"), Halt),
        (failed.ResponseError("ERR user_script:3: attempt to index nil"), Halt),
    ],
)
async def test_each_error_has_its_kind(error: Exception, kind: type[Exception]) -> None:
    """What may pass is tried again, what somebody must mend stops; the cause is in the text."""
    with pytest.raises(kind, match=r"ledger\.operation: Redis"):
        await _raising(error)


@pytest.mark.parametrize("inner", [OSError(errno.EMFILE, "Too many open files"), None])
async def test_a_fault_of_this_machine_is_not_taken_for_redis(inner: Exception | None) -> None:
    """Too many open files, or a file that is missing: not that Redis cannot be reached."""
    error: Exception = FileNotFoundError(errno.ENOENT, "No such file", "/lib/x.lua")
    if inner is not None:
        error = failed.ConnectionError("Error 24 connecting to unix:///s: Too many open files.")
        error.__context__ = inner
    with pytest.raises(Again, match=r"ledger\.operation: (.*ulimit -n|.*/lib/x\.lua)") as told:
        await _raising(error)
    assert "cannot be reached" not in str(told.value)


async def _raising(error: Exception) -> None:
    @translate_redis_errors
    async def operation() -> None:
        raise error

    await operation()
