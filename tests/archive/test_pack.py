"""Staging and packing: every file in one place, byte for byte, whoever dies where."""

import asyncio
import contextlib
import gc
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.archive import pack, staging
from penstock.archive.segment import Writer
from penstock.archive.store import Store
from penstock.serve import file_server
from penstock.settings.reading import load
from penstock.setup import config_check
from penstock.source.directory import DirectorySource
from support import fileserver
from support.require import require
from support.staged import CALLS, WRITING, Place

HOUR = "2026/11/23/06"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a spool of sixty files of two hours."""
    return Place(tmp_path)


def test_staged_files_become_a_segment_an_hour(place: Place) -> None:
    """Not before they are old enough; then two segments hold all, and the rooms are gone."""
    place.stage(place.names[:40])
    assert place.pack(60).segments == 0
    place.stage(place.names[40:])
    assert len([*(place.spool / staging.FOLDER).iterdir()]) == 1, "one room for both"
    place.assert_nothing_lost()
    tally = place.pack()
    assert (tally.files, tally.segments, tally.stuck) == (60, 2, 0)
    place.assert_all_packed()
    (one,) = Store(place.archive).segments(HOUR)
    assert (one.files, one.last - one.first) == (30, 58)


def test_what_a_pass_held_is_let_go_of_with_it(place: Place) -> None:
    """Not when garbage is next collected: names of 6,000 files a second are 40 MB a minute."""
    place.stage()
    gc.collect()
    gc.disable()
    try:
        assert place.pack().files == 60
        held = [one for one in gc.get_objects() if isinstance(one, pack._Written | Writer)]
    finally:
        gc.enable()
    assert held == []


def test_what_was_staged_or_packed_has_not_vanished(place: Place) -> None:
    """An archiver that was killed before it could note files finds them where they are by now."""
    place.stage()
    place.stage()
    staging.seal(place.fd, 0)
    place.stage()
    place.pack()
    place.stage()
    moved = place.source._archive([place.names[0], "2026-11-23T06-15-00.no.json", "../x"])
    assert [one.vanished for one in moved] == [False, True, True]


def driven(tmp_path: Path, step: int, *what: str) -> list[int]:
    """Run the program of support/staged.py; return how often each thing happened."""
    done = subprocess.run(
        [sys.executable, "-m", "support.staged", tmp_path, str(step), *what],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(line.split()[1]) for line in done.stdout.splitlines()]


def test_a_pass_that_is_killed_leaves_each_file_in_one_place(tmp_path: Path) -> None:
    """At some of its calls of each kind: the next pass finishes."""
    assert min(driven(tmp_path, 7, *(f"kill:{call}" for call in CALLS))) > 0


def test_a_pass_that_finds_the_disk_full_leaves_each_file_in_one_place(tmp_path: Path) -> None:
    """At some of its calls of each kind: the next pass finishes."""
    assert min(driven(tmp_path, 7, *(f"full:{call}" for call in WRITING))) > 0


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("what", "call"),
    [*(("kill", call) for call in CALLS), *(("full", call) for call in WRITING)],
)
def test_a_pass_that_ends_at_each_call_leaves_each_file_in_one_place(
    tmp_path: Path, what: str, call: str
) -> None:
    """The same at every single call."""
    assert driven(tmp_path, 1, f"{what}:{call}")[0] > 0


def test_a_room_in_use_is_left_alone(place: Place) -> None:
    """What is being filled is not sealed, and what one archiver packs no other one does."""
    place.stage()
    with staging.room_to_fill(place.fd, 60):
        assert place.pack().files == 0
    with staging.room_to_fill(place.fd, 0) as another:
        assert len([*(place.spool / staging.FOLDER).iterdir()]) == 2, "an old one is not filled"
        assert another.name.startswith("open-")
    staging.seal(place.fd, 0)
    rooms = staging.rooms_to_pack(place.fd)
    next(rooms)
    assert place.pack().files == 0
    rooms.close()
    assert place.pack().files == 60


def test_archivers_beside_each_other_pack_each_file_once(tmp_path: Path) -> None:
    """Three of them stage and pack the same names at the same time."""
    driven(tmp_path, 1, "together")


def test_a_file_that_changes_meanwhile_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed after it was read: it stays, and the next pass packs it as it is now."""
    let_go = pack._let_go
    name = place.names[1]

    def change(from_fd: int, written: Any) -> None:
        if name in written.names:
            with os.fdopen(os.open(name, os.O_WRONLY | os.O_APPEND, dir_fd=from_fd), "ab") as file:
                file.write(b"more")
        let_go(from_fd, written)

    place.stage()
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_let_go", change)
        place.pack()
    assert [*place.staged()] == [name]
    assert place.pack().files == 1
    copies = [member.data for _, _, member in Store(place.archive).find(name)]
    assert copies == [place.files[name] + b"more", place.files[name]], "the newest first"
    assert not place.staged()


