"""A spool whose files are staged and packed, and what may happen to who does it.

As a program, `python -m support.staged DIRECTORY`, it forks children that die at every system call
of a pass, or for which that call finds the disk full, and checks what they leave behind: forks of a
process without threads, beside no test.
"""

import errno
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.archive import pack, staging
from penstock.archive.store import Store, segment_name
from penstock.source.directory import DirectorySource

CALLS = ("mkdir", "open", "read", "write", "fsync", "rename", "stat", "unlink", "rmdir")
"""The system calls of staging and packing; renames out of the spool go past `os`."""

WRITING = tuple(call for call in CALLS if call not in {"read", "stat"})
"""Those that may find the disk full."""

MODIFIED_NS = 1_795_000_000_123_456_789


class Place:
    """A spool of some files of two hours, its archive, and what is done to them."""

    def __init__(self, root: Path, count: int = 60) -> None:
        self.spool, self.archive = root / "spool", root / "archive"
        self.spool.mkdir(parents=True)
        self.names = [f"2026-11-23T0{5 + n % 2}-15-{n % 60:02d}.{n:06d}.json" for n in range(count)]
        self.files = {name: (f'{{"file": "{name}"}}' * 9).encode() for name in self.names}
        for name in self.files:
            self.write(name)
        self.source = DirectorySource(
            self.spool,
            pattern=r".*\.json",
            settle_seconds=0,
            max_file_bytes=1 << 20,
            archive_directory=self.archive,
            rejects_directory=root / "rejected",
            archive_action="pack",
        )
        self.fd = self.source._fd
        self.bucket = ""

    def remove(self) -> None:
        """Close and delete it: each archive has a reserve of 64 MiB."""
        os.close(self.fd)
        shutil.rmtree(self.spool.parent)

    def write(self, name: str) -> None:
        """Write a file as a producer does."""
        (self.spool / name).write_bytes(self.files[name])
        os.utime(self.spool / name, ns=(1, MODIFIED_NS))

    def stage(self, names: Sequence[str] = ()) -> None:
        """Have files leave the spool; none of them has vanished."""
        moved = self.source._archive(names or self.names)
        assert not [one for one in moved if one.error or one.vanished], moved

    def pack(self, older_than_seconds: float = 0.0) -> pack.PackTally:
        """Run one pass over what was staged so long ago."""
        self.source.bucket = self.bucket
        return pack.pack(
            self.fd,
            self.archive,
            older_than_seconds=older_than_seconds,
            over=lambda: False,
            bucket=self.bucket,
        )

    def packed(self) -> Counter[str]:
        """Count the files in segments by name; each is as it was written."""
        store, found = Store(self.archive, self.bucket), Counter[str]()
        for hour in store.hours():
            for segment in store.segments(hour):
                with store.open(segment) as opened:
                    members = [*opened.members()]
                assert segment.files == len(members)
                for member in members:
                    assert member.data == self.files[member.name], member.name
                    assert member.modified_ns == MODIFIED_NS
                found.update(member.name for member in members)
        return found

    def staged(self) -> dict[str, bytes]:
        """Return the files in staging rooms."""
        rooms = self.spool / staging.FOLDER
        return {path.name: path.read_bytes() for path in rooms.rglob("*.json")}

    def assert_nothing_lost(self) -> None:
        """Expect each file whole in the spool or a room, or in a segment: in one at least."""
        spool = {path.name: path.read_bytes() for path in self.spool.glob("*.json")}
        staged, packed = self.staged(), self.packed()
        assert (spool | staged).items() <= self.files.items()
        assert not spool.keys() & (staged.keys() | packed.keys())
        assert spool.keys() | staged.keys() | packed.keys() == self.files.keys()
        assert set(packed.values()) <= {1}

    def assert_all_packed_here(self) -> None:
        """Expect every file in one segment on this machine, uploaded or not."""
        bucket, self.bucket = self.bucket, ""
        self.assert_all_packed()
        self.bucket = bucket

    def assert_all_packed(self) -> None:
        """Expect every file in one segment, once, and nothing else anywhere."""
        assert self.packed() == dict.fromkeys(self.files, 1)
        assert not [*self.spool.glob("[!.]*")]
        rooms = [*(self.spool / staging.FOLDER).rglob("*")]
        assert not rooms, rooms
        files = [path for path in self.archive.rglob("*") if path.is_file()]
        left = [one.name for one in files if not segment_name("", one.name)]
        assert left in ([], [".penstock-reserve"]), left


def failing_at(call: str, times: int, act: Callable[[], None]) -> Callable[[], None]:
    """Have a system call act instead, the one after so many; return what undoes that."""
    real, left = getattr(os, call), times

    def wrapped(*given: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1:
            act()
        return real(*given, **more)

    setattr(os, call, wrapped)
    return lambda: setattr(os, call, real)


def die() -> None:
    """Die as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(work: Callable[[], object]) -> int:
    """Do something in a child; return how it ended, 0 if well, below it if killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def one_pass(place: Place) -> None:
    """Stage and pack what there is, as one pass of an archiver does; errors are told in the log."""
    place.source._archive(place.names)
    place.pack()


def kills(root: Path, call: str, step: int) -> int:
    """Kill passes at this call, at every `step`th of it; return how many were killed."""
    for times in range(0, 100_000, step):
        place = Place(root / f"kill-{call}-{times}", count=8)
        ended = in_child(lambda: (failing_at(call, times, die), one_pass(place)))  # noqa: B023
        assert ended in {0, -signal.SIGKILL}, (call, times)
        place.assert_nothing_lost()
        place.stage()
        place.pack()
        place.assert_all_packed()
        place.remove()
        if ended == 0:
            return times
    return 0


def full(root: Path, call: str, step: int) -> int:
    """Let passes find the disk full at this call; return how many did."""
    for times in range(0, 100_000, step):
        place = Place(root / f"full-{call}-{times}", count=8)
        fired: list[bool] = []
        undo = failing_at(call, times, lambda: (fired.append(True), disk_full())[0])  # noqa: B023
        one_pass(place)
        undo()
        place.assert_nothing_lost()
        place.stage()
        place.pack()
        place.assert_all_packed()
        place.remove()
        if not fired:
            return times
    return 0


def together(root: Path, archivers: int) -> None:
    """Run archivers beside each other over one spool, each pass after pass."""
    place = Place(root / "together", count=600)

    def passes() -> None:
        until = time.monotonic() + 60
        while [*place.spool.glob("*.json")] and time.monotonic() < until:
            for first in range(0, len(place.names), 100):
                place.stage(place.names[first : first + 100])
                place.pack()

    children: list[int] = []
    for _ in range(archivers):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                passes()
                code = 0
            finally:
                os._exit(code)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ends == [0] * archivers, ends
    place.pack()
    place.assert_all_packed()


if __name__ == "__main__":
    where, every = Path(sys.argv[1]), int(sys.argv[2])
    for what in sys.argv[3:]:
        if what == "together":
            together(where, 3)
        else:
            do, _, named = what.partition(":")
            count = {"kill": kills, "full": full}[do](where, named, every)
            print(what, count)  # noqa: T201  what the test reads
