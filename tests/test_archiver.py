"""One pass of the archiver: batch upon batch, each noted while the next one is moved."""

import asyncio
import ctypes
import dataclasses
import errno
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from penstock import archiver, wiring
from penstock.archive.pack import PackTally
from penstock.errors import Again
from penstock.ledger.upkeep import LedgerUpkeep
from penstock.ports import Moved
from penstock.source import moves
from penstock.source.directory import DirectorySource
from support.box import Box

FILES = 100


class Story:
    """What an archiver did, in order, batch by batch: `move`, `moved` and `noted`, with the names.

    `noting_fails_at` is the batch that Redis is away for. `stop` is set while that batch is moved.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, Sequence[str]]] = []
        self.stop = asyncio.Event()
        self.stops_at = self.noting_fails_at = -1
        archive, archived = DirectorySource.archive, LedgerUpkeep.archived

        async def moving(source: DirectorySource, names: Sequence[str]) -> Sequence[Moved]:
            if self.count("move") == self.stops_at:
                self.stop.set()
            self.steps.append(("move", names))
            moved = await archive(source, names)
            self.steps.append(("moved", names))
            return moved

        async def noting(upkeep: LedgerUpkeep, names: Sequence[str]) -> int:
            if self.count("noted") == self.noting_fails_at:
                self.noting_fails_at = -1
                raise Again("ledger.archived: Redis cannot be reached")
            noted = await archived(upkeep, names)
            self.steps.append(("noted", names))
            return noted

        patch.setattr(DirectorySource, "archive", moving)
        patch.setattr(LedgerUpkeep, "archived", noting)

    def count(self, step: str) -> int:
        """Return how often it came to this step."""
        return len(self.batches(step))

    def batches(self, step: str) -> list[Sequence[str]]:
        """Return the batches that came to this step."""
        return [names for done, names in self.steps if done == step]


@pytest.fixture
async def story(box: Box, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Return the story of archivers over a box of processed files, in batches of 10, then 20."""
    box.write_many(FILES)
    await box.load()
    monkeypatch.setattr(archiver, "_FILES_MIN", 10)
    monkeypatch.setattr(archiver, "_FILES_MAX", 20)
    return Story(monkeypatch)


async def archive(box: Box, story: Story) -> archiver.ArchiverTally:
    """Run one pass, which the story may stop."""
    async with AsyncExitStack() as stack:
        parts = await wiring.archiver(box.settings, stack)
        return await archiver.archive(parts, stop=story.stop)


