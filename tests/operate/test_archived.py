"""What an operator does with files that are packed: find, send again, verify, copy, let go of."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import passes, telemetry
from penstock.archive import pack, staging
from penstock.archive.forecast import ArchiveSpace, archive_space, forecast, rate_of
from penstock.archive.store import Store
from penstock.cli.commands import app
from penstock.operate import observer, requeue
from penstock.operate.archived import Archived
from penstock.operate.spool_files import spool_files
from support.box import SECOND, Box

FILES = 40


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what has just left the spool, and leave the log of the other tests as it is."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)
    monkeypatch.setattr(telemetry, "configure", dict[str, Any])

    def run(main: Any) -> Any:
        return asyncio.run(main(asyncio.Event()))

    monkeypatch.setattr(passes, "run", run)


@pytest.fixture
async def packed(box: Box) -> Box:
    """Return a box of which all files were sent, and packed into one segment."""
    box.set("archive", action="pack")
    box.write_many(FILES)
    box.write("without-a-time.json", '{"id": 1000}')
    await box.load()
    tally = await box.archive()
    assert (tally.files_archived, tally.files_packed) == (FILES + 1, FILES + 1)
    return box


async def penstock(box: Box, *arguments: str, code: int = 0) -> Result:
    """Run one command on a box, and expect its exit code."""
    command = [*arguments, "--config", str(box.toml())]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == code, result.output
    return result


def name(number: int) -> str:
    """Return the name of a file of `Box.write_many`."""
    return f"{SECOND}.{number:06d}.json"


async def accounted(box: Box, archived: int) -> None:
    """Expect `verify` to account for every file, and the archive to hold so many copies."""
    result = await penstock(box, "verify", "--archive", "--json")
    found = json.loads(result.output)
    assert (found["holds"], found["files_in_archive"]) == (True, archived), found


async def test_explain_tells_the_segment(packed: Box) -> None:
    """Packed: where; staged: where; unknown names stay unknown."""
    output = (await penstock(packed, "explain", name(7), "without-a-time.json")).output
    assert output.count(": archived") == 2
    assert output.count(".tar.zst, packed, ") == 2
    packed.write_many(1, first=100)
    await packed.load()
    packed.set("archive", pack_seconds=3600)
    source = (await penstock(packed, "explain", name(100))).output
    assert ": processed" in source
    assert "unknown" in (await penstock(packed, "explain", name(99), code=1)).output


async def test_staged_files_are_archived_files(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are packed they are found, given out and verified as those that are."""

    def later(*_: object, **__: object) -> pack.PackTally:
        return pack.PackTally()

    monkeypatch.setattr(pack, "pack", later)
    box.set("archive", action="pack")
    box.write_many(3)
    await box.load()
    await box.archive()
    assert staging.FOLDER in (await penstock(box, "explain", name(1))).output
    assert json.loads((await penstock(box, "archived", "get", name(1))).output[10:])["id"] == 1
    assert (await penstock(box, "archived", "list", "--names")).output.split() == [
        name(0), name(1), name(2)
    ]  # fmt: skip
    await accounted(box, 0)
    await penstock(box, "replay", name(1), "--yes")
    assert (box.spool / name(1)).exists()


async def test_a_packed_file_is_given_out(packed: Box, tmp_path: Path) -> None:
    """By name its bytes; by time its bytes and its times; listed by segment or by name."""
    assert (await penstock(packed, "archived", "get", name(7))).output.endswith('"text": "x"}')
    assert (
        "not in the archive"
        in (await penstock(packed, "archived", "get", "no.json", code=1)).output
    )
    lines = (await penstock(packed, "archived", "list", "--json")).output.splitlines()
    assert sorted(json.loads(line)["files"] for line in lines) == [1, FILES]
    window = ["--since", f"{SECOND}.000000", "--until", "2026-11-23T06:15:00.000010"]
    listed = (await penstock(packed, "archived", "list", "--names", *window)).output.split()
    assert listed == [name(number) for number in range(10)]
    await penstock(packed, "archived", "extract", str(tmp_path / "out"), *window)
    again = await penstock(packed, "archived", "extract", str(tmp_path / "out"), *window)
    assert "0 files copied; 10 skipped: they exist" in again.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == listed
    (segment,) = Store(packed.root / "archive").segments("2026/11/23/06")
    with Store(packed.root / "archive").open(segment) as opened:
        for member in opened.members(listed.__contains__):
            assert (tmp_path / "out" / member.name).read_bytes() == member.data
            assert (tmp_path / "out" / member.name).stat().st_mtime_ns == member.modified_ns


