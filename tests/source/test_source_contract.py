"""What every `Source` must do, over every implementation."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.model import FileRead, Unread
from penstock.ports import Source
from penstock.source.directory import DirectorySource
from support import fileserver
from support.nginx import nginx_over, source_at
from support.require import require_nginx

pytestmark = pytest.mark.both

NAME = "2026-11-23T06:15:00.123456.json"
OTHER = "2026-11-23T07:00:00.000001.json"


@dataclass(frozen=True)
class Site:
    """A source, and the directories behind it as its producer sees them.

    `lists_links`: nginx looks through a symbolic link in its listing, and does not say that it is
    one; reading it is denied.
    """

    source: Source
    spool: Path
    archive: Path
    rejects: Path
    lists_links: bool = False

    def write(self, name: str, data: bytes = b'{"a":1}') -> Path:
        """Write a file as a producer does."""
        path = self.spool / name
        path.write_bytes(data)
        return path


async def _directory(root: Path, stack: AsyncExitStack) -> Source:
    assert stack
    return DirectorySource(
        root / "spool",
        pattern=r".*\.json",
        settle_seconds=0,
        max_file_bytes=1000,
        archive_directory=root / "archive",
        rejects_directory=root / "rejected",
        page_files_max=10,
    )


async def _nginx(root: Path, stack: AsyncExitStack) -> Source:
    require_nginx()
    nginx = await stack.enter_async_context(nginx_over(root))
    return source_at(nginx.url, nginx.move_token, page_files_max=10)


async def _server(root: Path, stack: AsyncExitStack) -> Source:
    served = fileserver.served(root, tokens=fileserver.TOKEN, rescan_seconds=1)
    address = await stack.enter_async_context(served)
    return fileserver.source_at(address, fileserver.TOKEN, page_files_max=10)


async def _server_without_events(root: Path, stack: AsyncExitStack) -> Source:
    address = await stack.enter_async_context(fileserver.served(root, served="poll"))
    # It waits out the pause between two listings over there, of which it does not tell.
    return fileserver.source_at(address, page_files_max=10, wait_seconds=1.0)


IMPLEMENTATIONS = {
    "directory": _directory,
    "nginx": _nginx,
    "server": _server,
    "server without events": _server_without_events,
}


@pytest.fixture(params=IMPLEMENTATIONS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a source over an empty spool, one for each implementation."""
    (tmp_path / "spool").mkdir()
    async with AsyncExitStack() as stack:
        source = await IMPLEMENTATIONS[request.param](tmp_path, stack)
        stack.push_async_callback(source.close)
        lists_links = request.param == "nginx"
        yield Site(
            source, tmp_path / "spool", tmp_path / "archive", tmp_path / "rejected", lists_links
        )


async def names_of(source: Source, cursor: str = "") -> tuple[list[str], str]:
    """Return the names of the next page, and its cursor, once the source has looked."""
    while (page := await source.list(cursor)).pause_seconds and not page.names:
        cursor = page.cursor
        await asyncio.sleep(page.pause_seconds)
    return [*page.names], page.cursor


async def read_one(source: Source, name: str) -> FileRead:
    """Return one file as it was read."""
    (file,) = await source.read([name], 1)
    return file


async def test_lists_each_file_once_and_oldest_first(site: Site) -> None:
    """Pages follow the names' order, and a file dealt with does not come again."""
    written = [f"2026-11-23T06:15:00.{i:06d}.json" for i in range(25)]
    for name in reversed(written):
        site.write(name)
    listed: list[str] = []
    names, cursor = await names_of(site.source)
    while names:
        listed += names
        names, cursor = await names_of(site.source, cursor)
    assert listed == written


async def test_lists_what_came_after(site: Site) -> None:
    """A file written after the last page is on the next one, also if its name is older."""
    site.write(OTHER)
    names, cursor = await names_of(site.source)
    site.write(NAME)
    assert names == [OTHER]
    assert (await names_of(site.source, cursor))[0] == [NAME]


async def test_the_previous_cursor_lists_the_same_again(site: Site) -> None:
    """A page whose cursor never came back was not dealt with."""
    site.write(NAME)
    _, cursor = await names_of(site.source)
    site.write(OTHER)
    assert (await names_of(site.source, cursor))[0] == [OTHER]
    assert (await names_of(site.source, cursor))[0] == [OTHER]


async def test_an_unknown_cursor_starts_over(site: Site) -> None:
    """A cursor of an earlier life is answered with everything, never with silence."""
    site.write(NAME)
    _, cursor = await names_of(site.source)
    assert (await names_of(site.source, cursor))[0] == []
    assert (await names_of(site.source, "98765"))[0] == [NAME]
    _, cursor = await names_of(site.source, "")
    assert (await names_of(site.source, ""))[0] == [NAME]


