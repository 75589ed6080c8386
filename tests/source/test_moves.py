"""Moving files: each step may fail for one file alone, and no planted link is followed."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import beneath
from penstock.source import moves
from support.require import require

HOUR = "2026/11/23/06"
NAMES = [f"2026-11-23T06-00-{number:02d}.json" for number in range(20)]
VICTIM = NAMES[7]
STEPS = {
    "link": ["link", "unlink"],
    "look": ["rename", "stat"],
    "copy": ["open", "unlink", "stat"],
}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Make a spool of twenty files, each with its own content."""
    spool = tmp_path / "spool"
    spool.mkdir()
    for name in NAMES:
        (spool / name).write_text(f"{{}} {name}")
    return spool


@pytest.fixture
def abroad() -> Iterator[Path]:
    """Yield a directory on another file system than the spool's."""
    root = Path("/dev/shm") / f"penstock-moves-{os.getpid()}"  # noqa: S108  a second file system
    require(present=root.parent.is_dir(), what="a second file system at /dev/shm")
    yield root
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            (Path(folder) / name).unlink()
        Path(folder).rmdir()


def refusing(number: int) -> Callable[..., int]:
    """Return a renameat2 that fails with this error."""

    def rename(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return rename


def moved(spool: Path, archive: Path) -> dict[str, str]:
    """Move all names as one batch; return the error of each."""
    from_fd = os.open(spool, os.O_RDONLY)
    try:
        with moves.Folders(archive) as folders:
            result = moves.move_all(from_fd, NAMES, folders.open(HOUR), f"{archive}/{HOUR}")
    finally:
        os.close(from_fd)
    assert [one.name for one in result] == NAMES
    return {one.name: one.error for one in result}


def failing_for(monkeypatch: pytest.MonkeyPatch, step: str, victim: str) -> list[str]:
    """Let one system call fail for one name; the list tells whether it was called for it."""
    real, fired = getattr(os, step), list[str]()

    def wrapped(*given: Any, **more: Any) -> Any:
        if victim in given:
            fired.append(step)
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(*given, **more)

    monkeypatch.setattr(os, step, wrapped)
    return fired


def assert_whole(spool: Path, archive: Path) -> None:
    """Each file is in the archive or the spool, whole; nothing else lies in the archive."""
    hour = archive / HOUR
    assert {path.name for path in hour.iterdir()} <= {*NAMES}
    for name in NAMES:
        places = [path for path in (spool / name, hour / name) if path.exists()]
        assert places
        assert {path.read_text() for path in places} == {f"{{}} {name}"}


@pytest.mark.parametrize(("way", "step"), [(way, step) for way in STEPS for step in STEPS[way]])
def test_a_step_that_fails_for_one_file_holds_up_no_other(
    spool: Path, tmp_path: Path, abroad: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: str
) -> None:
    """Nineteen are moved, one says why not; the next pass moves it, once it can."""
    archive = abroad if way == "copy" else tmp_path / "archive"
    rename = across(spool) if way == "copy" else refusing(errno.EINVAL)
    monkeypatch.setattr(moves, "_renameat2", rename)
    if way == "look":
        monkeypatch.setattr(os, "link", cannot_link)
    with monkeypatch.context() as patch:
        fired = failing_for(patch, step, VICTIM)
        errors = moved(spool, archive)
    assert fired
    assert [name for name, error in errors.items() if error] == [VICTIM]
    assert [path.name for path in spool.glob("[!.]*")] == [VICTIM]
    assert_whole(spool, archive)
    assert moved(spool, archive) == dict.fromkeys(NAMES, "")
    assert_whole(spool, archive)


def cannot_link(*_: object, **__: object) -> None:
    """Fail as `link` does on SMB, exFAT or an object store."""
    raise OSError(errno.EIO, "Input/output error")


def across(spool: Path) -> Callable[..., int]:
    """Return a renameat2 that renames within a file system only."""
    real = moves._renameat2
    spool_stat = spool.stat()
    assert real is not None

    def rename(from_fd: int, name: bytes, to_fd: int, to_name: bytes, flags: int) -> int:
        if os.path.samestat(os.fstat(from_fd), spool_stat):
            ctypes.set_errno(errno.EXDEV)
            return -1
        return real(from_fd, name, to_fd, to_name, flags)

    return rename


def test_an_immutable_neighbour_abroad_is_stuck_alone(
    spool: Path, abroad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may be copied and not deleted is stuck for ever; its neighbours are moved."""
    with monkeypatch.context() as patch:
        patch.setattr(moves, "_renameat2", across(spool))
        failing_for(patch, "unlink", VICTIM)
        for _ in range(2):  # in the second pass its copy is there
            errors = moved(spool, abroad)
            assert [name for name, error in errors.items() if error] == [VICTIM]
            assert "Permission denied" in errors[VICTIM]
    assert [path.name for path in spool.glob("[!.]*")] == [VICTIM]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EIO])
def test_file_systems_without_links_are_served(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where neither renameat2 nor link works, it looks first: nothing is overwritten."""
    monkeypatch.setattr(moves, "_renameat2", refusing(number))
    monkeypatch.setattr(os, "link", cannot_link)
    hour = tmp_path / "archive" / HOUR
    hour.mkdir(parents=True)
    (hour / VICTIM).write_text("another")
    errors = moved(spool, tmp_path / "archive")
    assert [name for name, error in errors.items() if error] == [VICTIM]
    assert "exists and differs" in errors[VICTIM]
    assert (hour / VICTIM).read_text() == "another"
    assert (hour / NAMES[0]).read_text() == f"{{}} {NAMES[0]}"


def test_a_hidden_file_is_not_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes may make the spool's marker: the first one's stays."""
    monkeypatch.setattr(moves, "_renameat2", refusing(errno.EINVAL))
    monkeypatch.setattr(os, "link", cannot_link)
    (tmp_path / ".draft").write_text("second")
    (tmp_path / ".marker").write_text("first")
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(FileExistsError):
        moves.rename_no_replace(fd, ".draft", fd, ".marker")
    os.close(fd)
    assert (tmp_path / ".marker").read_text() == "first"


def test_a_file_that_cannot_be_renamed_leaves_nothing_in_the_archive(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Immutable, it is stuck; deleted later, it is gone: nothing passes for it."""
    monkeypatch.setattr(moves, "_renameat2", refusing(errno.EPERM))
    monkeypatch.setattr(os, "link", cannot_link)
    with monkeypatch.context() as patch:
        failing_for(patch, "rename", VICTIM)
        errors = moved(spool, tmp_path / "archive")
    assert [name for name, error in errors.items() if error] == [VICTIM]
    assert not (tmp_path / "archive" / HOUR / VICTIM).exists()
    (spool / VICTIM).unlink()
    from_fd = os.open(spool, os.O_RDONLY)
    with moves.Folders(tmp_path / "archive") as folders:
        assert moves.move(from_fd, VICTIM, folders.open(HOUR), "archive").vanished
    os.close(from_fd)


def test_copies_are_synced_once_a_batch(
    spool: Path, abroad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty files to another file system take one sync of it, before the first original goes."""
    steps: list[str] = []
    sync, unlink, fsync = moves._sync_file_system, os.unlink, os.fsync

    def unlinked(name: str, *, dir_fd: int) -> None:
        steps.append("unlink")
        unlink(name, dir_fd=dir_fd)

    def synced(fd: int) -> None:
        steps.append("syncfs")
        sync(fd)

    def fsynced(fd: int) -> None:
        steps.append("fsync")
        fsync(fd)

    monkeypatch.setattr(moves, "_renameat2", across(spool))
    monkeypatch.setattr(moves, "_sync_file_system", synced)
    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(os, "fsync", fsynced)
    assert moved(spool, abroad) == dict.fromkeys(NAMES, "")
    assert steps == ["syncfs", "fsync", *["unlink"] * len(NAMES)]


def test_nothing_is_moved_through_a_planted_link(spool: Path, tmp_path: Path) -> None:
    """A folder of the archive that is a link is an error; where it leads, nothing changes."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/2026").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        moved(spool, tmp_path / "archive")
    assert not [*elsewhere.iterdir()]
    assert moves.delete_older(tmp_path / "archive", 4e9, 100) == 0


def test_retention_does_not_follow_a_link(spool: Path, tmp_path: Path) -> None:
    """An hour that is a link to a foreign directory is left alone, and so are its files."""
    (tmp_path / "archive/2026/11/23").mkdir(parents=True)
    (tmp_path / "archive" / HOUR).symlink_to(spool)
    assert moves.delete_older(tmp_path / "archive", 4e9, 100) == 0
    assert len([*spool.glob("[!.]*")]) == len(NAMES)


@pytest.mark.parametrize("plant", ["link", "fifo"])
def test_what_is_planted_at_a_target_is_not_read(spool: Path, tmp_path: Path, plant: str) -> None:
    """A link or a FIFO at a target is an error of that file; nothing waits, nothing is read."""
    hour = tmp_path / "archive" / HOUR
    hour.mkdir(parents=True)
    if plant == "link":
        (tmp_path / "secret").write_text(f"{{}} {VICTIM}")
        (hour / VICTIM).symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(hour / VICTIM)
    errors = moved(spool, tmp_path / "archive")
    assert [name for name, error in errors.items() if error] == [VICTIM]
    assert (spool / VICTIM).exists()


def test_a_link_of_another_user_is_no_archive(spool: Path, tmp_path: Path) -> None:
    """The archive may be a link that we made; one that somebody else made is refused."""
    require(present=os.geteuid() == 0, what="root, to give a link to another user")
    (tmp_path / "real").mkdir()
    link = tmp_path / "archive"
    link.symlink_to(tmp_path / "real")
    assert moved(spool, link) == dict.fromkeys(NAMES, "")
    os.lchown(link, 12345, 12345)
    with pytest.raises(OSError, match="another user"):
        moved(spool, link)


def test_a_draft_replaces_nothing_that_was_planted(tmp_path: Path) -> None:
    """Drafts have names that nobody can guess, and never open what is there."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        beneath.write_new(fd, "a.reason.json", "{}")
        (tmp_path / "b").write_text("")
        (tmp_path / "b.reason.json").symlink_to(tmp_path / "b")
        beneath.write_new(fd, "b.reason.json", "{}")
    finally:
        os.close(fd)
    assert (tmp_path / "b").read_text() == ""
    assert not (tmp_path / "b.reason.json").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.reason.json",
        "b",
        "b.reason.json",
    ]


def test_who_lost_the_race_for_a_name_deletes_nothing(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another archiver renamed the file first: what it put into the archive stays there."""
    monkeypatch.setattr(moves, "_renameat2", refusing(errno.EINVAL))
    monkeypatch.setattr(os, "link", cannot_link)
    rename = os.rename

    def second(*given: Any, **more: Any) -> None:
        rename(*given, **more)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "rename", second)
    assert moved(spool, tmp_path / "archive") == dict.fromkeys(NAMES, "")
    assert_whole(spool, tmp_path / "archive")
