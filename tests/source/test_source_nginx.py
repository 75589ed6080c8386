"""What is nginx's own: its times, its 500 while files come and go, DAV that is not there, Halts."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import telemetry, wiring
from penstock.errors import Again, Halt
from penstock.model import Unread
from penstock.settings.reading import load
from penstock.source import nginx as module
from penstock.source.http import Reply
from penstock.source.nginx import NginxSource
from support.embedded_nginx import EmbeddedNginx
from support.malicious_http import DATE, MaliciousHttp, reply, short
from support.nginx import nginx_over, source_at
from support.require import require_nginx

NAME = "2026-11-23T06:15:00.123456.json"
OTHER = "message-7.json"

Make = Callable[..., NginxSource]


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[EmbeddedNginx]:
    """Yield a running nginx over tmp_path."""
    require_nginx()
    async with nginx_over(tmp_path) as running:
        yield running


@pytest.fixture
async def make(nginx: EmbeddedNginx) -> AsyncIterator[Make]:
    """Yield a function that makes a source over that nginx, by default with the token to move."""
    made: list[NginxSource] = []

    def new(token: str | None = None, **given: Any) -> NginxSource:
        made.append(source_at(nginx.url, token or nginx.move_token, **given))
        return made[-1]

    yield new
    for source in made:
        await source.close()


@pytest.fixture
async def server() -> AsyncIterator[MaliciousHttp]:
    """Yield a server that answers as it is told."""
    async with MaliciousHttp() as running:
        yield running


def listing(*entries: tuple[str, str]) -> bytes:
    """Return nginx's JSON for files of 2 bytes, each given by its name and its time."""
    return json.dumps(
        [{"name": name, "type": "file", "mtime": mtime, "size": 2} for name, mtime in entries]
    ).encode()


async def names_of(source: NginxSource, cursor: str = "") -> list[str]:
    """Return the names of the next page."""
    return [*(await source.list(cursor)).names]


async def test_a_unsettled_file_is_left_to_its_writer(make: Make, tmp_path: Path) -> None:
    """A file is not listed before its last change is settle_seconds old, by nginx's own clock."""
    (tmp_path / "spool" / NAME).write_text("{}")
    assert await names_of(make(settle_seconds=3600)) == []
    os.utime(tmp_path / "spool" / NAME, (0, time.time() - 3602))
    assert await names_of(make(settle_seconds=3600)) == [NAME]


async def test_times_in_whole_seconds_make_no_file_older(server: MaliciousHttp) -> None:
    """12:00:00 less 11:59:58 may be little more than one second: that is not two."""
    mtimes = {"a.json": "Wed, 25 Nov 2026 11:59:57 GMT", "b.json": "Wed, 25 Nov 2026 11:59:58 GMT"}
    server.answers["/spool/"] = reply(body=listing(*mtimes.items()))
    source = source_at(f"nginx+{server.address}/spool/", "t", settle_seconds=2)
    assert await names_of(source) == ["a.json"]
    await source.close()


