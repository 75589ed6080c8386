"""A ledger that something else has written to: keys gone, of another type, or of odd values."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import wiring
from penstock.errors import Halt
from penstock.ledger import ledger as ledger_module
from penstock.ledger.ledger import Ledger
from penstock.ledger.reads import LEASE_SECONDS_MAX
from penstock.ledger.scripts import _SOURCES, _TYPES, Scripts
from penstock.model import Claim, PutBack, SpoolIdentity
from support.books import LEASE_SECONDS, Books, claimed, files, settled
from support.box import Box

A, B, C, D, E, F, G, H, J, K, L, M = files(12)
SPOOL = SpoolIdentity("0" * 32, 1, 2, "3-4")
VALUES = ["", "x", "-1", "1.5", "1e400", "nan", "0" * 400, "9" * 30, "a/b", "/", "{", "\x00\xff"]
_spools = itertools.count()


async def populate(books: Books) -> list[Claim]:
    """Fill every key of the ledger; return a claim still held, one released and one expired."""
    one, two = books.worker("one"), books.worker("two")
    await one.commit(
        await claimed(one, [A, B, C], frontier="f"),
        settled([A, B, C], rejected={B: '{"x":1}'}, retry_seconds={C: 600}),
    )
    await one.spool.confirm(SPOOL, 3)
    await one.upkeep.archived([A], gone=True)
    await one.upkeep.sweep("s", [H])
    await books.pass_seconds(61)
    await one.repairs.hold({A: PutBack("op")})
    expired = await claimed(two, [D, E])
    await two.journal(expired, {0: "id 0-0", 1: "id 1-1"})
    await books.pass_seconds(LEASE_SECONDS)
    taken = await claimed(two, [])
    released = await claimed(one, [F])
    await one.release(released)
    held = await claimed(books.worker("three"), [G])
    for loader in ("l1", "l2"):
        await one.loaders.reserve(loader, 5)
    three = books.worker("three")
    for name in (J, M):  # the first claim learns the epoch, the second notes the frontier
        await three.commit(await claimed(three, [name], frontier="f"), settled([name]))
    await one.upkeep.archived([J])
    await one.upkeep.trouble("loader", "denied")
    await books.client.set(f"{books.prefix}waited", "")
    await older(books)
    return [taken, released, held]


async def older(books: Books) -> None:
    """Leave a claim as a worker of version 0.1 does."""
    fields = {"names": K, "token": "t", "worker": "w", "made_ms": books.now_ms, "#0": "id0 0-0"}
    await books.client.hset(f"{books.prefix}claim:old", mapping=fields)
    await books.client.zadd(f"{books.prefix}claims", {"old": books.now_ms + 5000})
    await books.client.hset(f"{books.prefix}json_files_processing", K, "old")
    await books.client.hset(f"{books.prefix}counters", "files_seen", 12)


async def every_script(ledger: Ledger, claims: list[Claim]) -> None:
    """Run each script and each read once."""
    await ledger.upkeep.adopt()
    for claim in claims:
        await ledger.trim(claim, len(claim.names))
        await ledger.renew(claim)
        await ledger.journal(claim, {2: "id2 0-0"})
        await ledger.isolate(claim.id)
    names = [A, B, C, D, E, F, G, H]
    for _ in range(3):
        await ledger.claim(names, 500)
    if given := (await ledger.claim([L], 500)).claim:
        await ledger.trim(given, 0)
    await ledger.expire()
    await ledger.release(claims[2])
    for claim in claims:
        await ledger.commit(claim, settled(claim.names))
    await ledger.upkeep.archived([B])
    await ledger.upkeep.archived([D], gone=True)
    await ledger.spool.confirm(SPOOL, 0)
    await ledger.spool.confirm(SPOOL, 1)
    await ledger.spool.accept(SPOOL)
    await ledger.upkeep.sweep("t", names)
    await ledger.upkeep.swept("t", 1)
    await ledger.upkeep.forget()
    await ledger.upkeep.free_orphans()
    await ledger.upkeep.correct()
    await ledger.upkeep.prune()
    await ledger.upkeep.trouble("loader", "")
    await ledger.upkeep.trouble("checker", "denied")
    await ledger.repairs.hold({A: PutBack("op"), H: PutBack("op")})
    await ledger.repairs.put_back([A], {H: PutBack("op")})
    await ledger.loaders.reserve("l3", 5)
    await ledger.loaders.enlist("l3", 10)
    await ledger.loaders.leave("l3")
    await ledger.overview.read()
    await ledger.overview.memory()
    for name in names:
        await ledger.overview.story(name)
    await ledger.reads.states(names)
    await ledger.reads.counters()
    await ledger.reads.claims()
    await ledger.reads.workers()
    await ledger.reads.frontier()
    await ledger.reads.verify()


@dataclass(frozen=True)
class Oddity:
    """Something odd done to a key: numbers pick the key, what is done, and to which part of it."""

    key: int
    act: int
    part: int
    value: str
    score: str


oddities = st.lists(
    st.builds(
        Oddity,
        *[st.integers(0, 200)] * 3,
        value=st.sampled_from(VALUES),
        score=st.sampled_from(["-inf", "+inf", "-1", "0.5", "1e300", "1"]),
    ),
    min_size=1,
    max_size=4,
)


async def replace(books: Books, key: str, odd: Oddity) -> None:
    """Delete the key, make it another type, or put something odd in it."""
    client, full, value = books.client, books.prefix + key, odd.value
    kind = await client.type(full)

    async def other_type() -> None:
        await client.delete(full)
        await (client.rpush(full, value) if odd.part % 2 else client.sadd(full, value))

    def part(parts: list[str]) -> str:
        return [*sorted(parts), value, f"#{value}"][odd.part % (len(parts) + 2)]

    acts: list[Callable[[], Awaitable[object]]] = [lambda: client.delete(full), other_type]
    if kind == "hash":
        field = part(await client.hkeys(full))
        acts += [lambda: client.hset(full, field, value)] * 3
        acts += [lambda: client.hdel(full, field)] * 2
    elif kind == "zset":
        member = part(await client.zrange(full, 0, -1))
        acts += [lambda: client.zadd(full, {member: odd.score})] * 3
        acts += [lambda: client.zrem(full, member)] * 2
    elif kind == "string":
        acts.append(lambda: client.set(full, value))
    await acts[odd.act % len(acts)]()


async def fuzzed(url: str, odd: list[Oddity], pause_seconds: int) -> None:
    """Populate, replace, and run everything: it works, or halts with the key and the remedy."""
    books = Books(url, f"odd-{next(_spools)}")
    await books.start()
    try:
        claims = await populate(books)
        keys = sorted({*await books.everything(), *_TYPES})
        for one in odd:
            await replace(books, keys[one.key % len(keys)], one)
        await books.pass_seconds(pause_seconds)
        await do_as_told(books, lambda: every_script(books.worker("w"), claims))
        await books.pass_seconds(700)
        await do_as_told(books, lambda: drain(books))
    finally:
        await books.forget_all()
        await books.close()


async def do_as_told(books: Books, act: Callable[[], Awaitable[None]]) -> None:
    """Run it; where it halts, do as the error says, and begin again."""
    for _ in range(9):
        try:
            await act()
        except Halt as error:
            text, _, key = str(error).partition("DEL ")
            assert key.startswith(books.prefix), text
            assert await books.client.delete(key) == 1
        else:
            return
    pytest.fail("a wedge")


async def drain(books: Books) -> None:
    """Commit whatever can be claimed, freed files included: in the end nobody holds anything."""
    ledger = books.worker("last", takeovers_max=99)
    if await ledger.upkeep.correct():
        await books.pass_seconds(LEASE_SECONDS_MAX)
    for _ in range(99):
        await ledger.upkeep.adopt()
        await ledger.expire()
        freed = await ledger.upkeep.free_orphans()
        claim = (await ledger.claim((), 500)).claim
        if claim is None and not freed:
            break
        if claim is not None:
            await ledger.commit(claim, settled(claim.names))
    sizes = await ledger.reads.sizes()
    assert (sizes["claims"], sizes["processing"]) == (0, 0)


@given(odd=oddities, pause_seconds=st.sampled_from([0, 700]))
@settings(
    max_examples=60, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_no_odd_value_wedges_the_ledger(
    redis_url: str, odd: list[Oddity], pause_seconds: int
) -> None:
    """Any key, field or score may be gone or odd: every script goes on, or names the key."""
    ids = itertools.count(1)

    def token_hex(size: int) -> str:
        return f"{next(ids):0{2 * size}x}"

    tokens = SimpleNamespace(token_hex=token_hex)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "secrets", tokens)
        asyncio.run(fuzzed(redis_url, odd, pause_seconds))


async def test_every_key_and_verb_is_tried(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done to keys here is done to each, and each can be named if it has another type."""
    used, verbs = set[str](), set[str]()
    key, run = Scripts.key, Scripts.run

    def noted_key(self: Scripts, name: str) -> str:
        used.add(name)
        return key(self, name)

    async def noted_run(self: Scripts, verb: str, keys: list[str], args: list[str]) -> object:
        verbs.add(verb)
        used.update(keys)
        return await run(self, verb, keys, args)

    claims = await populate(books)
    assert set(_TYPES) <= set(await books.everything())
    monkeypatch.setattr(Scripts, "key", noted_key)
    monkeypatch.setattr(Scripts, "run", noted_run)
    await every_script(books.worker(), claims)
    assert verbs == set(_SOURCES) - {"common", "clock"}
    named = {name for name in used if not name.startswith(("claim:", "call:"))}
    assert {*named, "waited"} == set(_TYPES)


