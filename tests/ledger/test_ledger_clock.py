"""Redis's clock was ahead and is put right: nothing waits for the time that it told."""

import re
from collections.abc import Callable

import pytest

from ledger.test_ledger_odd import populate
from penstock.ledger import reads
from penstock.model import PutBack
from penstock.settings.schema import Settings
from support.books import LEASE_SECONDS, START_MS, Books, claimed, files, settled

A, B, C = files(3)
YEAR = 366 * 86_400.0


async def test_a_lease_of_another_year_ends(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    """Its worker died while the clock was ahead: verify says so, and its files are sent."""
    await books.pass_seconds(YEAR)
    lost = await claimed(books.worker("dead"), [A, B])
    await books.pass_seconds(-YEAR)
    checker = books.worker("checker")
    assert "4 are; Redis's clock was ahead" in (await checker.reads.verify())[0]
    # Its lease, when it was made, and when its worker was first and last heard of.
    assert await checker.upkeep.correct() == 4
    assert "clock.corrected" in caplog.text
    assert await checker.reads.verify() == []
    assert await checker.expire() == []
    await books.pass_seconds(reads.LEASE_SECONDS_MAX)
    assert [expired.claim for expired in await checker.expire()] == [lost.id]
    assert (await claimed(books.worker(), ())).names == (A, B)
    assert (await checker.reads.counters())["times_corrected"] == 4


async def test_whoever_lives_keeps_its_claim(books: Books) -> None:
    """A worker that renews is not taken for dead when the clock is put right."""
    await books.pass_seconds(YEAR)
    live = books.worker("live")
    claim = await claimed(live, [A])
    await books.pass_seconds(-YEAR)
    await books.worker("checker").upkeep.correct()
    assert (await books.worker("other").claim((), 500)).claim is None
    assert await live.renew(claim)
    await books.pass_seconds(LEASE_SECONDS)
    assert (await claimed(books.worker("other"), ())).names == (A,)


async def test_all_else_is_due_now(books: Books) -> None:
    """Retries, files out of the spool, names seen waiting, sweeps, workers, loaders in Lambda."""
    worker = books.worker()
    await worker.commit(await claimed(worker, [A]), settled([A]))
    await books.pass_seconds(YEAR)
    await worker.upkeep.archived([A])
    await worker.commit(await claimed(worker, [B]), settled([B], retry_seconds={B: 5}))
    await worker.upkeep.sweep("s", [C])
    assert await worker.loaders.reserve("l", 5)
    assert await worker.loaders.enlist("m", 60) == 2
    await books.pass_seconds(-YEAR)
    assert await worker.upkeep.correct() == 8
    assert await worker.upkeep.correct() == 0
    again = await claimed(worker, [])
    assert again.names == (B,)
    await worker.upkeep.sweep("t", [C])
    await books.pass_seconds(61)
    assert await worker.upkeep.forget() == 1
    assert await worker.upkeep.sweep("t", [C]) == 1
    assert await worker.loaders.reserve("n", 5)
    await books.pass_seconds(reads.LOADER_SECONDS_MAX)
    assert await worker.upkeep.prune() == 1
    assert await worker.loaders.enlist("o", 1) == 1


async def test_nothing_else_tells_a_time_of_another_year(books: Books) -> None:
    """Claims and workers have an age again, notes of trouble and of files that are gone too."""
    await books.pass_seconds(YEAR)
    worker = books.worker()
    await worker.commit(await claimed(worker, [A, B]), settled([A, B]))
    await worker.upkeep.archived([A], gone=True)
    await worker.release(await claimed(worker, [C]))
    await books.client.zadd(f"{books.prefix}claims", {"old": books.now_ms + 5000})
    await worker.upkeep.trouble("loader", "denied by\nall of them")
    await books.pass_seconds(-YEAR)
    assert await worker.upkeep.correct() == 9
    assert await worker.reads.verify() == []
    await books.pass_seconds(reads.LEASE_SECONDS_MAX)
    seconds = reads.LEASE_SECONDS_MAX
    (held,) = await worker.reads.claims()
    assert (held.age_seconds, held.overdue_seconds) == (seconds, seconds)
    assert await worker.reads.workers() == {"w": (START_MS / 1000, START_MS / 1000)}
    told = await worker.overview.read()
    assert told.troubles["loader"][:2] == ("denied by\nall of them", seconds)
    assert told.oldest_processed_seconds == seconds
    assert (await worker.overview.story(A)).gone_at == START_MS / 1000
    assert await worker.upkeep.adopt() == 0


async def test_every_time_that_is_stored_is_corrected(books: Books) -> None:
    """Whatever a worker, an archiver or a checker writes while the clock is ahead: all of it."""
    await books.pass_seconds(YEAR)
    await populate(books)
    ahead = books.now_ms - int(YEAR / 2 * 1000)
    await books.pass_seconds(-YEAR)
    await books.worker().upkeep.correct()
    times = [
        (key, int(number))
        for key, held in (await books.everything()).items()
        if key not in {"minutes", "spool"} and not key.startswith("call:")
        for number in re.findall(r"\b\d{13}\b", str(held))
    ]
    assert len(times) > 20
    assert [key for key, number in times if number > ahead] == []


async def test_a_sweeper_that_died_while_the_clock_was_ahead_holds_up_no_other(
    books: Books,
) -> None:
    """It had a lease, which is never as long as a pause can be; the first one has no pause yet."""
    await books.pass_seconds(7200)
    assert await books.worker("dead").upkeep.sweep("s", []) is not None
    await books.pass_seconds(-7200)
    checker = books.worker("checker")
    assert await checker.upkeep.sweep("t", []) is None
    assert await checker.upkeep.correct() == 1
    assert await checker.upkeep.sweep("t", []) is not None
    assert await checker.upkeep.correct() == 0


async def test_a_sweep_waits_no_longer_than_its_own_pause(books: Books) -> None:
    """An hour is no time that a pause of a minute can end at, though one of a day might."""
    worker = books.worker()
    await books.pass_seconds(3600)
    assert await worker.upkeep.sweep("s", []) is not None
    await worker.upkeep.swept("s", 60)
    await books.pass_seconds(-3600)
    assert await worker.upkeep.correct() == 1
    assert await worker.upkeep.sweep("t", []) is not None


async def test_what_is_in_order_stays_as_it_is(books: Books) -> None:
    """Leases, holds and sweeps of now are no business of a correction."""
    worker = books.worker()
    await claimed(worker, [A])
    await worker.commit(await claimed(worker, [B]), settled([B], retry_seconds={B: 3_600}))
    await worker.repairs.hold({C: PutBack("op")}, left_for_seconds=0)
    await worker.upkeep.sweep("s", [])
    await worker.upkeep.swept("s", 86_400)
    await worker.loaders.enlist("l", 900)
    before = await books.everything()
    assert await worker.upkeep.correct() == 0
    assert await books.everything() == before


async def test_answers_are_forgotten_in_time(books: Books) -> None:
    """Redis keeps as a time of day when a key ends: that is shortened as well."""
    worker = books.worker()
    claim = await claimed(worker, [A])
    await books.client.pexpire(f"{books.prefix}call:{claim.token}", int(YEAR * 1000))
    await books.client.zadd(f"{books.prefix}workers", {"ahead": books.now_ms + 1})
    await worker.upkeep.correct()
    assert await books.client.pttl(f"{books.prefix}call:{claim.token}") <= 120_000


@pytest.mark.parametrize(
    ("section", "key", "most"),
    [
        ("ledger", "lease_seconds", reads.LEASE_SECONDS_MAX),
        ("source", "settle_seconds", reads.RETRY_SECONDS_MAX),
        ("ledger", "sweep_seconds", reads.SWEEP_PAUSE_SECONDS_MAX),
    ],
)
def test_the_settings_allow_no_more(section: str, key: str, most: float) -> None:
    """What is longest is what the settings bound."""
    bounds: Callable[[str], dict[str, float]] = Settings.model_json_schema()["$defs"]
    assert bounds[f"{section.capitalize()}Settings"]["properties"][key]["maximum"] == most  # type: ignore[index]
