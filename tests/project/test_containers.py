"""The image and the compose file without Docker: the same steps, users and mounts, in roots here.

What a container engine adds is not tried: pulling images, its networks, its health checks.
"""

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.require import require
from support.rooted import Rooted
from support.sqs_stub import SqsStub

ROOT = Path(__file__).parents[2]
PRODUCER, PENSTOCK, GROUP = 2001, 10001, 3000
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


def stages() -> list[list[str]]:
    """Return the RUN steps of each stage of the Dockerfile."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", "")
    return [re.findall(r"^RUN (.+)$", stage, re.MULTILINE) for stage in text.split("\nFROM ")[1:]]


@pytest.fixture(scope="module")
def image() -> Iterator[Rooted]:
    """Build the image: the first stage in one root, the second in another, as another user."""
    require(present=bool(shutil.which("redis-server")), what="redis-server (Debian: redis-server)")
    directory = Path(tempfile.mkdtemp(prefix="image-"))
    directory.chmod(0o755)
    build, made = Rooted(directory / "build"), Rooted(directory / "image")
    for root in (build, made):  # what python:3.13-slim has
        root.run("ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    build.copy_checkout("/src")
    first, second = stages()
    for step in first:
        build.run("sh", "-ec", f"cd /src; {step}")
    given = {"UID": str(PENSTOCK), "GID": str(PENSTOCK)}
    for step in second:
        made.run("sh", "-ec", step, environment=given)
    shutil.copytree(build.path / "opt/penstock", made.path / "opt/penstock", symlinks=True)
    (made.path / "etc/penstock").mkdir()
    for name in ("data", "app/examples"):
        (made.path / name).mkdir(parents=True)
    shutil.copyfile(ROOT / "deploy/container.toml", made.path / "etc/penstock/penstock.toml")
    yield made
    shutil.rmtree(directory)


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a process until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()  # and with it all that is in its namespace
        process.wait(30)


class Compose:
    """The services of deploy/compose.yaml; `may_move`: with its volume made as it says."""

    def __init__(self, image: Rooted, root: Path, *, may_move: bool) -> None:
        self.image, self.data, self.state = image, root / "data", root / "state"
        self.log, self.console, self.redis = root / "log", _port(), _port()
        spool = self.data / "spool"
        spool.mkdir(parents=True)
        self.state.mkdir(mode=0o1777)
        self.state.chmod(0o1777)  # what the image made it, and a new volume has from there
        for path in (self.data, spool):
            os.chown(path, PRODUCER, GROUP if may_move else PRODUCER)
            path.chmod(0o2775 if may_move else 0o755)
        self.group = GROUP if may_move else PENSTOCK

    def producer(self, files: int) -> None:
        """Write files as the producer's user."""
        self.image.run(
            "python", "-m", "examples.producer", "/data/spool", "--rate", 50, "--files", files,
            user=(PRODUCER, GROUP), is_container=True,
            mounts={ROOT / "examples": "/app/examples", self.data: "/data"},
            environment={"PYTHONPATH": "/app", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def penstock(self, stub: SqsStub, queue: str) -> list[str]:
        """Return the command of Penstock's container."""
        return self.image.command(
            "/opt/penstock/bin/penstock", "run", "--config", "/etc/penstock/penstock.toml",
            user=(PENSTOCK, self.group), is_container=True,
            mounts={self.data: "/data", self.state: "/var/lib/penstock"},
            environment={
                "HOME": "/var/lib/penstock",
                "PENSTOCK_RUN__STATE_DIRECTORY": "/var/lib/penstock/state",
                "PENSTOCK_RUN__CONSOLE": f"0.0.0.0:{self.console}",
                "PENSTOCK_RUN__ARCHIVER_INTERVAL_SECONDS": "1",
                "PENSTOCK_LEDGER__URL": f"redis://127.0.0.1:{self.redis}",
                "PENSTOCK_QUEUE__URL": queue,
                "PENSTOCK_QUEUE__ENDPOINT_URL": stub.url,
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            },
        )  # fmt: skip


@pytest.mark.parametrize("may_move", [True, False])
async def test_a_volume_of_another_user(image: Rooted, may_move: bool) -> None:  # noqa: FBT001
    """With the group's right to move: drained. Without: told what to grant, within a minute."""
    root = Path(tempfile.mkdtemp(prefix="compose-"))
    root.chmod(0o755)
    compose = Compose(image, root, may_move=may_move)
    compose.producer(100)
    redis = ["redis-server", "--port", str(compose.redis), "--save", "", "--dir", str(root)]
    redis += ["--maxmemory-policy", "noeviction"]
    async with SqsStub() as stub:
        queue = stub.model.create("q")
        began = time.monotonic()
        with (
            started(redis, root / "redis.log"),
            started(compose.penstock(stub, queue.url), compose.log),
        ):
            end = _drained if may_move else _told
            while not end(compose) and time.monotonic() < began + 60:
                await asyncio.sleep(0.2)
            text = compose.log.read_text()
            assert end(compose), text[-3000:]
    shutil.rmtree(root)


def _drained(compose: Compose) -> bool:
    moved = list((compose.data / "archive").rglob("*.json"))
    return len(moved) == 100 and _console_answers(compose)


def _told(compose: Compose) -> bool:
    return f"allow user {PENSTOCK} to write there" in compose.log.read_text()


def _console_answers(compose: Compose) -> bool:
    """Ask the console for the status, with the token that its container made."""
    client = http.client.HTTPConnection("127.0.0.1", compose.console, timeout=10)
    with contextlib.suppress(OSError), contextlib.closing(client):  # until both are there
        token = (compose.state / "state/move.token").read_text().strip()
        client.request("GET", "/v1/status", headers={"Authorization": f"Bearer {token}"})
        return client.getresponse().status == 200
    return False
