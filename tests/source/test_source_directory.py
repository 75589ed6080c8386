"""What is the directory's own: settling, growing files, other file systems, broken permissions."""

import asyncio
import ctypes
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import file_names
from penstock.errors import Again, Halt
from penstock.model import Unread
from penstock.ports import Moved
from penstock.source import marker, scan
from penstock.source import moves as moving
from penstock.source.directory import DirectorySource
from support.require import require

NAME = "2026-11-23T06:15:00.123456.json"
OTHER = "2026-11-23T07:00:00.000001.json"

Make = Callable[..., DirectorySource]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Yield a function that makes a source over tmp_path/spool."""
    (tmp_path / "spool").mkdir()
    made: list[DirectorySource] = []

    def new(**given: object) -> DirectorySource:
        settings = {
            "pattern": r".*\.json",
            "settle_seconds": 0.0,
            "max_file_bytes": 1 << 20,
            "archive_directory": tmp_path / "archive",
            "rejects_directory": tmp_path / "rejected",
        } | given
        source = DirectorySource(tmp_path / "spool", **settings)  # type: ignore[arg-type]
        made.append(source)
        return source

    yield new
    for source in made:
        await source.close()


async def listed(source: DirectorySource, cursor: str = "") -> list[str]:
    """Return the names of the next page."""
    return [*(await source.list(cursor)).names]


def clock_an_hour_behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set our clock back to before any file was written; return what lets seconds pass."""
    real, now = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real - 3600)

    def pass_seconds(seconds: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: now + seconds)

    return pass_seconds


async def test_a_unsettled_file_is_left_to_its_writer(make: Make, tmp_path: Path) -> None:
    """A file is not listed before its last change is settle_seconds old, and then it is."""
    source = make(settle_seconds=3600)
    (tmp_path / "spool" / NAME).write_text("{}")
    assert await listed(source) == []
    assert await listed(make(settle_seconds=0)) == [NAME]


