"""The spool goes away, comes back, is replaced: nothing is noted, sent or moved meanwhile."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock import telemetry, wiring, worker
from penstock.cli import serve as cli_serve
from penstock.cli.commands import app
from penstock.errors import Again, Halt, PenstockError
from penstock.operate.observer import Observer
from penstock.source.marker import MARKER
from support import fileserver
from support.box import Box
from support.nginx import nginx_over
from support.require import require_nginx

pytestmark = pytest.mark.usefixtures("commands_in_a_thread")

FILES = 20


class Kind:
    """A box behind one kind of source, whose spool can be taken away and brought back."""

    def __init__(self, box: Box, stack: AsyncExitStack) -> None:
        self.box = box
        self.mounted = box.root / "mounted"
        self._stack = stack

    async def open(self) -> None:
        """Make the source reachable."""

    async def reopen(self) -> None:
        """Have the server, if there is one, see what lies at the path now."""

    def unmount(self) -> None:
        """Leave the empty directory that lies below a mount."""
        self.box.spool.rename(self.mounted)
        self.box.spool.mkdir()

    def mount(self) -> None:
        """Bring it back."""
        shutil.rmtree(self.box.spool)
        self.mounted.rename(self.box.spool)


class Served(Kind):
    """Behind `penstock serve`; a new process of it serves what is mounted when it starts."""

    async def open(self) -> None:
        """See `Kind.open`."""
        served = fileserver.served(
            self.box.root, archive_directory=self.box.root / "archive", rescan_seconds=1
        )
        address = await self._stack.enter_async_context(served)
        self.box.set("source", url=address, token=fileserver.TOKEN)

    async def reopen(self) -> None:
        """See `Kind.reopen`."""
        await self._stack.aclose()
        await self.open()


class Plain(Kind):
    """Behind plain nginx, with a marker that somebody made."""

    async def open(self) -> None:
        """See `Kind.open`."""
        require_nginx()
        nginx = await self._stack.enter_async_context(nginx_over(self.box.root))
        self.box.set("source", url=nginx.url, token=nginx.move_token)
        (self.box.spool / MARKER).write_text("0f3c9a1e-5b7d-4f60-9c1e-000000000001\n")


KINDS: dict[str, Callable[[Box, AsyncExitStack], Kind]] = {
    "directory": Kind, "server": Served, "nginx": Plain,
}  # fmt: skip


@pytest.fixture(params=KINDS)
async def kind(request: pytest.FixtureRequest, box: Box) -> AsyncIterator[Kind]:
    """Yield a box behind each kind of source."""
    async with AsyncExitStack() as stack:
        one = KINDS[request.param](box, stack)
        await one.open()
        yield one


async def refused(doing: Any) -> None:
    """Expect a pass to end with the error that names both spools, and the way out."""
    with pytest.raises(Again, match=r"not the directory.*: marker.*penstock spool accept"):
        await doing


async def codes(box: Box) -> list[str]:
    """Return what `penstock status` says is wrong."""
    observer = Observer(box.settings)
    try:
        return [said.code for said in (await observer.snapshot()).verdicts if said.wrong]
    finally:
        await observer.aclose()


def archived(box: Box) -> int:
    """Return how many files lie in the archive."""
    return len([*(box.root / "archive").rglob("*.json")])


async def test_a_spool_that_goes_away_and_comes_back_loses_and_repeats_nothing(kind: Kind) -> None:
    """R4: the empty mount point is another spool, and the archiver notes nothing of it."""
    box = kind.box
    box.write_many(FILES)
    assert (await box.load()).files_processed == FILES
    kind.unmount()
    await kind.reopen()
    await refused(box.archive())
    assert "spool-changed" in await codes(box)
    sizes = await box.sizes()
    assert (sizes["processed"], sizes["archived"]) == (FILES, 0)
    kind.mount()
    await kind.reopen()
    assert (await box.load()).files_processed == 0
    assert (await box.archive()).files_archived == FILES == archived(box)
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)
    assert (await box.check()).laws_broken == 0
    assert "spool-changed" not in await codes(box)


async def test_nothing_of_another_spool_is_sent(kind: Kind) -> None:
    """Files in a directory that took the spool's place wait for an operator; so does the rest."""
    box = kind.box
    box.write_many(FILES)
    await box.load()
    kind.unmount()
    if isinstance(kind, Plain):
        (box.spool / MARKER).write_text("0" * 32)
    await kind.reopen()
    box.write_many(5, first=100)
    await refused(box.load())
    await refused(box.archive())
    await refused(box.check())
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)
    assert len([*box.spool.glob("*.json")]) == 5
    command = ["spool", "accept", "--yes", "--config", str(box.toml())]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0, done.output
    assert (await box.load()).files_processed == 5
    tally = await box.archive()
    assert (tally.files_archived, tally.files_gone) == (5, FILES)
    assert (await box.counters())["files_gone"] == FILES
    assert (await box.check()).laws_broken == 0


