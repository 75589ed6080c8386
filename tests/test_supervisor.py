"""`penstock run` and the one-pass commands, as processes: stops, crashes, what is away."""

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock as package
from penstock import supervisor
from penstock.embedded.redis import EmbeddedRedis
from support.box import Box
from support.fileserver import TOKEN, served
from support.require import require_ministack, require_redis

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return where a command's standard error goes."""
    return tmp_path / "stderr"


@pytest.fixture
def penstock(log: Path) -> Iterator[Start]:
    """Yield a function that starts `penstock …`; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def until(happened: Callable[[], object], seconds: float = 40) -> None:
    """Wait until something is true; fail if it takes too long."""
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.05)


async def finished(process: subprocess.Popen[str], seconds: float = 30) -> str:
    """Return what a process printed to standard output, once it has ended."""
    output, _ = await asyncio.to_thread(process.communicate, timeout=seconds)
    return output


def children(pid: int) -> dict[int, str]:
    """Return the child processes of `pid` and their command lines."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if int(status[1]) == pid:
                found[int(entry.name)] = command
    return found


def loaders(pid: int) -> list[int]:
    """Return the process ids of the loaders of a `penstock run`."""
    return [child for child, command in children(pid).items() if " load " in command]


async def test_run_drains_and_stops_cleanly(box: Box, penstock: Start) -> None:
    """Files are sent, archived; SIGTERM ends all of it with 0, within seconds, nothing left."""
    box.set("run", archiver_interval_seconds=0.3, checker_interval_seconds=0.5)
    box.write_many(500)
    process = penstock("run", "--config", str(box.toml()))
    await until(lambda: not list(box.spool.glob("[!.]*")))
    family = children(process.pid)
    assert len(family) == 4
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    await finished(process)
    assert process.returncode == 0
    assert time.monotonic() - began < 10
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    assert box.received_ids() == dict.fromkeys(range(500), 1)


async def test_run_drains_over_http_with_a_redis_of_its_own(
    box: Box, penstock: Start, log: Path
) -> None:
    """The spool may be behind a file server: all else is the same, but that nothing marks it."""
    box.given["ledger"] = {}
    box.set("run", archiver_interval_seconds=0.3, state_directory=str(box.root / "state"))
    box.write_many(50)
    async with served(box.root, tokens=TOKEN) as address:
        box.set("source", url=address, token=TOKEN)
        process = penstock("run", "--config", str(box.toml()))
        await until(lambda: not list(box.spool.glob("[!.]*")))
        process.send_signal(signal.SIGTERM)
        await finished(process)
    assert process.returncode == 0
    assert box.received_ids() == dict.fromkeys(range(50), 1)
    assert log.read_text().count("spool.unmarked") == 1  # of the supervisor, not of each process


async def test_a_killed_worker_loses_nothing(box: Box, penstock: Start) -> None:
    """Kill -9 at full rate: another takes its claim over; what repeats was in flight."""
    box.set("run", archiver_interval_seconds=0.3, checker_interval_seconds=0.5)
    box.set("ledger", lease_seconds=4)
    box.set("queue", records_per_message=1, connections=16)
    box.stub.latency_seconds = 0.05
    box.write_many(6000)
    process = penstock("run", "--config", str(box.toml()))
    killed = 0
    while killed < 3:
        sent = len(box.received())
        await until(lambda seen=sent: len(box.received()) > seen + 300)
        victim = loaders(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed += 1
        await until(lambda gone=victim: gone not in loaders(process.pid))
    await until(lambda: not list(box.spool.glob("[!.]*")))
    process.send_signal(signal.SIGTERM)
    await finished(process)
    copies = box.received_ids()
    assert sorted(copies) == list(range(6000))
    # In flight when a worker died: at most its connections, ten messages each.
    assert sum(copies.values()) - 6000 <= killed * box.settings.queue.connections * 10
    assert (await box.counters())["claims_taken_over"] >= 1


async def test_a_killed_supervisor_takes_its_processes_along(box: Box, penstock: Start) -> None:
    """Kill -9 of `penstock run`: no loader goes on unsupervised; all go along."""
    process = penstock("run", "--config", str(box.toml()))
    await until(lambda: len(loaders(process.pid)) == 2)
    family = children(process.pid)
    process.kill()
    await finished(process)
    await until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()])


async def test_run_waits_for_what_is_away_and_says_so(box: Box, penstock: Start, log: Path) -> None:
    """Redis away at start: `run` says what it waits for, and still stops at once."""
    box.set("ledger", url=f"unix://{box.root}/nowhere.sock")
    process = penstock("run", "--config", str(box.toml()))
    await until(lambda: '"loader.waits"' in log.read_text())
    process.send_signal(signal.SIGINT)
    await finished(process)
    assert process.returncode == 0
    waits = [json.loads(line) for line in log.read_text().splitlines() if "loader.waits" in line]
    assert "Redis cannot be reached" in waits[0]["cause"]


