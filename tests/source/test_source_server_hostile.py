"""A server that means ill where Penstock's own should be: it leads nowhere, and fills no memory."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Again, Halt
from penstock.model import FileRead, Unread
from penstock.source import frames as wire
from penstock.source.file_server import ServerSource
from support import malicious_http
from support.fileserver import served, source_at
from support.malicious_http import METADATA, Answer, MaliciousHttp, reply

NAME = "2026-11-23T06:15:00.123456.json"
OTHER = "2026-11-23T07:00:00.000001.json"
TOKEN = "the-secret-of-the-client"  # noqa: S105
LIST, READ, ARCHIVE, REJECT, DELETE = (
    "/v1/files", "/v1/files:read", "/v1/files:archive", "/v1/files:reject", "/v1/archive",
)  # fmt: skip
DEEP = b"[" * 100_000


@pytest.fixture
async def server() -> AsyncIterator[MaliciousHttp]:
    """Yield a server that answers as the test says."""
    async with MaliciousHttp() as running:
        yield running


@pytest.fixture
async def source(server: MaliciousHttp) -> AsyncIterator[ServerSource]:
    """Yield a source that takes that server for Penstock's, as if it were on another machine."""
    made = source_at(server.address, TOKEN, page_files_max=100)
    made._encoding = {"Accept-Encoding": "gzip"}
    yield made
    await made.close()


async def call(source: ServerSource, target: str) -> object:
    """Make the call that goes to `target`."""
    calls = {
        LIST: lambda: source.list(""),
        READ: lambda: source.read([NAME], 1 << 20),
        ARCHIVE: lambda: source.archive([NAME]),
        REJECT: lambda: source.reject({NAME: "{}"}),
        DELETE: lambda: source.delete_archived(1.0),
    }
    return await calls[target]()


def listing(*files: object, **fields: object) -> Answer:
    """Answer with a listing; a file given by its name alone has two bytes."""
    entries = [
        {"name": f, "size_bytes": 2, "modified_at_seconds": 1.0} if isinstance(f, str) else f
        for f in files
    ]
    body = {"files": entries, "cursor": "12345678-1", "ignored": 0} | fields
    return reply(body=json.dumps(body).encode())


async def test_names_that_lead_elsewhere_are_not_files(
    server: MaliciousHttp, source: ServerSource
) -> None:
    """Separators, parents, control characters, drafts, reasons: counted, and handed to nobody."""
    wrong = [
        "../x.json", "x/../y.json", "/etc/passwd.json", "a\\b.json", "a\n.json", "a\x00.json",
        "a\x1b[31m.json", "a\u202e.json", "http://169.254.169.254/x.json", "a?b.json", "", "..",
        ".x.json", "a.tmp", "x" * 241, "-rf.json", "a.json.reason.json", "é.json",
    ]  # fmt: skip
    server.answers[LIST] = listing(*wrong, NAME, ignored=3)
    page = await source.list("")
    assert [*page.names] == [NAME]
    assert page.ignored == 3 + len(wrong)


async def test_a_doubled_name_is_one_file(server: MaliciousHttp, source: ServerSource) -> None:
    """A listing that names a file twice does not have it handed out twice."""
    server.answers[LIST] = listing(NAME, NAME, OTHER, NAME)
    assert [*(await source.list("")).names] == [NAME, OTHER]


@pytest.mark.parametrize(
    "answer",
    [
        listing(NAME, cursor=7), listing(NAME, cursor="c" * 5000), listing(NAME, ignored=-1),
        listing({"name": NAME, "size_bytes": -1, "modified_at_seconds": 1.0}),
        listing({"name": NAME, "size_bytes": "2", "modified_at_seconds": 1.0}),
        listing({"name": 7, "size_bytes": 2, "modified_at_seconds": 1.0}), listing(None),
        reply(body=b"{}"), reply(body=b""), reply(body=b"null"), reply(body=b'{"files":['),
        reply(body=b"\xff\xfe{}"), reply(body=DEEP), reply(body=b'{"x":' + DEEP),
    ],
)  # fmt: skip
async def test_a_listing_that_makes_no_sense_is_again(
    server: MaliciousHttp, source: ServerSource, answer: Answer
) -> None:
    """Wrong types, negative sizes, endless cursors, deep JSON: an error of the listing."""
    server.answers[LIST] = answer
    with pytest.raises(Again):
        await source.list("")