async def test_a_long_pass_sees_that_its_spool_was_replaced(box: Box) -> None:
    """The files of a claim have not vanished: its directory has."""
    box.write_many(FILES)
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(box.settings, stack)
        asked = await parts.next_claim(asyncio.Event())
        assert asked.claim is not None
        box.spool.rename(box.root / "away")
        box.spool.mkdir()
        async with parts.ledger.holding(asked.claim, asked.since_seconds) as lease:
            with pytest.raises(Again, match="another directory"):
                await parts.carry(asked.claim, lease, lambda _: None)
        await parts.ledger.release(asked.claim)
    assert (await box.counters()).get("files_vanished", 0) == 0
    assert box.received_ids() == {}
    await refused(box.load())
    box.spool.rename(box.root / "below")
    (box.root / "away").rename(box.spool)
    assert (await box.load()).files_processed == FILES


@pytest.mark.parametrize(
    "how",
    [
        "made anew",
        *(
            pytest.param(one, marks=pytest.mark.campaign)
            for one in ("renamed", "restored from a backup", "emptied")
        ),
    ],
)
async def test_each_way_to_be_another_spool(box: Box, how: str) -> None:
    """Renamed and replaced, deleted and made anew, restored from a backup, its marker deleted."""
    box.write_many(FILES)
    await box.load()
    if how == "renamed":
        box.spool.rename(box.root / "old")
        box.spool.mkdir()
    elif how == "made anew":
        shutil.rmtree(box.spool)  # its inode may be given to the next directory
        box.spool.mkdir()
    elif how == "restored from a backup":
        shutil.copytree(box.spool, box.root / "backup")
        shutil.rmtree(box.spool)
        (box.root / "backup").rename(box.spool)
    else:
        for path in box.spool.iterdir():
            path.unlink()
    await refused(box.archive())
    await refused(box.load())
    assert (await box.sizes())["processed"] == FILES
    assert "spool-changed" in await codes(box)


async def test_a_spool_that_is_not_there_is_waited_for(box: Box) -> None:
    """A directory that is missing is a wrong setting only where the ledger knows no spool."""
    box.write_many(FILES)
    box.spool.rename(box.root / "away")
    with pytest.raises(Halt, match="cannot be opened as a directory"):
        await box.load()
    (box.root / "away").rename(box.spool)
    await box.load()
    box.spool.rename(box.root / "away")
    for one_pass in (box.load, box.archive, box.check):
        with pytest.raises(Again, match="mount it again"):
            await one_pass()
    assert "spool-away" in await codes(box)


@pytest.mark.parametrize("marked", [True, False])
async def test_a_spool_that_is_not_behind_nginx_is_waited_for(box: Box, *, marked: bool) -> None:
    """A 404 means a wrong address only where the ledger has seen no file of it."""
    require_nginx()
    async with nginx_over(box.root) as nginx:
        box.set("source", url=nginx.url, token=nginx.move_token)
        if marked:
            (box.spool / MARKER).write_text("0f3c9a1e-5b7d-4f60-9c1e-000000000001\n")
        box.write_many(FILES)
        box.spool.rename(box.root / "away")
        with pytest.raises(Halt, match=r"answered 404; check that source\.url names the spool$"):
            await box.load()
        (box.root / "away").rename(box.spool)
        await box.load()
        box.spool.rename(box.root / "away")
        for one_pass in (box.load, box.check):
            with pytest.raises(Again, match=r"answered 404.* mount it again"):
                await one_pass()
        if marked:
            await refused(box.archive())
        assert "spool-away" in await codes(box)
        (box.root / "away").rename(box.spool)
        assert (await box.load()).files_processed == 0
        assert (await box.archive()).files_archived == FILES == archived(box)
        assert (await box.check()).laws_broken == 0
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)


