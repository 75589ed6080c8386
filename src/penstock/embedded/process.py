"""Run a server that Penstock starts: one per state directory, tied to our process, with a log.

    STATE/redis/owner.lock      locked by the Penstock that runs the server; holds its pid and the
                                server's address, for others that may share it
    STATE/redis/process.lock    locked by the server until it has written its data and ended
    STATE/redis/redis.log       its output

Two locks, because Penstock may be dead while the server still writes. After a kill -9, the next
Penstock gets `owner.lock` at once, and waits for `process.lock`. Both are flocks: the kernel frees
them with the last descriptor, so a lock is never stale, and no pid needs to be trusted.
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
_STOP_SECONDS = 15.0  # to write its data to disk before it is killed
_LOG_BYTES_MAX = 1_048_576
_LOG_TAIL_LINES = 12


class EmbeddedProcess:
    """A server process; each subclass runs one. Start and stop it from the main thread.

    With `share`, it uses a server that another Penstock runs in the same state directory, and
    leaves it running. Without, that raises Halt.
    """

    folder = ""
    """Its directory below the state directory."""
    title = ""
    """Its name in error messages."""
    remedy = ""
    """What to do if it does not start."""

    def __init__(self, state_directory: Path, *, share: bool = False) -> None:
        self.directory = state_directory.absolute() / self.folder
        self.log = self.directory / f"{self.folder}.log"
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
        """Return the address that the owner noted, even if it is dead; "" if none."""
        return _read_note(self.directory).get("address", "")

    @property
    def pid(self) -> int | None:
        """The process id, if this object runs the process."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit code if the process has ended by itself, else None. A cheap poll."""
        return self._process.poll() if self._process else None

    async def start(self) -> None:
        """Start or join the process, and return when it answers. Raises Halt with its log."""
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
            os.ftruncate(self._owner, 0)  # so that joiners wait for the new address
            self.address = await self.launch(previous, process_lock)
            note = {"pid": str(os.getpid()), "address": self.address}
            os.pwrite(self._owner, json.dumps(note).encode(), 0)
        except OSError as error:
            raise Halt(
                f"{self.title}: cannot be started in {self.directory}: {beneath.why(error)}"
            ) from None
        finally:
            os.close(process_lock)  # the process has its own copy
        await self._until(self.answers, log_offset)

    async def stop(self) -> None:
        """Let the process write its data and end; release the directory. Safe to repeat."""
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
        """Start the process, with descriptor `inherit`, and return its address. Raises Halt."""
        raise NotImplementedError

    async def answers(self) -> bool:
        """Tell whether the process at `self.address` works; may wait a while for it."""
        raise NotImplementedError

    def diagnosis(self) -> str:
        """Return why the process does not run, if the end of the log tells; else empty."""
        return ""

    def why_silent(self) -> str:
        """Return why it does not answer, and the remedy; empty if it stopped or never began."""
        found = f"runs, but does not answer; {self._restart()}" if self._runs() else ""
        if not found and (diagnosis := self.diagnosis()):
            found = f"does not run: {diagnosis}"
        return f"{self.title} {found}; see {self.log}" if found else ""

    def _restart(self) -> str:
        pid = _read_note(self.directory).get("pid", "unknown")
        return f"stop the Penstock that runs it (pid {pid}), and start it again"

    def _runs(self) -> bool:
        """Tell whether any process holds process.lock; makes no file."""
        with contextlib.suppress(OSError), _opened(self.directory) as fd:
            descriptor = beneath.open_file(fd, "process.lock", os.O_RDONLY)
            try:  # shared, so that two callers do not block each other
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
        return False

    def spawn(
        self, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> None:
        """Start `command`, tied to us, in its own session, so that Ctrl-C reaches only Penstock."""
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
        """Use the process of the Penstock that holds the lock; it may still be starting."""
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
        """Return a descriptor of process.lock, once no earlier process holds it."""
        found: list[int] = []

        async def free() -> bool:
            if (descriptor := _lock(self.directory, "process.lock")) is not None:
                found.append(descriptor)
            return bool(found)

        if not await _within(_STOP_SECONDS, free):
            raise Halt(
                f"{self.title}: a process left by a killed Penstock still runs in {self.directory}"
                f" after {_STOP_SECONDS:.0f} s; end it (`fuser {self.directory}/process.lock`)"
            )
        return found[0]

    async def _has_ended(self) -> bool:
        return self.exit_code is not None

    async def _until(self, answers: Callable[[], Awaitable[bool]], log_offset: int) -> None:
        async def settled() -> bool:
            return self.exit_code is not None or await answers()

        answered = await _within(_START_SECONDS, settled)
        what, remedy = f"no answer in {_START_SECONDS:.0f} s", self._restart()
        if (code := self.exit_code) is not None:
            answered, what, remedy = False, f"ended with {code}", self.diagnosis() or self.remedy
        if not answered:
            end = tail(self.log, log_offset)
            raise Halt(f"{self.title}: {what}; {remedy}; see the end of {self.log}:\n{end}")


async def _within(seconds: float, done: Callable[[], Awaitable[bool]]) -> bool:
    """Call `done` until it is true, or `seconds` have passed; return its last answer."""
    deadline = time.monotonic() + seconds
    while not await done():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


@contextlib.contextmanager
def _usable(path: Path) -> Generator[None]:
    """Raise an OSError about a path in the state directory as a Halt."""
    try:
        yield
    except OSError as error:
        raise Halt(
            f"run.state_directory: {path} cannot be used: {beneath.why(error)};"
            " allowed: a directory that this user owns or can make"
        ) from None


def _opened(directory: Path, *, make: bool = False) -> contextlib.AbstractContextManager[int]:
    """Yield a descriptor of one of our directories; a link there is an error."""
    return beneath.folder(directory.parent, directory.name, make=make)


def _lock(directory: Path, name: str) -> int | None:
    """Return a descriptor that holds the flock of a file, or None if another process holds it."""
    with _usable(directory / name), _opened(directory) as fd:
        descriptor = beneath.open_file(fd, name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _read_note(directory: Path) -> dict[str, str]:
    """Return the owner's note from its lock file; empty if there is none yet."""
    with contextlib.suppress(OSError, ValueError), _opened(directory) as fd:
        return cast("dict[str, str]", json.loads(beneath.read(fd, "owner.lock", 10_000)))
    return {}


def _rotated(log: Path) -> int:
    """Move a long log aside as LOG.1; return the length in bytes of the current one."""
    with contextlib.suppress(FileNotFoundError):
        if (size := log.stat().st_size) <= _LOG_BYTES_MAX:
            return size
        log.replace(log.with_name(log.name + ".1"))
    return 0


def tail(log: Path, offset: int = 0) -> str:
    """Return the last lines of `log` after `offset`, or a note that there are none."""
    with contextlib.suppress(OSError):
        lines = log.read_bytes()[offset:].decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (nothing)"
    return "  (no log)"


def reserve(previous: str) -> socket.socket:
    """Return a listening socket on loopback, with the port of `previous` if that is free."""
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", urlsplit(previous).port or 0), backlog=1024)
    return socket.create_server(("127.0.0.1", 0), backlog=1024)
