"""A ledger in a cluster, and one that Sentinels watch: the same contract, and what a failover does.

All of them are Debian's own redis-servers.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from ledger import test_ledger as contract
from ledger import test_ledger_clock
from penstock.errors import Halt
from penstock.ledger.connect import Address, close
from support.books import Books, claimed
from support.box import Box
from support.redis_fleet import Cluster, Server, Watched, require_fleet

CONTRACT = {
    name: test
    for name, test in vars(contract).items()
    if name.startswith("test_") and [*inspect.signature(test).parameters] == ["books"]
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a cluster that nobody maltreats."""
    require_fleet()
    with ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("cluster"), stack)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Yield a primary and two replicas under three Sentinels, which nobody maltreats."""
    require_fleet()
    with ExitStack() as stack:
        yield Watched(tmp_path_factory.mktemp("watched"), stack)


def address(url: str) -> Address:
    """Return an address as the ledger's wiring makes it."""
    return Address(url, timeout_seconds=5, connections=20)


@pytest.fixture(params=["cluster", "sentinel", "sentinel, waiting for a replica"])
async def form(request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    """Yield a spool behind each form of client."""
    if request.param == "cluster":
        client: Any = address(request.getfixturevalue("cluster").url()).cluster()
        more = {}
    else:
        client = address(request.getfixturevalue("watched").url).client()
        more = {"replicas": 1 if "waiting" in request.param else 0}
    book = Books("", f"form-{id(request.node)}", client=client, **more)
    await book.start()
    yield book
    await book.forget_all()
    await book.close()


@pytest.mark.parametrize("name", CONTRACT)
async def test_every_form_of_client_keeps_the_contract(form: Books, name: str) -> None:
    """What holds of the scripts at one server holds in a cluster and under Sentinels."""
    await CONTRACT[name](form)


async def test_answers_are_forgotten_in_time_behind_every_form_of_client(form: Books) -> None:
    """A cluster answers a scan of its keys in another way than one server does."""
    await test_ledger_clock.test_answers_are_forgotten_in_time(form)


def test_the_contract_is_not_empty() -> None:
    """It is found by what its tests ask for."""
    assert len(CONTRACT) >= 25


@pytest.mark.parametrize("node", range(6))
async def test_any_node_of_a_cluster_will_do(box: Box, cluster: Cluster, node: int) -> None:
    """A whole drain by each node's address, replicas too."""
    box.set("ledger", url=cluster.url(node), wait_replicas=node % 2)
    box.write_many(50)
    assert (await box.load()).files_processed == 50
    assert box.received_ids() == dict.fromkeys(range(50), 1)
    await box.archive()
    assert [*box.spool.glob("*.json")] == []
    assert (await box.check()).laws_broken == 0
    assert "writes_unconfirmed" not in await box.counters()


async def test_a_cluster_has_one_database(box: Box, cluster: Cluster) -> None:
    """Another one is refused in words."""
    box.set("ledger", url=f"{cluster.url()}/1")
    with pytest.raises(Halt, match=r"ledger\.url: names a database other than 0, but this Redis"):
        await box.load()


async def test_a_primary_that_was_replaced_is_left_although_it_answers(tmp_path: Path) -> None:
    """It is cut off from the other servers, not from us: what it takes will be lost."""
    require_fleet()
    with ExitStack() as stack:
        fleet = Watched(tmp_path / "fleet", stack)
        client = address(fleet.url).client()
        old, told = fleet.owner(), 0
        pool: Any = client.connection_pool
        busy = await pool.get_connection()
        old.isolate()
        others = [server for server in fleet.servers if server is not old]
        until = time.monotonic() + 60
        while not _have(others, "moved"):
            assert time.monotonic() < until
            with contextlib.suppress(redis.RedisError):
                told += bool(await client.set("moved" if _is_replaced(others) else "before", 1))
            await asyncio.sleep(0.05)
        assert old.is_primary()
        assert told > 10
        await pool.release(busy)  # it is the one that is used next
        await client.set("afterwards", 1)
        assert _have(others, "afterwards")
        await close(client)


async def test_a_claim_that_the_new_primary_lacks_is_not_confirmed(watched: Watched) -> None:
    """It was made on the old one: the replicas of the new one have everything but the claim."""
    book = Books("", "lacks", client=address(watched.url).client(), replicas=1)
    await book.start()
    worker = book.worker()
    claim = await claimed(worker, ["a"])
    scripts = worker._scripts
    assert await scripts.replicated(claim.id, claim.token)
    await book.client.delete(scripts.key(f"claim:{claim.id}"))
    assert await scripts.replicated()
    assert not await scripts.replicated(claim.id, claim.token)
    await book.close()


def _is_replaced(others: Sequence[Server]) -> bool:
    return any(server.is_primary() for server in others)


def _have(servers: Sequence[Server], key: str) -> bool:
    with contextlib.suppress(redis.RedisError):  # a server that is promoted drops its clients
        return any(server.client.exists(key) for server in servers)
    return False


async def test_a_claim_that_no_replica_has_is_not_sent(
    box: Box, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """More replicas are asked for than there are: nothing is sent, and the files wait.

    The log says so once.
    """
    box.set("ledger", url=watched.url, wait_replicas=3)
    box.set("worker", lanes=1)
    box.write_many(5)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(2.5, stop.set)
    await box.load(stop)
    assert box.received_ids() == {}
    assert (await box.counters())["writes_unconfirmed"] >= 1
    (told,) = [vars(r)["fields"] for r in caplog.records if r.message == "ledger.unconfirmed"]
    assert (told["replicas"], told["wanted"]) == (2, 3)
    assert "ledger.wait_replicas" in told["remedy"]
    box.set("ledger", wait_replicas=1)
    assert (await box.load()).files_processed == 5
    assert box.received_ids() == dict.fromkeys(range(5), 1)
