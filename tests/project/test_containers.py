"""The image and the compose file without Docker: the same steps, users and mounts, in roots here.

What a container engine adds is not tried here: pulling images, its networks, its health checks.
"""

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.require import require
from support.rooted import Rooted
from support.sqs_stub import SqsStub

ROOT = Path(__file__).parents[2]
PRODUCER, PENSTOCK, GROUP = 2001, 10001, 3000
COMPOSE = (ROOT / "deploy/compose.yaml").read_text()


def let_in() -> list[str]:
    """Return what .dockerignore lets into the image's build; the rest is kept out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return [line[1:] for line in lines if line.startswith("!")]


def test_the_build_gets_all_that_the_wheel_is_made_of() -> None:
    """Packages, pages and shared files; otherwise the image cannot be built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], *wheel["shared-data"]]
    needed += ["pyproject.toml", "uv.lock", project["project"]["readme"]]
    for name in needed:
        assert any(f"{name}/".startswith(f"{kept}/") for kept in let_in()), name


def test_the_health_check_reads_the_settings_of_the_container() -> None:
    """The image's check is `penstock status`: it knows no --config of another command."""
    assert "--config" not in COMPOSE
    (named,) = re.findall(r"PENSTOCK_CONFIG: (\S+)", COMPOSE)
    assert f":{named}:ro" in COMPOSE


def test_the_credentials_are_those_that_are_read() -> None:
    """Of AWS's variables, for the region AWS_DEFAULT_REGION; AWS_REGION is not read."""
    names = {"ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "DEFAULT_REGION"}
    assert set(re.findall(r"AWS_(\w+):", COMPOSE)) == names


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user one has to be root")
def test_the_volume_is_made_for_the_group(tmp_path: Path) -> None:
    """By its own command, with its own rights: twice, as `up` runs it again."""
    (user,) = re.findall(r'user: "(0\S*)"', COMPOSE)
    (added,) = re.findall(r"cap_add: \[(.+)\]", COMPOSE)
    (command,) = re.findall(r'command: \[sh, -c, "(.+)"\]', COMPOSE)
    group = user.partition(":")[2].replace("${SPOOL_GID:-3000}", str(GROUP)) or "0"
    rights = ",".join(["-all", *(f"+{name.lower()}" for name in added.split(", "))])
    become = ["setpriv", f"--regid={group}", "--clear-groups", f"--bounding-set={rights}"]
    said = command.replace("${SPOOL_GID:-3000}", str(GROUP)).replace("/data", str(tmp_path))
    tmp_path.chmod(0o755)  # as a new volume
    for _ in range(2):
        subprocess.run([*become, "--no-new-privs", "sh", "-ec", said], check=True)
        for path in (tmp_path, tmp_path / "spool"):
            made = path.stat()
            assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (PRODUCER, GROUP, 0o2775)


def test_the_producer_ends_when_told(tmp_path: Path) -> None:
    """As the first process of a container, which by default ignores SIGTERM."""
    words = [sys.executable, "-m", "examples.producer", str(tmp_path), "--rate", "100"]
    is_ignored = "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    first = [sys.executable, "-c", f"{is_ignored}; os.execv(sys.argv[1], sys.argv[1:])", *words]
    with subprocess.Popen(first, cwd=ROOT) as process:
        end = time.monotonic() + 30
        while not list(tmp_path.glob("*.json")) and time.monotonic() < end:
            time.sleep(0.05)
        process.terminate()
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()


def stages() -> list[list[str]]:
    """Return what each stage of the Dockerfile runs or copies from the one before."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", "")
    step = re.compile(r"^(?:RUN |(?=COPY --from))(.+)$", re.MULTILINE)
    return [step.findall(stage) for stage in text.split("\nFROM ")[1:]]


@pytest.fixture(scope="module")
def image() -> Iterator[Rooted]:
    """Build the image: the first stage in one root, the second in another, as another user."""
    require(present=bool(shutil.which("redis-server")), what="redis-server (Debian: redis-server)")
    directory = Path(tempfile.mkdtemp(prefix="image-"))
    directory.chmod(0o755)
    build, made = Rooted(directory / "build"), Rooted(directory / "image")
    for root in (build, made):  # what python:3.13-slim has
        root.run("ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    build.copy_checkout("/src", only=let_in())
    first, second = stages()
    for step in first:
        build.run("sh", "-ec", f"cd /src; {step}")
    given = {"UID": str(PENSTOCK), "GID": str(PENSTOCK)}
    for step in second:
        if step.startswith("COPY --from"):
            source, target = (name.lstrip("/") for name in step.split()[2:])
            shutil.copytree(build.path / source, made.path / target, symlinks=True)
        else:
            made.run("sh", "-ec", step, environment=given)
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
            "/opt/penstock/bin/penstock", "run",
            user=(PENSTOCK, self.group), is_container=True,
            mounts={self.data: "/data", self.state: "/var/lib/penstock"},
            environment={
                "HOME": "/var/lib/penstock", "PENSTOCK_CONFIG": "/etc/penstock/penstock.toml",
                "PENSTOCK_RUN__STATE_DIRECTORY": "/var/lib/penstock/state",
                "PENSTOCK_RUN__CONSOLE": f"0.0.0.0:{self.console}",
                "PENSTOCK_RUN__ARCHIVER_INTERVAL_SECONDS": "1",
                "PENSTOCK_LEDGER__URL": f"redis://127.0.0.1:{self.redis}",
                "PENSTOCK_QUEUE__URL": queue,
                "PENSTOCK_QUEUE__ENDPOINT_URL": stub.url,
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            },
        )  # fmt: skip


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("may_move", [True, False])
async def test_a_volume_of_another_user(image: Rooted, may_move: bool) -> None:  # noqa: FBT001
    """With the group's right to move: drained. Without: told what to grant, within a minute."""
    # Nothing can be compiled at run time: the root is read-only.
    assert list((image.path / "opt/penstock").rglob("penstock/__pycache__/worker.*.pyc"))
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