def test_what_cannot_be_read_holds_up_no_other(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A link in a staging room stays, and one line tells why; all the others are packed."""
    place.stage()
    (room,) = (place.spool / staging.FOLDER).iterdir()
    (room / HOUR / place.names[1]).unlink()
    (room / HOUR / place.names[1]).symlink_to("/etc/passwd")
    tally = place.pack()
    assert (tally.files, tally.stuck) == (59, 1)
    assert [record.getMessage() for record in caplog.records].count("segment.stuck") == 1
    assert place.names[1] not in place.packed()
    assert place.pack().stuck == 1


def test_a_room_that_cannot_be_packed_holds_up_no_other(place: Place) -> None:
    """What it made is damaged, so nobody knows what may be deleted: it waits, the next does not."""
    place.stage(place.names[:2])
    staging.seal(place.fd, 0)
    (room,) = staging.sealed_ids(place.fd)
    folder = place.archive / "2026/11/23/05"
    folder.mkdir(parents=True)
    name = f"20261123T051500Z-20261123T051500Z-1-{room}.0.tar.zst"
    (folder / name).write_bytes(b"not a segment")
    place.stage(place.names[2:])
    tally = place.pack()
    assert (tally.stuck, tally.files) == (1, 58)
    (folder / name).unlink()
    place.pack()
    place.assert_all_packed()


def test_links_are_not_followed(place: Place, tmp_path: Path) -> None:
    """Whoever may write into the spool cannot have files staged elsewhere, nor others packed."""
    (tmp_path / "elsewhere").mkdir()
    (place.spool / staging.FOLDER).symlink_to(tmp_path / "elsewhere")
    moved = place.source._archive(place.names)
    assert all(one.error for one in moved)
    assert place.pack().stuck == 1
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_pass_that_is_told_to_end_throws_away_what_it_began(place: Place) -> None:
    """No draft is left, and no file is; the next pass packs them."""
    place.stage()
    asked = iter([False] * 20)
    pack.pack(place.fd, place.archive, older_than_seconds=0, over=lambda: next(asked, True))
    assert not [path for path in place.archive.rglob("*") if path.name.endswith("draft")]
    place.assert_nothing_lost()
    assert place.staged()
    place.pack()
    place.assert_all_packed()


def test_a_damaged_segment_holds_up_only_what_it_may_hold(place: Place) -> None:
    """Files that cannot be found elsewhere are stuck, with its name; nothing is noted as gone."""
    place.stage()
    place.pack()
    (one,) = Store(place.archive).segments(HOUR)
    path = place.archive / one.path
    path.write_bytes(path.read_bytes()[:-5])
    place.write(place.names[0])
    moved = place.source._archive(place.names[:2])
    assert [bool(one.error) for one in moved] == [False, True]
    assert one.name in moved[1].error


def test_a_large_room_becomes_several_segments(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its files let go of before the next one is written."""
    monkeypatch.setattr(pack, "SEGMENT_BYTES", 20_000)
    place.stage()
    assert place.pack().segments > 4
    place.assert_all_packed()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on a disk of a megabyte."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=1000", "tmpfs", where]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    require(present=mounted, what="the right to mount a tmpfs")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def test_a_disk_that_is_full_to_the_last_byte_is_packed_all_the_same(small_disk: Path) -> None:
    """A reserve holds what the first small segment needs; each one frees more than it takes."""
    place = Place(small_disk)
    place.stage(place.names[:30])
    place.pack()
    chance = random.Random(1)
    place.stage(place.names[30:])
    for number in range(200):
        name = f"2026-11-23T06-16-00.{number:06d}.json"
        place.names.append(name)
        place.files[name] = chance.randbytes(3000)
        try:
            place.write(name)
        except OSError:
            (place.spool / name).unlink()
            place.names.remove(name)
            del place.files[name]
            break
    place.stage(place.names[60:])
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert os.statvfs(small_disk).f_bavail == 0
    while place.staged():
        assert place.pack().files > 0
    place.assert_all_packed()


