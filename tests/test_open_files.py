"""A process that may open no more files blames neither files nor SQS, and counts repeats."""

import errno
import os
import resource
from typing import Any

import pytest

from penstock import http1, wiring
from penstock.errors import Halt
from support.box import SECOND, Box

UNLIMITED = resource.RLIM_INFINITY


def allow(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
    """Let this process have these limits, as far as it can see."""

    def getrlimit(_: int) -> tuple[int, int]:
        return soft, hard

    monkeypatch.setattr(resource, "getrlimit", getrlimit)


@pytest.mark.parametrize(
    ("soft", "hard", "becomes"),
    [(64, 4096, 306), (64, UNLIMITED, 306), (306, 306, None), (UNLIMITED, UNLIMITED, None)],
)
def test_a_start_raises_the_limit_to_what_its_settings_need(
    box: Box, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, becomes: int | None
) -> None:
    """Up to the hard one; one that is high enough is left alone."""
    box.set("queue", connections=128)
    box.set("worker", lanes=6)
    made: list[tuple[int, int]] = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        made.append(limits)

    allow(monkeypatch, soft, hard)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    wiring.allow_open_files(box.settings)
    needed = 128 + (3 * 6 + 4) + 8 * 6 + 96
    assert made == ([] if becomes is None else [(needed, hard)])


async def test_a_limit_that_is_too_low_halts_the_start(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With figures, and where to raise it: nothing is claimed only to be given back."""
    allow(monkeypatch, 64, 100)
    with pytest.raises(
        Halt, match=r"may open 100 files.*need \d+.*queue\.connections = 128"
    ) as told:
        await box.load()
    assert "ulimit -Hn" in str(told.value)
    assert "LimitNOFILE=" in str(told.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_what_the_process_lacks_is_not_blamed_on_sqs(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """The claim is given back with its journal, the error names the limit; then it goes on."""
    box.set("queue", records_per_message=1)
    box.write_many(60)
    real, opened = http1.Http1Client._connected, 0

    async def connected(self: http1.Http1Client) -> Any:
        nonlocal opened
        opened += 1
        if opened > 2:
            raise OSError(number, os.strerror(number))
        return await real(self)

    monkeypatch.setattr(http1.Http1Client, "_connected", connected)
    assert (await box.load()).files_processed == 60  # over the connections that there are
    causes = [vars(r)["fields"]["cause"] for r in caplog.records if r.msg == "claim.released"]
    assert causes
    assert all("ulimit -n" in cause and "reach" not in cause for cause in causes)
    assert box.received_ids() == dict.fromkeys(range(60), 1)
    assert (await box.counters()).get("files_retried", 0) == 0


async def test_what_was_unheard_when_a_claim_was_given_back_is_counted(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor sends it again: as many as `possible_repeats` says, at most."""
    box.set("queue", records_per_message=1, connections=1)
    box.set("worker", lanes=1)
    box.write_many(20)
    box.stub.script("reset_after")
    real, opened = http1.Http1Client._connected, 0

    async def connected(self: http1.Http1Client) -> Any:
        nonlocal opened
        opened += 1
        if 1 < opened < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(self)

    with monkeypatch.context() as patch:
        patch.setattr(http1.Http1Client, "_connected", connected)
        await box.load()
    assert box.stub.fired["reset_after"] == 1
    repeats = box.received_ids().total() - 20
    assert repeats == 10
    assert (await box.counters())["possible_repeats"] == repeats
    assert (await box.check()).laws_broken == 0


async def test_unreadable_files_are_one_line_a_cause(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many they are: the line has their number and one of them."""
    box.write_many(300)
    real = os.open

    def denied(path: Any, *args: int, dir_fd: int | None = None) -> int:
        if str(path) > f"{SECOND}.000100" and str(path).endswith(".json"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", denied)
    await box.load()
    (line,) = [vars(record)["fields"] for record in caplog.records if record.msg == "file.denied"]
    assert (line["files"], line["cause"]) == (200, "Permission denied")
    assert line["file"].endswith(".json")