@pytest.mark.parametrize("by", ["name", "time"])
async def test_packed_files_are_sent_again(packed: Box, by: str) -> None:
    """Copies go into the spool, and on their way; the archive then holds two, and that is right."""
    window = ["--since", f"{SECOND}.000003", "--until", "2026-11-23T06:15:00.000006"]
    names = [name(number) for number in (3, 4, 5)]
    what = names if by == "name" else window
    dry = await penstock(packed, "replay", *what, "--dry-run")
    assert "3 files" in dry.output
    assert not [*packed.spool.glob("*.json")]
    await penstock(packed, "replay", *what, "--yes")
    assert sorted(path.name for path in packed.spool.glob("*.json")) == names
    assert not [*(packed.spool / staging.FOLDER).iterdir()], "no copy is left"
    await accounted(packed, FILES + 1)
    await packed.load()
    repeated = {one: count for one, count in packed.received_ids().items() if count > 1}
    assert repeated == dict.fromkeys((3, 4, 5), 2)
    await packed.archive()
    await accounted(packed, FILES + 4)
    copies = (await penstock(packed, "explain", name(3))).output
    assert copies.count("archived at") == 2


async def test_a_file_of_no_such_day_is_found_by_its_modification(box: Box) -> None:
    """The 30th of February is no time, and stops no command."""
    box.write("2026-02-30T10-00-00.json", '{"id": 1}')
    await box.load()
    assert (await box.archive()).files_archived == 1
    archived = Archived(spool_files(box.settings, "test"))
    for begins, expected in ((0.0, ["2026-02-30T10-00-00.json"]), (4e9, [])):
        assert list(archived.names_between(begins, 9e9)) == expected


async def test_a_replay_that_was_killed_leaves_no_copies(packed: Box) -> None:
    """The next pass of the archiver removes them: they are in the archive as well."""
    room = packed.spool / staging.FOLDER / "replay-1795911783295aaaaaaaa"
    room.mkdir(parents=True)
    (room / name(3)).write_text("a copy")
    await packed.archive()
    assert not room.exists()
    assert not [*packed.spool.glob("*.json")]


async def test_verify_misses_a_segment(packed: Box) -> None:
    """Files that left the spool a moment ago, and whose segment is gone, are named."""
    (segment,) = Store(packed.root / "archive").segments("2026/11/23/06")
    (packed.root / "archive" / segment.path).unlink()
    found = json.loads((await penstock(packed, "verify", "--json", code=1)).output)
    assert len(found["unaccounted"]) == FILES


