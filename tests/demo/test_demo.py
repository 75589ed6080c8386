"""`penstock demo` as a user runs it, short: everything real, and everything accounted for."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.demo.demo import Demo, DemoPlan
from support.embedded_file_server import EmbeddedFileServer
from support.embedded_nginx import EmbeddedNginx
from support.require import require_ministack, require_nginx, require_redis

_KEYS = [
    "files_written", "records_written", "records_expected", "records_received", "records_lost",
    "records_duplicated", "records_unexpected", "files_archived", "files_rejected",
    "files_rejected_expected", "files_left_in_spool", "seconds", "files_per_second",
    "records_per_second", "oldest_waiting_seconds_max", "messages", "batches",
    "messages_full",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _parts() -> None:  # pyright: ignore[reportUnusedFunction]  pytest uses it
    require_redis()
    require_ministack()


def _demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock", "demo", *arguments]


def _run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the demo to its end; return its exit code, its JSON and its standard error."""
    # A user's own settings and credentials must neither help nor harm.
    environment = os.environ | {"AWS_PROFILE": "no-such-profile", "PENSTOCK_QUEUE__URL": "wrong"}
    ended = subprocess.run(
        _demo("--json", *arguments), capture_output=True, text=True, check=False, env=environment
    )
    assert ended.stdout.count("\n") == 1, ended.stdout + ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "500", "--seconds", "2"],
        ["--rate", "500", "--seconds", "2", "--queue", "fifo"],
        ["--rate", "210", "--seconds", "2", "--records-per-file", "100", "--workers", "1"],
    ],
    ids=["standard", "fifo", "100-records-a-file"],
)
def test_everything_agrees_and_is_kept(arguments: Sequence[str], tmp_path: Path) -> None:
    """Nothing lost, doubled or changed; every file where it belongs; all of it there to look at."""
    place = tmp_path / "kept"
    code, result, errors = _run(*arguments, "--keep", str(place))
    assert code == 0, errors
    assert list(result) == _KEYS
    assert result["files_rejected"] == result["files_rejected_expected"] == 1
    assert result["files_archived"] == result["files_written"] - 1
    assert result["files_left_in_spool"] == 0
    assert result["records_received"] == result["records_expected"] > 0
    assert (
        result["records_lost"] == result["records_duplicated"] == result["records_unexpected"] == 0
    )
    assert 0 < result["batches"] <= result["messages"] < result["records_received"]
    assert 0 < result["oldest_waiting_seconds_max"] < result["seconds"]
    assert len(list(place.glob("archive/2*/*/*/*/*.json"))) == result["files_archived"]
    (reason,) = place.glob("rejected/*.reason.json")
    assert json.loads(reason.read_text())["reason"]
    for name in ("spool", "penstock.toml", "penstock.log", "state/redis", "state/sqs"):
        assert (place / name).exists()


@contextlib.asynccontextmanager
async def _over_nginx(directory: Path) -> AsyncGenerator[Mapping[str, str]]:
    require_nginx()
    async with EmbeddedNginx(directory / "state", root=directory) as nginx:
        yield {"url": nginx.url, "token": nginx.move_token}


@contextlib.asynccontextmanager
async def _over_file_server(directory: Path) -> AsyncGenerator[Mapping[str, str]]:
    config = directory / "server.toml"
    config.write_text("[source]\nsettle_seconds = 0.5\n")
    state, spool = directory / "state", directory / "spool"
    async with EmbeddedFileServer(state, spool=spool, config=config) as server:
        yield {"url": server.address, "token": server.token}


@pytest.mark.parametrize("serve", [_over_nginx, _over_file_server])
async def test_everything_agrees_over_http(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing lost, doubled or changed where the workers reach the spool by nginx, or by ours."""
    run = Demo(DemoPlan(500, 2, 1, 2, fifo=False), tmp_path, lambda _: None)
    monkeypatch.setattr(run, "served", lambda: serve(tmp_path))
    result = await run.run(asyncio.Event())
    assert result
    assert result.disagreements() == []
    assert result.files_rejected == result.files_rejected_expected == 1
    assert result.files_archived == result.files_written - 1
    assert result.records_received == result.records_expected > 0
    assert 0 < result.batches <= result.messages < result.records_received


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """--keep never mixes two runs, nor touches what is there."""
    (tmp_path / "precious").touch()
    refused = subprocess.run(
        _demo("--keep", str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 78
    assert "not empty" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    """Within seconds, without a process or a temporary directory left behind."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        _demo("--seconds", "60", "--rate", "200"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as running:
        assert running.stderr
        line = running.stderr.readline()
        assert "written" in line, line + running.stderr.read()
        (place,) = tmp_path.glob("penstock-demo-*")
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        errors = running.stderr.read()
    assert running.returncode == 130, errors
    assert time.monotonic() - began < 20
    assert not place.exists()
    assert not _mentioning(str(place))


async def test_the_account_notices_what_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message taken away from the queue and one put there twice are both found, by number."""
    monkeypatch.setattr(Demo, "standstill_seconds", 4.0)
    meddling = list[asyncio.Task[int]]()

    def show(run: Demo) -> None:
        if not meddling and run.comparison.received:
            meddling.append(asyncio.create_task(_meddle(run)))

    run = Demo(DemoPlan(200, 3, 1, 1, fifo=False), tmp_path, show)
    result = await run.run(asyncio.Event())
    assert result
    stolen = await meddling[0]
    assert stolen > 0
    assert result.records_lost == stolen
    assert result.records_duplicated == 1
    assert result.records_unexpected == 1
    assert len(result.disagreements()) == 3
    assert len((tmp_path / "lost.txt").read_text().split()) == min(stolen, 100)
    assert "forged" in (tmp_path / "unexpected.jsonl").read_text()


async def _meddle(run: Demo) -> int:
    """Forge a duplicate and a stranger, then steal one message; return how many records it had."""
    sqs, url = run.consumer._sqs, run.consumer._queue_url
    for body in (run.corpus.expected(0), {"id": 7, "text": "forged"}):
        send = {"QueueUrl": url, "MessageBody": json.dumps(body)}
        await sqs.call("SendMessage", send)
    while True:
        answer = await sqs.call("ReceiveMessage", {"QueueUrl": url})
        for message in answer.get("Messages", []):
            records = json.loads(message["Body"])
            if isinstance(records, list):
                return len(cast("list[Any]", records))  # never deleted, and gone for the next 30 s
            run.consumer._comparison.take(message["Body"])  # ours: it is put back


def _mentioning(text: str) -> list[str]:
    """Return the command lines of running processes that mention `text`."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        found += [command] if text in command else []
    return found