async def test_files_go_on_being_staged_while_others_are_packed(
    box: Box, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute of files takes a while to pack: the spool does not fill up meanwhile."""
    monkeypatch.setattr(archiver, "_STAGE_SECONDS", 0.01)
    moved_before = -1

    async def pack(over: Callable[[], bool]) -> PackTally:
        nonlocal moved_before
        moved_before = story.count("moved")
        box.write_many(FILES, first=FILES)
        await box.load()
        while story.count("moved") == moved_before or story.count("noted") < story.count("moved"):
            await asyncio.sleep(0.01)
        assert not over()
        return PackTally(files=3, stuck=1, cause="why")

    async with AsyncExitStack() as stack:
        parts = dataclasses.replace(await wiring.archiver(box.settings, stack), pack=pack)
        tally = await archiver.archive(parts, stop=story.stop)
    assert tally.files_archived > FILES
    assert (tally.files_packed, tally.files_stuck, moved_before > 0) == (3, 1, True)


async def test_packing_ends_when_redis_is_away(
    box: Box, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left running, and the pass ends with the cause."""
    monkeypatch.setattr(archiver, "_STAGE_SECONDS", 0.01)
    ended = False

    async def pack(over: Callable[[], bool]) -> PackTally:
        nonlocal ended
        story.noting_fails_at = story.count("noted")
        box.write_many(FILES, first=FILES)
        await box.load()
        while not over():
            await asyncio.sleep(0.01)
        ended = True
        return PackTally()

    async with AsyncExitStack() as stack:
        parts = dataclasses.replace(await wiring.archiver(box.settings, stack), pack=pack)
        with pytest.raises(Again, match="Redis cannot be reached"):
            await archiver.archive(parts, stop=story.stop)
    assert ended


async def in_place(box: Box) -> int:
    """Return how many files lie in the archive; fail if the ledger says anything else."""
    archived = len([*(box.root / "archive").rglob("*.json")])
    assert archived + len([*box.spool.glob("[!.]*")]) == FILES
    sizes = await box.sizes()
    assert (sizes["archived"], sizes["processed"]) == (archived, FILES - archived)
    return archived


async def test_a_batch_is_noted_while_the_next_is_moved(box: Box, story: Story) -> None:
    """Nobody waits for Redis with a batch to move; and none is noted before it is moved."""
    assert (await archive(box, story)).files_archived == FILES
    assert [len(names) for names in story.batches("move")] == [10, 10, 20, 20, 20, 20]
    assert story.batches("move") == story.batches("moved") == story.batches("noted")
    for number, names in enumerate(story.batches("move")):
        noted = story.steps.index(("noted", names))
        assert story.steps.index(("moved", names)) < noted
        if number + 1 < story.count("move"):
            following = story.batches("move")[number + 1]
            assert story.steps.index(("move", following)) < noted
    assert await in_place(box) == FILES


async def test_what_could_not_be_noted_the_next_pass_finds(box: Box, story: Story) -> None:
    """Redis is away: the batch that is being moved is waited for, and nothing is moved twice."""
    story.noting_fails_at = 1
    with pytest.raises(Again, match="Redis cannot be reached"):
        await archive(box, story)
    assert story.batches("move") == story.batches("moved")
    assert (await box.sizes())["processed"] == FILES - 10
    left = len([*box.spool.glob("[!.]*")])
    assert left == FILES - sum(len(names) for names in story.batches("moved"))
    tally = await archive(box, story)
    assert (tally.files_archived, tally.files_gone) == (FILES - 10, 0)
    assert await in_place(box) == FILES
    counters = await box.counters()
    assert counters["files_archived"] == FILES


async def test_a_pass_that_is_stopped_notes_what_it_moved(box: Box, story: Story) -> None:
    """No batch is begun after that; the next pass does the rest."""
    story.stops_at = 2
    tally = await archive(box, story)
    assert tally.files_archived == 40
    assert await in_place(box) == 40
    story.stop.clear()
    assert (await archive(box, story)).files_archived == FILES - 40
    assert await in_place(box) == FILES


async def test_what_is_stuck_is_passed_over_once(box: Box, story: Story) -> None:
    """Files that cannot be moved stay at the front of the line; those behind them are moved."""
    spool = sorted(path.name for path in box.spool.glob("[!.]*"))
    stuck = [*spool[:15], *spool[50:53]]
    hour = box.root / "archive/2026/11/23/06"
    hour.mkdir(parents=True)
    for name in stuck:
        (hour / name).write_text("another")
    tally = await archive(box, story)
    assert (tally.files_archived, tally.files_stuck) == (FILES - len(stuck), len(stuck))
    assert sum(len(names) for names in story.batches("move")) == FILES
    assert sorted(path.name for path in box.spool.glob("[!.]*")) == stuck
    assert (await box.sizes())["processed"] == len(stuck)


async def test_slow_batches_stay_small(
    box: Box, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that takes long for a batch is given fewer: a pass ends soon after it is told to."""
    monkeypatch.setattr(archiver, "_BATCH_SECONDS", 0.0)
    await archive(box, story)
    assert [len(names) for names in story.batches("move")] == [10] * 10


async def test_a_cause_has_one_line_however_many_files_it_holds_up(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only archive and a thousand files: one line, with the count and one of them."""
    names = [
        f"2026-11-23T{hour:02d}-00-{number:03d}.json" for hour in range(4) for number in range(250)
    ]
    for number, name in enumerate(names):
        box.write(name, f'{{"id": {number}}}')
    await box.load()

    def read_only(*_: object) -> int:
        ctypes.set_errno(errno.EROFS)
        return -1

    monkeypatch.setattr(moves, "_renameat2", read_only)
    tally = await box.archive()
    assert tally.files_stuck == len(names)
    (line,) = [
        vars(record)["fields"] for record in caplog.records if record.getMessage() == "file.stuck"
    ]
    assert line["files"] == len(names)
    assert line["file"] in names
    assert "Read-only file system" in line["cause"]
