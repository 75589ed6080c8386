"""`penstock config check --connect`: it names each broken part, and the advised fix helps."""

import asyncio
import errno
import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock import wiring
from penstock.cli.commands import app
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, Halt, PenstockError
from penstock.setup import connect_check
from support.box import Box
from support.fileserver import TOKEN, served
from support.sqs_model import SqsError

PARTS = ["spool", "archive", "rejects", "redis", "queue", "limits", "clocks"]


async def parts(box: Box) -> dict[str, tuple[bool, str]]:
    """Return what the command says of each part, and see that its exit code and JSON agree."""

    def run() -> Any:
        command = ["config", "check", "--connect", "--json", "--config", str(box.toml())]
        return CliRunner().invoke(app, command)

    result = await asyncio.to_thread(run)
    found = json.loads(result.stdout)
    assert [part["part"] for part in found["parts"]] == PARTS
    is_well = not found["wrong"] and all(part["ok"] for part in found["parts"])
    assert result.exit_code == (0 if is_well else 1)
    return {part["part"]: (part["ok"], part["text"]) for part in found["parts"]}


async def wrong(box: Box) -> dict[str, str]:
    """Return what is said of the parts that cannot be used."""
    return {part: text for part, (ok, text) in (await parts(box)).items() if not ok}


async def test_all_is_well_and_nothing_is_left(box: Box) -> None:
    """A line a part; the user's files are where they were, none of ours is, and nothing is sent."""
    box.write_many(3)
    before = sorted(box.root.rglob("*"))
    assert all(ok for ok, _ in (await parts(box)).values())
    assert [path for path in sorted(box.root.rglob("*")) if path.name != "penstock.toml"] == before
    assert box.queue.messages() == []
    assert not (box.root / "archive").exists()
    async with box.look() as client:
        keys = [key async for key in client.scan_iter(f"*{box.settings.ledger.spool}*")]
    assert keys == []


async def test_redis_and_queue_that_do_not_answer(box: Box, tmp_path: Path) -> None:
    """Both are named with where they were looked for; started, as advised, they are well."""
    redis_url = box.given["ledger"]["url"]
    box.set("ledger", url=f"unix://{tmp_path}/nowhere.sock")
    del box.stub.model.queues[box.queue.name]
    found = await wrong(box)
    assert found.keys() == {"redis", "queue"}
    assert "nowhere.sock" in found["redis"]
    assert "create the queue" in found["queue"]
    box.set("ledger", url=redis_url)
    box.queue = box.stub.model.create(box.queue.name)
    assert await wrong(box) == {}


async def test_a_redis_that_forgets(box: Box, tmp_path: Path) -> None:
    """Its policy is named, and the one to set."""
    async with EmbeddedRedis(tmp_path / "own") as own:
        box.set("ledger", url=own.address)
        async with box.look() as client:
            await client.config_set("maxmemory-policy", "allkeys-lru")
            assert "noeviction" in (await wrong(box))["redis"]
            await client.config_set("maxmemory-policy", "noeviction")
        assert await wrong(box) == {}


async def test_directories_that_cannot_be_used(box: Box) -> None:
    """What is missing, or in the way, is named."""
    (box.root / "archive").write_text("in the way")
    box.spool.rename(box.root / "elsewhere")
    assert str(box.spool) in (await wrong(box))["spool"]
    (box.root / "elsewhere").rename(box.spool)
    box.set("archive", directory="/proc/nowhere")
    assert (await wrong(box)).keys() == {"archive"}
    box.set("archive", directory="kept")
    assert await wrong(box) == {}


async def test_an_archive_elsewhere(box: Box) -> None:
    """On another file system: works, and that it is slower is said."""
    if Path("/dev/shm").stat().st_dev == box.spool.stat().st_dev:  # noqa: S108
        pytest.skip("one file system")
    box.set("archive", directory="/dev/shm")  # noqa: S108
    ok, text = (await parts(box))["archive"]
    assert (ok, "files are copied" in text) == (True, True)


async def test_two_mounts_of_one_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename between them fails, though the disk is one: what to mount instead is said."""
    rename = connect_check.rename_no_replace

    def between_mounts(from_fd: int, name: str, to_fd: int, to_name: str) -> None:
        if not os.path.samestat(os.fstat(from_fd), os.fstat(to_fd)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(from_fd, name, to_fd, to_name)

    monkeypatch.setattr(connect_check, "rename_no_replace", between_mounts)
    found = await parts(box)
    ok, text = found["archive"]
    assert ok
    assert "another mount of the spool's disk: files are copied" in text
    assert "mount a parent of both" in text


async def test_a_spool_over_http(box: Box) -> None:
    """It is listed; its directories are tried where they are."""
    async with served(box.root, tokens=TOKEN) as address:
        box.set("source", url=address, token=TOKEN)
        assert await wrong(box) == {}
    assert (await wrong(box)).keys() == {"spool"}


async def test_limits(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few open files: both numbers; with fewer connections it will do."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))  # type: ignore[misc]
    assert "may open 64 files" in (await wrong(box))["limits"]


async def test_clocks(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis's and the queue's are compared with this machine's, here an hour behind."""
    now = connect_check.time.time
    monkeypatch.setattr(connect_check, "time", type("T", (), {"time": lambda: now() - 3600}))
    text = (await wrong(box))["clocks"]
    assert re.search(r"Redis's clock by \+3(600|599) s, SQS's clock by \+3(600|599) s", text)
    monkeypatch.undo()


def refuse(monkeypatch: pytest.MonkeyPatch, box: Box, error: SqsError) -> None:
    """Have the queue refuse every batch."""
    call = type(box.stub.model).call

    def refusing(model: Any, action: str, data: Any) -> Any:
        if action == "SendMessageBatch":
            raise error
        return call(model, action, data)

    monkeypatch.setattr(type(box.stub.model), "call", refusing)


async def test_sending_is_denied(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may be read, not sent to: an empty batch tells, and sends nothing."""
    with monkeypatch.context() as refused:
        said = "not authorized to perform: sqs:SendMessage"
        refuse(refused, box, SqsError("AccessDenied", said, 403))
        assert "allow these credentials sqs:SendMessage" in (await wrong(box))["queue"]
    assert await wrong(box) == {}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, Halt),
        ("ThrottlingException", 400, Again),
        ("InternalError", 500, Again),
        ("Odd", 503, Again),
    ],
)
async def test_a_probe_tells_what_may_pass(
    box: Box, monkeypatch: pytest.MonkeyPatch, code: str, status: int, kind: type[PenstockError]
) -> None:
    """As a worker would: a queue that asks for fewer calls, or fails, may take messages later."""
    queue = wiring.unopened_queue(box.settings.queue, 5)
    await queue.open()
    refuse(monkeypatch, box, SqsError(code, "no", status))
    with pytest.raises(kind, match="accepts no messages"):
        await queue.try_sending()
    await queue.close()