async def test_a_name_that_comes_back_is_a_new_file(site: Site) -> None:
    """After archiving, the same name may be written again and is listed again."""
    site.write(NAME)
    _, cursor = await names_of(site.source)
    await site.source.archive([NAME])
    _, cursor = await names_of(site.source, cursor)
    site.write(NAME, b"[]")
    assert (await names_of(site.source, cursor))[0] == [NAME]


async def test_what_is_no_file_is_counted_and_left_alone(site: Site) -> None:
    """Directories, FIFOs, symlinks and other names are not files; drafts are not even counted."""
    site.write(NAME)
    (site.spool / "a.json").mkdir()
    os.mkfifo(site.spool / "b.json")
    (site.spool / "c.json").symlink_to(NAME)
    site.write(".hidden.json")
    site.write("d.json.tmp")
    site.write("e.txt")
    site.write("f\u00e9.json")
    (site.spool / os.fsdecode(b"g\xff.json")).write_bytes(b"{}")
    listed = [NAME, "c.json"] if site.lists_links else [NAME]
    until = time.monotonic() + 20
    while True:  # where events tell of files, the next scan counts what is none
        page = await site.source.list("")
        assert [*page.names] == listed
        if page.ignored == 7 - len(listed) or time.monotonic() > until:
            break
    assert page.ignored == 7 - len(listed)


async def test_tells_when_it_listed(site: Site) -> None:
    """A page tells the monotonic time at which listing began."""
    site.write(NAME, b"12345")
    before = time.monotonic()
    page = await site.source.list("")
    assert page.names
    assert before <= page.listed_at_seconds <= time.monotonic()


async def test_reads_bytes_and_age(site: Site) -> None:
    """A file comes with all its bytes, as they are, and its age."""
    site.write(NAME, b"\xff\x00 bytes\r\n")
    file = await read_one(site.source, NAME)
    assert file.data == b"\xff\x00 bytes\r\n"
    assert file.size_bytes == 10
    assert file.age_seconds is not None
    assert 0 <= file.age_seconds < 60


async def test_reads_up_to_its_bound(site: Site) -> None:
    """Reading stops after the file that passes the bound, and always reads one."""
    wanted = [f"{i}.json" for i in range(4)]
    for name in wanted:
        site.write(name, b"x" * 10)
    assert [file.name for file in await site.source.read(wanted, 11)] == wanted[:2]
    assert [file.name for file in await site.source.read(wanted, 1)] == wanted[:1]
    assert len(await site.source.read(wanted, 1000)) == 4


async def test_a_file_too_large_is_not_read(site: Site) -> None:
    """A file above max_file_bytes comes with its size and no bytes."""
    site.write(NAME, b"x" * 1001)
    file = await read_one(site.source, NAME)
    assert (file.data, file.size_bytes) == (b"", 1001)


@pytest.mark.parametrize(
    "name", ["gone.json", "../spool/a.json", "/etc/passwd", ".hidden.json", "", "a\0b", "a/b.json"]
)
async def test_what_is_not_there_has_vanished(site: Site, name: str) -> None:
    """A missing file, and a name that no listing has, are entries of their own."""
    site.write("a.json")
    site.write(".hidden.json")
    assert (await read_one(site.source, name)).data is Unread.VANISHED


async def test_what_is_no_regular_file_has_vanished(site: Site) -> None:
    """A symlink, a FIFO or a directory put in a file's place is never read, and blocks nobody."""
    (site.spool / "a.json").symlink_to("/etc/passwd")
    os.mkfifo(site.spool / "b.json")
    (site.spool / "c.json").mkdir()
    files = await site.source.read(["a.json", "b.json", "c.json"], 1000)
    link = Unread.DENIED if site.lists_links else Unread.VANISHED
    assert [file.data for file in files] == [link, Unread.VANISHED, Unread.VANISHED]


async def test_archives_by_the_hour_of_the_name(site: Site) -> None:
    """A processed file lies in the archive under its own hour, byte for byte."""
    site.write(NAME, b"kept")
    site.write("1763882100.5.json")
    moved = await site.source.archive([NAME, "1763882100.5.json"])
    assert [(file.error, file.vanished) for file in moved] == [("", False)] * 2
    assert (site.archive / "2026/11/23/06" / NAME).read_bytes() == b"kept"
    assert (site.archive / "2025/11/23/07/1763882100.5.json").exists()
    assert not list(site.spool.glob("[!.]*"))


async def test_archives_by_change_time_where_the_name_has_none(site: Site) -> None:
    """A name without a time stamp goes by the time of its last change."""
    path = site.write("message-7.json")
    os.utime(path, (0, 86_400 * 365))
    await site.source.archive(["message-7.json"])
    assert (site.archive / "1971/01/01/00/message-7.json").exists()


