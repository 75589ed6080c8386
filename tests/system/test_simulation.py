"""The fleet in virtual time, seed by seed, and proof that the simulation would notice.

`PENSTOCK_SEED=123 pytest tests/system/test_simulation.py -k one_seed` replays a seed.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from support.campaign import replay, scaled
from support.sim import RATES, Result, simulate
from support.sim_process import POINTS

SEEDS_A_TEST = 80
TESTS = 2
CAMPAIGN_SEEDS = 20_000
CAMPAIGN_TESTS = 20
_TOLD = 10  # red seeds whose story is told in full
FAULTS = {
    *RATES,
    "kill by a file",
    "claim taken over unreadable",
    "redis empty again, noticed",
    *(f"kill {point}" for points in POINTS.values() for point in points),
} - {"snapshot"}


@pytest.fixture
def store(redis_url: str) -> Iterator[Any]:
    """Yield a synchronous client of the real Redis."""
    client: Any = redis.Redis.from_url(
        redis_url, decode_responses=True, single_connection_client=True
    )
    yield client
    client.close()


def run_seeds(seeds: range, store: Any) -> tuple[Counter[str], list[Result]]:
    """Run seeds; return which faults fired, and the runs that broke anything."""
    fired: Counter[str] = Counter()
    red: list[Result] = []
    for seed in seeds:
        try:
            result = simulate(seed, store)
        except BaseException as error:
            error.add_note(replay(seed))
            raise
        fired += result.fired
        if result.broken:
            red.append(result)
    return fired, red


def told(*red: Result) -> str:
    """Return what a person needs to look into seeds that failed."""
    lines = [[f"seed={one.seed}", *one.broken, replay(one.seed)] for one in red[:_TOLD]]
    return "\n".join(line for one in lines for line in one)


@pytest.mark.parametrize("number", range(TESTS))
def test_no_seed_breaks_an_invariant(number: int, store: Any) -> None:
    """A hundred and sixty fleets under all faults lose nothing and repeat only what they may.

    Each kind of fault must have fired: a test in which nothing goes wrong proves nothing.
    """
    fired, red = run_seeds(range(number * SEEDS_A_TEST, (number + 1) * SEEDS_A_TEST), store)
    assert not red, told(*red)
    assert FAULTS - fired.keys() == set()


@pytest.mark.campaign
@pytest.mark.parametrize("number", range(CAMPAIGN_TESTS))
def test_no_seed_of_the_campaign_breaks_an_invariant(
    number: int, store: Any, record_property: Callable[[str, object], None]
) -> None:
    """Twenty thousand fleets more."""
    count = scaled(CAMPAIGN_SEEDS // CAMPAIGN_TESTS)
    first = 1_000_000 * (number + 1)
    fired, red = run_seeds(range(first, first + count), store)
    faults = {fault: fired[fault] for fault in FAULTS}  # also those that never fired
    block = {"first": first, "seeds": count, "red": [one.seed for one in red], "fired": faults}
    record_property("simulation", block)
    assert not red, told(*red)
    if count >= SEEDS_A_TEST:
        assert FAULTS - fired.keys() == set()


@pytest.mark.parametrize("seed", range(20))
def test_without_faults_nothing_is_repeated(seed: int, store: Any) -> None:
    """On a quiet day each record is in the queue once, standard queue or FIFO."""
    result = simulate(seed, store, quiet=True)
    assert not result.broken, told(result)
    assert set(result.copies.values()) <= {1}
    assert not result.fired


@pytest.mark.parametrize("seed", [1, 7, 22])
def test_a_seed_replays_itself(seed: int, store: Any) -> None:
    """The same seed gives the same history, event by event."""
    first, second = simulate(seed, store), simulate(seed, store)
    same = first.history.events == second.history.events and first.fired == second.fired
    assert same  # without a diff of two long histories


@pytest.mark.parametrize("seed", range(5))
def test_a_canary_is_reported(seed: int, store: Any) -> None:
    """A queue that confirms a message and forgets it is found out: loss would not pass unseen."""
    result = simulate(seed, store, quiet=True, canary="the queue forgets a message")
    assert [line[:3] for line in result.broken] == ["I1:"]


@pytest.mark.skipif("PENSTOCK_SEED" not in os.environ, reason="set PENSTOCK_SEED to replay one")
def test_one_seed(store: Any) -> None:
    """Replay the seed in PENSTOCK_SEED, with its whole history on failure."""
    result = simulate(int(os.environ["PENSTOCK_SEED"]), store)
    for event in result.history.events:
        print(event)  # noqa: T201
    assert not result.broken, told(result)
