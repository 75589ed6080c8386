"""The order in which files come to be complete: events, scans, and what is lost between them."""

import asyncio
import contextlib
import errno
import math
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Again
from penstock.source import scan
from penstock.source.index import Index

A_LONG_TIME_SECONDS = 20.0  # on a busy machine; nothing waits so long when all is well

Make = Callable[..., Awaitable[Index]]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that opens a watching index over tmp_path/spool, which lists when asked."""
    monkeypatch.setattr("penstock.source.pace._SHARE_MAX", math.inf)
    spool = tmp_path / "spool"
    spool.mkdir()
    fd = os.open(spool, os.O_RDONLY)
    made: list[Index] = []

    async def new(
        *, watch: bool = True, settle_seconds: float = 3600.0, **given: float | bool
    ) -> Index:
        index = Index(
            fd,
            spool,
            pattern=r".*\.json",
            settle_seconds=settle_seconds,
            watch=watch,
            **given,  # type: ignore[arg-type]
        )
        if watch:
            await index.open()
        made.append(index)
        return index

    yield new
    for index in made:
        await index.close()
    os.close(fd)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return the directory behind `make`."""
    return tmp_path / "spool"


async def told(index: Index, cursor: str = "", files: int = 1) -> tuple[list[str], str]:
    """Return names from a cursor on, in order, as soon as there are so many."""
    names: list[str] = []
    until = time.monotonic() + A_LONG_TIME_SECONDS
    while len(names) < files and time.monotonic() < until:
        page = await index.page(cursor, 1_000, wait_seconds=1)
        names += [*page.names]
        cursor = page.cursor
    return names, cursor


async def test_a_closed_file_is_complete_at_once(make: Make, spool: Path) -> None:
    """A writer that closes its file does not have to wait for settle_seconds, an hour here."""
    index = await make()
    assert (await index.page("", 10)).names == []
    (spool / "a.json").write_text("{}")
    names, _ = await told(index)
    assert names == ["a.json"]


async def test_a_renamed_file_is_complete_at_once(make: Make, spool: Path) -> None:
    """A file written elsewhere, or as a draft, and renamed into place is whole."""
    index = await make()
    (spool / "a.json.tmp").write_text("{}")
    (spool / "a.json.tmp").rename(spool / "a.json")
    names, _ = await told(index)
    assert names == ["a.json"]


async def test_an_open_file_waits_for_its_writer(make: Make, spool: Path) -> None:
    """While it is written a file is not told, however often the directory is scanned."""
    index = await make()
    with (spool / "a.json").open("w") as writer:
        writer.write("[")
        writer.flush()
        await index._scan()
        await index._scan()
        assert (await index.page("", 10, wait_seconds=0.05)).names == []
        assert index.files == 1
        writer.write("]")
    names, _ = await told(index)
    assert names == ["a.json"]


async def test_a_file_whose_writer_is_silent_settles(make: Make, spool: Path) -> None:
    """Where no event tells of the end, so long without a change is enough."""
    (spool / "a.json").write_text("{}")
    index = await make(settle_seconds=0.3)
    began = time.time()
    page = await index.page("", 10, wait_seconds=A_LONG_TIME_SECONDS)
    assert [*page.names] == ["a.json"]
    assert time.time() - (spool / "a.json").stat().st_ctime >= 0.3
    assert time.time() - began < A_LONG_TIME_SECONDS


async def test_late_names_stand_behind(make: Make, spool: Path) -> None:
    """A file that comes late, with an old name, is behind every cursor given before it came."""
    index = await make()
    (spool / "2026-b.json").write_text("{}")
    _, cursor = await told(index)
    (spool / "2026-a.json").write_text("{}")
    names, _ = await told(index, cursor)
    assert names == ["2026-a.json"]
    assert (await told(index, "", 2))[0] == ["2026-b.json", "2026-a.json"]


async def test_an_old_cursor_gives_the_same_again(make: Make, spool: Path) -> None:
    """Any cursor of this life may be given again; another one begins at the beginning."""
    index = await make()
    for i in range(5):
        (spool / f"{i}.json").write_text("{}")
    await told(index, "", 5)
    first = await index.page("", 2)
    second = await index.page(first.cursor, 2)
    assert (await index.page(first.cursor, 2)).names == second.names
    everything = [*(await index.page("", 10)).names]
    for strange in ("0-1", "ffffffff-3", "nonsense", "-1", f"{first.cursor}0000000000000000000"):
        assert [*(await index.page(strange, 10)).names] == everything


