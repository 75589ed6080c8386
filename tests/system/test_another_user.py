"""A real other user of the machine, against every socket, port and directory of a running box."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from support.require import require, require_ministack

UID = "12345"
NAME = "2026-11-23T06-15-00.000001.json"
ATTACK = r"""
import json, os, socket, sys
asked = json.load(sys.stdin)
told = {"wrote": [], "read": [], "connected": [], "answers": [], "listed": []}
for path in asked["directories"]:
    try:
        os.close(os.open(path + "/planted", os.O_CREAT | os.O_WRONLY))
        told["wrote"].append(path)
    except OSError:
        pass
for path in asked["files"]:
    for flags, what in ((os.O_RDONLY, "read"), (os.O_WRONLY, "wrote")):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
            told[what].append(path)
        except OSError:
            pass
for path in asked["sockets"]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        told["connected"].append(path)
    except OSError:
        pass
for port in asked["ports"]:
    for line in asked["requests"]:
        with socket.create_connection(("127.0.0.1", port), 10) as there:
            there.settimeout(3)
            there.sendall(line.encode())
            try:
                answer = there.recv(65536).decode("latin-1")
            except OSError:
                answer = ""
        told["answers"].append([port, line.split(" HTTP")[0], answer])
json.dump(told, sys.stdout)
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def root() -> Iterator[Path]:
    """Yield a directory that all users may enter, as a service's are."""
    require(present=os.geteuid() == 0, what="root, to be another user as well")
    require_ministack()
    made = Path(tempfile.mkdtemp(prefix="box-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def running(root: Path) -> Generator[list[int]]:
    """Run a whole box, its parts embedded; yields the processes of it."""
    console, server = _free_port(), _free_port()
    (root / "spool").mkdir()
    for n in range(20):
        (root / "spool" / NAME.replace("000001", f"{n:06d}")).write_text(f'{{"id": {n}}}')
    (root / "spool" / "2026-11-23T06-15-01.json").write_text("garbage")
    (root / "penstock.toml").write_text(
        f'[source]\nurl = "spool"\nsettle_seconds = 0.0\n[queue]\nurl = "embedded"\n'
        f'[run]\nworkers = 1\nserve = true\nconsole = "127.0.0.1:{console}"\n'
        f'archiver_interval_seconds = 0.5\n[serve]\nlisten = "127.0.0.1:{server}"\n'
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "AWS_"))}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "run", "--config", str(root / "penstock.toml")],
            env=environment, cwd=root, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _until_up(root)
        yield [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_of(path, root)]
    finally:
        process.terminate()
        try:
            assert process.wait(40) == 0
        finally:
            process.kill()


def _until_up(root: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = (root / "log").read_text()
        moved = list((root / "archive").rglob("*.json")), list((root / "rejected").glob("*.json"))
        if "console.listens" in said and "server.listens" in said and all(moved):
            return
        time.sleep(0.1)
    pytest.fail(f"the box does not run: {(root / 'log').read_text()[-2000:]}")


def _is_of(process: Path, root: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "cwd").readlink().is_relative_to(root)
    return False


def _ports(pids: list[int]) -> set[int]:
    """Return the TCP ports on which processes listen."""
    inodes: set[str] = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(fd.readlink())))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A" and row[9] in inodes]
    return {int(row[1].rpartition(":")[2], 16) for row in listening}


def _requests() -> list[str]:
    paths = ["/", "/v1/files", f"/v1/files/{NAME}", "/v1/status", "/v1/rejects", "/metrics",
             "/healthz", "/v1/openapi.json", "/_ministack/health", "/2015-03-31/functions",
             "/?Action=ListQueues", "/000000000000/penstock"]  # fmt: skip
    posts = ["/v1/files:read", "/v1/files:archive", "/v1/files:reject", "/v1/rejects:retry",
             "/login", "/", "/_ministack/reset"]  # fmt: skip
    head = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    body = f'{{"names": ["{NAME}"], "token": "00000000000000000000"}}'
    json_body = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return [
        *[f"GET {path}{head}\r\n" for path in paths],
        *[f"POST {path}{head}{json_body}" for path in posts],
        f"DELETE /v1/archive?before=2030-01-01T00:00:00Z{head}\r\n",
        "PING\r\n\r\n", "*1\r\n$8\r\nFLUSHALL\r\n\r\n",
    ]  # fmt: skip


@pytest.mark.timeout(150)
def test_another_user_gets_nothing(root: Path) -> None:
    """No file of the state directory, no socket, no answer with data, nothing written anywhere."""
    with running(root) as pids:
        found = [path for path in root.rglob("*") if not path.is_symlink()]
        ports = _ports(pids)
        assert len(ports) == 3  # console, file server, SQS; Redis has a socket
        asked = {
            "directories": [str(root), *(str(path) for path in found if path.is_dir())],
            "files": [str(path) for path in found if path.is_file()],
            "sockets": [str(path) for path in found if path.is_socket()],
            "ports": sorted(ports),
            "requests": _requests(),
        }
        assert asked["sockets"]
        other = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"]
        done = subprocess.run(
            [*other, "/usr/bin/env", "-i", "/usr/bin/python3", "-I", "-c", ATTACK],
            input=json.dumps(asked), capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
    assert (told["wrote"], told["connected"]) == ([], [])
    state = str(root / ".penstock")
    inside = [path for path in told["read"] if path.startswith(state)]
    assert [path for path in inside if not path.endswith(".epoch")] == []
    for _, line, answer in told["answers"]:
        status = answer.partition(" ")[2][:3]
        is_open = line in {"GET /", "GET /?Action=ListQueues", "GET /healthz"}  # the empty page
        assert status in {"400", "401", "403", "404", ""} or (is_open and status == "200"), line
        assert not re.search(r'"id": \d|garbage', answer), line
    assert len(told["answers"]) == 3 * len(_requests())


@pytest.mark.timeout(150)
def test_a_fifo_for_a_reason_holds_up_neither_the_console_nor_the_end(root: Path) -> None:
    """The rejects are listed without it; retry says so; SIGTERM ends the box in its usual time."""
    with running(root) as pids:
        (reason,) = (root / "rejected").glob("*.reason.json")
        name = reason.name.removesuffix(".reason.json")
        reason.unlink()
        os.mkfifo(reason, 0o666)
        os.chown(reason, int(UID), int(UID))
        console = re.search(r'console = "([^"]+)"', (root / "penstock.toml").read_text())
        assert console
        token = (root / ".penstock" / "read.token").read_text().strip()
        asked = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"http://{console[1]}/v1/rejects", headers=asked, timeout=10)
        assert answer.status_code == 200
        assert name in answer.text
        listed = subprocess.run(
            [sys.executable, "-m", "penstock", "rejected", "list", "--config", "penstock.toml"],
            cwd=root, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert name in listed.stdout, listed.stderr
        began = time.monotonic()
        os.kill(min(pids), signal.SIGTERM)
    assert time.monotonic() - began < 30
