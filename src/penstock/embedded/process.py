"""One process that Penstock runs for itself: one per state directory, tied to ours, with a log.

    STATE/redis/owner.lock      held by the Penstock that runs the process, and by nothing else;
                                holds its pid and the address, for those who may share it
    STATE/redis/process.lock    held by the process itself, until it has written its data and gone
    STATE/redis/redis.log       what it said

Two locks, because the one may be dead while the other still writes: after a kill -9 of Penstock its
successor has `owner.lock` at once and waits for `process.lock`. Both are flock: the kernel lets go
of them with the last descriptor, so none is ever stale and no pid is ever trusted.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Self, cast
from urllib.parse import urlsplit

from penstock import beneath
from penstock.embedded.tether import tethered
from penstock.errors import Halt

_POLL_SECONDS = 0.02
_START_SECONDS = 30.0  # to the first answer; ministack needs 0.5, Redis 0.05, a busy box more
_STOP_SECONDS = 15.0  # to write what is in memory, then it is killed
_PROBE_SECONDS = 2.0
_LOG_BYTES_MAX = 1_048_576
_LOG_TAIL_LINES = 12


class EmbeddedProcess:
    """The life of one such process; what it is, the subclass says.

    Used as an async context manager, or by `start` and `stop`, from the main thread. With `share`,
    a process that another Penstock runs on the same state directory is joined: it is used and left
    running. Without, that raises Halt.
    """

    title = ""
    """How error messages call it."""
    remedy = ""
    """What to do when it does not start."""

    def __init__(self, directory: Path, *, share: bool = False) -> None:
        self.directory = directory
        self.log = directory / f"{directory.name}.log"
        self.address = ""
        self._share = share
        self._owner: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def noted_address(self) -> str:
        """Return the address where another Penstock says it runs the process; touches nothing.

        Empty if none ever did; whether it still answers, a call to it tells.
        """
        return _read_note(self.directory).get("address", "")

    @property
    def owned(self) -> bool:
        """Tell whether this object runs the process: not before `start`, not when it joined."""
        return self._owner is not None

    @property
    def pid(self) -> int | None:
        """The process id, if this object runs the process."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process if it has ended by itself, else None. A cheap poll."""
        return self._process.poll() if self._process else None

    async def start(self) -> None:
        """Start the process, or join it, and return when it answers.

        Raises Halt if it cannot be started or does not answer, with the end of its log.
        """
        with _usable(self.directory), _opened(self.directory, make=True) as fd:
            if os.fstat(fd).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user")
            os.fchmod(fd, 0o700)
        self._owner = _lock(self.directory, "owner.lock")
        if self._owner is None:
            await self._join()
            return
        process_lock = await self._wait_for_predecessor()
        try:
            log_offset = _rotated(self.log)
            previous = _read_note(self.directory).get("address", "")
            os.ftruncate(self._owner, 0)  # who joins now waits for the new address
            self.address = await self.launch(previous, process_lock)
            note = {"pid": str(os.getpid()), "address": self.address}
            os.pwrite(self._owner, json.dumps(note).encode(), 0)
        except OSError as error:
            raise Halt(
                f"{self.title}: cannot be started in {self.directory}: {beneath.why(error)}"
            ) from None
        finally:
            os.close(process_lock)  # the process has its own copy of it
        await self._until(self.answers, log_offset)

    async def stop(self) -> None:
        """End the process, its data written, and let go of the state directory; safe to repeat."""
        if self._process is not None:
            self._process.terminate()
            if not await _within(_STOP_SECONDS, self._has_ended):
                self._process.kill()
                await _within(_STOP_SECONDS, self._has_ended)
            self._process = None
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    async def launch(self, previous: str, inherit: int) -> str:
        """Start the process by `spawn` and return its address.

        `previous` is the address it had in its last life, or empty; `inherit` is a descriptor that
        it must be given. Raises Halt.
        """
        raise NotImplementedError

    async def answers(self) -> bool:
        """Tell whether the process at `self.address` does its work; may wait for it a while."""
        raise NotImplementedError

    def diagnosis(self) -> str:
        """Say what the end of the log says of why the process does not run; empty if nothing."""
        return ""

    def spawn(
        self, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> None:
        """Start `command` in the state directory, tied to this process, its output in the log.

        In a session of its own: Ctrl-C at the terminal is for Penstock, which stops its parts last.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with (
            _opened(self.directory) as fd,
            os.fdopen(beneath.open_file(fd, self.log.name, flags), "ab") as log,
        ):
            self._process = subprocess.Popen(  # noqa: S603  the command is ours
                tethered(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=dict(environment),
                pass_fds=list(descriptors),
                start_new_session=True,
            )

    async def _join(self) -> None:
        """Use the process of the Penstock that holds the lock; it may be starting this moment."""
        if not self._share:
            pid = _read_note(self.directory).get("pid", "unknown")
            raise Halt(
                f"{self.title}: another Penstock (pid {pid}) runs it in {self.directory}; stop that"
                " one, or choose another run.state_directory"
            )

        async def answers() -> bool:
            self.address = _read_note(self.directory).get("address", "")
            return bool(self.address) and await self.answers()

        await self._until(answers, log_offset=0)

    async def _wait_for_predecessor(self) -> int:
        """Return the descriptor of process.lock, once no earlier process holds it."""
        found: list[int] = []

        async def free() -> bool:
            descriptor = _lock(self.directory, "process.lock")
            found.extend([] if descriptor is None else [descriptor])
            return bool(found)

        if not await _within(_STOP_SECONDS, free):
            raise Halt(
                f"{self.title}: the one that a killed Penstock left in {self.directory} still runs"
                f" after {_STOP_SECONDS:.0f} s; end it (`fuser {self.directory}/process.lock`)"
            )
        return found[0]

    async def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def _until(self, answers: Callable[[], Awaitable[bool]], log_offset: int) -> None:
        ended = False

        async def settled() -> bool:
            nonlocal ended
            ended = self.exit_code is not None
            return ended or await answers()

        if await _within(_START_SECONDS, settled) and not ended:
            return
        what = f"ended with {self.exit_code}" if ended else f"no answer in {_START_SECONDS:.0f} s"
        end = tail(self.log, log_offset)
        remedy = self.diagnosis() or self.remedy
        raise Halt(f"{self.title}: {what}; {remedy}; the end of {self.log}:\n{end}")


async def _within(seconds: float, done: Callable[[], Awaitable[bool]]) -> bool:
    """Ask `done` until it is true, or until `seconds` have passed; return its last answer."""
    deadline = time.monotonic() + seconds
    while not await done():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


@contextlib.contextmanager
def _usable(path: Path) -> Generator[None]:
    """Say in one line what the system says of a path in the state directory. Raises Halt."""
    try:
        yield
    except OSError as error:
        raise Halt(
            f"run.state_directory: {path}: {beneath.why(error)};"
            " allowed: a directory that this user owns, or may make"
        ) from None


def _opened(directory: Path, *, make: bool = False) -> contextlib.AbstractContextManager[int]:
    """Give a descriptor of one of our directories: a link in its place is none."""
    return beneath.folder(directory.parent, directory.name, make=make)


def _lock(directory: Path, name: str) -> int | None:
    """Return a descriptor that holds the flock of a file, or None if another one does."""
    with _usable(directory / name), _opened(directory) as fd:
        descriptor = beneath.open_file(fd, name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _read_note(directory: Path) -> dict[str, str]:
    """Return what the owner wrote into its lock file; empty while it has not."""
    with contextlib.suppress(OSError, ValueError), _opened(directory) as fd:
        return cast("dict[str, str]", json.loads(beneath.read(fd, "owner.lock", 10_000)))
    return {}


def _rotated(log: Path) -> int:
    """Put a long log aside as LOG.1; return the length of what this one holds, in bytes."""
    with contextlib.suppress(FileNotFoundError):
        if (size := log.stat().st_size) <= _LOG_BYTES_MAX:
            return size
        log.replace(log.with_name(log.name + ".1"))
    return 0


def tail(log: Path, offset: int = 0) -> str:
    """Return the last lines of `log` after `offset`, or a word that there are none."""
    with contextlib.suppress(OSError):
        lines = log.read_bytes()[offset:].decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (nothing)"
    return "  (no log)"


def reserve(previous: str, *, listen: bool = True) -> socket.socket:
    """Return a socket with a port of the loopback interface, that of `previous` if it is free.

    It listens for the process that inherits it; or, without `listen`, only keeps the port for a
    process of this user that binds it itself, with SO_REUSEPORT on its side too.
    """
    for port in (urlsplit(previous).port or 0, 0):
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not listen:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(("127.0.0.1", port))
            if listen:
                reserved.listen(1024)
        except OSError:
            reserved.close()
            if port == 0:
                raise
        else:
            return reserved
    raise AssertionError(previous)  # unreachable: the loop's last turn returns or raises


async def is_answered(
    url: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> bool:
    """Tell whether a server answers a GET of `url` with `status`; wait up to two seconds for it."""
    # Here, because a box whose parts speak no HTTP does without: 0.14 s of imports, and 10 MB.
    import aiohttp  # noqa: PLC0415

    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers) as response,
        ):
            return response.status == status
    return False