def test_without_any_room_all_stays_as_it_is(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The archive's disk is full, and so is its reserve: staged files wait, and the log says so."""
    place = Place(small_disk)
    place.stage()
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert place.pack().stuck == 1
    place.assert_nothing_lost()
    assert "No space left" in str(caplog.records[-1].__dict__["fields"]["cause"])
    (small_disk / "filler").unlink()
    place.pack()
    place.assert_all_packed()


def test_what_the_disk_takes_in_parts_is_whole(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that takes less than it is given, as when a disk fills up, is gone on with."""
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        return real(fd, data[: len(data) // 2 + 1])

    monkeypatch.setattr(os, "write", write)
    place.stage()
    place.pack()
    place.assert_all_packed()


def test_files_are_let_go_of_only_when_their_segment_is_on_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, synced, named, its folder synced; only then is the first of them deleted."""
    steps: list[str] = []
    for call in ("write", "fsync", "rename", "unlink"):
        real = getattr(os, call)

        def told(*given: Any, call: str = call, real: Any = real, **more: Any) -> Any:
            steps.append(call)
            return real(*given, **more)

        monkeypatch.setattr(os, call, told)
    place.stage(place.names[::2])
    staging.seal(place.fd, 0)
    steps.clear()
    place.pack()
    done = [call for call, before in zip(steps, ["", *steps], strict=False) if call != before]
    assert done == ["unlink", "write", "fsync", "rename", "fsync", "unlink"]


async def test_the_file_server_packs_on_its_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls are as ever: what a worker elsewhere archives is staged, and packed soon after."""
    monkeypatch.setattr(file_server, "_PACK_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(DirectorySource, "pack_seconds", 0.0)
    async with fileserver.served(tmp_path, archive_action="pack") as address:
        names = [f"2026-11-23T06-15-{n:02d}.json" for n in range(20)]
        for name in names:
            (tmp_path / "spool" / name).write_text("{}")
        source = fileserver.source_at(address)
        for _ in range(2):
            assert {one.vanished or one.error for one in await source.archive(names)} == {""}
        store = Store(tmp_path / "archive")
        while sum(one.files for one in store.segments(HOUR)) < len(names):
            await asyncio.sleep(0.02)
        assert {one.vanished or one.error for one in await source.archive(names)} == {""}
        await source.close()


def test_nginx_cannot_pack() -> None:
    """One line says so, and what does: found by `config check`, before anything runs."""
    overrides = {
        "source": {"url": "nginx+http://127.0.0.1:1/spool/"},
        "archive": {"action": "pack"},
        "queue": {"url": "embedded"},
    }
    (line,) = asyncio.run(config_check.mistakes(load(overrides=overrides)))
    assert "nginx cannot pack" in line
    assert "penstock serve" in line
