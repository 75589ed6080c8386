"""Metrics: named and typed as Prometheus wants, documented; dashboards use none but these."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock import __version__
from penstock.ledger.outcome import AGES_SECONDS
from penstock.operate.metrics import COUNTERS, exposition
from penstock.operate.observer import Observer
from penstock.settings.schema import StatusSettings
from support.box import Box
from support.require import require

ROOT = Path(__file__).parents[2]
DASHBOARD, ALERTS = ROOT / "deploy/grafana.json", ROOT / "deploy/alerts.yml"


@pytest.fixture
async def text(box: Box) -> str:
    """Return the metrics of a box on which every kind of thing has happened."""
    box.write_many(30)
    box.write("2026-11-23T07.json", "garbage")
    await box.load()
    await box.archive()
    observer = Observer(box.settings)
    snapshot = await observer.snapshot()
    await observer.aclose()
    return exposition(snapshot, StatusSettings()).decode()


def names(text: str) -> set[str]:
    """Return the names of the samples of an exposition."""
    return {s.name for family in text_string_to_metric_families(text) for s in family.samples}


def values(text: str) -> dict[tuple[str, str], float]:
    """Return samples by name and last label."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels: dict[str, str] = {k: v for k, v in sample.labels.items() if k != "spool"}
            found[sample.name, "".join(labels.values())] = sample.value
    return found


async def test_metrics_say_what_happened(text: str) -> None:
    """Counters, states and the verdicts, as the ledger and status have them."""
    seen = values(text)
    assert seen["penstock_files_processed_total", ""] == 30
    assert seen["penstock_files_rejected_total", ""] == 1
    assert seen["penstock_files", "waiting"] == 0
    assert seen["penstock_rejects_kept", ""] == 1
    assert seen["penstock_part_up", "redis"] == 1
    assert seen["penstock_verdict", "some-rejected"] == 1
    assert seen["penstock_healthy", ""] == 1
    assert seen["penstock_queue_messages", "visible"] > 0
    assert seen["penstock_build_info", __version__] == 1
    assert seen["penstock_claim_age_seconds_bucket", "+Inf"] >= 1
    assert seen["penstock_claim_age_seconds_sum", ""] > 0
    assert len([name for name, _ in seen if name.endswith("_bucket")]) == len(AGES_SECONDS) + 1


async def test_away_is_a_metric_too(box: Box) -> None:
    """Redis away: it is said so, and nothing is claimed to be nought that is not known."""
    box.set("ledger", url=f"unix://{box.root}/nowhere.sock")
    observer = Observer(box.settings)
    seen = values(exposition(await observer.snapshot(), StatusSettings()).decode())
    await observer.aclose()
    assert seen["penstock_part_up", "redis"] == 0
    assert seen["penstock_healthy", ""] == 0
    assert not [name for name, _ in seen if name.endswith("_total")]


async def test_every_metric_is_documented_and_every_documented_one_is_there(text: str) -> None:
    """docs/metrics.md lists the metrics, and no other."""
    page = (ROOT / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(penstock_[a-z_]+)", page, re.MULTILINE))
    assert documented == names(text)
    assert {f"penstock_{name}_total" for name in COUNTERS} <= documented


def expressions() -> Iterator[str]:
    """Yield every expression of the dashboard and of the alarms."""
    yield from re.findall(r"^\s+expr: (.+(?:\n {10}.+)*)", ALERTS.read_text(), re.MULTILINE)

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, part in value.items():  # type: ignore[reportUnknownVariableType]
                if key in {"expr", "query"} and isinstance(part, str) and part != "prometheus":
                    yield part
                else:
                    yield from walk(part)
        elif isinstance(value, list):
            for part in value:  # type: ignore[reportUnknownVariableType]
                yield from walk(part)

    yield from walk(json.loads(DASHBOARD.read_text()))


async def test_dashboard_and_alarms_use_only_metrics_that_exist(text: str) -> None:
    """A renamed metric would leave a panel empty and an alarm silent for ever."""
    known = names(text)
    found = list(expressions())
    assert len(found) > 15
    for expression in found:
        used = set(re.findall(r"penstock_[a-z_]+", expression))
        assert used, expression
        assert used <= known, expression


def test_every_alarm_leads_to_a_page_that_is_there() -> None:
    """Its runbook_url names a page of this repository, and a heading on it."""
    text = ALERTS.read_text()
    urls = re.findall(r"runbook_url: (\S+)#(\S+)$", text, re.MULTILINE)
    assert len(urls) == text.count("- alert: ")
    for page, anchor in urls:
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        plain = [re.sub(r"[^a-z0-9 -]", "", heading.lower()) for heading in headings]
        assert anchor in {heading.replace(" ", "-") for heading in plain}


def test_no_alarm_has_a_threshold_of_a_setting() -> None:
    """What is late or full, the settings say, and status: an alarm asks for its verdict."""
    for expression in expressions():
        if expression in ALERTS.read_text():
            assert not re.search(r"oldest|memory|disk", expression)


def promtool() -> str:
    """Return where promtool is."""
    program = shutil.which("promtool")
    require(present=bool(program), what="promtool (Debian: prometheus)")
    return str(program)


async def test_prometheus_finds_no_fault_in_the_metrics(text: str) -> None:
    """`promtool check metrics`: names, units and types by its conventions."""
    command = [promtool(), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_alarms_go_off_when_they_should_and_only_then() -> None:
    """`promtool test rules` with series of a healthy hour, and of one in which things break."""
    command = [promtool(), "test", "rules", str(ROOT / "tests/data/alerts_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
