"""Fixtures shared by all tests; its place puts `support` on the path."""

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from penstock import passes, telemetry
from penstock.embedded.redis import EmbeddedRedis
from support import campaign
from support.books import Books
from support.box import Box
from support.require import require, require_redis
from support.sender import Clock, Sender
from support.sqs_stub import SqsStub

# A busy machine is slow: a deadline would fail for that alone.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end what was skipped for want of what, and of a campaign what it did."""
    skipped = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
    )
    for what, count in skipped.most_common():
        terminalreporter.write_line(f"{count} skipped, {what}")
    if "PENSTOCK_CAMPAIGN_SCALE" in os.environ:
        stats = terminalreporter.stats
        terminalreporter.section("campaign")
        for line in campaign.summary([*stats.get("passed", ()), *stats.get("failed", ())]):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Leave the log as it was, whatever a test in this process made of it."""
    log = telemetry.LOG
    before = (log.level, log.propagate, [*log.handlers])
    yield
    log.setLevel(before[0])
    log.propagate, log.handlers[:] = before[1:]


@pytest.fixture
def commands_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands run where there are no signals, and leave the log of the other tests alone."""

    def run(main: Any) -> Any:
        return asyncio.run(main(asyncio.Event()))

    monkeypatch.setattr(passes, "run", run)
    monkeypatch.setattr(telemetry, "configure", dict[str, Any])


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set dummy credentials, and nothing of the machine's own settings."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_CONFIG_FILE", "/nonexistent"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)


@pytest.fixture
async def sender(aws: None) -> AsyncIterator[Sender]:
    """Yield a sender to a stub that runs on the test's own clock and checks signatures."""
    assert aws is None
    clock = Clock()
    async with SqsStub(clock=clock, sleep=clock.sleep, keys=("test", "test")) as stub:
        subject = Sender(stub, clock)
        await subject.open()
        yield subject
        await subject.queue.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1, and its key in the same file."""
    require(present=shutil.which("openssl") is not None, what="openssl on PATH (Debian: openssl)")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    options = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run([*command.split(), *options, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.key").read_text())
    return path


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a real redis-server for this session; each test uses its own spool."""
    require_redis()
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    asyncio.run(server.start())
    yield server.address
    asyncio.run(server.stop())


@pytest.fixture
async def box(aws: None, tmp_path: Path, redis_url: str) -> AsyncIterator[Box]:
    """Yield a whole Penstock over a standard queue."""
    assert aws is None
    async with SqsStub() as stub:
        yield Box(tmp_path / tmp_path.name, redis_url, stub, stub.model.create("q"))


@pytest.fixture
async def fifo_box(aws: None, tmp_path: Path, redis_url: str) -> AsyncIterator[Box]:
    """Yield a whole Penstock over a FIFO queue."""
    assert aws is None
    async with SqsStub() as stub:
        queue = stub.model.create("q.fifo", FifoQueue="true")
        yield Box(tmp_path / tmp_path.name, redis_url, stub, queue)


@pytest.fixture
async def books(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    """Yield a spool of this test's own."""
    book = Books(redis_url, f"{request.function.__name__[:50]}-{id(request.node)}")
    await book.start()
    yield book
    await book.forget_all()
    await book.close()
