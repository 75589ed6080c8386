"""A file that is still being written, on the whole path: it is sent once, and all of it."""

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
from typer.testing import CliRunner

from penstock import telemetry, wiring, worker
from penstock.cli.commands import app
from penstock.operate.spool_view import RemoteView
from support import fileserver
from support.box import SECOND, Box
from support.nginx import nginx_over
from support.require import require_nginx

FILES = 20
AHEAD_SECONDS = 3600


async def test_a_file_being_written_holds_up_none_but_itself(box: Box) -> None:
    """Its neighbours are sent without it; it is claimed when it has settled."""
    box.set("source", settle_seconds=1)
    box.write_many(20)
    await asyncio.sleep(1.1)
    slow = box.spool / f"{SECOND}.000007.json"
    whole = slow.read_text()
    with slow.open("w") as writer:
        writer.write("[]")  # a whole document, and not all of it
        writer.flush()
        tally = await box.load()
        assert (tally.files_processed, tally.files_retried) == (19, 0)
    assert box.received_ids() == {i: 1 for i in range(20) if i != 7}
    sizes = await box.sizes()
    assert (sizes["processed"], sizes["retry"], sizes["claims"]) == (19, 0, 0)
    slow.write_text(whole)
    assert (await box.load()).files_processed == 0
    await asyncio.sleep(1.1)
    assert (await box.load()).files_processed == 1
    assert box.received_ids() == dict.fromkeys(range(20), 1)
    assert (await box.check()).laws_broken == 0


@asynccontextmanager
async def directory(box: Box) -> AsyncGenerator[None]:
    """Leave the spool a directory of this machine."""
    assert box
    yield


@asynccontextmanager
async def server(box: Box) -> AsyncGenerator[None]:
    """Put `penstock serve` before it, which no event tells of closed files."""
    async with fileserver.served(box.root, served="poll", settle_seconds=1) as address:
        box.set("source", url=address, token=fileserver.TOKEN)
        yield


@asynccontextmanager
async def nginx(box: Box) -> AsyncGenerator[None]:
    """Put plain nginx before it."""
    require_nginx()
    async with nginx_over(box.root) as plain:
        box.set("source", url=plain.url, token=plain.move_token)
        yield


KINDS = {"directory": directory, "server": server, "nginx": nginx}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Box], AbstractAsyncContextManager[None]]:
    """Return one kind of source."""
    return KINDS[request.param]


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Return what is warned of, as it comes."""
    found: list[dict[str, object]] = []

    def warn(step: str, /, **fields: object) -> None:
        found.append({"step": step, **fields})

    monkeypatch.setattr(telemetry, "warn", warn)
    return found


def set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set this machine's clock back by an hour."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() - AHEAD_SECONDS)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - AHEAD_SECONDS * 10**9)


async def one_pass(box: Box) -> str:
    """Run `penstock load`, and return what it prints."""
    command = ["load", "--config", str(box.toml())]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.usefixtures("commands_in_a_thread")
async def test_a_single_pass_waits_once_for_files_to_settle(
    box: Box, kind: Callable[[Box], AbstractAsyncContextManager[None]]
) -> None:
    """All files are younger than settle_seconds: a pass that nobody follows sends them."""
    box.set("source", settle_seconds=1)
    async with kind(box):
        box.write_many(FILES)
        await one_pass(box)
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)


@pytest.mark.usefixtures("commands_in_a_thread")
async def test_a_clock_that_was_set_back_holds_up_no_file(
    box: Box,
    kind: Callable[[Box], AbstractAsyncContextManager[None]],
    warned: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R11: one line says how many files are ahead of the clock, and by how much; they are sent."""
    box.set("source", settle_seconds=1)
    async with kind(box):
        box.write_many(FILES)
        for path in box.spool.glob("*.json"):  # what nginx tells
            ahead = time.time() + AHEAD_SECONDS
            os.utime(path, (ahead, ahead))
        set_back(monkeypatch)
        await one_pass(box)
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)
    (told,) = [one for one in warned if one["step"] == "files.ahead"]
    assert told["files"] == FILES
    assert AHEAD_SECONDS - 60 < float(str(told["ahead_seconds"])) < 2 * AHEAD_SECONDS + 60


@pytest.mark.usefixtures("commands_in_a_thread")
async def test_what_changes_meanwhile_is_not_sent(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file ahead of the clock that is still being written waits, and the pass says so."""
    box.set("source", settle_seconds=1)
    box.write_many(FILES)
    set_back(monkeypatch)
    slow = box.spool / f"{SECOND}.000007.json"

    async def write() -> None:
        while True:
            slow.write_text("[]")
            await asyncio.sleep(0.2)

    writing = asyncio.create_task(write())
    printed = await one_pass(box)
    writing.cancel()
    assert box.received_ids() == {i: 1 for i in range(FILES) if i != 7}
    assert re.search(r"^files_unsettled +1$", printed, re.MULTILINE)


async def test_a_pass_that_others_follow_does_not_wait(box: Box) -> None:
    """`penstock run` looks again anyway: its next pass sends what has settled."""
    box.set("source", settle_seconds=3)
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(box.settings, stack)
        box.write_many(FILES)
        began = time.monotonic()
        tally = await worker.load(parts, stop=asyncio.Event())
        assert (tally.files_processed, tally.files_unsettled) == (0, FILES)
        assert time.monotonic() - began < 2.9
        await asyncio.sleep(3.1)
        assert (await worker.load(parts, stop=asyncio.Event())).files_processed == FILES


async def test_a_cut_off_file_ahead_of_the_clock_is_not_retried_for_an_hour(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not change while it settled: it is as complete as it will be."""
    name = box.write(f"{SECOND}.json", '{"id": ')
    set_back(monkeypatch)
    tally = await box.load()
    assert (tally.files_rejected, tally.files_retried) == (1, 0)
    assert (await box.sizes())["rejected"] == 1
    assert name in {path.name for path in box.spool.glob("*.json")}


async def test_no_age_is_negative(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the oldest waiting file of the status over HTTP, nor what a worker notes."""
    ages: list[float] = []
    box.write_many(1)
    set_back(monkeypatch)
    async with fileserver.served(box.root) as address:
        source = fileserver.source_at(address)
        view = RemoteView(source, 10)
        (name,) = await view.scan()
        assert await view.age_seconds(name) == 0.0
        await source.close()
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(box.settings, stack)
        tally = await worker.load(parts, stop=asyncio.Event(), note_age=ages.append)
    assert (tally.oldest_waiting_seconds, ages) == (0.0, [0.0])