async def test_the_same_spool_moved_or_chowned_is_the_same(box: Box) -> None:
    """Its path may change, and the times of its marker: it is no other one."""
    box.write_many(FILES)
    await box.load()
    marker = box.spool / MARKER
    marker.chmod(0o600)
    marker.chmod(0o644)
    box.spool.rename(box.root / "elsewhere")
    box.set("source", url=str(box.root / "elsewhere"))
    assert (await box.archive()).files_archived == FILES


async def test_an_empty_ledger_takes_a_new_spool_without_a_word(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of any file, so nothing can be mistaken."""
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    box.write_many(FILES)
    await box.load()
    await box.archive()
    async with box.look() as client:
        await client.delete(f"penstock:{{{box.given['ledger']['spool']}}}:out_of_spool")
    box.spool.rename(box.root / "old")
    box.spool.mkdir()
    assert await codes(box) == []
    box.write_many(FILES, first=100)
    assert (await box.load()).files_processed == FILES
    assert "spool.adopted" not in caplog.messages


@pytest.mark.parametrize("wiped", [False, True])
async def test_nothing_is_claimed_of_a_listing_from_before_another_spool(
    box: Box, *, wiped: bool
) -> None:
    """While a worker holds a listing, another directory becomes the spool, and goes again.

    A claim of what was listed before would hold files of one spool in the ledger of the other:
    nobody could go on with them until an operator accepts it.
    """
    box.write_many(FILES)
    box.set("worker", claim_files_max=FILES // 4)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        one = await wiring.loader(box.settings, stack)
        portion = await one.candidates.next(FILES // 4, stop)
        one.candidates.put_back(portion)
        assert portion.spool_note
        box.spool.rename(box.root / "mounted")
        box.spool.mkdir()
        box.write_many(1, first=1000)
        if wiped:
            async with box.look() as client:
                await client.flushall()
        other = await wiring.loader(box.settings, stack)
        assert len((await other.candidates.next(1, stop)).names) == 1
        shutil.rmtree(box.spool)
        (box.root / "mounted").rename(box.spool)
        asked = await one.next_claim(stop)
        assert (asked.claim, asked.more) == (None, True)
        again = (await one.next_claim(stop)).claim
        assert again is not None
        assert await one.ledger.upkeep.sweep("s", portion.names, portion.spool_note) is None
        await one.ledger.release(again, tried=False)
    assert (await box.load()).files_processed == FILES
    assert set(box.received_ids().values()) == {1}


async def test_a_ledger_of_the_version_before_learns_its_spool_once(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and never learns an empty directory, which may be a mount point."""
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    box.write_many(FILES)
    await box.load()
    async with box.look() as client:
        await client.delete(f"penstock:{{{box.given['ledger']['spool']}}}:spool")
    box.spool.rename(box.root / "mounted")
    box.spool.mkdir()
    tally = await box.archive()
    assert (tally.files_gone, tally.files_stuck) == (0, FILES)
    await box.load()
    assert "spool.adopted" not in caplog.messages
    shutil.rmtree(box.spool)
    (box.root / "mounted").rename(box.spool)
    await box.load()
    await box.load()
    assert caplog.messages.count("spool.adopted") == 1
    assert (await box.archive()).files_archived == FILES


async def test_over_nginx_without_a_marker_no_file_is_noted_as_gone(box: Box) -> None:
    """Nothing tells whether this is the spool: what is not there stays as it is, and is told."""
    require_nginx()
    async with nginx_over(box.root) as nginx:
        box.set("source", url=nginx.url, token=nginx.move_token)
        box.write_many(FILES)
        await box.load()
        box.spool.rename(box.root / "mounted")
        box.spool.mkdir()
        tally = await box.archive()
        assert (tally.files_archived, tally.files_gone, tally.files_stuck) == (0, 0, FILES)
        box.spool.rmdir()
        (box.root / "mounted").rename(box.spool)
        assert (await box.load()).files_processed == 0
        assert (await box.archive()).files_archived == FILES
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)


