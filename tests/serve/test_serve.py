"""`penstock serve` as a process, from its command line."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from penstock import telemetry
from penstock.cli.commands import app
from penstock.errors import Halt
from support.fileserver import NEW_TOKEN, TOKEN

NAME = "2026-11-23T06:15:00.123456.json"


def command(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command with a home of its own and nothing of ours in its environment."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "serve", *arguments],
        cwd=root, env=own | {"COLUMNS": "100", "NO_COLOR": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(root: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command to its end; return its exit code and what it said."""
    process = command(root, *arguments)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@contextlib.contextmanager
def running(root: Path, *arguments: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run the server; give its process and the address that its log tells."""
    process = command(root, *arguments)
    try:
        assert process.stderr
        for line in process.stderr:
            said: dict[str, Any] = json.loads(line)
            if said["step"] == "server.listens":
                yield process, said["address"]
                break
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return a spool with one file."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / NAME).write_text("{}")
    return tmp_path / "spool"


def test_help_teaches(tmp_path: Path) -> None:
    """How to reach it, what it needs for other machines, how it stops; every option."""
    code, out, _ = ended(tmp_path, "--help")
    assert code == 0
    text = re.sub(r"[\s│]+", " ", out)
    for wanted in (
        "source.url", "run.state_directory", "TLS", "SIGTERM", "--listen", "--unix",
        "--token-file", "--tls-cert", "--tls-key", "--insecure", "127.0.0.1:8080", "--config",
    ):  # fmt: skip
        assert wanted in text, wanted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_told_to_stop(spool: Path, number: int) -> None:
    """Port 0 shows its address in the log; a call that waits comes back; the exit code is 0."""
    arguments = (str(spool), "--listen", "127.0.0.1:0")
    with running(spool.parent, *arguments) as (process, address), requests.Session() as session:
        token = (spool.parent / ".penstock" / "read.token").read_text().strip()
        session.headers["Authorization"] = f"Bearer {token}"
        page = session.get(f"{address}/v1/files?wait=5", timeout=20).json()
        deadline = time.monotonic() + 20
        while not page["files"] and time.monotonic() < deadline:  # it settles for two seconds
            page = session.get(f"{address}/v1/files?wait=5", timeout=20).json()
        assert [file["name"] for file in page["files"]] == [NAME]
        answers: list[Any] = []
        waiting = threading.Thread(
            target=lambda: answers.append(
                session.get(f"{address}/v1/files?wait=30&after={page['cursor']}", timeout=60)
            )
        )
        waiting.start()
        time.sleep(0.5)
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - began < 10
        waiting.join(10)
        assert answers[0].json()["files"] == []


def test_wants_the_token_of_its_file(spool: Path) -> None:
    """The old one and the new one, and nobody without."""
    (spool.parent / "token").write_text(f"{TOKEN}\n{NEW_TOKEN}\n")
    arguments = (str(spool), "--listen", "127.0.0.1:0", "--token-file", "token")
    with running(spool.parent, *arguments) as (_, address):
        for token, status in ((TOKEN, 200), (NEW_TOKEN, 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            answer = requests.get(f"{address}/v1/files", headers=headers, timeout=20)
            assert answer.status_code == status
        assert requests.get(f"{address}/healthz", timeout=20).status_code == 200


def test_listens_on_a_socket(spool: Path) -> None:
    """Relative to where it is started; gone when it has stopped."""
    with running(spool.parent, str(spool), "--unix", "s") as (process, address):
        assert address == f"http+unix://{spool.parent}/s"
        assert (spool.parent / "s").is_socket()
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert not (spool.parent / "s").exists()


def test_a_socket_in_use_is_refused_and_a_stale_one_taken_over(spool: Path) -> None:
    """Two servers never share a path: the second halts, and the first goes on serving."""
    arguments = (str(spool), "--unix", "s")
    with running(spool.parent, *arguments) as (process, _):
        code, _, err = ended(spool.parent, *arguments)
        assert (code, len(err.splitlines())) == (78, 1), err
        assert "s: another server listens on it; allowed: another path" in err
        assert answers(spool.parent / "s")
        process.kill()
        process.wait()
    assert (spool.parent / "s").is_socket()  # nobody cleaned up
    with running(spool.parent, *arguments) as (process, _):
        assert answers(spool.parent / "s")
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert not (spool.parent / "s").exists()


def answers(path: Path) -> bool:
    """Tell whether a server on the socket says that it is well."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 200")


