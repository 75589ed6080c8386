"""A server that means ill where nginx should be: it leads nowhere, and fills no memory."""

import json
import resource
from collections.abc import AsyncIterator

import pytest

from penstock.errors import Again, Halt
from penstock.model import FileRead, Unread
from penstock.source import nginx_listing as listings
from penstock.source.nginx import NginxSource
from support import malicious_http
from support.malicious_http import DATE, METADATA, MaliciousHttp, reply
from support.nginx import source_at

NAME = "2026-11-23T06:15:00.123456.json"
FILE = f"/spool/{NAME}"


@pytest.fixture
async def server() -> AsyncIterator[MaliciousHttp]:
    """Yield a server that answers as the test says."""
    async with MaliciousHttp() as running:
        yield running


@pytest.fixture
async def source(server: MaliciousHttp) -> AsyncIterator[NginxSource]:
    """Yield a source that takes that server for nginx, with files of up to 1,000 bytes."""
    made = source_at(f"nginx+{server.address}/spool/", "secret-token")
    yield made
    await made.close()


def entry(name: object, **fields: object) -> dict[str, object]:
    """Return one entry of a listing."""
    return {"name": name, "type": "file", "mtime": DATE, "size": 2} | fields


async def read(source: NginxSource) -> FileRead:
    """Return one file as it was read."""
    (file,) = await source.read([NAME], 1)
    return file


async def test_names_that_lead_elsewhere_are_not_files(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """Separators, parents, control characters, schemes, drafts: counted, and never asked for."""
    wrong = [
        "x/../y.json", "/etc/passwd.json", "a/b.json", "a\\b.json", "%2e%2e%2fx.json", "a\n.json",
        "a\x00.json", "a\x1b[31m.json", "a\u202e.json", "http://169.254.169.254/x.json", "a?b.json",
        "a#b.json", "x" * 5000 + ".json", "", " .json", "-rf.json", "a.json.reason.json",
    ]  # fmt: skip
    drafts = ["../x.json", "..", ".x.json", "a.tmp"]  # would be, were they no lie
    body = json.dumps([entry(name) for name in [*wrong, *drafts, NAME]])
    server.answers["/spool/"] = reply(body=body.encode())
    page = await source.list("")
    assert [*page.names] == [NAME]
    assert page.ignored == len(wrong)
    wrong += drafts
    files = await source.read(wrong, 1 << 20)
    assert [file.data for file in files] == [Unread.VANISHED] * len(wrong)
    moved = [*await source.archive(wrong), *await source.reject(dict.fromkeys(wrong, "why"))]
    assert all(file.vanished for file in moved)
    assert [asked.target for asked in server.asked] == ["/spool/"]


@pytest.mark.parametrize(
    "entries",
    [
        [entry(NAME, size=-1)], [entry(NAME, size="2")], [entry(NAME, size=1e400)], [entry(7)],
        [entry(NAME, mtime="yesterday")], [entry(NAME, mtime=None)], [{"name": NAME}], {"a": 1},
        ["x"], 7, None, [["x"]],
    ],
)  # fmt: skip
async def test_a_listing_that_makes_no_sense_is_again(
    server: MaliciousHttp, source: NginxSource, entries: object
) -> None:
    """Wrong types, negative sizes, times that are none: an error of the listing, not a crash."""
    source._settling._settle_seconds = 1.0
    server.answers["/spool/"] = reply(body=json.dumps(entries).encode())
    with pytest.raises(Again):
        await source.list("")


async def test_deep_and_broken_json_is_again(server: MaliciousHttp, source: NginxSource) -> None:
    """A hundred thousand brackets, half a listing, no UTF-8, nothing at all."""
    for body in (b"[" * 100_000, b'[{"name":"a', b"\xff\xfe[", b""):
        server.answers["/spool/"] = reply(body=body)
        with pytest.raises(Again):
            await source.list("")


async def test_a_doubled_name_is_one_file(server: MaliciousHttp, source: NginxSource) -> None:
    """A listing that names a file twice does not have it handed out twice."""
    server.answers["/spool/"] = reply(body=json.dumps([entry(NAME)] * 3).encode())
    assert len((await source.list("")).names) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "to", [METADATA, "//169.254.169.254/", "/spool/other.json", "file:///etc/passwd", ""]
)
async def test_redirects_are_not_followed(
    server: MaliciousHttp, source: NginxSource, status: int, to: str
) -> None:
    """Neither to another host nor to another path, by whatever status: it halts, and says so."""
    server.answers["/spool/"] = server.answers[FILE] = malicious_http.redirect(status, to)
    server.answers[f"/dav{FILE}"] = malicious_http.redirect(status, to)
    for call in (source.list(""), source.read([NAME], 1)):
        with pytest.raises(Halt, match="redirects are not followed"):
            await call
    if status == 301:
        (moved,) = await source.archive([NAME])
        assert "answered 301" in moved.error
    assert {asked.target for asked in server.asked} <= {"/spool/", FILE, f"/dav{FILE}"}