async def test_a_file_that_somebody_deleted_is_gone_not_archived(box: Box) -> None:
    """It is counted by itself, the books balance, and status, verify and explain tell."""
    box.write_many(FILES)
    await box.load()
    name = min(path.name for path in box.spool.glob("*.json"))
    (box.spool / name).unlink()
    tally = await box.archive()
    assert (tally.files_archived, tally.files_gone) == (FILES - 1, 1)
    counted = await box.counters()
    assert (counted["files_archived"], counted["files_gone"]) == (FILES - 1, 1)
    assert (await box.check()).laws_broken == 0
    observer = Observer(box.settings)
    assert "files-gone" in [said.code for said in (await observer.snapshot()).verdicts]
    await observer.aclose()
    for command, told in (
        ("explain", "found gone at"),
        ("verify", "1 file was sent, but gone"),
    ):
        given = [command, *([name] if command == "explain" else []), "--config", str(box.toml())]
        done = await asyncio.to_thread(CliRunner().invoke, app, given)
        assert told in done.output


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs chmod to hold")
async def test_a_spool_that_nobody_may_write_to_is_known_by_its_place(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File system and inode stand for it; a marker that comes later is taken over."""

    def denied(_: int) -> None:
        raise PermissionError(13, "Permission denied")

    box.write_many(FILES)
    with monkeypatch.context() as patch:
        patch.setattr("penstock.source.marker._make", denied)
        await box.load()
        assert not (box.spool / MARKER).exists()
        kind = Kind(box, AsyncExitStack())
        kind.unmount()
        with pytest.raises(Again, match=r"not the directory .* without a marker"):
            await box.archive()
        kind.mount()
    assert (await box.archive()).files_archived == FILES
    assert (box.spool / MARKER).exists()


@pytest.mark.parametrize(
    "content",
    [b"no id!", *(pytest.param(c, marks=pytest.mark.campaign) for c in (b"", b"x" * 1000))],
)
async def test_a_marker_that_is_none_stops_everything(box: Box, content: bytes) -> None:
    """It is told, and replaced when somebody has deleted it."""
    box.write_many(1)
    (box.spool / MARKER).write_bytes(content)
    with pytest.raises(PenstockError, match="does not contain an id; delete it"):
        await box.load()
    (box.spool / MARKER).unlink()
    await box.load()


async def test_a_server_refuses_to_move_files_of_another_spool(tmp_path: Path) -> None:
    """A client that means the spool of before gets 409: it looks again, and nothing was moved."""
    async with fileserver.served(tmp_path) as address:
        source = fileserver.source_at(address)
        (tmp_path / "spool" / "a.json").write_text("{}")
        seen = await source.identity()
        assert seen.marker
        source._spool = seen._replace(marker="0" * 32).as_text()
        with pytest.raises(Again, match="409"):
            await source.archive(["a.json"])
        assert (tmp_path / "spool" / "a.json").exists()
        assert (await source.list("")).names
        assert (await source.archive(["a.json"]))[0].error == ""
        await source.close()


async def test_a_server_ends_when_another_directory_takes_the_place_of_its_own(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps it running starts it anew; it waits for one that is only not there."""
    monkeypatch.setattr(cli_serve, "_LOOK_SECONDS", 0.05)
    box.set("serve", listen="127.0.0.1:0")
    serving = asyncio.create_task(cli_serve._until_stopped(box.settings, asyncio.Event()))
    await asyncio.sleep(0.5)
    box.spool.rename(box.root / "away")
    await asyncio.sleep(0.3)
    assert not serving.done()
    box.spool.mkdir()
    with pytest.raises(Again, match="restart this server"):
        await serving


async def test_an_empty_directory_gets_no_marker(box: Box) -> None:
    """It may be a mount point. Penstock leaves it empty, so that a spool can be put there."""
    await box.load()
    assert list(box.spool.iterdir()) == []
    box.write_many(FILES)
    assert (await box.load()).files_processed == FILES
    assert (box.spool / MARKER).exists()


async def test_a_hidden_marker_is_no_file(box: Box) -> None:
    """It is never listed, counted, moved or told of as an entry that is ignored."""
    box.write_many(1)
    await box.load()
    await box.archive()
    assert [path.name for path in box.spool.iterdir()] == [MARKER]
    async with AsyncExitStack() as stack:
        parts = await wiring.loader(box.settings, stack)
        page = await parts.reader.source.list("")
        assert (page.names, page.ignored) == ([], 0)
        assert (await worker.load(parts, stop=asyncio.Event())).files_processed == 0