ERRORS: list[tuple[list[str], str]] = [
    (["missing"], "source.url: .*missing cannot be opened as a directory"),
    (["spool", "--listen", "127.0.0.1:99999"], "serve.listen: 127.0.0.1:99999: no such port"),
    ([], "source.url: "),
    (["spool", "--listen", "0.0.0.0:0"], "serve.listen: .* without TLS .*; allowed: "),
    (["spool", "--listen", "nonsense"], "serve.listen: 'nonsense' is not allowed; allowed: "),
    (["spool", "--token-file", "missing"], "serve.token_file: .*missing cannot be read"),
    (["spool", "--tls-cert", "missing"], "serve.tls_cert, serve.tls_key: one is missing"),
    (["spool", "--unix", "missing/s"], "serve.unix_socket: cannot listen on"),
    (["spool", "--config", "missing"], "--config: missing: no such file"),
]


@pytest.mark.parametrize(("arguments", "line"), ERRORS[:2])
def test_an_error_is_one_line_and_exit_code_78(
    spool: Path, arguments: list[str], line: str
) -> None:
    """Somebody has to mend it, and the line says what and how."""
    code, out, err = ended(spool.parent, *arguments)
    assert (code, out) == (78, "")
    assert re.match(f"penstock: {line}", err), err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "line"), ERRORS)
def test_what_cannot_work_halts(
    spool: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    """Each with the setting and the remedy; the command line makes the one line of it."""
    monkeypatch.chdir(spool.parent)
    monkeypatch.setattr(telemetry, "configure", dict)
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert isinstance(result.exception, Halt)
    assert re.match(line, str(result.exception))
    assert "\n" not in str(result.exception)


async def _hostile(address: str, token: str, kind: str, body: bytes) -> None:
    """Send a body of 15 MiB until it is answered, or for 15 s."""
    chunked = kind == "archive"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {15 << 20}"
    head = f"POST /v1/files:{kind} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(TimeoutError, ConnectionError):
        writer.write(f"{head}{length}\r\n\r\n".encode())
        async with asyncio.timeout(15):
            answered = asyncio.create_task(reader.readline())
            for begin in range(0, len(body), 1 << 20):
                part = body[begin : begin + (1 << 20)]
                writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                await writer.drain()
                if answered.done():
                    break
            await answered
    writer.close()


async def test_two_hundred_hostile_bodies_leave_memory_alone(spool: Path) -> None:
    """15 MiB each, at once, to the calls that take a body: the server stays below 200 MB."""
    names = b'{"names":["a"' + b',"b"' * (15 << 18) + b"]}"
    reasons = b'{"reasons":{"a":""' + b"".join(b',"%06x":""' % n for n in range(1_300_000)) + b"}}"
    bodies = {"read": names, "archive": names, "reject": reasons}
    bodies = {kind: body.ljust(15 << 20)[: 15 << 20] for kind, body in bodies.items()}
    with running(spool.parent, str(spool), "--listen", "127.0.0.1:0") as (process, address):
        kinds = [("read", "archive", "reject")[n % 3] for n in range(200)]
        token = (spool.parent / ".penstock" / "move.token").read_text().strip()
        each = [_hostile(address, token, kind, bodies[kind]) for kind in kinds]
        await asyncio.gather(*each)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak
        assert int(peak[1]) < 200_000
        assert requests.get(f"{address}/healthz", timeout=20).status_code == 200