async def test_retention_deletes_whole_segments(
    packed: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all of its files are of an hour before, and it was made so long ago, too."""
    packed.set("archive", retention_days=1)
    assert (await packed.archive()).files_deleted == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400)
    assert (await packed.archive()).files_deleted == 2

    assert os.listdir(packed.root / "archive") == [".penstock-reserve"]  # noqa: PTH208


def space(**given: Any) -> ArchiveSpace:
    """Return what a disk of a terabyte has left for files that are moved."""
    return ArchiveSpace(10**12, 67_000_000, 4096.0, 1.0, 0.0)._replace(**given)


@pytest.mark.parametrize(
    ("seen", "rate", "retention_days", "fits", "scarce", "days"),
    [
        (space(), 6000.0, 30.0, False, "inodes", 0.129),
        (space(free_inodes=None), 6000.0, 30.0, False, "space", 0.471),
        (space(file_bytes=460.0, file_inodes=1 / 360_000), 600.0, 30.0, True, "space", 41.9),
        (space(), 10.0, 30.0, True, "inodes", 77.5),
        (space(), 100.0, 0.0, True, "inodes", 7.75),
        (space(), 1000.0, 0.0, False, "inodes", 0.775),
        (space(oldest_days=29.9), 6000.0, 30.0, True, "inodes", 0.129),
        (space(oldest_days=31.0), 6000.0, 30.0, True, "inodes", 0.129),
    ],
)
def test_how_long_the_disk_lasts(
    seen: ArchiveSpace, rate: float, retention_days: float, fits: object, scarce: str, days: float
) -> None:
    """By space or inodes, whichever ends first, until retention deletes as much as comes."""
    told = forecast(seen, rate, retention_days)
    assert told is not None
    assert (told.fits, told.scarce) == (fits, scarce)
    assert told.lasts_days == pytest.approx(days, rel=0.01)
    assert forecast(seen, None, retention_days) is None
    assert forecast(None, rate, retention_days) is None


def test_a_rate_needs_ten_minutes() -> None:
    """A burst is no rate to go by; after ten minutes it is of the time since it began."""
    minutes = [{"files_processed": 0}] * 50 + [{"files_processed": 6000}] * 10
    assert rate_of(minutes) == 100
    assert rate_of([*minutes[:-1], {"files_processed": 0}]) == 90
    assert rate_of(minutes[1:]) == 100
    assert rate_of(minutes[:-1]) is None
    assert rate_of([]) is None


async def test_what_a_file_takes_is_what_it_took(packed: Box) -> None:
    """Packed, a share of a segment; moved, its blocks and an inode; deleted, nothing."""
    archive = packed.root / "archive"
    seen = archive_space(archive, "pack", time.time())
    assert seen is not None
    sizes = sum(path.stat().st_size for path in archive.rglob("*.zst"))
    assert seen.file_bytes == pytest.approx(sizes / (FILES + 1))
    assert seen.file_inodes == pytest.approx(2 / (FILES + 1))
    assert archive_space(archive, "delete", time.time()) is None
    moved = archive_space(packed.root / "none", "move", time.time())
    assert moved is not None
    assert (moved.file_bytes, moved.file_inodes, moved.oldest_days) == (4096, 1, 0)


async def test_an_archive_that_will_not_fit_is_told_of(
    packed: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In status, by its code; in the metrics; and by config check, from names alone."""

    def fast(_: object) -> float:
        return 1e9

    monkeypatch.setattr(observer, "rate_of", fast)
    status = json.loads((await penstock(packed, "status", "--json", code=1)).output)
    assert "archive-will-not-fit" in [one["code"] for one in status["verdicts"]]
    assert status["forecast"]["lasts_days"] < 1
    assert "archive's disk" in (await penstock(packed, "status", code=1)).output
    assert "warning" not in (await penstock(packed, "config", "check")).output
    for number in range(1000):
        packed.write(f"2026-11-23T06-15-00.{number:06d}999.json", "{}")
    packed.set("archive", action="move", retention_days=36_500)
    told = (await penstock(packed, "config", "check")).output
    assert told.count("'pack' takes a fifth") == 1
    as_json = json.loads((await penstock(packed, "config", "check", "--json")).stdout)
    assert len([line for line in as_json["warnings"] if "'pack' takes a fifth" in line]) == 1


async def test_init_proposes_to_pack_what_comes_fast(tmp_path: Path) -> None:
    """By the time stamps in the names: a thousand a second yes, one a second no."""
    for spool, step, is_packed in (("fast", 1, True), ("slow", 1000, False)):
        (tmp_path / spool).mkdir()
        for number in range(1000):
            name = f"{1_795_000_000_000 + number * step}.json"
            (tmp_path / spool / name).write_text('{"id": 1}')
        config = tmp_path / f"{spool}.toml"
        arguments = ["init", str(tmp_path / spool), "--yes", "--config", str(config)]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 0, result.output
        assert ('action = "pack"' in config.read_text()) is is_packed