async def test_a_clock_that_is_wrong_only_costs_the_settling_time(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server an hour ahead of us: unchanged for settle_seconds on our clock is enough."""
    (tmp_path / "spool" / NAME).write_text("{}")
    source = make(settle_seconds=5)
    pass_seconds = clock_an_hour_behind(monkeypatch)
    page = await source.list("")
    assert page.names == []
    pass_seconds(6)
    assert await listed(source, page.cursor) == [NAME]


async def test_a_file_that_changes_while_it_settles_waits_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that cannot be compared, each change starts the waiting anew."""
    path = tmp_path / "spool" / NAME
    path.write_text("{}")
    source = make(settle_seconds=5)
    pass_seconds = clock_an_hour_behind(monkeypatch)
    page = await source.list("")
    time.sleep(0.02)  # the kernel stamps changes in ticks of some ms
    path.write_text("{}{}")
    pass_seconds(6)
    assert await listed(source, page.cursor) == []


async def test_a_scan_takes_no_more_than_its_share(make: Make, tmp_path: Path) -> None:
    """A million files in the directory must not mean that a worker does nothing but list them."""
    source = make()
    (tmp_path / "spool" / NAME).write_text("{}")
    page = await source.list("")
    source.index._pace.began_at_seconds = began = time.monotonic()
    source.index._pace.seconds = 0.009
    await source.list(page.cursor)
    assert time.monotonic() - began >= 0.05


async def test_a_long_pause_between_two_scans_holds_up_nothing(make: Make, tmp_path: Path) -> None:
    """A page that says so comes at once: files at hand would have to wait for a scan, too."""
    source = make()
    page = await source.list("")
    source.index._pace.began_at_seconds = began = time.monotonic()
    source.index._pace.seconds = 3.0
    (tmp_path / "spool" / NAME).write_text("{}")
    page = await source.list(page.cursor)
    assert time.monotonic() - began < 10
    assert (page.names, 20 < page.pause_seconds <= 30) == ([], True)
    source.index._pace.seconds = 0.0
    assert await listed(source, page.cursor) == [NAME]


async def test_a_file_read_while_it_grows_comes_as_far_as_it_is(make: Make, tmp_path: Path) -> None:
    """Reading never goes past max_file_bytes, however large the file becomes meanwhile."""
    source = make(max_file_bytes=100)
    (tmp_path / "spool" / NAME).write_bytes(b"x" * 90)
    (file,) = await source.read([NAME], 1)
    assert file.data == b"x" * 90


async def test_a_file_that_may_not_be_read_is_denied(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission denied is not vanished: the file waits for someone to mend it."""
    (tmp_path / "spool" / NAME).write_text("{}")

    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    source = make()
    monkeypatch.setattr(os, "open", denied)
    (file,) = await source.read([NAME], 1)
    assert (file.data, file.detail) == (Unread.DENIED, "Permission denied")


def test_a_spool_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    """The error names the setting, the path and the cause."""
    with pytest.raises(Halt, match=r"source\.url: .*/nowhere cannot be opened as a directory: No"):
        DirectorySource(
            tmp_path / "nowhere",
            pattern=".*",
            settle_seconds=0,
            max_file_bytes=1,
            archive_directory=tmp_path,
            rejects_directory=tmp_path,
        )


async def test_a_listing_that_fails_may_work_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error of the directory is Again, not an empty page."""

    def broken(_: object) -> object:
        raise OSError(5, "Input/output error")

    source = make()
    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(Again, match="Input/output error"):
        await source.list("")


async def test_deletes_at_once_if_told_so(make: Make, tmp_path: Path) -> None:
    """With archive.action = "delete" no archive is made."""
    source = make(archive_action="delete")
    (tmp_path / "spool" / NAME).write_text("{}")
    assert [file.error for file in await source.archive([NAME, "gone.json", "../x"])] == [""] * 3
    assert not (tmp_path / "spool" / NAME).exists()
    assert not (tmp_path / "archive").exists()


async def test_moves_across_file_systems(make: Make, tmp_path: Path) -> None:
    """An archive on another file system gets a whole copy before the original goes."""
    other = Path("/dev/shm")  # noqa: S108  another file system than tmp_path's
    different = other.is_dir() and other.stat().st_dev != tmp_path.stat().st_dev
    require(present=different, what="a second file system at /dev/shm")
    archive = other / f"penstock-test-{os.getpid()}"
    try:
        source = make(archive_directory=archive)
        path = tmp_path / "spool" / NAME
        path.write_bytes(b"x" * 3_000_000)
        os.utime(path, (5, 5))
        (moved,) = await source.archive([NAME])
        assert moved.error == ""
        target = archive / "2026/11/23/06" / NAME
        assert target.read_bytes() == b"x" * 3_000_000
        assert target.stat().st_mtime == 5
        assert [p.name for p in target.parent.iterdir()] == [NAME]
        assert not path.exists()
        path.write_bytes(b"other")
        (moved,) = await source.archive([NAME])
        assert "exists and differs" in moved.error
        assert path.exists()
    finally:
        for root, _, files in os.walk(archive, topdown=False):
            for name in files:
                (Path(root) / name).unlink()
            Path(root).rmdir()


async def test_moves_without_the_kernels_help(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where renameat2 is missing, a link and an unlink overwrite nothing either."""
    monkeypatch.setattr(moving, "_renameat2", None)
    source = make()
    path = tmp_path / "spool" / NAME
    path.write_text("first")
    assert [file.error for file in await source.archive([NAME])] == [""]
    path.write_text("other")
    (moved,) = await source.archive([NAME])
    assert "exists and differs" in moved.error
    assert path.read_text() == "other"


def refusing(number: int) -> Callable[..., int]:
    """Return a renameat2 that fails with this error."""

    def rename(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return rename


async def test_each_of_many_files_has_its_own_fate(make: Make, tmp_path: Path) -> None:
    """Among those that are moved one is gone, one was moved before, one differs, one is no name."""
    spool, hour = tmp_path / "spool", tmp_path / "archive/2026/11/23/06"
    hour.mkdir(parents=True)
    good, gone, before, differs, last = (f"2026-11-23T06:00:0{i}.json" for i in range(5))
    for name in (good, differs, last, "message.json"):
        (spool / name).write_text(name)
    (hour / before).write_text("")
    (hour / differs).write_text("other")
    wanted = [good, gone, before, differs, "message.json", last]
    moved = [*await make().archive(wanted)]
    assert [file.name for file in moved] == wanted
    assert [file.vanished for file in moved] == [name == gone for name in wanted]
    assert [bool(file.error) for file in moved] == [name == differs for name in wanted]
    assert [path.name for path in spool.glob("[!.]*")] == [differs]
    moved[4] = Moved("message.json", vanished=True)  # nobody knows its folder any more
    assert await make().archive(wanted) == moved
    one_by_one = await make().archive([*wanted, "../x.json"])
    assert one_by_one == [*moved, Moved("../x.json", vanished=True)]
    assert (hour / differs).read_text() == "other"


async def test_no_more_folders_are_open_than_a_process_may_have(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of many hours closes folders on the way, each written to disk before the spool is."""
    open_max, synced = 0, list[str]()
    sync = os.fsync

    def watched(fd: int) -> None:
        nonlocal open_max
        open_max = max(open_max, len(os.listdir("/proc/self/fd")))  # noqa: PTH208  it is no file
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115  the same
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(moving, "_FOLDERS_MAX", 3)
    source = make()
    wanted = [f"2026-11-{day:02}T{hour:02}.json" for day in range(1, 4) for hour in range(24)]
    wanted += ["1.json", "2.json"]
    for day, name in enumerate(wanted):
        (tmp_path / "spool" / name).write_text("{}")
        os.utime(tmp_path / "spool" / name, (0, 86_400 * day))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  the same
    assert [file.error for file in await source.archive(wanted)] == [""] * len(wanted)
    assert open_max <= before + 4
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  the same
    folders = {str(path.parent) for path in (tmp_path / "archive").rglob("*.json")}
    assert len(folders) == len(wanted)
    assert sorted(synced[:-1]) == sorted(folders)
    assert synced[-1] == str(tmp_path / "spool")


@pytest.mark.parametrize("synced_before", [0, 1])
async def test_what_is_not_on_disk_is_not_archived(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced_before: int
) -> None:
    """Where a folder cannot be written to disk, no file of the batch is said to be moved."""
    left = synced_before

    def broken(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "Input/output error")

    wanted = [f"2026-11-23T{hour:02}.json" for hour in range(3)]
    for name in wanted:
        (tmp_path / "spool" / name).write_text("{}")
    source = make()
    with monkeypatch.context() as patch:
        patch.setattr(moving, "_FOLDERS_MAX", 1)
        patch.setattr(os, "fsync", broken)
        moved = await source.archive(wanted)
    assert all("Input/output error" in file.error for file in moved)
    assert [file.name for file in moved] == wanted
    assert await source.archive(wanted) == [Moved(name) for name in wanted]


async def test_reading_leaves_no_trace(make: Make, tmp_path: Path) -> None:
    """Nothing of a file changes, not even when it was last read: that would write its inode."""
    path = tmp_path / "spool" / NAME
    path.write_text("{}")
    os.utime(path, (1, 2))
    (file,) = await make().read([NAME], 10)
    assert file.data == b"{}"
    assert path.stat().st_atime == 1


async def test_files_of_another_user_are_read_as_well(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets none but the owner read without a trace; then there is one."""
    tried = list[int]()
    opened = os.open

    def foreign(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        tried.append(flags & os.O_NOATIME)
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return opened(path, flags, *args, **kwargs)

    for name in (NAME, OTHER):
        (tmp_path / "spool" / name).write_text("{}")
    source = make()
    monkeypatch.setattr(os, "open", foreign)
    assert [file.data for file in await source.read([NAME, OTHER], 10)] == [b"{}"] * 2
    assert tried == [os.O_NOATIME, 0, 0]  # asked once


async def test_a_full_disk_leaves_the_file_where_it_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the move is told per file, and nothing is half moved."""
    source = make()
    (tmp_path / "spool" / NAME).write_text("{}")
    monkeypatch.setattr(moving, "_renameat2", refusing(errno.ENOSPC))
    (moved,) = await source.archive([NAME])
    assert "No space left on device" in moved.error
    assert (tmp_path / "spool" / NAME).exists()


async def test_the_spool_is_no_place_for_rejects(make: Make, tmp_path: Path) -> None:
    """A file moved onto itself looks moved already: it must not be deleted as the copy of one."""
    with pytest.raises(Halt, match=r"archive\.rejected_directory: .* is the spool itself"):
        make(rejects_directory=tmp_path / "spool")
    (tmp_path / "link").symlink_to("spool")
    with pytest.raises(Halt, match="is the spool itself"):
        make(rejects_directory=tmp_path / "link")
    path = tmp_path / "spool" / NAME
    path.write_text("{}")
    fd = os.open(tmp_path / "spool", os.O_RDONLY)
    assert "is the spool itself" in moving.move(fd, NAME, fd, "there").error
    os.close(fd)
    assert path.read_text() == "{}"


async def test_a_spool_that_is_replaced_is_noticed(make: Make, tmp_path: Path) -> None:
    """Renamed away, made anew, or gone: nothing goes on in the directory that once had the name."""
    spool = tmp_path / "spool"
    source = make()
    spool.rename(tmp_path / "old")
    (tmp_path / "old" / NAME).write_text("{}")
    for _ in range(2):
        with pytest.raises(Again, match="the spool"):
            await source.list("")
        with pytest.raises(Again, match="the spool"):
            await source.archive([NAME])
        with pytest.raises(Again, match="the spool"):
            await source.reject({NAME: "{}"})
        spool.mkdir(exist_ok=True)  # gone at first, then another one
    assert (tmp_path / "old" / NAME).exists()


@pytest.mark.parametrize("directory", ["archive", "rejected"])
async def test_a_directory_that_cannot_be_made_is_told_per_file(
    make: Make, tmp_path: Path, directory: str
) -> None:
    """A file in its place, say: every name has its error, and nothing is raised."""
    (tmp_path / directory).write_text("in the way")
    (tmp_path / "spool" / NAME).write_text("{}")
    source = make()
    moved = (
        await source.archive([NAME]) if directory == "archive" else await source.reject({NAME: ""})
    )
    assert moved[0].error
    assert (tmp_path / "spool" / NAME).exists()


async def test_a_scan_and_a_look_at_the_marker_take_nothing_from_each_other(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in two threads, over one descriptor of the spool, whose position is shared."""
    names = [f"{number:04}.json" for number in range(scan._ENTRIES)]
    for name in names:
        (tmp_path / "spool" / name).write_text("{}")
    source = make()
    files_of = scan.Scanner._files
    markers: list[str] = []

    def marked(self: scan.Scanner, entries: Sequence[os.DirEntry[str]]) -> Sequence[str]:
        """Look at the marker while the scan has read all entries and does not know it yet."""
        markers.append(marker.identity(source._fd, make=True).marker)
        assert len(markers) < 3, "the scan begins anew each time"
        return files_of(self, entries)

    monkeypatch.setattr(scan.Scanner, "_files", marked)
    assert await listed(source) == names
    assert markers[0]
    assert len({*markers}) == 1


async def test_reasons_are_no_files(make: Make, tmp_path: Path) -> None:
    """Rejects moved back into the spool bring their reasons along; those are not sent."""
    (tmp_path / "spool" / NAME).write_text("{}")
    (tmp_path / "spool" / f"{NAME}.reason.json").write_text("{}")
    assert await listed(make()) == [NAME]


async def test_no_name_makes_a_folder_or_looks_outside(make: Make, tmp_path: Path) -> None:
    """A wrong name has vanished, whatever lies where it leads, and whatever time it tells."""
    (tmp_path / "outside.json").write_text("{}")
    wrong = ["../outside.json", "../2026-11-23.json", "a\x00.json", "x" * 5000, "a/b", ".."]
    assert all(moved.vanished and not moved.error for moved in await make().archive(wrong))
    assert not list((tmp_path / "archive").glob("*"))


async def test_a_time_of_change_out_of_all_calendars_stops_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a time in its name is archived by its last change of inode then."""
    (tmp_path / "spool" / "a.json").write_text("{}")

    def hour(seconds: float) -> str:
        if seconds < 0:
            raise ValueError
        return "2026/01/01/00"

    os.utime(tmp_path / "spool" / "a.json", (-5, -5))
    monkeypatch.setattr(file_names, "hour_of_time", hour)
    (moved,) = await make().archive(["a.json"])
    assert moved.error == ""
    assert (tmp_path / "archive/2026/01/01/00/a.json").exists()


async def test_retention_passes_over_what_it_did_not_put_there(make: Make, tmp_path: Path) -> None:
    """A folder in an hour's folder stays, and stops nothing."""
    hour = tmp_path / "archive/2020/01/01/00"
    (hour / "folder").mkdir(parents=True)
    (hour / "a.json").write_text("{}")
    assert await make().delete_archived(-1) == 1
    assert [path.name for path in hour.iterdir()] == ["folder"]


async def test_two_may_delete_at_the_same_time(make: Make, tmp_path: Path) -> None:
    """Each file is counted by one of them, and neither fails for what the other was faster at."""
    hour = tmp_path / "archive/2020/01/01/00"
    hour.mkdir(parents=True)
    for i in range(2000):
        (hour / f"{i}.json").write_text("")
    counts = await asyncio.gather(*(make().delete_archived(-1) for _ in range(4)))
    assert sum(counts) == 2000
    assert not (tmp_path / "archive/2020").exists()


async def test_a_fifo_is_not_waited_for_on_another_file_system(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be renamed is copied; no writer ever comes to a FIFO put in a file's place."""
    os.mkfifo(tmp_path / "spool" / NAME)
    monkeypatch.setattr(moving, "_renameat2", refusing(errno.EXDEV))
    archiving = asyncio.create_task(make().archive([NAME]))
    done, _ = await asyncio.wait([archiving], timeout=10)
    os.close(os.open(tmp_path / "spool" / NAME, os.O_RDWR))  # who waits for a writer, goes on
    (moved,) = await archiving
    assert done
    assert "not a regular file" in moved.error


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_what_the_process_lacks_is_not_blamed_on_a_file(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Out of descriptors or memory, the claim is given back; no file passes for denied."""
    source = make()
    (tmp_path / "spool" / NAME).write_text("{}")
    real = os.open

    def exhausted(path: Any, *given: Any, **more: Any) -> int:
        if path == NAME:
            raise OSError(number, os.strerror(number))
        return real(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", exhausted)
        with pytest.raises(Again, match="ulimit -n"):
            await source.read([NAME], 1000)
    (file,) = await source.read([NAME], 1000)
    assert file.data == b"{}"