async def test_a_place_ahead_of_the_order_is_no_silence(make: Make, spool: Path) -> None:
    """A cursor that this life cannot have given does not hide what comes."""
    index = await make()
    cursor = (await index.page("", 10)).cursor
    (spool / "a.json").write_text("{}")
    assert (await told(index, f"{cursor.partition('-')[0]}-999"))[0] == ["a.json"]


async def test_what_went_away_is_let_go(make: Make, spool: Path) -> None:
    """A file moved out by somebody else is not told any more, and takes no memory."""
    index = await make()
    for i in range(2_500):
        (spool / f"{i:04}.json").write_text("{}")
    await told(index, "", 2_500)
    for i in range(2_499):
        (spool / f"{i:04}.json").unlink()
    (spool / "new.json").write_text("{}")  # its event comes after theirs
    while index.files > 2:
        await index.page("", 10)
        await asyncio.sleep(0.01)
    assert [*(await index.page("", 10)).names] == ["2499.json", "new.json"]
    assert len(index._order._chunks) == 1


async def test_a_name_that_comes_back_is_told_again(make: Make, spool: Path) -> None:
    """Gone and written anew between two pages, a file has a new place."""
    index = await make()
    (spool / "a.json").write_text("{}")
    _, cursor = await told(index)
    (spool / "a.json").unlink()
    (spool / "a.json").write_text("{}")
    assert (await told(index, cursor))[0] == ["a.json"]


async def test_an_overflow_is_mended_by_a_scan(make: Make, spool: Path) -> None:
    """The kernel drops events beyond 16,384: nothing is lost by that, nor told as still there."""
    index = await make(settle_seconds=0.0, rescan_seconds=600.0)
    assert (await index.page("", 10)).names == []
    for i in range(17_000):  # without giving the reader of events a chance
        os.close(os.open(spool / f"{i:05}.json", os.O_CREAT | os.O_WRONLY))
    assert index.overflows == 0
    names, cursor = await told(index, "", 17_000)
    assert index.overflows == 1
    assert sorted(names) == [f"{i:05}.json" for i in range(17_000)]
    for i in range(17_000):
        (spool / f"{i:05}.json").unlink()
    (spool / "z.json").write_text("{}")
    assert (await told(index, cursor))[0] == ["z.json"]
    assert index.overflows == 2
    until = time.monotonic() + A_LONG_TIME_SECONDS
    while index.files > 1 and time.monotonic() < until:
        await asyncio.sleep(0.02)
    assert [*(await index.page("", 10)).names] == ["z.json"]


async def test_scans_find_what_no_event_told(make: Make, spool: Path) -> None:
    """A hard link tells of no writer, a network file system of nothing: the next scan does."""
    index = await make(settle_seconds=0.0, rescan_seconds=0.05)
    await index.page("", 10)
    (spool.parent / "elsewhere").write_text("{}")
    os.link(spool.parent / "elsewhere", spool / "a.json")
    assert (await told(index))[0] == ["a.json"]


