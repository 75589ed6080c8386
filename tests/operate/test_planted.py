"""Another user may write to archive and rejects: nothing they plant is read or waited for."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from penstock import beneath
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Halt
from penstock.ledger.epoch import Epoch
from penstock.model import PutBack
from penstock.operate import requeue
from penstock.operate.archived import Archived
from penstock.operate.requeue import Returning
from penstock.operate.spool_files import SpoolFiles
from penstock.settings.secrets import kept_secret
from penstock.setup import config_check, survey
from penstock.source.directory import DirectorySource
from support.box import Box
from support.campaign import scaled
from support.require import require

NAME = "2026-11-23T06-15-00.000001.json"
REASON = f"{NAME}.reason.json"
HOUR = "2026/11/23/06"
FOREIGN = '{"reason": "foreign", "records": [], "records_rejected": 0, "secret": "hush"}'


@pytest.fixture
def places(tmp_path: Path) -> SpoolFiles:
    """Return the directories of a spool, made."""
    (tmp_path / "archive" / HOUR).mkdir(parents=True)
    for name in ("spool", "rejected", "away"):
        (tmp_path / name).mkdir()
    (tmp_path / "away" / NAME).write_text("hush")
    (tmp_path / "away" / REASON).write_text(FOREIGN)
    return SpoolFiles(
        tmp_path / "spool", tmp_path / "archive", tmp_path / "rejected", deletes=False
    )


PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, away: path.symlink_to(away),
    "dangling link": lambda path, _: path.symlink_to("nowhere"),
    "fifo": lambda path, _: os.mkfifo(path),
    "folder": lambda path, _: path.mkdir(),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTS)
def test_a_planted_reason_is_missing(places: SpoolFiles, planted: str) -> None:
    """S2: a FIFO holds up nobody, and a link shows no other file."""
    (places.rejects / NAME).write_text("{")
    PLANTS[planted](places.rejects / REASON, places.rejects.parent / "away" / REASON)
    (one,) = places.rejected()
    assert one.reason == "its reason is missing or cannot be read"
    assert places.latest_rejected(5) == ([one], 1)
    assert "hush" not in json.dumps(dict(one.story))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTS)
def test_what_is_planted_for_a_file_is_none(places: SpoolFiles, planted: str) -> None:
    """Neither in the rejects, nor in the archive; it is not put back either."""
    away = places.rejects.parent / "away" / NAME
    for folder in (places.rejects, places.archive / HOUR):
        PLANTS[planted](folder / NAME, away)
    assert list(places.rejected()) == []
    assert places.archived(NAME) is None
    assert list(Archived(places).between(0, time.time() + 1e9)) == []
    assert Archived(places).places(NAME) == []
    assert not places.has_rejected(NAME)


@pytest.mark.parametrize("step", ["archive/2026", f"archive/{HOUR}", "rejected/discarded"])
def test_no_folder_that_is_a_link_is_entered(places: SpoolFiles, step: str) -> None:
    """What lies behind it is not listed, not put back, and nothing is put there."""
    root, away = places.rejects.parent, places.rejects.parent / "away"
    path = root / step
    if path.exists():
        shutil.rmtree(path)
    (away / "11/23/06").mkdir(parents=True)
    (away / "11/23/06" / NAME).write_text("hush")
    before = sorted(away.rglob("*"))
    path.symlink_to(away)
    (places.rejects / NAME).write_text("{")
    assert places.archived(NAME) is None
    assert list(Archived(places).between(0, time.time() + 1e9)) == []
    if step.startswith("archive"):
        for folder in (places.archive / HOUR,):
            with pytest.raises(OSError, match="archive"):
                requeue._move([Returning(folder / NAME, PutBack("t"))], places, time.monotonic())
    else:
        with pytest.raises(OSError, match="discarded"):
            requeue.discard(places, places.rejected(), keep_copy=True)
    assert sorted(away.rglob("*")) == before
    assert list(places.spool.iterdir()) == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTS)
async def test_what_is_planted_in_the_state_directory_is_refused(
    tmp_path: Path, planted: str
) -> None:
    """The lock files and the log are ours, or there is no embedded part; nothing waits."""
    (tmp_path / "known").write_text("known")
    for name in ("owner.lock", "process.lock", "redis.log", ""):
        state = tmp_path / f"state-{name}"
        (state / "redis" if name else state).mkdir(parents=True)
        PLANTS[planted](state / "redis" / name, tmp_path / "known")
        part = EmbeddedRedis(state)
        assert part.noted_address() == ""
        if not name and planted == "folder":
            continue
        with pytest.raises(Halt, match="redis"):
            await part.start()
        await part.stop()
    assert (tmp_path / "known").read_text() == "known"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTS)
def test_what_is_planted_for_the_epoch_is_none(tmp_path: Path, planted: str) -> None:
    """It is neither read nor written through, nor waited for."""
    (tmp_path / "known").write_text("known")
    for folder in ("", "s.epoch", "s.draft"):
        state = tmp_path / f"state-{folder}"
        (state if folder else tmp_path).mkdir(exist_ok=True)
        PLANTS[planted](state / folder if folder else state, tmp_path / "known")
        epoch = Epoch(state / "s.epoch")
        assert epoch.name == ""
        epoch.begins("e1")
        assert [path for path in tmp_path.rglob(".*.draft") if len(path.name) > 8] == []
    assert (tmp_path / "known").read_text() == "known"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("planted", PLANTS)
def test_what_is_planted_among_staged_files_is_none(places: SpoolFiles, planted: str) -> None:
    """Neither a file of theirs, nor a folder that leads elsewhere."""
    away = places.rejects.parent / "away"
    (places.spool / f".penstock-staging/open-a/{HOUR}").mkdir(parents=True)
    PLANTS[planted](places.spool / f".penstock-staging/open-a/{HOUR}/{NAME}", away / NAME)
    (away / HOUR).mkdir(parents=True)
    (away / HOUR / NAME).write_text("hush")
    (places.spool / ".penstock-staging/open-b").symlink_to(away)
    archived = Archived(places)
    assert list(archived.copies(NAME)) == []
    assert list(archived.between(0, 4e9)) == []


async def test_an_embedded_part_keeps_out_of_another_users_directory(tmp_path: Path) -> None:
    """They could put a socket of theirs into it."""
    require(present=os.geteuid() == 0, what="root, to give a directory to another user")
    (tmp_path / "redis").mkdir()
    os.chown(tmp_path / "redis", 12345, 12345)
    with pytest.raises(Halt, match="belongs to another user"):
        await EmbeddedRedis(tmp_path).start()


@pytest.mark.timeout(20)
def test_init_reads_no_planted_sample(places: SpoolFiles) -> None:
    """It is listed before it is read, and may have become something else meanwhile."""
    os.mkfifo(places.spool / "a.json")
    (places.spool / "b.json").symlink_to(places.rejects.parent / "away" / REASON)
    assert list(survey._read(places.spool, ["a.json", "b.json"])) == []


async def test_config_check_names_directories_of_others(box: Box) -> None:
    """Owned by somebody else, or writable by others: a line each, with the setting."""
    require(present=os.geteuid() == 0, what="root, to give a directory to another user")
    for name in ("archive", "rejected"):
        (box.root / name).mkdir(exist_ok=True)
    box.set("run", state_directory=str(box.root / "deep" / "state"))
    box.root.chmod(0o755)
    (box.root / "deep" / "state").mkdir(parents=True)
    assert config_check.warnings(box.settings) == []
    os.chown(box.root / "archive", 12345, 12345)
    (box.root / "rejected").chmod(0o777)
    os.chown(box.root / "deep", 0, 12345)
    (box.root / "deep").chmod(0o775)
    told = config_check.warnings(box.settings)
    assert [line.partition(" may write")[0] for line in sorted(told)] == [
        "archive.directory: user 12345",
        "archive.rejected_directory: every user",
        "run.state_directory: group 12345",
    ]


ROUNDS = pytest.mark.parametrize(
    "rounds",
    [pytest.param(300, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.campaign)],
)


def _plant(path: Path, away: Path, kind: str) -> None:
    """Put a link or a FIFO of another user's where a path was."""
    own = path.with_name(f"{path.name}.planted")
    if kind == "link":
        own.symlink_to(away)
    else:
        os.mkfifo(own)
    os.lchown(own, 12345, 12345)
    own.rename(path)


