"""What `penstock status` says: each verdict on a setup broken so, and that its advice helps."""

import asyncio
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from typer.testing import CliRunner

from penstock import supervisor, telemetry
from penstock.archive.forecast import ArchiveSpace, Forecast
from penstock.cli.commands import app
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Halt
from penstock.ledger import upkeep
from penstock.operate import health
from penstock.operate.health import verdicts
from penstock.operate.metrics import exposition
from penstock.operate.observer import Observer
from penstock.operate.spool_view import DiskRoom, RemoteView, SpoolState, SpoolWatch
from penstock.settings.schema import StatusSettings
from penstock.source.index import LARGE_FILES
from support.box import Box, look
from support.fileserver import NEW_TOKEN, TOKEN, served, source_at
from support.nginx import nginx_over
from support.require import require_nginx

pytestmark = pytest.mark.usefixtures("commands_in_a_thread")


async def codes(box: Box) -> list[str]:
    """Return the codes of what is wrong with a box, and of what is worth a look."""
    return [said.code for said in (await look(box)).verdicts]


async def healthy(box: Box) -> None:
    """Run one pass of each function and expect nothing to be wrong."""
    await box.load()
    await box.archive()
    await box.check()
    snapshot = await look(box)
    assert snapshot.verdicts == [], snapshot.verdicts


async def healthy_but(box: Box, code: str) -> None:
    """Run one pass of each function and expect only this to be said."""
    await box.load()
    await box.archive()
    await box.check()
    assert await codes(box) == [code]


async def test_a_drained_spool_is_healthy(box: Box) -> None:
    """After one pass of each function there is nothing to say, and every figure is there."""
    box.write_many(30)
    await healthy(box)
    seen = await look(box)
    assert seen.waiting == 0
    assert seen.ledger is not None
    assert seen.ledger.counters["files_archived"] == 30
    assert seen.rates["files_processed"] == pytest.approx(0.5, rel=0.01)
    assert sum(minute["files_processed"] for minute in seen.minutes) == 30
    assert seen.queue is not None
    assert seen.queue.visible == len(box.queue.messages())
    assert seen.memory is not None
    assert 0 < seen.memory.ledger_bytes < seen.memory.used_bytes
    assert [worker.claims for worker in seen.workers] == [0]
    json.dumps(seen.as_dict())


async def test_no_worker(box: Box) -> None:
    """Files wait and nobody drains: said at once, and after ten minutes of silence."""
    box.write_many(3)
    seen = await look(box)
    assert [v.code for v in seen.verdicts] == ["no-worker"]
    assert seen.waiting == 3
    assert seen.spool is not None
    assert seen.spool.oldest_waiting.endswith("000000.json")
    await healthy(box)
    box.write_many(3, first=3)
    box.set("status", silent_seconds=0.01)
    await asyncio.sleep(0.02)
    assert "no-worker" in await codes(box)


async def test_falling_behind(box: Box) -> None:
    """Workers are there, yet a file has waited for too long; another worker drains it."""
    await healthy(box)
    box.write_many(2)
    box.set("status", oldest_waiting_seconds=0.01)
    await asyncio.sleep(0.02)
    assert await codes(box) == ["falling-behind"]
    await healthy(box)


async def test_redis_away(box: Box, tmp_path: Path) -> None:
    """Redis does not answer: said with its address, the spool is shown; when it is back, all is."""
    server = EmbeddedRedis(tmp_path / "state")
    await server.start()
    box.set("ledger", url=server.address)
    await healthy(box)
    await server.stop()
    box.write_many(2)
    seen = await look(box)
    assert [v.code for v in seen.verdicts] == ["redis-away"]
    assert re.search(r"Redis cannot be reached: .*[^.]; see ledger.url", seen.verdicts[0].text)
    assert seen.spool is not None
    assert seen.spool.entries == 2
    assert seen.waiting is None
    await server.start()
    await healthy(box)
    await server.stop()