@pytest.mark.parametrize("command", ["load", "archive", "check"])
async def test_one_pass_fails_in_one_line_if_redis_is_away(
    box: Box, penstock: Start, log: Path, command: str
) -> None:
    """One clear line on standard error, exit code 75: it may work later."""
    box.set("ledger", url=f"unix://{box.root}/nowhere.sock")
    process = penstock(command, "--config", str(box.toml()))
    output, errors = await finished(process), log.read_text()
    assert (process.returncode, output) == (75, "")
    assert len(errors.splitlines()) == 1
    assert re.match(r"penstock: .*Redis cannot be reached.*ledger\.url", errors)


async def test_a_wrong_setting_fails_in_one_line(box: Box, penstock: Start, log: Path) -> None:
    """Field, value, what is allowed; exit code 78: someone has to mend something."""
    box.set("worker", lanes=0)
    process = penstock("run", "--config", str(box.toml()))
    await finished(process)
    assert process.returncode == 78
    assert log.read_text() == (
        "penstock: worker.lanes: 0 is not allowed; allowed: greater than or equal to 1\n"
    )


async def test_one_pass_prints_its_tally(box: Box, penstock: Start) -> None:
    """`--json` is one object with the tally's fields."""
    box.write_many(3)
    process = penstock("load", "--config", str(box.toml()), "--json")
    output = await finished(process)
    assert process.returncode == 0
    assert json.loads(output)["files_processed"] == 3


async def test_embedded_parts_are_started_again_and_keep_their_data(
    box: Box, penstock: Start
) -> None:
    """Kill -9 of the embedded Redis under `run`: it comes back, and no file is sent twice."""
    box.given["ledger"] = {}
    box.set("run", archiver_interval_seconds=600.0, state_directory="state")
    box.write_many(100)
    process = penstock("run", "--config", str(box.toml()))
    await until(lambda: len(box.received()) == 100)
    (server,) = [pid for pid, line in children(process.pid).items() if "redis-server" in line]
    await asyncio.sleep(0.5)  # the commit follows the last receipt
    os.kill(server, signal.SIGKILL)
    box.write_many(100, first=100)
    await until(lambda: len(box.received()) == 200)
    process.send_signal(signal.SIGTERM)
    await finished(process)
    assert process.returncode == 0
    assert box.received_ids() == dict.fromkeys(range(200), 1)


async def test_an_embedded_part_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a restart fails before there is a process (no memory, a full disk), another follows."""
    require_redis()
    launch, tries = EmbeddedRedis.launch, list[int]()

    async def launched(part: EmbeddedRedis, previous: str, inherit: int) -> str:
        tries.append(1)
        if len(tries) == 2:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return await launch(part, previous, inherit)

    monkeypatch.setattr(EmbeddedRedis, "launch", launched)
    stop = asyncio.Event()
    async with EmbeddedRedis(tmp_path) as part, asyncio.TaskGroup() as group:
        group.create_task(supervisor._keep_answering(part, stop))
        os.kill(part.pid or 0, signal.SIGKILL)
        async with asyncio.timeout(20):
            while len(tries) < 3 or not await part.answers():
                await asyncio.sleep(0.05)
        stop.set()


async def test_an_embedded_sqs_that_was_killed_gets_its_queue_again(
    box: Box, penstock: Start
) -> None:
    """Kill -9 of the embedded SQS loses its queue: `run` makes it anew, and files go on."""
    require_ministack()
    box.given |= {"queue": {"url": "embedded"}}
    box.set("run", archiver_interval_seconds=600.0, state_directory=str(box.root / "state"))
    box.write_many(10)
    process = penstock("run", "--config", str(box.toml()))

    async def processed(count: int) -> None:
        while (await box.counters()).get("files_processed", 0) < count:
            await asyncio.sleep(0.1)

    async with asyncio.timeout(30):
        await processed(10)
        (server,) = [pid for pid, line in children(process.pid).items() if "hypercorn" in line]
        os.kill(server, signal.SIGKILL)
        box.write_many(10, first=10)
        await processed(20)
    process.send_signal(signal.SIGTERM)
    await finished(process)
    assert process.returncode == 0


def test_a_child_of_another_version_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade in place the supervisor is told apart from what it starts now."""
    ours = package.__version__
    assert supervisor._version_on_disk() == ours
    monkeypatch.setattr(package, "__version__", "0.0.1")
    assert supervisor._version_on_disk() == ours
    monkeypatch.setattr(package, "__file__", "/nonexistent")
    assert supervisor._version_on_disk() == "0.0.1"
