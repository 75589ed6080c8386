"""What the commands say and how they exit, without processes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import archiver, checker, loader, telemetry
from penstock.archiver import ArchiverTally
from penstock.checker import CheckerTally
from penstock.entry import wiring
from penstock.entry.cli import app
from penstock.model import Tally

FUNCTIONS = {"load": loader, "archive": archiver, "check": checker}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, and leave the log of the other tests as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure", dict)


def penstock(*arguments: str) -> Result:
    """Run one command and return how it ended."""
    return CliRunner().invoke(app, arguments)


def replace_pass(
    monkeypatch: pytest.MonkeyPatch, command: str, one_pass: Callable[..., Awaitable[object]]
) -> None:
    """Let a command run `one_pass` over no parts at all."""

    async def no_parts(*_: object) -> None:
        return None

    function = FUNCTIONS[command]
    monkeypatch.setattr(wiring, function.__name__.rpartition(".")[2], no_parts)
    monkeypatch.setattr(function, command, one_pass)


@pytest.mark.parametrize(
    ("command", "tally", "code"),
    [
        ("load", Tally(), 0),
        ("archive", ArchiverTally(files_archived=1), 0),
        ("archive", ArchiverTally(files_stuck=1), 1),
        ("check", CheckerTally(), 0),
        ("check", CheckerTally(laws_broken=2), 1),
    ],
)
def test_one_pass_exits_with_1_if_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, command: str, tally: object, code: int
) -> None:
    """Files that cannot be moved and broken laws are in the tally, and in the exit code."""

    async def one_pass(*_: object, **__: object) -> object:
        return tally

    replace_pass(monkeypatch, command, one_pass)
    result = penstock(command, "--json")
    assert result.exit_code == code
    assert result.stdout.startswith("{")


@pytest.mark.parametrize("command", ["load", "archive", "check"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_pass_tells_its_tally_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    """Work is undone, so it is not 0; pass after pass has no end but that, so there it is."""

    async def one_pass(*_: object, stop: asyncio.Event, **__: Any) -> object:
        os.kill(os.getpid(), number)
        await stop.wait()
        return ArchiverTally(files_archived=7)

    replace_pass(monkeypatch, command, one_pass)
    result = penstock(command)
    assert (result.exit_code, result.stdout.split()) == (130, ["files_archived", "7"])
    assert penstock(command, "--every", "0").exit_code == 0
