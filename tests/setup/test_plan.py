"""What a load takes and costs: the plan against arithmetic of its own, real Redis, and its page."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from penstock.cli.commands import app
from penstock.errors import Halt
from penstock.setup.plan import REDIS_FILE_BYTES, Load, plan
from penstock.setup.plan_prices import CACHE_NODE_BYTES, PRICES

DOCS = Path(__file__).parents[2] / "docs"
MONTH = 2_592_000
MANY = Load(6000, 1, 2400, 500)
ONE = Load(6000, 1, 2400, 500, records_per_message=1)


def test_one_record_a_message_costs_what_batches_of_ten_cost() -> None:
    """6,000 messages a second, sent, received and deleted in tens: $1,866 for SQS."""
    made = plan(ONE)
    tens = 6000 / 10 * MONTH * 0.40e-6
    for step in ("sending", "receiving", "deleting"):
        assert made.costs[f"SQS, {step}"].value == pytest.approx(tens)
    assert made.figures["batches"].value == pytest.approx(600)
    assert made.figures["connections"].value == 12


def test_collections_are_billed_by_64_kib() -> None:
    """2,092 records of 500 B are a full message of 1 MiB: sixteen requests."""
    made = plan(MANY)
    assert made.figures["messages"].value == made.figures["batches"].value
    assert made.figures["messages"].value == pytest.approx(6000 / 2092)
    sending = 6000 / 2092 * 16 * MONTH * 0.40e-6
    assert made.costs["SQS, sending"].value == pytest.approx(sending)
    assert made.costs["SQS, sending"].value < plan(ONE).costs["SQS, sending"].value / 12


def test_the_total_is_the_sum_and_alternatives_are_not_in_it() -> None:
    """What would replace a cost is told beside it, not added."""
    made = plan(MANY)
    assert made.total == pytest.approx(sum(cost.value for cost in made.costs.values()))
    packed_gb = made.figures["packed a day"].value * 30 / 1e9
    bucket = made.instead["packed archive of 30 days in S3"].value
    assert bucket == pytest.approx(packed_gb * 0.023 + 30 * 1440 * 5e-6)
    assert made.instead["a log line of 200 B a file"].value == pytest.approx(1555.2)


@settings(max_examples=60)
@given(
    records=st.integers(1, 40),
    selected=st.integers(1, 40_000),
    per_message=st.sampled_from(["many", 1]),
)
def test_requests_cover_the_bytes(records: int, selected: int, per_message: Any) -> None:
    """SQS bills at least every 64 KiB and every ten messages, and at most one more a batch."""
    made = plan(Load(100, records, selected + 100, selected, records_per_message=per_message))
    sent = made.figures["bytes sent"].value
    batches = made.figures["batches"].value
    requests = made.costs["SQS, sending"].value / 0.40e-6 / MONTH
    assert requests * 1.000001 >= max(sent / 65536, batches)
    assert requests <= (sent / 65536 + batches) * 1.000001
    assert batches * 10 * 1.000001 >= made.figures["messages"].value
    assert sent >= 100 * records * selected


def test_a_processed_file_takes_so_much_of_redis(redis_url: str) -> None:
    """The bytes a name are those of a real Redis, within a tenth; of an older one, no more."""
    client: Any = redis.Redis.from_url(redis_url)
    names = {
        f"2026-11-23T06-15-{n // 10**6:02d}.{n % 10**6:06d}Z.json": 1.0 for n in range(100_000)
    }
    client.zadd("test:plan", names)
    try:
        held = client.memory_usage("test:plan", samples=0) / len(names)
        version = int(client.info("server")["redis_version"].partition(".")[0])
    finally:
        client.delete("test:plan")
        client.close()
    if version >= 7:
        assert held == pytest.approx(REDIS_FILE_BYTES, rel=0.1)
    else:  # the embedded 6.2, with another allocator: 120
        assert 0.5 * REDIS_FILE_BYTES < held < 1.1 * REDIS_FILE_BYTES


def test_more_load_never_takes_less() -> None:
    """Loaders, memory and dollars grow with the rate, and the node with the memory."""
    plans = [plan(Load(rate, 1, 2400, 500)) for rate in (10, 1000, 6000, 60_000)]
    for name in ("loaders busy", "Redis memory", "Redis node"):
        values = [made.figures[name].value for made in plans]
        assert values == sorted(values)
    assert [made.total for made in plans] == sorted(made.total for made in plans)
    assert plans[-1].figures["loaders"].value > 1
    assert "MaxLoaders" in " ".join(plans[-1].notes)


def test_a_fifo_queue_that_would_throttle_is_told_of() -> None:
    """600 calls a second are twice what a FIFO queue takes by default; collections are not."""
    assert "FIFO" in " ".join(plan(Load(6000, 1, 2400, 500, 1, "fifo")).notes)
    assert not plan(Load(6000, 1, 2400, 500, "many", "fifo")).notes


@pytest.mark.parametrize(
    ("load", "what"),
    [
        (Load(1, 1, 2_000_000, 1_048_577), "--selected-bytes 1048577: larger than"),
        (Load(1, 200_000, 2, 2), "--records-per-file 200000: a claim"),
        (Load(1_000_000, 1, 2400, 500), "--files-per-second: the ledger would take"),
    ],
)
def test_what_cannot_be_carried_is_refused(load: Load, what: str) -> None:
    """One line names the option and what to do."""
    with pytest.raises(Halt, match=re.escape(what)):
        plan(load)


def test_every_price_has_its_date_and_source() -> None:
    """A price nobody can check is none; the nodes that are chosen from have a price each."""
    for name, price in PRICES.items():
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", price.as_of), name
        assert price.source.startswith("https://aws.amazon.com/"), name
        assert price.dollars > 0
    assert set(CACHE_NODE_BYTES) <= set(PRICES)
    assert list(CACHE_NODE_BYTES.values()) == sorted(CACHE_NODE_BYTES.values())


def test_the_page_has_a_formula_for_every_figure() -> None:
    """docs/plan.md explains each line that is printed, and no other."""
    made = plan(MANY)
    text = (DOCS / "plan.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    assert rows == {*made.figures, *made.costs, *made.instead}


def test_the_command_prints_figures_and_json() -> None:
    """The same numbers for people and for machines."""
    options = (
        "--files-per-second 6000 --records-per-file 1 --record-bytes 2400 --selected-bytes 500"
    )
    runner = CliRunner()
    told = runner.invoke(app, ["plan", *options.split()])
    assert (told.exit_code, told.exception) == (0, None)
    made = plan(MANY)
    assert f"$ {made.total:,.2f}" in told.stdout
    machine = runner.invoke(app, ["plan", *options.split(), "--json"])
    answer = json.loads(machine.stdout)
    assert math.isclose(answer["dollars_a_month_total"], made.total, abs_tol=0.01)
    assert set(answer["prices"]) == set(PRICES)
    one = runner.invoke(app, ["plan", *options.split(), "--records-per-message", "1", "--json"])
    assert json.loads(one.stdout)["load"]["records_per_message"] == 1