async def test_a_clock_that_is_wrong_only_costs_the_settling_time(
    server: MaliciousHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool whose times are ahead of nginx's clock: unchanged that long on ours is enough."""
    server.answers["/spool/"] = reply(body=listing((NAME, "Wed, 25 Nov 2026 13:00:00 GMT")))
    source = source_at(f"nginx+{server.address}/spool/", "t", settle_seconds=5)
    page = await source.list("")
    assert page.names == []
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert await names_of(source, page.cursor) == [NAME]
    await source.close()


async def test_tells_ages_by_the_servers_clock(make: Make, tmp_path: Path) -> None:
    """The age of a file that was read is nginx's Date less its last change."""
    path = tmp_path / "spool" / NAME
    path.write_text("{}")
    os.utime(path, (0, time.time() - 1000))
    (file,) = await make().read([NAME], 1)
    assert 998 <= (file.age_seconds or 0) <= 1002


async def test_asks_again_while_files_vanish_under_the_listing(server: MaliciousHttp) -> None:
    """It answers 500 where a file went while it looked; that is no reason to give a pass up."""
    answers = [reply(500), reply(500), reply(body=listing((NAME, DATE)))]
    server.answers["/spool/"] = lambda: answers.pop(0)()  # noqa: PLW0108  another one each time
    source = source_at(f"nginx+{server.address}/spool/", "t")
    assert await names_of(source) == [NAME]
    assert len(server.asked) == 3
    await source.close()


async def test_a_listing_that_is_cut_off_is_asked_for_again(server: MaliciousHttp) -> None:
    """Nginx drops the connection where a file vanished after its answer had begun."""
    answers = [short(b"[", 100)] * 5 + [reply(body=listing((NAME, DATE)))]
    server.answers["/spool/"] = lambda: answers.pop(0)()  # noqa: PLW0108  another one each time
    source = source_at(f"nginx+{server.address}/spool/", "t")
    assert await names_of(source) == [NAME]
    assert len(server.asked) == 6
    await source.close()


async def test_a_listing_that_is_cut_off_again_and_again_is_said(
    server: MaliciousHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At last it is Again, with where to look."""
    monkeypatch.setattr(module.listings, "_PAUSE_SECONDS", 0.0)
    server.answers["/spool/"] = short(b"[", 100)
    source = source_at(f"nginx+{server.address}/spool/", "t")
    with pytest.raises(Again, match=r"list spool/: .*; nginx's error log says why"):
        await source.list("")
    await source.close()


async def test_a_listing_that_fails_again_and_again_is_said(
    server: MaliciousHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At last it is Again, with where to look."""
    monkeypatch.setattr(module.listings, "_PAUSE_SECONDS", 0.0)
    server.answers["/spool/"] = reply(500)
    source = source_at(f"nginx+{server.address}/spool/", "t")
    with pytest.raises(Again, match="list spool/: nginx answered 500 8 times; its error log"):
        await source.list("")
    await source.close()


async def test_lists_while_files_come_and_go(make: Make, tmp_path: Path) -> None:
    """A producer that renames drafts into the spool does not keep nginx from listing it."""
    spool = tmp_path / "spool"
    for number in range(1000):
        (spool / f"{number:05d}.json").write_text("{}")
    going, renamed = True, 0

    def produce() -> None:
        nonlocal renamed
        while going:
            (spool / "draft.tmp").write_text("{}")
            (spool / "draft.tmp").rename(spool / f"new-{renamed:06d}.json")
            (spool / f"new-{renamed:06d}.json").unlink()
            renamed += 1

    producing = asyncio.create_task(asyncio.to_thread(produce))
    listings = 0
    try:
        while listings < 10 or renamed <= 100:
            page = await make().list("")
            assert len(page.names) >= 1000
            listings += 1
    finally:
        going = False  # or its thread would go on for ever, and the loop wait for it
    await producing


async def test_warns_of_a_directory_too_large_for_nginx(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past 100,000 entries a warning names the file server; once, until they have doubled."""
    warned: list[dict[str, object]] = []
    monkeypatch.setattr(telemetry, "warn", lambda step, **fields: warned.append({step: fields}))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(module, "_ENTRIES_WARNED", 3)
    source = make()
    for number in range(4):
        (tmp_path / "spool" / f"{number}.json").write_text("{}")
    for _ in range(3):
        await source.list("")
    assert len(warned) == 1
    assert "penstock serve" in str(warned)


async def test_reading_holds_no_more_than_its_bound(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many GETs run at once, only so many bodies are held as the bound, and one, allow."""
    wanted = [f"{number:02d}.json" for number in range(30)]
    for name in wanted:
        (tmp_path / "spool" / name).write_bytes(b"x" * 900)
    source, held_bytes = make(), 0
    call = source._site.get

    async def counted(*given: Any, **named: Any) -> Sequence[Reply]:
        nonlocal held_bytes
        replies = await call(*given, **named)
        held_bytes += sum(len(reply.body) for reply in replies)
        return replies

    monkeypatch.setattr(source._site, "get", counted)
    files = await source.read(wanted, 1000)
    assert [file.name for file in files] in (wanted[:1], wanted[:2])
    assert held_bytes <= 1000 + 1000
    rest: list[str] = []
    while len(rest) < 30:
        rest += [file.name for file in await make().read(wanted[len(rest) :], 1000)]
    assert rest == wanted


async def test_files_that_turn_out_large_are_not_all_held(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are asked for together, because those before them were small."""
    small = [f"s{number:03d}.json" for number in range(200)]
    large = [f"t{number:03d}.json" for number in range(60)]
    for name in small:
        (tmp_path / "spool" / name).write_bytes(b"x" * 100)
    for name in large:
        (tmp_path / "spool" / name).write_bytes(b"x" * 10_000)
    source, held_bytes, asked = make(max_file_bytes=10_000), 0, 0
    assert await source.read(small, 20_000)
    call = source._site.get

    async def counted(paths: Sequence[str], **named: Any) -> Sequence[Reply]:
        nonlocal held_bytes, asked
        replies = await call(paths, **named)
        asked += len(paths)
        held_bytes += sum(len(reply.body) for reply in replies)
        return replies

    monkeypatch.setattr(source._site, "get", counted)
    files = await source.read(large, 20_000)
    assert [file.name for file in files] == large[: len(files)]
    assert asked * 10_000 > 2 * 30_000
    assert held_bytes <= 20_000 + 10_000


async def test_small_files_are_asked_for_together_and_large_ones_are_not(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is asked for and not there yet stays below half of what a read may hold."""
    small = [f"s{number:03d}.json" for number in range(200)]
    large = [f"t{number:03d}.json" for number in range(200)]
    for name in small:
        (tmp_path / "spool" / name).write_bytes(b"x" * 100)
    for name in large:
        (tmp_path / "spool" / name).write_bytes(b"x" * 10_000)
    source, asked = make(max_file_bytes=10_000), list[int]()
    call = source._site.get

    async def counted(paths: Sequence[str], **named: Any) -> Sequence[Reply]:
        asked.append(len(paths))
        return await call(paths, **named)

    monkeypatch.setattr(source._site, "get", counted)
    for names, most in ((small, 50), (large, 50), (large, 1)):
        asked.clear()
        read = await source.read(names, 640_000)
        assert max(asked) == most
    assert len(read) == 64
    assert sum(asked) <= 64 + 32


async def test_what_cannot_be_read_keeps_its_neighbours_from_nothing(
    make: Make, tmp_path: Path
) -> None:
    """Gone, a link, a directory, too large: each has its own fate, and all others are read."""
    spool = tmp_path / "spool"
    good = [f"{number:02d}.json" for number in range(60)]
    for name in good:
        (spool / name).write_bytes(b"x" * 10)
    (spool / "link.json").symlink_to(spool / good[0])
    (spool / "d.json").mkdir()
    (spool / "large.json").write_bytes(b"x" * 1001)
    odd = ["gone.json", "link.json", "d.json", "large.json", "../x"]
    wanted = [*good[:40], *odd, *good[40:], *odd]
    fates = [Unread.VANISHED, Unread.DENIED, Unread.VANISHED, b"", Unread.VANISHED]
    source = make()
    for _ in range(2):  # one by one, and together
        files = await source.read(wanted, 1 << 20)
        assert [file.name for file in files] == wanted
        ten = b"x" * 10
        assert [file.data for file in files] == [*[ten] * 40, *fates, *[ten] * 20, *fates]
        assert [file.size_bytes for file in files if file.name == "large.json"] == [1001] * 2


async def test_names_with_all_allowed_characters(make: Make, tmp_path: Path) -> None:
    """Every character that a name may have goes to nginx and comes back, into the archive too."""
    name = "2026-11-23 a.b:c+d,e=f@g~h-i_J.json"
    (tmp_path / "spool" / name).write_text("{}")
    source = make()
    assert await names_of(source) == [name]
    assert (await source.read([name], 1))[0].data == b"{}"
    (moved,) = await source.archive([name])
    assert moved.error == ""
    assert (tmp_path / "archive/2026/11/23/00" / name).exists()
    (tmp_path / "spool" / name).write_text("{}")
    (moved,) = await source.reject({name: "why"})
    assert moved.error == ""
    assert (tmp_path / "rejected" / f"{name}.reason.json").read_text() == "why"


async def test_files_too_large_to_compare_are_not_taken_for_equal(
    make: Make, tmp_path: Path
) -> None:
    """Two files above max_file_bytes of one name: neither is deleted as the copy of the other."""
    source = make()
    path = tmp_path / "spool" / NAME
    path.write_bytes(b"x" * 2000)
    await source.reject({NAME: "too large"})
    path.write_bytes(b"x" * 2000)
    (moved,) = await source.reject({NAME: "too large"})
    assert "exists and differs" in moved.error
    assert path.exists()


async def test_deletes_at_once_if_told_so(make: Make, tmp_path: Path) -> None:
    """With archive.action = "delete" no archive is made."""
    source = make(archive_action="delete")
    (tmp_path / "spool" / NAME).write_text("{}")
    moved = await source.archive([NAME, "gone.json", "../x"])
    assert [(file.error, file.vanished) for file in moved] == [("", False), ("", True), ("", True)]
    assert not (tmp_path / "spool" / NAME).exists()
    assert not (tmp_path / "archive").exists()


async def test_the_token_to_read_does_not_move(
    make: Make, nginx: EmbeddedNginx, tmp_path: Path
) -> None:
    """It lists and reads; to move files is refused, which halts and names the setting."""
    path = tmp_path / "spool" / NAME
    path.write_text("{}")
    source = make(nginx.read_token)
    assert await names_of(source) == [NAME]
    assert (await source.read([NAME], 1))[0].data == b"{}"
    for call in (source.archive([NAME]), source.reject({NAME: ""}), source.delete_archived(1)):
        with pytest.raises(Halt, match=r"answered 401.*source\.token"):
            await call
    assert path.exists()


@pytest.mark.parametrize("action", ["move", "delete"])
async def test_dav_that_is_not_there_is_no_file_that_is_gone(
    server: MaliciousHttp, action: str
) -> None:
    """A configuration without /dav/ answers 404; a file taken for archived would be sent again."""
    server.answers[f"/spool/{NAME}"] = reply(body=b"")
    source = source_at(f"nginx+{server.address}/spool/", "t", archive_action=action)
    with pytest.raises(Halt, match="/dav/: answered 404 for a file that is in the spool"):
        await source.archive([NAME])
    await source.close()


async def test_a_move_that_fails_is_told_per_file(make: Make, tmp_path: Path) -> None:
    """A directory of that name in the archive: the file has its error, and nothing is raised."""
    (tmp_path / "archive/2026/11/23/06" / NAME).mkdir(parents=True)
    (tmp_path / "spool" / NAME).write_text("{}")
    (moved,) = await make().archive([NAME])
    assert "nginx answered 409; its error log says why" in moved.error
    assert (tmp_path / "spool" / NAME).exists()


async def test_retention_goes_by_when_something_last_came(make: Make, tmp_path: Path) -> None:
    """An old backlog archived today is kept: its folder changed today, however old its files."""
    source = make()
    old = tmp_path / "spool" / "2020-01-01T00.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    await source.archive([old.name])
    assert await source.delete_archived(1) == 0
    hour = tmp_path / "archive/2020/01/01/00"
    os.utime(hour, (0, time.time() - 2 * 86_400))
    assert await source.delete_archived(1) == 1
    assert not list(hour.iterdir())
    assert await source.delete_archived(1) == 0
    assert hour.exists(), "it changed just now: it goes when it is old again"
    os.utime(hour, (0, time.time() - 2 * 86_400))
    assert await source.delete_archived(1) == 0
    assert not hour.exists()


async def test_retention_does_not_touch_what_came_meanwhile(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file moved into an old hour while its files are being found and deleted stays."""
    monkeypatch.setattr("penstock.source.nginx_dav._FILES_A_CALL_MAX", 1)
    hour = tmp_path / "archive/2020/01/01/00"
    hour.mkdir(parents=True)
    for number in range(3):
        (hour / f"{number}.json").write_text("{}")
    os.utime(hour, (0, time.time() - 2 * 86_400))
    source = make()
    assert await source.delete_archived(1) == 1
    (tmp_path / "spool" / "2020-01-01T00-late.json").write_text("{}")
    await source.archive(["2020-01-01T00-late.json"])
    assert [await source.delete_archived(1) for _ in range(3)] == [1, 1, 0]
    assert [path.name for path in hour.iterdir()] == ["2020-01-01T00-late.json"]


async def test_a_page_that_is_no_listing_is_said(server: MaliciousHttp) -> None:
    """HTML instead of JSON names the setting and what to turn on."""
    server.answers["/spool/"] = reply(body=b"<html><h1>Index of /spool/</h1>")
    source = source_at(f"nginx+{server.address}/spool/", "t")
    with pytest.raises(Again, match=r"list spool/: .*autoindex_format json"):
        await source.list("")
    await source.close()


async def test_settings_make_the_source(nginx: EmbeddedNginx, tmp_path: Path) -> None:
    """`source.url` and `source.token` are all that it needs; a folder that is a path is refused."""
    (tmp_path / "spool" / NAME).write_text("{}")
    given = {"source": {"url": nginx.url, "token": nginx.read_token, "settle_seconds": 0}}
    async with wiring.AsyncExitStack() as stack:
        source = await wiring.source(load(overrides=given), stack)
        assert isinstance(source, NginxSource)
        assert await names_of(source) == [NAME]
        for folder in ("/srv/archive", "../archive", "spool"):
            wrong = load(overrides=given | {"archive": {"directory": folder}})
            with pytest.raises(Halt, match=r"archive\.directory: .*beside the spool"):
                await wiring.source(wrong, stack)


async def test_a_server_that_is_away_is_again(tmp_path: Path) -> None:
    """Connection refused may work later, and says where it was tried."""
    require_nginx()
    async with nginx_over(tmp_path) as nginx:
        source = source_at(nginx.url, nginx.move_token)
    for call in (source.list(""), source.read([NAME], 1), source.archive([NAME])):
        with pytest.raises(Again, match=nginx.address):
            await call
    await source.close()


async def test_goes_on_after_nginx_was_restarted(tmp_path: Path) -> None:
    """Connections that a restart closed are made anew; nobody has to start the worker again."""
    require_nginx()
    nginx = nginx_over(tmp_path)
    (tmp_path / "spool" / OTHER).write_text("{}")
    await nginx.start()
    url, source = nginx.url, source_at(nginx.url, nginx.move_token)
    assert (await source.read([OTHER], 1))[0].data == b"{}"
    await nginx.stop()
    await nginx.start()
    assert nginx.url == url
    files = await source.read([OTHER, "gone.json"], 100)
    assert [file.data for file in files] == [b"{}", Unread.VANISHED]
    await source.close()
    await nginx.stop()