async def test_only_this_command_has_no_credentials(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers send and an operator's shell may not ask: said so; with credentials all is well."""
    box.write_many(3)
    await healthy(box)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        (verdict,) = (await look(box)).verdicts
    assert verdict.code == "queue-away"
    assert "Workers sent 3 records within the last two minutes" in verdict.advice
    await healthy(box)


async def test_queue_away(box: Box) -> None:
    """The queue is deleted: said with SQS's own word; made again, the box is well."""
    await healthy(box)
    name = box.queue.name
    del box.stub.model.queues[name]
    seen = await look(box)
    assert [v.code for v in seen.verdicts] == ["queue-away"]
    assert "does not exist" in seen.verdicts[0].text
    box.stub.model.create(name)
    await healthy(box)


async def test_spool_away(box: Box) -> None:
    """The directory is gone: said with its name; back again, the box is well."""
    await healthy(box)
    box.spool.rename(box.root / "elsewhere")
    seen = await look(box)
    assert [v.code for v in seen.verdicts] == ["spool-away"]
    assert str(box.spool) in seen.verdicts[0].text
    (box.root / "elsewhere").rename(box.spool)
    await healthy(box)


async def test_a_spool_behind_the_file_server(box: Box) -> None:
    """It is listed over HTTP: what waits, and healthy when drained; the rest is left out."""
    box.write_many(3)
    async with served(box.root, tokens=TOKEN) as address:
        box.set("source", url=address, token=TOKEN)
        seen = await look(box)
        assert [v.code for v in seen.verdicts] == ["no-worker"]
        assert seen.waiting == 3
        assert seen.spool is not None
        assert seen.spool.oldest_waiting.endswith("000000.json")
        assert 0 < seen.spool.oldest_waiting_seconds < 60
        assert (seen.spool.rejects_kept, seen.spool.room) == (None, None)
        assert b"penstock_disk_free_bytes" not in exposition(seen, StatusSettings())
        await healthy(box)
        assert box.received_ids() == {0: 1, 1: 1, 2: 1}
        result = await asyncio.to_thread(invoke, box, "status")
        assert (result.exit_code, result.output.splitlines()[0]) == (0, "healthy")


async def test_a_spool_behind_the_file_server_away(box: Box) -> None:
    """Wrong only when the server does not answer, or refuses: said with what is to be mended."""
    box.write_many(3)
    async with served(box.root, tokens=TOKEN) as address:
        box.set("source", url=address, token=TOKEN)
        await healthy(box)
        box.set("source", token=NEW_TOKEN)
        (said,) = (await look(box)).verdicts
        assert said.code == "spool-away"
        assert "answered 401" in said.text
        assert "source.token" in said.text
        box.set("source", token=TOKEN)
        await healthy(box)
    (said,) = (await look(box)).verdicts
    assert said.code == "spool-away"
    assert address in said.text
    assert "ssl" not in said.text  # it is plain HTTP


async def test_a_spool_behind_nginx(box: Box) -> None:
    """The same over plain nginx: listed, healthy, away when nginx is stopped, and well again."""
    require_nginx()
    box.write_many(3)
    nginx = nginx_over(box.root)
    async with nginx:
        box.set("source", url=nginx.url, token=nginx.move_token)
        seen = await look(box)
        assert [v.code for v in seen.verdicts] == ["no-worker"]
        assert seen.waiting == 3
        await healthy(box)
    assert await codes(box) == ["spool-away"]
    async with nginx:
        box.set("source", url=nginx.url)
        await healthy(box)


async def test_a_remote_spool_is_listed_to_its_last_page(box: Box) -> None:
    """One look takes every page; a file that went since is not the oldest that waits."""
    box.write_many(7)
    async with served(box.root) as address:
        source = source_at(address, page_files_max=3)
        view = RemoteView(source, 3)
        found = await view.scan()
        assert len(found) == 7
        assert await view.scan() == found
        (box.spool / found[0]).unlink()
        watch = SpoolWatch(view)

        async def all_wait(page: Sequence[str]) -> Sequence[str]:
            (box.spool / found[1]).unlink(missing_ok=True)
            return ["waiting"] * len(page)

        assert (await watch.look(all_wait)).oldest_waiting == found[2]
        await source.close()


async def test_claims_without_owner(box: Box) -> None:
    """A worker died and no other came: `load` takes its claim over."""
    await healthy(box)
    box.set("ledger", lease_seconds=1)
    box.write_many(2)
    held = Observer(box.settings)
    book = await held.ledger()
    names = sorted(path.name for path in box.spool.glob("[!.]*"))
    assert (await book.claim(names, 500)).claim is not None
    claims = await book.reads.claims()
    overdue = [claim._replace(overdue_seconds=31.0) for claim in claims]  # 31 s later
    seen = (await held.snapshot())._replace(claims=overdue)
    await held.aclose()
    assert [v.code for v in verdicts(seen, StatusSettings())] == ["claims-expired"]
    await asyncio.sleep(1.1)
    await healthy(box)
    assert box.received_ids() == {0: 1, 1: 1}


async def test_a_claim_that_cannot_be_read(box: Box) -> None:
    """Its worker died, its successor could not read a file: both are named until it can."""
    await healthy(box)
    box.write_many(2)
    held = Observer(box.settings)
    book = await held.ledger()
    names = sorted(path.name for path in box.spool.iterdir())
    claim = (await book.claim(names, 500)).claim
    assert claim
    assert await book.release(claim, waits_for=f"{names[0]}: Permission denied", processed="1-1")
    seen = await held.snapshot()
    assert [v.code for v in seen.verdicts] == ["claim-waits"]
    assert f"{names[0]}: Permission denied" in seen.verdicts[0].text
    await held.aclose()
    await asyncio.sleep(1.1)
    assert (await box.load()).files_processed == 1
    await healthy(box)


async def test_a_claim_held_for_long(box: Box) -> None:
    """A worker lives and does not get on: its claim is named; once it stops, another finishes."""
    await healthy(box)
    box.set("ledger", lease_seconds=1)
    box.write_many(2)
    slow = Observer(box.settings)
    book = await slow.ledger()
    names = sorted(path.name for path in box.spool.glob("[!.]*"))
    claim = (await book.claim(names, 500)).claim
    assert claim is not None
    for _ in range(11):
        await asyncio.sleep(0.5)
        assert await book.renew(claim)
    seen = await slow.snapshot()
    assert [v.code for v in seen.verdicts] == ["claim-old"]
    assert claim.id in seen.verdicts[0].text
    assert await book.release(claim)
    await slow.aclose()
    await healthy(box)


async def test_a_redis_that_forgot(box: Box) -> None:
    """It is said for an hour, with how many files were sent that may have been before."""
    box.write_many(3)
    await box.load()
    async with box.look() as client:
        await client.delete(*[key async for key in client.scan_iter(f"*{box.root.name[-40:]}*")])
    await healthy_but(box, "redis-forgot")
    seen = await look(box)
    assert "3 files" in seen.verdicts[0].text
    assert seen.ledger
    later = seen.ledger._replace(minutes={}, at_seconds=seen.ledger.at_seconds + 3600)
    assert verdicts(seen._replace(ledger=later), StatusSettings()) == []


async def test_a_redis_that_may_evict(box: Box, tmp_path: Path) -> None:
    """Policy, evicted keys and remedy are named, also by a status that was not there before."""
    async with EmbeddedRedis(tmp_path / "evicting") as own:
        box.set("ledger", url=own.address)
        await healthy(box)
        async with box.look() as client:
            await client.config_set("maxmemory-policy", "allkeys-lru")
        seen = await look(box)
        assert [said.code for said in seen.verdicts] == ["redis-evicts"]
        assert "allkeys-lru" in seen.verdicts[0].text
        async with box.look() as client:
            await client.config_set("maxmemory-policy", "noeviction")
        await healthy(box)


async def test_archiver_late(box: Box) -> None:
    """Processed files stay in the spool: `archive` moves them."""
    box.write_many(3)
    await box.load()
    await box.check()
    box.set("status", silent_seconds=0.01)
    await asyncio.sleep(0.02)
    assert "archiver-late" in await codes(box)
    box.set("status", silent_seconds=600)
    await healthy(box)


async def test_archiver_late_because_a_file_is_stuck(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archiver runs and cannot move them: what `file.stuck` names is mended, then it can."""
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    box.write_many(3)
    await box.load()
    await box.check()
    (box.root / "archive").write_text("in the way")
    box.set("status", silent_seconds=0.01)
    assert (await box.archive()).files_stuck == 3
    assert "archiver-late" in await codes(box)
    stuck = [vars(record) for record in caplog.records if record.getMessage() == "file.stuck"]
    assert f"{box.root}/archive" in str(stuck[-1])
    (box.root / "archive").unlink()
    box.set("status", silent_seconds=600)
    await healthy(box)


async def test_spool_changed(box: Box) -> None:
    """The spool is not mounted: named, and mounted again all goes on."""
    box.write_many(3)
    await box.load()
    box.spool.rename(box.root / "mounted")
    box.spool.mkdir()
    seen = await look(box)
    assert "spool-changed" in [verdict.code for verdict in seen.verdicts]
    assert [*box.spool.iterdir()] == []  # to look changes nothing
    box.spool.rmdir()
    (box.root / "mounted").rename(box.spool)
    await healthy(box)


async def test_files_gone(box: Box) -> None:
    """Something deleted a processed file: worth a look for an hour, and nothing is wrong."""
    box.write_many(3)
    await box.load()
    next(box.spool.glob("*.json")).unlink()
    await box.archive()
    await box.check()
    seen = await look(box)
    assert ([v.code for v in seen.verdicts], seen.healthy) == (["files-gone"], True)


async def test_some_rejected(box: Box) -> None:
    """One broken file among many is worth a look, and nothing is wrong; discarded, it is gone."""
    box.write_many(30)
    broken = box.write("2026-11-23T07.json", "garbage")
    await box.load()
    await box.check()
    seen = await look(box)
    assert ([v.code for v in seen.verdicts], seen.healthy) == (["some-rejected"], True)
    await box.archive()
    assert await codes(box) == ["some-rejected"]
    assert broken in (await asyncio.to_thread(invoke, box, "rejected", "list")).output
    assert (
        await asyncio.to_thread(invoke, box, "rejected", "discard", broken, "--yes")
    ).exit_code == 0
    await healthy(box)


async def test_most_rejected(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings do not fit the files: said, and mended as advised by retry --all."""
    for i in range(12):
        box.write(f"2026-11-23T07-00-{i:02d}.json", f'@@ machine 7 @@\n{{"id": {i}}}')
    await box.load()
    await box.archive()
    await box.check()
    assert await codes(box) == ["most-rejected"]
    box.set("decode", preamble_lines=1)
    monkeypatch.setattr("penstock.operate.requeue.LEFT_FOR_SECONDS", 0.0)
    command = ["rejected", "retry", "--all", "--yes", "--config", str(box.toml())]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output
    await box.load()
    box.write_many(30, first=100)
    await healthy(box)
    assert box.received_ids().keys() >= set(range(12))


async def test_redis_full(box: Box, tmp_path: Path) -> None:
    """Redis is near its limit: said; with more memory it is well."""
    async with (
        EmbeddedRedis(tmp_path / "state") as server,
        redis.from_url(server.address) as client,
    ):
        box.set("ledger", url=server.address)
        await healthy(box)
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", int(used * 1.1))
        assert await codes(box) == ["redis-full"]
        await client.config_set("maxmemory", 0)
        await healthy(box)


async def test_the_books_are_wrong(box: Box, redis_url: str) -> None:
    """A counter that does not add up is named by `verify`; after a drain, the counts begin anew."""
    box.write_many(3)
    await healthy(box)
    seen = await look(box)
    async with redis.from_url(redis_url) as client:
        key = f"penstock:{{{seen.spool_name}}}:counters"
        await client.hincrby(key, "files_seen", 1)
        assert await codes(box) == ["books-wrong"]
        result = await asyncio.to_thread(invoke, box, "verify")
        assert (result.exit_code, "law broken: files seen" in result.output) == (1, True)
        box.write_many(3, first=3)
        await box.load()
        await box.archive()
        assert await client.delete(key) == 1
    await healthy(box)
    box.write_many(3, first=6)
    await healthy(box)
    assert (await asyncio.to_thread(invoke, box, "verify")).exit_code == 0
    assert box.received_ids() == dict.fromkeys(range(9), 1)


async def test_redis_full_of_what_is_processed(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archiver moves the files, and its next run, a minute later, lets go of their names."""
    async with (
        EmbeddedRedis(tmp_path / "state") as server,
        redis.from_url(server.address) as client,
    ):
        box.set("ledger", url=server.address)
        await healthy(box)
        box.write_many(6000)
        await box.load()
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", int(used * 1.2))
        assert await codes(box) == ["redis-full"]
        await box.archive()
        monkeypatch.setattr(upkeep, "FORGET_AFTER_SECONDS", 0.0)
        await healthy(box)


async def test_a_full_disk(box: Box, tmp_path: Path) -> None:
    """A real one, of 8 MiB: what is archived for longer than it need be is deleted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a file system")
    try:
        box.spool.rmdir()
        box.root, box.spool = disk, disk / "spool"
        box.spool.mkdir()
        box.set("source", url=str(box.spool))
        padding = "x" * 740_000
        for i in range(11):
            box.write(f"2026-11-23T07-00-{i:02d}.json", json.dumps({"id": i, "text": padding}))
        await box.load()
        await box.archive()
        await box.check()
        assert await codes(box) == ["disk-full"]
        box.set("archive", retention_days=0.00001)  # of what was archived a second ago
        await asyncio.sleep(1)
        await healthy(box)
        assert box.received_ids() == dict.fromkeys(range(11), 1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_crowded_spool(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than file systems like, here a hundred: workers and the archiver take them out."""
    monkeypatch.setattr(health, "LARGE_FILES", 100)
    await healthy(box)
    box.write_many(101)
    assert await codes(box) == ["spool-crowded"]
    await healthy(box)


def test_every_verdict_is_told_and_broken_here() -> None:
    """docs/monitoring.md has each code and no other, and a test here expects each."""
    codes = set(re.findall(r'"([a-z]+-[a-z-]+)"[,}:]', inspect.getsource(health)))
    assert len(codes) == 28
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    table = page.split("## Verdicts\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`[a-z-`, ]+) \|", table, re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows))) == codes
    here = Path(__file__)
    expected = here.read_text() + here.with_name("test_troubles.py").read_text()
    assert [code for code in codes if f'"{code}"' not in expected] == []


async def test_the_checker_has_not_run(box: Box) -> None:
    """Worth a look, not wrong: `check` is what helps."""
    box.write_many(3)
    await box.load()
    await box.archive()
    seen = await look(box)
    assert ([v.code for v in seen.verdicts], seen.healthy) == (["checker-late"], True)
    await healthy(box)


async def test_an_archive_that_will_not_fit(box: Box) -> None:
    """The disk ends before retention begins to delete; to pack, as the advice says, helps."""
    await healthy(box)
    seen = (await look(box))._replace(forecast=Forecast(6000, "inodes", 0.1, 30))
    assert [v.code for v in verdicts(seen, StatusSettings())] == ["archive-will-not-fit"]
    space = ArchiveSpace(1, 1, 1, 1, oldest_days=0.1, is_uploaded=True)
    late = seen._replace(forecast=None, spool=SpoolState(entries=0, archive=space))
    assert [v.code for v in verdicts(late, StatusSettings())] == ["uploads-late"]
    seen = seen._replace(forecast=Forecast(6000, "space", 31, 30))
    assert verdicts(seen, StatusSettings()) == []


@pytest.mark.parametrize(
    ("spool", "code"),
    [
        (SpoolState(entries=LARGE_FILES + 1, room=DiskRoom(9, 10, 1.0)), "spool-crowded"),
        (SpoolState(entries=0, room=DiskRoom(9, 10, 0.01)), "disk-full"),
    ],
)
async def test_no_room(box: Box, spool: SpoolState, code: str) -> None:
    """Two million names, no inodes: from figures, as making them takes long."""
    await healthy(box)
    seen = (await look(box))._replace(spool=spool)
    assert [v.code for v in verdicts(seen, StatusSettings())] == [code]


def invoke(box: Box, *arguments: str) -> Any:
    """Run one command on a box."""
    return CliRunner().invoke(app, [*arguments, "--config", str(box.toml())])


async def test_the_command_says_it_and_exits_accordingly(box: Box) -> None:
    """The first line is the verdict, the exit code 0 or 1; --json holds the same."""
    box.write_many(3)
    result = await asyncio.to_thread(invoke, box, "status")
    assert result.exit_code == 1
    assert result.output.startswith("no-worker: 3 files wait")
    assert "penstock run" in result.output
    await healthy(box)
    result = await asyncio.to_thread(invoke, box, "status")
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "healthy")
    result = await asyncio.to_thread(invoke, box, "status", "--json")
    assert json.loads(result.output)["ledger"]["counters"]["files_processed"] == 3


def test_without_a_spool_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory without a penstock.toml: one error that says how to come by one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Halt, match=r"source\.url: missing.*penstock init DIR"):
        CliRunner().invoke(app, ["status"], catch_exceptions=False, standalone_mode=False)


async def test_watch_shows_one_look_after_the_other_until_it_is_stopped(box: Box) -> None:
    """With --json a line a look; SIGINT ends it with 0."""
    command = ["status", "--watch", "--every", "0.2", "--json", "--config", str(box.toml())]
    process = await asyncio.create_subprocess_exec(
        *supervisor.penstock_command(*command), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    looks = [json.loads(await process.stdout.readline()) for _ in range(3)]
    assert [seen["healthy"] for seen in looks] == [True] * 3
    os.kill(process.pid, signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0


async def test_what_is_not_known_is_not_said(box: Box) -> None:
    """Without Redis there are no figures of it: none, not noughts."""
    box.set("ledger", url="redis://127.0.0.1:1")
    result = await asyncio.to_thread(invoke, box, "status")
    assert result.exit_code == 1
    for figure in ("0 claims", "not archived yet", "since the ledger began"):
        assert figure not in result.output


async def test_one_is_one(box: Box) -> None:
    """One file waits; two wait."""
    box.write_many(1)
    assert (await look(box)).verdicts[0].text.startswith("1 file waits, and no worker")
    box.write_many(2)
    assert (await look(box)).verdicts[0].text.startswith("2 files wait, and no worker")


async def test_watch_into_a_pipe_prints_look_after_look(box: Box) -> None:
    """Without a terminal there is no screen to draw on."""
    command = ["status", "--watch", "--every", "0.2", "--config", str(box.toml())]
    process = await asyncio.create_subprocess_exec(
        *supervisor.penstock_command(*command), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    healthy = 0
    while healthy < 2:
        healthy += await process.stdout.readline() == b"healthy\n"
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0


async def test_the_state_of_an_embedded_redis_is_seen_and_none_is_started(box: Box) -> None:
    """Where Penstock does not run, status says so and leaves the state directory as it is."""
    box.given["ledger"] = {}
    box.set("run", state_directory=str(box.root / "state"))
    seen = await look(box)
    assert [v.code for v in seen.verdicts] == ["not-running"]
    assert "`penstock run` starts them" in seen.verdicts[0].advice
    assert not (box.root / "state").exists()
    async with EmbeddedRedis(box.root / "state"):
        await healthy(box)


async def test_a_names_order_finds_the_oldest_after_many_that_are_settled(box: Box) -> None:
    """Only names that may be waiting are asked for: thousands of settled ones cost one pass."""
    box.write_many(1200)
    await box.load()
    box.write_many(2, first=2000)
    observer = Observer(box.settings)
    first, second = await observer.snapshot(), await observer.snapshot()
    await observer.aclose()
    for seen in (first, second):
        assert seen.spool is not None
        assert seen.spool.oldest_waiting.endswith(".002000.json")
        assert seen.waiting == 2