@contextlib.contextmanager
def planting(paths: list[Path], away: Path, seed: int) -> Generator[None]:
    """Put links, FIFOs and what belongs there at these paths, in turn, as fast as can be."""
    stop = threading.Event()
    rng = random.Random(seed)

    def plant() -> None:
        while not stop.is_set():
            path = rng.choice(paths)
            aside = path.with_name(f"{path.name}.aside{rng.random()}")
            with contextlib.suppress(OSError):
                path.rename(aside)
            with contextlib.suppress(OSError):
                _plant(path, away, rng.choice(["link", "fifo"]))
            time.sleep(rng.random() / 5_000)
            with contextlib.suppress(OSError):
                path.unlink()
            with contextlib.suppress(OSError):
                aside.rename(path)

    thread = threading.Thread(target=plant)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@ROUNDS
@pytest.mark.timeout(1800)
async def test_races_lead_nowhere(places: SpoolFiles, rounds: int) -> None:
    """Links and FIFOs at every path that is read or written, swapped while Penstock works.

    Nothing outside is read, changed, moved or made, and nothing waits.
    """
    require(present=os.geteuid() == 0, what="root, to be another user as well")
    root = places.spool.parent
    away = root / "away"
    before = {path: path.read_bytes() for path in away.iterdir()}
    source = DirectorySource(
        places.spool, pattern=r".*\.json", settle_seconds=0.0, max_file_bytes=1000,
        archive_directory=places.archive, rejects_directory=places.rejects,
    )  # fmt: skip
    state = root / "state"
    kept_secret(state, "s", "x")
    paths = [
        places.spool / NAME, places.archive / "2026", places.archive / HOUR,
        places.archive / HOUR / NAME, places.rejects, places.archive, places.rejects / NAME,
        places.rejects / REASON, places.rejects / "discarded", state / "s",
    ]  # fmt: skip

    def look() -> None:
        for done in (
            lambda: [json.dumps(dict(file.story)) for file in places.rejected()],
            lambda: [json.dumps(dict(f.story)) for f in places.latest_rejected(5)[0]],
            lambda: [str(path) for path in Archived(places).between(0, time.time() + 1e9)],
            lambda: [str(places.archived(NAME)), *Archived(places).places(NAME)],
            lambda: requeue.discard(places, places.rejected(), keep_copy=True).done,
            lambda: requeue._move(
                [Returning(places.archive / HOUR / NAME, PutBack("t"))], places, time.monotonic()
            ).values(),
        ):
            with contextlib.suppress(OSError):
                assert "hush" not in "".join(done())
        with contextlib.suppress(Halt):
            assert "hush" not in kept_secret(state, "s", "x")

    with planting(paths, away, rounds):
        for _ in range(scaled(rounds) if rounds > 1_000 else rounds):
            with contextlib.suppress(OSError):
                os.close(os.open(places.spool / NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            async with asyncio.timeout(10):
                (read,) = await source.read([NAME], 1000)
                assert read.data != b"hush"
                await source.archive([NAME])
                await source.reject({NAME: '{"reason": "r"}'})
                await asyncio.to_thread(look)
    await source.close()
    assert {path: path.read_bytes() for path in away.iterdir()} == before


@ROUNDS
@pytest.mark.timeout(1800)
def test_a_root_that_changes_while_it_is_opened_leads_nowhere(tmp_path: Path, rounds: int) -> None:
    """Of a directory, one's own link and another user's link it opens the first two, or nothing."""
    require(present=os.geteuid() == 0, what="root, to be another user as well")
    for name in ("own", "away"):
        (tmp_path / name).mkdir()
    path, stop = tmp_path / "root", threading.Event()
    own, away = ((tmp_path / name).stat().st_ino for name in ("own", "away"))

    def swap() -> None:
        rng = random.Random(rounds)
        while not stop.is_set():
            draft, foreign = tmp_path / "draft", rng.random() < 0.5
            draft.symlink_to("away" if foreign else "own")
            if foreign:
                os.lchown(draft, 12345, 12345)
            draft.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    opened: list[int] = []
    try:
        deadline, tried = time.monotonic() + 60, 0
        while tried < rounds or (not opened and time.monotonic() < deadline):
            tried += 1
            with contextlib.suppress(OSError):
                fd = beneath.open_root(path)
                opened.append(os.fstat(fd).st_ino)
                os.close(fd)
    finally:
        stop.set()
        thread.join()
    assert set(opened) == {own}, away