async def test_archiving_is_safe_to_repeat(site: Site) -> None:
    """A file archived before is no error, nor one that was never there."""
    site.write(NAME)
    await site.source.archive([NAME])
    again, gone = await site.source.archive([NAME, OTHER])
    assert (again.error, again.vanished) == ("", False)
    assert (gone.error, gone.vanished) == ("", True)


async def test_what_was_rejected_or_archived_before_has_not_vanished(site: Site) -> None:
    """A ledger that was restored may have rejected what it archives now, or the other way."""
    site.write(NAME)
    site.write(OTHER)
    await site.source.reject({NAME: "{}"})
    await site.source.archive([OTHER])
    archived, gone = await site.source.archive([NAME, "1763882100.5.json"])
    rejected, lost = await site.source.reject({OTHER: "{}", "1763882100.6.json": "{}"})
    assert [file.error for file in (archived, gone, rejected, lost)] == [""] * 4
    assert [archived.vanished, gone.vanished] == [False, True]
    assert [rejected.vanished, lost.vanished] == [False, True]
    assert sorted(path.name for path in site.rejects.iterdir()) == [NAME, f"{NAME}.reason.json"]


async def test_an_equal_file_in_the_archive_means_done(site: Site) -> None:
    """A crash between the two halves of a move leaves equal files: one of them goes."""
    site.write(NAME, b"same")
    await site.source.archive([NAME])
    site.write(NAME, b"same")
    (moved,) = await site.source.archive([NAME])
    assert moved.error == ""
    assert not (site.spool / NAME).exists()


async def test_a_different_file_in_the_archive_is_never_overwritten(site: Site) -> None:
    """Two different files of one name are an error kept in view; both stay where they are."""
    site.write(NAME, b"first")
    await site.source.archive([NAME])
    site.write(NAME, b"other")
    (moved,) = await site.source.archive([NAME])
    assert "exists and differs" in moved.error
    assert (site.archive / "2026/11/23/06" / NAME).read_bytes() == b"first"
    assert (site.spool / NAME).read_bytes() == b"other"


async def test_rejects_beside_their_reason(site: Site) -> None:
    """A rejected file lies in the rejects directory beside NAME.reason.json; repeating is safe."""
    site.write(NAME, b"bad")
    reason = json.dumps({"reason": "no JSON"})
    for _ in range(2):
        (moved,) = await site.source.reject({NAME: reason})
        assert moved.error == ""
    assert (site.rejects / NAME).read_bytes() == b"bad"
    assert json.loads((site.rejects / f"{NAME}.reason.json").read_text())["reason"] == "no JSON"
    assert sorted(path.name for path in site.rejects.iterdir()) == [NAME, f"{NAME}.reason.json"]


async def test_a_vanished_file_leaves_no_reason_behind(site: Site) -> None:
    """Rejecting a file that is not there writes nothing."""
    (moved,) = await site.source.reject({NAME: "{}"})
    assert moved.vanished
    assert not (site.rejects / f"{NAME}.reason.json").exists()


async def test_retention_deletes_only_what_is_old_twice(site: Site) -> None:
    """A file goes when its hour and the time of its archiving are past the retention."""
    site.write("2020-01-01T00:00:00.json")
    site.write("2190-01-01T00:00:00.json")
    await site.source.archive(["2020-01-01T00:00:00.json", "2190-01-01T00:00:00.json"])
    assert await site.source.delete_archived(1) == 0  # archived just now
    assert await site.source.delete_archived(-0.5) == 1  # as seen half a day later
    assert not (site.archive / "2020").exists()
    assert (site.archive / "2190/01/01/00/2190-01-01T00:00:00.json").exists()


async def test_the_longest_name_can_be_rejected(site: Site) -> None:
    """Its reason, and every draft that is made of it, fit the 255 bytes of a name."""
    name = "a" * 235 + ".json"
    site.write(name, b"x")
    (moved,) = await site.source.reject({name: "{}"})
    assert moved.error == ""
    assert (site.rejects / f"{name}.reason.json").read_text() == "{}"


async def test_a_reject_does_not_take_over_the_reason_of_another(site: Site) -> None:
    """Where a different file of that name was rejected before, both files and its reason stay."""
    path = site.write(NAME, b"first")
    await site.source.reject({NAME: '{"reason":"first"}'})
    path.write_text("other")
    (moved,) = await site.source.reject({NAME: '{"reason":"other"}'})
    assert "exists and differs" in moved.error
    assert path.read_text() == "other"
    assert (site.rejects / f"{NAME}.reason.json").read_text() == '{"reason":"first"}'