async def test_no_key_of_another_type_wedges_the_ledger(redis_url: str) -> None:
    """Whatever it is: every script and every read goes on, or names it."""
    names = ["claims", "claim:old:earlier", *_TYPES]
    for name in names:
        books = Books(redis_url, f"odd-{next(_spools)}")
        await books.start()
        try:
            claims = await populate(books)
            await books.client.delete(books.prefix + name)
            await books.client.rpush(books.prefix + name, "x")
            await books.pass_seconds(700)
            await do_as_told(books, lambda b=books, c=claims: every_script(b.worker("w"), c))
            await books.pass_seconds(700)
            await do_as_told(books, lambda b=books: drain(b))
        finally:
            await books.forget_all()
            await books.close()


async def test_a_lost_claim_gives_its_files_back(books: Books) -> None:
    """Its key is deleted by hand: the checker says so, and the files are sent by another."""
    worker = books.worker()
    claim = await claimed(worker, [A, B])
    await books.client.delete(f"{books.prefix}claim:{claim.id}")
    assert "2 are held by none" in (await worker.reads.verify())[0]
    assert not await worker.renew(claim)
    assert await worker.upkeep.free_orphans() == 2
    assert await worker.upkeep.free_orphans() == 0
    assert await worker.reads.verify() == []
    again = await claimed(books.worker("two"), [A])
    assert again.names == (A, B)
    counted = await worker.reads.counters()
    assert (counted["claims_dropped"], counted["files_orphaned"]) == (1, 2)