async def test_the_token_goes_to_that_server_only_and_into_no_error(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """It is a header field of each request, never part of an address, and never told."""
    server.answers["/spool/"] = reply(403, body=b"you sent \x1b[2J")
    with pytest.raises(Halt) as caught:
        await source.list("")
    assert "secret-token" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert server.asked[0].headers["authorization"] == "bearer secret-token"
    assert "secret" not in server.asked[0].target


async def test_a_file_announced_too_large_is_not_read(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """Its size is told, and not a byte of it is waited for."""
    server.answers[FILE] = malicious_http.short(b"x", announced=10**12)
    file = await read(source)
    assert (file.data, file.size_bytes) == (b"", 10**12)


async def test_lies_about_lengths_are_again(server: MaliciousHttp, source: NginxSource) -> None:
    """Fewer bytes than announced, a length that is none, two of them, chunks cut off."""
    start = f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\nLast-Modified: {DATE}\r\n".encode()
    for answer in (
        malicious_http.short(b"{}", announced=500),
        malicious_http.raw(start + b"Content-Length: -1\r\n\r\n{}"),
        malicious_http.raw(start + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        malicious_http.raw(start + b"Content-Length: 2x\r\n\r\n{}"),
        malicious_http.raw(start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
        malicious_http.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        malicious_http.raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    ):
        server.answers[FILE] = answer
        with pytest.raises(Again):
            await read(source)


async def test_more_bytes_than_announced_are_not_the_next_reply(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """What follows a body is not taken for the answer to the next request."""
    smuggled = (
        f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\nLast-Modified: {DATE}\r\nContent-Length: 4\r\n\r\nevil"
    )
    start = (
        f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\nLast-Modified: {DATE}\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    server.answers[FILE] = malicious_http.raw((start + smuggled).encode())
    server.answers["/spool/b.json"] = reply(body=b"good")
    assert (await read(source)).data == b"{}"
    (other,) = await source.read(["b.json"], 1)
    assert other.data == b"good"


async def test_a_file_without_its_times_is_again(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """Its age decides whether it may still be written: unknown is not old."""
    for field in ("Date", "Last-Modified"):
        server.answers[FILE] = reply(body=b"{}", headers={field: ""})
        with pytest.raises(Again, match="invalid date"):
            await read(source)


async def test_endless_bodies_end_at_their_bound(
    server: MaliciousHttp, source: NginxSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file at max_file_bytes, a listing at its own bound; then the connection is closed."""
    monkeypatch.setattr(listings, "_BYTES_MAX", 3_000_000)
    server.answers[FILE] = malicious_http.endless()
    with pytest.raises(Again, match="answered more than 1000 bytes"):
        await read(source)
    server.answers["/spool/"] = malicious_http.endless(b"[")
    with pytest.raises(Again, match="answered more than 3000000 bytes"):
        await source.list("")
    assert server.bytes_sent < 50_000_000


async def test_a_gzip_bomb_does_not_go_off(server: MaliciousHttp, source: NginxSource) -> None:
    """150 MB in 150 kB: decompressed as far as a file, or a listing, may go, and no further."""
    server.answers[FILE] = malicious_http.gzip_bomb(500_000)
    server.answers["/spool/"] = malicious_http.gzip_bomb(150_000_000, b"[")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Again, match="answered more than 1000 bytes"):
        await read(source)
    with pytest.raises(Again, match="answered more than 134217728 bytes"):
        await source.list("")
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown_bytes < 400_000_000


async def test_a_listing_of_a_million_files_is_taken(
    server: MaliciousHttp, source: NginxSource
) -> None:
    """As long as it is within its bound, it is a listing, however large; here a tenth of it."""
    lines = ",".join(json.dumps(entry(f"{number:07d}.json")) for number in range(100_000))
    server.answers["/spool/"] = reply(body=f"[{lines}]".encode())
    page = await source.list("")
    assert len(page.names) == 10_000
    assert page.names[0] == "0000000.json"


async def test_a_server_that_says_nothing_is_given_up(server: MaliciousHttp) -> None:
    """A call that brings no answer ends by itself."""
    source = source_at(f"nginx+{server.address}/spool/", "t", timeout_seconds=0.2)
    server.answers[FILE] = malicious_http.silence()
    with pytest.raises(Again, match=r"no answer in 0\.2 s"):
        await source.read([NAME], 1)
    await source.close()