@pytest.mark.parametrize("target", [LIST, READ, ARCHIVE, REJECT, DELETE])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_never_followed(
    server: MaliciousHttp, source: ServerSource, target: str, status: int
) -> None:
    """Neither to a metadata address nor to itself; the token goes nowhere else."""
    async with MaliciousHttp() as elsewhere:
        for to in (METADATA, elsewhere.address + target, target + "2"):
            server.answers[target] = malicious_http.redirect(status, to)
            with pytest.raises(Halt, match="redirects are not followed"):
                await call(source, target)
        assert elsewhere.asked == []
    assert {asked.target.partition("?")[0] for asked in server.asked} == {target}
    assert len(server.asked) == 3
    assert all(TOKEN not in asked.target for asked in server.asked)


@pytest.mark.parametrize("target", [LIST, READ, ARCHIVE, REJECT, DELETE])
@pytest.mark.parametrize(
    "answer",
    [
        malicious_http.endless(), malicious_http.gzip_bomb(200 << 20),
        malicious_http.gzip_bomb(200 << 20, b'{"files":['), malicious_http.short(b"[", 5),
        reply(body=b"x", headers={"Content-Encoding": "br"}),
        reply(body=b"x", headers={"Content-Encoding": "deflate, gzip"}),
        reply(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
        reply(body=gzip.compress(b"{}")[:-9], headers={"Content-Encoding": "gzip"}),
        reply(body=gzip.compress(b"{}") + b"more", headers={"Content-Encoding": "gzip"}),
        reply(body=zlib.compress(b"{}"), headers={"Content-Encoding": "gzip"}),
        reply(body=DEEP), reply(body=b'{"x":' + DEEP), reply(body=b""), reply(body=b"\x00" * 999),
        malicious_http.raw(b"SSH-2.0-OpenSSH_9\r\n\r\n"),
        malicious_http.raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx"),
        malicious_http.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        malicious_http.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        reply(500, b"oops"), reply(503), reply(429), reply(408),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_again(
    server: MaliciousHttp, source: ServerSource, target: str, answer: Answer
) -> None:
    """Endless, swollen, cut off, in a wrong encoding, not HTTP: the call may be made again."""
    server.answers[target] = answer
    with pytest.raises(Again):
        await call(source, target)
    assert server.bytes_sent < 32 << 20


async def test_nothing_is_compressed_unasked(server: MaliciousHttp) -> None:
    """On one machine pressing costs more than it saves, and aiohttp would ask for it by itself."""
    server.answers[LIST] = listing(NAME)
    source = source_at(server.address)
    await source.list("")
    await source.close()
    assert "accept-encoding" not in server.asked[0].headers


async def test_a_gzip_bomb_does_not_go_off(server: MaliciousHttp, source: ServerSource) -> None:
    """200 MB in 200 kB: decompressed as far as a listing may go, and no further."""
    server.answers[LIST] = malicious_http.gzip_bomb(200 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Again, match="answered more than"):
            await source.list("")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


async def test_what_follows_a_gzip_stream_is_not_hoarded(
    server: MaliciousHttp, source: ServerSource
) -> None:
    """An endless body behind a complete one ends the call at once."""
    start = malicious_http.endless(gzip.compress(b"{}"))

    async def answer() -> AsyncIterator[bytes]:
        async for part in start():
            head = b"Transfer-Encoding: chunked\r\n"
            yield part.replace(head, head + b"Content-Encoding: gzip\r\n")

    server.answers[LIST] = answer
    with pytest.raises(Again, match="followed by"):
        await source.list("")
    assert server.bytes_sent < 32 << 20


async def test_silence_is_again_in_time(server: MaliciousHttp, source: ServerSource) -> None:
    """A server that takes the call and says nothing is given up."""
    source._site._timeout_seconds = 0.2
    server.answers[READ] = malicious_http.silence()
    with pytest.raises(Again, match="no answer in"):
        await source.read([NAME], 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 415, 418, 201, 204, 206])
async def test_a_refusal_halts_and_shows_no_token(
    server: MaliciousHttp, source: ServerSource, status: int
) -> None:
    """Somebody has to mend it; what the server wrote is quoted only if it is plain text."""
    server.answers[LIST] = reply(status, b"" if status == 204 else b"\x1b[2Jgone")
    with pytest.raises(Halt) as refused:
        await source.list("")
    assert str(status) in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert TOKEN not in str(refused.value)


def frame(*entries: object, data: bytes = b"", digits: str = "") -> bytes:
    """Return a frame whose index says what the test wants."""
    index = json.dumps(entries).encode()
    return (digits or f"{len(index):08x}").encode() + index + data


def of(name: str = NAME, length: object = 2, **fields: object) -> dict[str, object]:
    """Return an entry of an index."""
    return {"name": name, "length_bytes": length, "size_bytes": length, "age_seconds": 1} | fields


LIES = {
    "longer than the body": frame(of(length=3), data=b"{}"),
    "shorter than the body": frame(of(length=1), data=b"{}"),
    "negative": frame(of(length=-1), data=b""),
    "negative and made up for": frame(of(length=4), of(OTHER, length=-2), data=b"{}"),
    "huge": frame(of(length=1 << 62), data=b"{}"),
    "huger": frame(of(length=1 << 80), data=b"{}"),
    "a fraction": frame(of(length=1.5), data=b"{}"),
    "text": frame(of(length="2"), data=b"{}"),
    "a name not asked for": frame(of("x.json"), data=b"{}"),
    "the second first": frame(of(OTHER), of(NAME), data=b"{}{}"),
    "one twice": frame(of(), of(), data=b"{}{}"),
    "one too many": frame(of(), of(OTHER), of("x.json"), data=b"{}{}{}"),
    "nothing at all": frame(),
    "an index of no list": b"00000002{}",
    "another size than its bytes": frame(of(size_bytes=1), data=b"{}"),
    "smaller than it was": frame(of(size_bytes=3), data=b"{}"),
    "unread, with bytes": frame(of(unread="vanished"), data=b"{}"),
    "unread for a reason unknown": frame(of(length=0, unread="lost")),
    "a negative size": frame(of(length=0, size_bytes=-1)),
    "no digits": frame(of(), data=b"{}", digits="xxxxxxxx"),
    "digits with a sign": frame(of(), data=b"{}", digits=f"+{len(json.dumps([of()])):07x}"),
    "digits beyond the end": frame(of(), data=b"{}", digits="ffffffff"),
    "no index": b"00000000",
    "too short": b"0000",
    "empty": b"",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_frame_that_lies_is_again(
    server: MaliciousHttp, source: ServerSource, lie: str
) -> None:
    """Lengths, names, order, sizes: what does not fit together gives nobody any bytes."""
    server.answers[READ] = reply(body=LIES[lie])
    with pytest.raises(Again, match="not a frame"):
        await source.read([NAME, OTHER], 1 << 20)


async def test_a_file_too_large_for_the_worker_alone_stops_no_other(tmp_path: Path) -> None:
    """It comes without its bytes, and is rejected for its size; the others come as they are.

    Its bytes would not fit what the worker takes of an answer: the whole claim would stay at Again.
    """
    async with served(tmp_path, max_file_bytes=10_000_000) as address:
        (tmp_path / "spool" / NAME).write_bytes(b"x" * 5_000_000)
        (tmp_path / "spool" / OTHER).write_bytes(b"{}")
        source = source_at(address, max_file_bytes=1000)
        (large,) = await source.read([NAME, OTHER], 1 << 20)
        (small,) = await source.read([OTHER], 1 << 20)
        await source.close()
    assert (large.data, large.size_bytes) == (b"", 5_000_000)
    assert small.data == b"{}"


async def test_a_file_too_large_for_the_server_alone_is_not_an_empty_one(
    server: MaliciousHttp, source: ServerSource
) -> None:
    """Its bytes did not come: were it taken for empty, it would be processed, and lost."""
    server.answers[READ] = reply(body=frame(of(length=0, size_bytes=900)))
    (file,) = await source.read([NAME], 1 << 20)
    assert file.data is Unread.DENIED
    assert "decode.max_file_bytes" in file.detail
    server.answers[READ] = reply(body=frame(of(length=0, size_bytes=1001)))
    assert await source.read([NAME], 1) == [FileRead(NAME, b"", 1001, 1.0)]


@pytest.mark.parametrize("target", [ARCHIVE, REJECT])
@pytest.mark.parametrize(
    "results", [[], [{"name": OTHER}], [{"name": NAME}] * 2, [{"name": NAME, "vanished": 1}], None]
)
async def test_results_for_other_names_are_again(
    server: MaliciousHttp, source: ServerSource, target: str, results: object
) -> None:
    """A file counts as moved only if the answer says so of it."""
    server.answers[target] = reply(body=json.dumps({"results": results}).encode())
    with pytest.raises(Again):
        await call(source, target)


@st.composite
def batches(draw: st.DrawFn) -> list[FileRead]:
    """Return files as they were read."""
    files: list[FileRead] = []
    for i in range(draw(st.integers(1, 5))):
        data = draw(st.binary(max_size=50) | st.sampled_from(Unread))
        if isinstance(data, bytes):
            age_seconds = draw(st.floats(0, 1e9, allow_nan=False))
            files.append(FileRead(f"{i}.json", data, len(data), age_seconds))
        else:
            files.append(FileRead(f"{i}.json", data, 0, 0.0, draw(st.text())))
    return files


@given(batches(), st.integers(0, 3))
def test_a_frame_comes_back_as_it_was(files: list[FileRead], more: int) -> None:
    """What was read is what arrives, for the front of the names that were asked for."""
    wanted = [file.name for file in files] + ["later.json"] * more
    assert wire.unframed(b"".join(wire.framed(files)), wanted) == files


@given(batches(), st.data())
def test_no_part_of_a_frame_passes_for_one(files: list[FileRead], data: st.DataObject) -> None:
    """Cut off anywhere, or with something behind it, it is Again."""
    whole = b"".join(wire.framed(files))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"x", whole[1:], b"0" + whole):
        with pytest.raises(Again):
            wire.unframed(wrong, [file.name for file in files])


@given(batches(), st.data())
def test_a_damaged_index_gives_no_wrong_bytes(files: list[FileRead], data: st.DataObject) -> None:
    """Whatever byte of the digits or the index is changed: Again, or each file's own bytes.

    The bytes themselves are guarded by TCP, TLS and gzip, each with sums of its own.
    """
    whole = bytearray(b"".join(wire.framed(files)))
    begin = wire._DIGITS + int(whole[: wire._DIGITS], 16)
    at = data.draw(st.integers(0, begin - 1))
    whole[at] = data.draw(st.integers(0, 255))
    try:
        came = wire.unframed(bytes(whole), [file.name for file in files])
    except Again:
        return
    for file, original in zip(came, files, strict=True):
        assert file.name == original.name
        if isinstance(file.data, bytes):
            assert file.data == (original.data if isinstance(original.data, bytes) else b"")