async def test_a_lost_claim_stands_in_nobodys_way(books: Books) -> None:
    """Expired as well, it is dropped by the next claim, which goes on with what is waiting."""
    lost = [await claimed(books.worker(f"w{n}"), [name]) for n, name in enumerate(files(20))]
    for claim in lost:
        await books.client.delete(f"{books.prefix}claim:{claim.id}")
    await books.pass_seconds(LEASE_SECONDS)
    worker = books.worker()
    assert (await claimed(worker, ["new.json"])).names == ("new.json",)
    assert await worker.expire() == []
    assert (await worker.reads.counters())["claims_dropped"] == 20


async def test_a_key_of_another_type_is_named(books: Books) -> None:
    """What halts says which key it is, and how to go on."""
    await books.client.set(f"{books.prefix}retry", "x")
    with pytest.raises(Halt, match=r":retry in Redis is a string, not a zset: .* DEL penstock:"):
        await books.worker().claim([A], 500)
    with pytest.raises(Halt, match=r":retry in Redis is a string"):
        await books.worker().reads.sizes()


async def test_what_was_said_unreadably_is_ignored(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """A file put back with odd words is sent whole."""
    worker = books.worker()
    await worker.repairs.hold({A: PutBack("op")})
    await books.client.hset(f"{books.prefix}put_back", A, '{"file":1}')
    await worker.repairs.put_back([A], {})
    assert (await claimed(worker, ())).put_back == {}
    assert "put_back.unreadable" in caplog.text


async def test_an_odd_number_begins_anew(books: Books) -> None:
    """A counter, an attempt and a sweeper's time that hold no number: the scripts go on."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    await books.client.hset(f"{books.prefix}claim:{claim.id}", "attempt", "many")
    await books.client.hset(f"{books.prefix}sweeper", mapping={"token": "t", "until_ms": "soon"})
    for counter in ("claims", "claims_taken_over", "files_processed"):
        await books.client.hset(f"{books.prefix}counters", counter, "0x10")
    await books.pass_seconds(LEASE_SECONDS)
    taken = await claimed(worker, ())
    assert taken.attempt == 1
    assert await worker.upkeep.sweep("s", ()) == 0
    assert await worker.commit(taken, settled([A]))
    assert (await worker.reads.counters())["files_processed"] == 1


async def test_load_and_check_go_on_after_a_lost_claim(box: Box) -> None:
    """A worker stops, its claim is deleted by hand, and every file is sent all the same."""
    box.write_many(10)
    async with AsyncExitStack() as stack:
        ledger = await wiring.ledger(box.settings, stack)
        claim = await claimed(ledger, sorted(path.name for path in box.spool.glob("[!.]*")))
    async with box.look() as client:
        await client.delete(f"penstock:{{{box.given['ledger']['spool']}}}:claim:{claim.id}")
    await box.load()
    tally = await box.check()
    assert (tally.files_orphaned, tally.laws_broken) == (10, 0)
    await box.load()
    assert box.received_ids() == dict.fromkeys(range(10), 1)


async def test_load_and_check_name_what_stands_where_old_claims_would(box: Box) -> None:
    """`claims` is a key of version 0.1 only: nobody expects it to be in the way."""
    box.write_many(1)
    await box.load()
    key = f"penstock:{{{box.given['ledger']['spool']}}}:claims"
    async with box.look() as client:
        await client.set(key, "x")
        for one_pass in (box.load, box.check):
            with pytest.raises(Halt, match=f"is a string, not a zset: .* DEL {re.escape(key)}"):
                await one_pass()
        await client.delete(key)
    assert (await box.check()).laws_broken == 0
