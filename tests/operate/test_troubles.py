"""Where all looked well and was not: each trouble is made, said, and repaired as is advised."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from penstock import telemetry, wiring, worker
from penstock.cli.commands import app
from penstock.embedded.process import EmbeddedProcess
from penstock.embedded.redis import EmbeddedRedis
from penstock.embedded.sqs import EmbeddedSqs
from penstock.errors import Again, Halt, PenstockError
from penstock.ledger.upkeep import LedgerUpkeep
from penstock.model import FileRead, Unread
from penstock.settings.schema import EMBEDDED_QUEUE
from penstock.source.directory import DirectorySource
from support.box import Box, look
from support.redis_fleet import require_fleet
from support.require import require_ministack, require_redis

pytestmark = pytest.mark.usefixtures("commands_in_a_thread")


async def healthy(box: Box) -> None:
    """Run one pass of each function and expect nothing to be wrong."""
    for one_pass in (box.load, box.archive, box.check):
        await one_pass()
    seen = await look(box)
    assert seen.verdicts == [], seen.verdicts


async def said(box: Box, code: str) -> str:
    """Return text and advice of the verdict with this code; nothing else is wrong."""
    found = {verdict.code: verdict for verdict in (await look(box)).verdicts}
    assert code in found, found
    verdict = found.pop(code)
    assert [other for other in found.values() if other.wrong] == []
    return f"{verdict.text}; {verdict.advice}"


def invoke(box: Box, *arguments: str) -> Any:
    """Run one command on a box."""
    return CliRunner().invoke(app, [*arguments, "--config", str(box.toml())])


@contextlib.contextmanager
def mounted(at: Path, options: str) -> Generator[None]:
    """Mount a real tmpfs; skip where this user may not."""
    at.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


class Denying:
    """A real SQS server that checks a user's rights, and that user."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        iam = self.client("iam")
        iam.create_user(UserName="penstock")
        self.iam = iam
        key = iam.create_access_key(UserName="penstock")["AccessKey"]
        self.queue_url: str = self.client("sqs").create_queue(QueueName="q")["QueueUrl"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

    def client(self, service: str) -> Any:
        """Return a client of the server, as its root user."""
        return boto3.client(  # pyright: ignore[reportUnknownVariableType]
            service, endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id="root", aws_secret_access_key="root",  # noqa: S106  no secret
        )  # type: ignore[call-overload]  # fmt: skip

    def allow(self, *actions: str) -> None:
        """Let the user do this and nothing else, from now on."""
        self.check_after(10**9)
        statement = {"Effect": "Allow", "Action": [*actions], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.iam.put_user_policy(UserName="penstock", PolicyName="p", PolicyDocument=policy)
        self.check_after(0)

    def check_after(self, after: int) -> None:
        """Let moto look at rights after so many calls."""
        import requests  # noqa: PLC0415  moto brings it

        requests.post(f"{self.url}/moto-api/reset-auth", data=str(after).encode(), timeout=10)


@pytest.fixture
def denying(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Denying]:
    """Yield a server at which a user has no rights yet."""
    assert aws is None
    moto = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = Denying(f"http://{host}:{port}", monkeypatch)
    yield server
    server.check_after(10**9)  # moto's setting is that of the whole process
    moto.stop()


async def test_sending_is_denied(box: Box, denying: Denying) -> None:
    """T1: its attributes may be read, nothing sent: SQS's word, and the right that is missing."""
    box.set("queue", url=denying.queue_url, endpoint_url=denying.url)
    denying.allow("sqs:GetQueueAttributes")
    box.write_many(3)
    with pytest.raises(Halt):
        await box.load()
    text = await said(box, "loader-fails")
    assert "AccessDenied" in text
    assert "sqs:SendMessage" in text
    denying.allow("sqs:GetQueueAttributes", "sqs:SendMessage*")  # moto knows no better
    assert (await box.load()).files_processed == 3
    await healthy(box)


async def test_a_loader_that_fails_again_and_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1: what may pass is left where status sees it, too; a pass that sends takes it off."""
    box.write_many(3)

    async def away(*_: object) -> None:
        raise Again("read 1.json: Stale file handle: its file system is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(DirectorySource, "read", away)
        patch.setattr(worker, "_FAILURES_MAX", 1)
        with pytest.raises(Again):
            await box.load()
    assert "Stale file handle" in await said(box, "loader-fails")
    await healthy(box)


async def test_the_checker_fails(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """T1: its cause, too, is left where status sees it, until a pass of it ends well."""
    await healthy(box)

    async def refused(_: object) -> int:
        raise Halt("ledger.prune: Redis refuses us: see docs/ledger.md for access")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerUpkeep, "prune", refused)
        with pytest.raises(Halt):
            await box.check()
    assert "Redis refuses us" in await said(box, "checker-fails")
    await healthy(box)


async def test_the_archives_disk_is_full(box: Box, tmp_path: Path) -> None:
    """T2: a real one of its own: named, with the disk, its share left, and how to make room."""
    with mounted(tmp_path / "disk", "size=1m"):
        box.set("archive", directory=str(tmp_path / "disk/archive"))
        filler = tmp_path / "disk/filler"
        filler.write_bytes(b"x" * 1_040_000)
        with contextlib.suppress(OSError), (tmp_path / "disk/rest").open("wb", 0) as rest:
            while rest.write(b"x" * 512):
                pass
        box.write_many(30)
        await box.load()
        assert (await box.archive()).files_stuck == 30
        await box.check()
        seen = {verdict.code: verdict for verdict in (await look(box)).verdicts}
        assert seen.keys() == {"archiver-fails", "disk-full"}
        assert "30 files, such as" in seen["archiver-fails"].text
        assert "make room on that disk" in seen["archiver-fails"].text
        assert "the archive's disk has 0.0%" in seen["disk-full"].text
        filler.unlink()
        (tmp_path / "disk/rest").unlink()
        await healthy(box)


async def test_the_archives_disk_is_read_only(box: Box, tmp_path: Path) -> None:
    """T2: mounted read-only: said at once; mounted writable, as advised, all is archived."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        (disk / "archive").mkdir()
        box.set("archive", directory=str(disk / "archive"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        box.write_many(3)
        await box.load()
        await box.archive()
        await box.check()
        assert "mount that disk writable" in await said(box, "archiver-fails")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        await healthy(box)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user one has to be root")
@pytest.mark.parametrize("theirs", ["archive", "spool"])
async def test_another_user_owns_a_directory(box: Box, theirs: str) -> None:
    """T2: the archiver's user is named, as who must be allowed to write; then it may."""
    user = 12_345
    box.write_many(3)
    await box.load()
    for above in box.spool.parents:
        if above.stat().st_mode & 0o5 != 0o5:
            above.chmod(above.stat().st_mode | 0o5)
    (box.root / "archive").mkdir()
    os.chown(box.spool if theirs == "archive" else box.root / "archive", user, user)
    body = (
        "import asyncio, os, sys\nfrom contextlib import AsyncExitStack\n"
        "from pathlib import Path\nfrom penstock import archiver, wiring\n"
        "from penstock.settings.reading import load\n"
        "async def main():\n"
        "    async with AsyncExitStack() as stack:\n"
        "        parts = await wiring.archiver(load(Path(sys.argv[1])), stack)\n"
        "        os.setgroups([])\n        os.setgid(12345)\n        os.setuid(12345)\n"
        "        print((await archiver.archive(parts, stop=asyncio.Event())).files_stuck)\n"
        "asyncio.run(main())\n"
    )

    async def archive_as_user() -> str:
        command = [sys.executable, "-c", body, str(box.toml())]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    socket_path = Path(box.settings.ledger.url.removeprefix("unix://"))
    for path in (socket_path, *socket_path.parents[:-1]):
        path.chmod(path.stat().st_mode | (0o777 if path == socket_path else 0o5))
    assert await archive_as_user() == "3"
    await box.check()
    told = await said(box, "archiver-fails")  # a move takes the right to write in both
    assert f"allow user {user} to write there and, for a move, where the file is now" in told
    os.chown(box.root / theirs, user, user)
    assert await archive_as_user() == "0"
    await healthy(box)


async def test_redis_is_full(box: Box, tmp_path: Path) -> None:
    """T3: named so, with the figures that can be had; with more memory the loader goes on."""
    async with EmbeddedRedis(tmp_path / "own") as own:
        box.set("ledger", url=own.address)
        box.write_many(3)
        await healthy(box)
        box.write_many(3, first=10)
        async with box.look() as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used - 500_000)
            with pytest.raises(Again, match="Redis is full"):
                await box.load()
            seen = await look(box)
            assert [verdict.code for verdict in seen.verdicts] == ["redis-full"]
            assert seen.waiting == 3
            assert seen.ledger is not None
            assert seen.ledger.counters["files_archived"] == 3
            await client.config_set("maxmemory", 0)
        await healthy(box)


async def test_redis_cannot_write(box: Box, tmp_path: Path) -> None:
    """T4: the disk of a running Redis is full: it takes nothing, and why is said; then it does."""
    with mounted(tmp_path / "state", "size=2m"):
        async with EmbeddedRedis(tmp_path / "state") as own:
            box.set("ledger", url=own.address)
            await healthy(box)
            filler = tmp_path / "state/filler"
            with contextlib.suppress(OSError), filler.open("wb", 0) as rest:
                while rest.write(b"x" * 64):
                    pass
            box.write_many(3)
            for _ in range(2):  # the first write is taken, and not written
                with contextlib.suppress(PenstockError):
                    await box.load()
                await asyncio.sleep(1.1)
            text = await said(box, "redis-stuck")
            assert "free space on its disk" in text
            filler.unlink()
            await asyncio.sleep(2)
            await healthy(box)
            assert box.received_ids() == {0: 1, 1: 1, 2: 1}


async def test_a_damaged_append_only_file(box: Box) -> None:
    """T4: the command that repairs it is named by start and status; carried out, Redis starts."""
    require_fleet()
    state = box.root / "state"
    box.given["ledger"] = {}
    box.write_many(2)  # Redis 7.0's redis-check-aof takes a line "files_…" for a manifest's
    async with EmbeddedRedis(state):
        await healthy(box)
    (damaged,) = (state / "redis/appendonlydir").glob("*.incr.aof")
    with damaged.open("ab") as file:
        file.write(bytes(4096))
    with pytest.raises(Halt, match="redis-check-aof --fix") as caught:
        async with EmbeddedRedis(state):
            pass
    assert "install" not in str(caught.value)
    tried = (await asyncio.to_thread(invoke, box, "config", "check", "--connect")).output
    assert "WRONG  redis    embedded Redis does not run: its data is damaged" in tried
    text = await said(box, "redis-away")
    command = text.partition("redis-check-aof")[2].partition(";")[0].split()
    subprocess.run(["redis-check-aof", *command], input=b"y\n", check=True, capture_output=True)
    async with EmbeddedRedis(state):
        await healthy(box)


async def test_the_end_of_a_log_is_not_part_of_a_verdict(box: Box) -> None:
    """Of an error that ends with the last lines of a log, status shows the first line."""
    settings = box.settings

    async def pass_that_fails() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await wiring.checker(settings, stack)
            raise Halt("embedded SQS: ended with 1; see the end of /sqs.log:\n  a line")

    with pytest.raises(Halt, match="a line"):
        await pass_that_fails()
    text = await said(box, "checker-fails")
    assert "embedded SQS: ended with 1; see the end of /sqs.log; fix what this names" in text


async def test_an_embedded_part_hangs(box: Box) -> None:
    """It runs and does not answer: not that Penstock does not run here; restarted, all is well."""
    require_redis()
    require_ministack()
    state = box.root / "state"
    box.given |= {"ledger": {}, "queue": {"url": "embedded"}}
    async with EmbeddedRedis(state) as ledger, EmbeddedSqs(state) as sqs:
        await sqs.create_queue(EMBEDDED_QUEUE)
        parts: dict[str, EmbeddedProcess] = {"redis-away": ledger, "queue-away": sqs}
        for code, part in parts.items():
            os.kill(part.pid or 0, signal.SIGSTOP)
            text = await said(box, code)
            assert f"{part.title} runs, but does not answer; stop the Penstock that runs" in text
            assert f"(pid {os.getpid()})" in text
            tried = (await asyncio.to_thread(invoke, box, "config", "check", "--connect")).output
            assert f"{part.title} runs, but does not answer" in tried
            os.kill(part.pid or 0, signal.SIGKILL)
            await part.stop()
            await part.start()
        await healthy(box)


async def test_the_state_directory_is_full(box: Box, tmp_path: Path) -> None:
    """T4: embedded Redis cannot be started: its disk is named, nothing is to be installed."""
    with mounted(tmp_path / "state", "size=1m"):
        filler = tmp_path / "state/filler"
        with contextlib.suppress(OSError), filler.open("wb", 0) as rest:
            while rest.write(b"x" * 512):
                pass
        with pytest.raises(Halt, match="make room on") as caught:
            async with EmbeddedRedis(tmp_path / "state"):
                pass
        assert "install" not in str(caught.value)
        filler.unlink()
        async with EmbeddedRedis(tmp_path / "state") as own:
            box.set("ledger", url=own.address)
            await healthy(box)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("2026(1).json", "its name contains '('"),
        ("é.json", "its name contains 'é'"),
        ("=cmd.json", "its name begins with '='"),
        ("link.json", "it is not a regular file"),
        ("pipe.json", "it is not a regular file"),
    ],
)
async def test_entries_that_are_no_files(
    box: Box, name: str, rule: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """T5: status, verify, explain and the log name one, and the rule that it breaks."""
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    path = box.spool / name
    if name.startswith("link"):
        path.symlink_to("/etc/hostname")
    elif name.startswith("pipe"):
        os.mkfifo(path)
    else:
        path.write_text('{"id": 7}')
    (box.spool / "notes.txt").write_text("no file by the pattern: nothing is wrong with it")
    box.write_many(1)
    for one_pass in (box.load, box.archive, box.check):
        await one_pass()
    assert f"1 entry matches source.pattern and will never be sent, such as {name}: {rule}" in (
        await said(box, "entries-ignored")
    )
    assert (await look(box)).healthy
    fields = [vars(r)["fields"] for r in caplog.records if r.getMessage() == "entries.ignored"]
    assert rule in fields[0]["remedy"]
    verified = await asyncio.to_thread(invoke, box, "verify")
    assert f"1 entry of the spool will never be sent, such as {name}: {rule}" in verified.output
    explained = (await asyncio.to_thread(invoke, box, "explain", name)).output
    assert "will never be sent: " in explained
    assert rule in explained
    assert "next worker claims it" not in explained
    path.rename(box.spool / "7.json") if path.is_file() else path.unlink()
    await healthy(box) if name != "link.json" else None


async def test_penstock_does_not_run(box: Box) -> None:
    """T6: after single passes nothing is wrong, and nothing runs; with files in the spool it is."""
    box.given["ledger"] = {}
    box.write_many(2)
    for one_pass in (box.load, box.archive, box.check):
        await one_pass()
    seen = await look(box)
    assert [(v.code, v.wrong) for v in seen.verdicts] == [("not-running", False)]
    result = await asyncio.to_thread(invoke, box, "status")
    assert (result.exit_code, result.output.split(":")[0]) == (0, "not-running")
    box.write_many(2, first=5)
    seen = await look(box)
    assert [(v.code, v.wrong) for v in seen.verdicts] == [("not-running", True)]
    assert "2 files are in the spool" in seen.verdicts[0].text
    async with EmbeddedRedis(box.root / "state"):
        await healthy(box)


@pytest.fixture
async def sentinel(tmp_path: Path) -> AsyncIterator[Any]:
    """Yield the port of a Sentinel."""
    require_fleet()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor ledger 127.0.0.1 {port + 1} 1\n")
    process = subprocess.Popen(
        ["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    for _ in range(200):
        await asyncio.sleep(0.05)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
    yield port
    process.kill()
    process.wait()


async def test_a_sentinels_port(box: Box, sentinel: int) -> None:
    """T8: it is named, and the form of address that it takes."""
    box.set("ledger", url=f"redis://127.0.0.1:{sentinel}")
    text = await said(box, "redis-away")
    assert "redis+sentinel://" in text
    box.set("ledger", url=f"redis+sentinel://127.0.0.1:{sentinel}/ledger")
    assert "redis+sentinel" not in (await look(box)).verdicts[0].text


async def test_explain_tells_where_the_claim_of_an_archived_file_stands(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """T10: the log line that it names is there, with claim, time and counts."""
    caplog.set_level("INFO", logger="penstock")
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    box.write_many(3)
    await box.load()
    await box.archive()
    name = next(box.root.glob("archive/**/*.json")).name
    text = (await asyncio.to_thread(invoke, box, "explain", name)).output
    assert "claim.committed whose first_file and last_file enclose its name" in text
    (line,) = [vars(r)["fields"] for r in caplog.records if r.getMessage() == "claim.committed"]
    assert line["first_file"] <= name <= line["last_file"]
    assert line["records_sent"] == 3
    assert json.loads(box.queue.messages()[0].body)
    assert line["claim"] == box.queue.messages()[0].attributes["penstock_claim"]["StringValue"]


async def test_a_misspelt_setting_says_which_there_are(box: Box) -> None:
    """T11: in the error itself: any command fails likewise. What it lists can be set."""
    box.set("queue", ulr="x")
    with pytest.raises(Halt, match=r"queue\.ulr: no such setting; did you mean queue\.url\? ") as e:
        _ = box.settings
    del box.given["queue"]["ulr"]
    known = box.settings.queue
    listed = str(e.value).partition("allowed in [queue]: ")[2].split(", ")
    assert listed == [*type(known).model_fields]


def denied(_: object, name: str, *__: object) -> FileRead:
    """Read as if the kernel did not allow it, which root is never told."""
    return FileRead(name, Unread.DENIED, 0, 0.0, "Permission denied")


def write_bad(box: Box, kind: str) -> None:
    """Write a thousand files of which something is, or will be, wrong."""
    good = {"mode", "archive", "gone"}
    text = '[{"id": 1}, 7]' if kind == "record" else '{"id": 1}' if kind in good else "garbage"
    end = "(1).json" if kind == "name" else ".json"
    for i in range(1_000):
        box.write(f"2026-11-23T07-00-00.{i:06d}{end}", text)


def spoil(box: Box, kind: str) -> None:
    """Have the archiver find something wrong with them."""
    if kind == "archive":
        (box.root / "archive").write_text("in the way")
    if kind == "gone":
        for path in box.spool.glob("*.json"):
            path.unlink()
    if kind == "taken":  # the rejects directory has others of these names
        (box.root / "rejected").mkdir()
        for path in box.spool.glob("*.json"):
            (box.root / "rejected" / path.name).write_text("other")


@pytest.mark.parametrize("kind", ["name", "mode", "content", "record", "archive", "gone", "taken"])
async def test_a_thousand_bad_files_are_few_lines(
    box: Box, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line a cause and pass, with a count and an example, whatever is wrong with files."""
    caplog.set_level("INFO", logger="penstock")
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    if kind == "mode":
        monkeypatch.setattr(DirectorySource, "_read_one", denied)
    write_bad(box, kind)
    await box.load()
    spoil(box, kind)
    await box.archive()
    await box.check()
    lines = [(r.getMessage(), vars(r)["fields"]) for r in caplog.records if hasattr(r, "fields")]
    assert len(lines) < 30, lines  # most are of the small claims that a first pass begins with
    assert len([r for r in caplog.records if r.levelname != "INFO"]) <= 2, lines
    warned = [
        fields for step, fields in lines if step in {"file.stuck", "file.gone", "file.denied"}
    ]
    assert [fields["files"] for fields in warned] == (
        [1_000] if kind in {"mode", "archive", "gone", "taken"} else []
    )
    assert all(fields["file"] in fields["cause"] or kind in {"mode", "gone"} for fields in warned)