async def test_without_events_what_is_gone_is_looked_for_again(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the order that was seen long ago is not told before it was looked at again."""
    index = await make(watch=False, settle_seconds=0.0)
    for name in ("a.json", "b.json"):
        (spool / name).write_text("{}")
    assert len((await index.page("", 10)).names) == 2
    (spool / "a.json").unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    page = await index.page("", 10)
    assert [*page.names] == ["b.json"]
    assert page.listed_at_seconds == now + 11


async def test_what_a_scan_does_not_find_is_gone_without_a_look(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archiver takes thousands between two scans: to look for each again takes as long."""
    for i in range(2_500):
        (spool / f"{i:04}.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0.0)
    _, cursor = await told(index, "", 2_500)
    for i in range(2_000):
        (spool / f"{i:04}.json").unlink()
    looked: list[Any] = []
    monkeypatch.setattr(index._scanner, "look", looked.append)
    assert (await index.page(cursor, 1_000)).names == []
    assert index.files == 500
    assert looked == []


async def test_a_scan_lets_go_of_what_went_and_of_nothing_else(make: Make, spool: Path) -> None:
    """Whether all of a thousand went, some, or none; and what comes back is told anew."""
    written = [f"{i:04}.json" for i in range(3_500)]
    for name in written:
        (spool / name).write_text("{}")
    index = await make(watch=False, settle_seconds=0.0, look=False)
    await index.page("", 4_000)
    gone = [*written[:1_000], *written[1_100:1_900:7], written[3_499]]
    for name in gone:
        (spool / name).unlink()
    await index._scan()
    left = sorted({*written}.difference(gone))
    page = await index.page("", 4_000)
    assert [*page.names] == left
    assert index.files == len(left)
    (spool / gone[0]).write_text("{}")
    assert (await told(index, page.cursor))[0] == [gone[0]]


@pytest.mark.parametrize("seed", range(3))
async def test_names_go_in_any_order(make: Make, spool: Path, seed: int) -> None:
    """Those that are let go are those that were named, and whole thousands leave nothing."""
    written = [f"{i:04}.json" for i in range(2_500)]
    for name in written:
        (spool / name).write_text("{}")
    index = await make(watch=False, settle_seconds=0.0)
    await index.page("", 3_000)
    going = random.Random(seed).sample(written, 2_499)
    index.drop(going)
    (left,) = {*written}.difference(going)
    for name in going:
        (spool / name).unlink()
    assert [*(await index.page("", 3_000)).names] == [left]
    assert index.files == 1
    assert sum(chunk is not None for chunk in index._order._chunks) <= 2


@pytest.mark.parametrize("left", [["a.json"], []])
async def test_what_comes_while_a_scan_goes_on_stays(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch, left: list[str]
) -> None:
    """An event tells of a file behind the scan's back: not to have seen it says nothing."""
    index = await make()
    (spool / "a.json").write_text("{}")
    await told(index)
    read, go_on = threading.Event(), threading.Event()
    scandir = os.scandir

    @contextlib.contextmanager
    def slow(fd: int) -> Generator[Iterator[os.DirEntry[str]]]:
        with scandir(fd) as listing:
            entries = [*listing]
        read.set()
        go_on.wait(A_LONG_TIME_SECONDS)
        yield iter(entries)

    monkeypatch.setattr(os, "scandir", slow)
    if not left:
        (spool / "a.json").unlink()  # its event comes when the scan has begun
    scanning = asyncio.create_task(index._scan())
    await asyncio.to_thread(read.wait, A_LONG_TIME_SECONDS)
    (spool / "b.json").write_text("{}")
    assert (await told(index, "", len(left) + 1))[0] == [*left, "b.json"]
    go_on.set()
    await scanning
    assert index.files == len(left) + 1
    assert (await told(index, "", len(left) + 1))[0] == [*left, "b.json"]


async def test_a_page_waits_for_the_first_scan(make: Make, spool: Path) -> None:
    """An empty page says that nothing is there: not so before anybody has looked."""
    for i in range(3_000):
        (spool / f"{i}.json").write_text("{}")
    index = await make(settle_seconds=0.0)
    assert len((await index.page("", 5_000)).names) == 3_000


async def test_a_full_page_is_full(make: Make, spool: Path) -> None:
    """A page shorter than asked for is the last of what is known: sweeps rely on it."""
    for i in range(12_000):
        os.close(os.open(spool / f"{i:05}.json", os.O_CREAT | os.O_WRONLY))
    index = await make(settle_seconds=0.0)
    first = await index.page("", 7_000)
    second = await index.page(first.cursor, 7_000)
    assert [len(first.names), len(second.names)] == [7_000, 5_000]


async def test_sizes_and_times_stay_with_their_names(make: Make, spool: Path) -> None:
    """Also of those behind a file that has left the spool."""
    index = await make()
    for number in range(5):
        (spool / f"{number}.json").write_text("x" * number)
        os.utime(spool / f"{number}.json", (number, number))
    await told(index)
    (spool / "1.json").unlink()
    index.drop(["1.json"])
    page = await index.page("", 3)
    assert page.names == ["0.json", "2.json", "3.json"]
    assert [*page.sizes_bytes] == [*page.modified_at_seconds] == [0, 2, 3]


async def test_where_files_need_not_settle_none_is_looked_at(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader of this directory needs their names only."""
    written = [f"{i:04}.json" for i in range(250)]
    for name in written:
        (spool / name).touch()
    index = await make(watch=False, settle_seconds=0.0, look=False)
    looked_at: list[str] = []
    look = index._scanner.look

    def watched(names: Sequence[str], *given: Any) -> Any:
        looked_at.extend(names)
        return look(names, *given)

    monkeypatch.setattr(index._scanner, "look", watched)
    page = await index.page("", 1_000)
    assert [*page.names] == written
    assert looked_at == []
    assert page.listed_at_seconds == index._scanner.began_at_seconds


async def test_where_none_was_looked_at_each_is_looked_for_again(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archiver took some since the scan, at the ends and in the middle: none is listed."""
    written = [f"{i:04}.json" for i in range(2_400)]
    for name in written:
        (spool / name).write_text("{}")
    index = await make(watch=False, settle_seconds=0.0, look=False)
    await index.page("", 1)
    gone = [written[i] for i in (0, 50, 999, 1_000, 1_500, 2_398, 2_399)]
    for name in gone:
        (spool / name).unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    page = await index.page("", 3_000)
    assert [*page.names] == sorted({*written}.difference(gone))
    assert page.listed_at_seconds == now + 11


@pytest.mark.parametrize(("slow", "gone"), [(0, []), (99, [149]), (120, []), (148, [])])
async def test_a_unsettled_file_among_many_waits_alone(
    make: Make, spool: Path, slow: int, gone: list[int]
) -> None:
    """Those that have settled are told, the unsettled one waits, and what is gone is let go."""
    for i in range(150):
        (spool / f"{i:04}.json").write_text("{}")
    index = await make(watch=False, settle_seconds=1.0)
    await asyncio.sleep(1.1)
    (spool / f"{slow:04}.json").write_text("{}{}")
    await index._scan()
    for i in gone:
        (spool / f"{i:04}.json").unlink()
    page = await index.page("", 1_000)
    settled = [f"{i:04}.json" for i in range(150) if i not in {slow, *gone}]
    assert [*page.names] == settled
    assert (await told(index, page.cursor))[0] == [f"{slow:04}.json"]
    assert index.files == 150 - len(gone)


async def test_a_file_that_is_written_again_is_listed_again(make: Make, spool: Path) -> None:
    """Against the promise; whoever reads it now gets all of it."""
    index = await make()
    (spool / "a.json").write_text("{}")
    _, cursor = await told(index)
    with (spool / "a.json").open("a") as writer:
        writer.write("{}")
    assert (await told(index, cursor))[0] == ["a.json"]
    page = await index.page("", 10)
    assert (page.names, [*page.sizes_bytes]) == (["a.json"], [4])


async def test_what_a_cancelled_listing_looked_at_is_listed_by_the_next(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk, a pass that is over: the next pass must not take the files for known."""
    (spool / "a.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0.0)
    monkeypatch.setattr(scan, "AT_HAND_SECONDS", 0.0)
    looks, go_on = threading.Event(), threading.Event()
    look = index._scanner.look

    def slow(*given: Any) -> Any:
        looks.set()
        go_on.wait(A_LONG_TIME_SECONDS)
        return look(*given)

    monkeypatch.setattr(index._scanner, "look", slow)
    listing = asyncio.create_task(index.page("", 10))
    await asyncio.to_thread(looks.wait, A_LONG_TIME_SECONDS)
    listing.cancel()
    await asyncio.gather(listing, return_exceptions=True)
    go_on.set()
    assert [*(await index.page("", 10)).names] == ["a.json"]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect a mark each time a directory is read."""
    marks: list[int] = []
    scandir = os.scandir

    def counted(fd: int) -> Any:
        marks.append(fd)
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counted)
    return marks


@pytest.fixture
def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whatever was written just now be a minute old."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 60)


@pytest.mark.usefixtures("a_minute_later")
async def test_a_directory_that_did_not_change_is_not_read_again(
    make: Make, spool: Path, readings: list[int]
) -> None:
    """A million files that lie there cost a pass one listing; what comes or goes, another one."""
    (spool / "a.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0, rescan_seconds=3600.0)
    _, cursor = await told(index)
    for _ in range(3):
        assert (await index.page(cursor, 10)).names == []
    assert len(readings) == 1
    (spool / "b.json").write_text("{}")
    names, cursor = await told(index, cursor)
    assert (names, len(readings)) == (["b.json"], 2)
    (spool / "a.json").unlink()
    assert (await index.page(cursor, 10)).names == []
    assert (index.files, len(readings)) == (1, 3)


async def test_a_directory_that_changed_just_now_proves_nothing(
    make: Make, spool: Path, readings: list[int]
) -> None:
    """In the same tick of its clock something may come that was not seen: it is read again."""
    (spool / "a.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0, rescan_seconds=3600.0)
    _, cursor = await told(index)
    before = len(readings)
    for _ in range(3):
        assert (await index.page(cursor, 10)).names == []
    assert len(readings) == before + 3


@pytest.mark.usefixtures("a_minute_later")
async def test_a_directory_that_could_not_be_read_is_read_again(
    make: Make, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to have changed since it was read is no answer once it could not be read."""
    (spool / "a.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0, rescan_seconds=0.5)
    _, cursor = await told(index)

    def broken(_: int) -> Any:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "scandir", broken)
    assert (await index.page(cursor, 10)).names == []
    await asyncio.sleep(0.5)
    for _ in range(2):
        with pytest.raises(Again, match="broken"):
            await index.page(cursor, 10)


@pytest.mark.usefixtures("a_minute_later")
async def test_a_directory_that_never_changes_is_read_now_and_then(
    make: Make, spool: Path, readings: list[int]
) -> None:
    """Some file systems do not say that an entry came: their word counts for a while only."""
    (spool / "a.json").write_text("{}")
    index = await make(watch=False, settle_seconds=0, rescan_seconds=0.1)
    _, cursor = await told(index)
    assert len(readings) == 1
    until = time.monotonic() + A_LONG_TIME_SECONDS
    while len(readings) == 1 and time.monotonic() < until:
        await index.page(cursor, 10, wait_seconds=0.05)
    assert len(readings) == 2


async def test_a_replaced_spool_is_again(make: Make, spool: Path) -> None:
    """Pages of a directory that is not the spool any more are not told."""
    index = await make(rescan_seconds=0.05)
    await index.page("", 10)
    spool.rename(spool.parent / "old")
    with pytest.raises(Again, match="the spool"):
        await told(index)


@pytest.mark.parametrize("seed", range(6))
async def test_every_file_is_told_once(make: Make, spool: Path, seed: int) -> None:
    """Written, removed, archived, come back in any order: a reader sees each life of a file once.

    Two readers, one of which begins late and with small pages, agree on what is there.
    """
    rng = random.Random(seed)
    index = await make(watch=seed % 2 == 0, settle_seconds=0.0, rescan_seconds=0.05)
    alive: dict[str, int] = {}
    lives = 0
    seen: dict[str, int] = {}
    cursor = ""
    for step in range(600):
        name = f"{rng.randrange(10**6):06}.json"
        if name not in alive and rng.random() < 0.7:
            lives += 1
            alive[name] = lives
            (spool / f".{name}").write_text(str(step))
            (spool / f".{name}").rename(spool / name)
        elif alive:
            gone = rng.choice(sorted(alive))
            if gone in seen:  # as an archiver would
                del alive[gone], seen[gone]
                (spool / gone).unlink()
                if rng.random() < 0.5:
                    index.drop([gone])
        if rng.random() < 0.2:
            page = await index.page(cursor, rng.choice([1, 7, 100]))
            cursor = page.cursor
            for name in page.names:
                assert name not in seen or name not in alive
                if name in alive:
                    seen[name] = alive[name]
    names, _ = await told(index, cursor, len(alive) - len(seen))
    assert sorted([*seen, *names]) == sorted(alive)
    late: list[str] = []
    cursor = ""
    while names := (page := await index.page(cursor, 3)).names:
        late += [name for name in names if name in alive]
        cursor = page.cursor
    assert sorted(late) == sorted(alive)
