"""The file server against callers who mean ill: names, tokens, bodies, and connections."""

import asyncio
import contextlib
import gzip
import hmac
import json
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web as aio

from penstock import telemetry
from penstock.serve import file_server, guard, web
from penstock.serve.guard import Access
from penstock.settings.schema import ServeSettings
from penstock.source.directory import DirectorySource
from penstock.source.marker import MARKER
from support import raw_http
from support.fileserver import NEW_TOKEN, READ_TOKEN, TOKEN, served
from support.raw_http import RawReply
from support.traversal import spellings

NAME = "2026-11-23T06:15:00.123456.json"
DATA = b'{"a":1}'
SECRET = b"nobody outside may read this"
FILE = f"/v1/files/{NAME}"
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
READ, ARCHIVE, REJECT = "/v1/files:read", "/v1/files:archive", "/v1/files:reject"


class Site:
    """A running server with one file in its spool and a secret beside it."""

    def __init__(self, root: Path, address: str) -> None:
        self.root = root
        self.spool = root / "spool"
        self.address = address
        (self.spool / NAME).write_bytes(DATA)
        (root / "secret.json").write_bytes(SECRET)

    async def ask(
        self,
        target: str | bytes,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> RawReply:
        """Ask with the token."""
        fields = BEARER | dict(headers or {})
        return await raw_http.ask(self.address, target, method=method, headers=fields, body=body)

    async def post(self, target: str, question: object) -> RawReply:
        """Ask with a body in JSON."""
        body = question if isinstance(question, bytes) else json.dumps(question).encode()
        return await self.ask(target, "POST", headers=JSON, body=body)

    async def lines(self, *lines: str) -> bytes:
        """Send a whole request by its lines; return all that comes back."""
        return await raw_http.exchange(self.address, ("\r\n".join(lines) + "\r\n\r\n").encode())

    def files(self) -> dict[str, bytes]:
        """Return all that lies anywhere below the root, but for the marker of the spool."""
        found = [p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink()]
        return {str(path): path.read_bytes() for path in found if path.name != MARKER}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a server with two tokens."""
    async with served(tmp_path, tokens=f"{TOKEN} {NEW_TOKEN}") as address:
        yield Site(tmp_path, address)


async def test_no_spelling_leads_out(site: Site) -> None:
    """Over a thousand ways to write `../secret.json` in a path: none shows a secret."""
    before = site.files()
    wishes = spellings(str(site.root / "secret.json").lstrip("/"))
    assert len(wishes) > 500
    for wish in wishes:
        for prefix in ("/v1/files/", "/"):
            reply = await site.ask(prefix + wish)
            assert reply.status in {400, 404}, wish
            assert SECRET not in reply.body
    assert site.files() == before


async def test_no_name_in_a_body_leads_out(site: Site) -> None:
    """The same spellings, raw and decoded, as names to read, archive and reject: vanished all."""
    before = site.files()
    wishes = spellings(str(site.root / "secret.json").lstrip("/"))
    decoded = [unquote(unquote(wish, "latin-1"), "latin-1") for wish in wishes]
    other = ["", ".", "..", "/", "\x00", f"{NAME}\x00", f"{NAME}/", f"./{NAME}", f"{NAME}\n",
             str(site.spool / NAME), "é", "\u202e", "a" * 241, ".hidden", "a.tmp", "-rf",
             f"{NAME}.reason.json"]  # fmt: skip
    names = [*dict.fromkeys([*wishes, *decoded, *other])]
    for at in range(0, len(names), 1000):
        part = names[at : at + 1000]
        reply = await site.post(READ, {"names": part, "bytes_max": 1 << 20})
        assert reply.status == 200
        digits = int(reply.body[:8], 16)
        entries = json.loads(reply.body[8 : 8 + digits])
        assert [entry["unread"] for entry in entries] == ["vanished"] * len(part)
        assert len(reply.body) == 8 + digits
        for target, body in (
            (ARCHIVE, {"names": part}),
            (REJECT, {"reasons": dict.fromkeys(part, "{}")}),
        ):
            results = json.loads((await site.post(target, body)).body)["results"]
            assert [result["vanished"] for result in results] == [True] * len(part)
    assert site.files() == before


async def test_what_is_no_regular_file_is_not_there(site: Site) -> None:
    """Links, a FIFO, a socket, a device, a folder: one and the same 404, and nobody waits."""
    spool = site.spool
    (spool / "link.json").symlink_to(site.root / "secret.json")
    (spool / "far.json").symlink_to("/etc/passwd")
    (spool / "loop.json").symlink_to("loop.json")
    (spool / "dead.json").symlink_to("nowhere")
    (spool / "folder.json").mkdir()
    os.mkfifo(spool / "fifo.json")
    with contextlib.suppress(PermissionError):
        os.mknod(spool / "device.json", 0o020666, os.makedev(1, 5))  # /dev/zero
    with socket.socket(socket.AF_UNIX) as bound:
        folder = os.open(spool, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{folder}/socket.json")
        os.close(folder)
        missing = await site.ask("/v1/files/missing.json")
        assert missing.status == 404
        names = sorted(path.name for path in spool.glob("[!.]*") if path.name != NAME)
        for name in names:
            reply = await asyncio.wait_for(site.ask(f"/v1/files/{name}"), 10)
            assert (reply.status, reply.body) == (404, missing.body), name
        reply = await site.post(READ, {"names": names, "bytes_max": 1})
        assert reply.body.count(b'"unread":"vanished"') == len(names)
        assert b"root:" not in reply.body
        assert [f["name"] for f in json.loads((await site.ask("/v1/files")).body)["files"]] == [
            NAME
        ]


async def test_a_link_swapped_in_during_reads_is_not_followed(site: Site) -> None:
    """A thread swaps file and link to and fro: the file, or nothing, never what the link names."""
    path, over = site.spool / NAME, threading.Event()

    def swap() -> None:
        link, file = path.with_name(".l"), path.with_name(".f")
        while not over.is_set():
            link.symlink_to(site.root / "secret.json")
            link.replace(path)
            file.write_bytes(DATA)
            time.sleep(0.0005)
            file.replace(path)
            time.sleep(0.0005)

    swapping = threading.Thread(target=swap)
    swapping.start()
    statuses: set[int] = set()
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until and statuses != {200, 404}:
            reply = await site.ask(FILE)
            statuses.add(reply.status)
            assert reply.body == DATA or reply.status == 404
        for _ in range(50):
            reply = await site.post(READ, {"names": [NAME], "bytes_max": 1})
            assert SECRET not in reply.body
    finally:
        over.set()
        swapping.join()
    assert statuses == {200, 404}


async def test_nobody_gets_in_without_a_token(site: Site) -> None:
    """Wrong, empty, cut, doubled, by another scheme, in the URL: 401, and nothing is done."""
    before = site.files()
    wrong = [
        "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Token {TOKEN}",
        f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", f"Bearer {TOKEN.upper()}", f"Bearer{TOKEN}",
        f"Bearer {TOKEN},Bearer {TOKEN}", f"Bearer {TOKEN} {NEW_TOKEN}", f"Bearer Bearer {TOKEN}",
        f'Bearer "{TOKEN}"', "Bearer \u00ff", f"Bearer {TOKEN}{NEW_TOKEN}",
    ]  # fmt: skip
    calls = [("GET", "/v1/files"), ("GET", FILE), ("POST", READ), ("POST", ARCHIVE),
             ("POST", REJECT), ("DELETE", "/v1/archive"), ("GET", "/v1/openapi.json"),
             ("GET", "/nothing"), ("HEAD", FILE)]  # fmt: skip
    for method, target in calls:
        for value in wrong:
            headers = {"Authorization": value} if value else {}
            reply = await raw_http.ask(site.address, target, method=method, headers=headers)
            assert reply.status == 401, (method, target, value)
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN.encode() not in reply.body
    for query in (f"?token={TOKEN}", f"?access_token={TOKEN}", f"?Authorization=Bearer+{TOKEN}"):
        assert (await raw_http.ask(site.address, FILE + query)).status == 401
    for headers in ({"Cookie": f"token={TOKEN}"}, {"Proxy-Authorization": f"Bearer {TOKEN}"}):
        assert (await raw_http.ask(site.address, FILE, headers=headers)).status == 401
    host = site.address.removeprefix("http://")
    assert (await raw_http.ask(site.address, f"http://{TOKEN}@{host}{FILE}")).status in {400, 401}
    assert site.files() == before


async def test_only_health_is_for_everybody(site: Site) -> None:
    """No spelling of its path opens another one."""
    assert (await raw_http.ask(site.address, "/healthz")).status == 200
    for target in (
        "/healthz/../v1/files", "/v1/files/../../healthz", "//healthz", "/healthz/", "/healthz%2f",
        "/healthz;/v1/files", "/HEALTHZ", "/v1/files?/healthz", "/v1/files#/healthz",
        "/healthz%00", "/./healthz", "/healthz%3f",
    ):  # fmt: skip
        reply = await raw_http.ask(site.address, target)
        assert reply.status in {400, 401} or reply.body == b'{"status":"ok"}', target


async def test_two_authorizations_are_refused(site: Site) -> None:
    """Not the first nor the last of them counts, even if both are right."""
    for second in (TOKEN, NEW_TOKEN, "wrong"):
        raw = await site.lines(
            f"GET {FILE} HTTP/1.1", "Host: localhost", "Connection: close",
            f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {second}",
        )  # fmt: skip
        assert raw_http.parsed(raw).status in {400, 401}


async def test_two_tokens_are_good_while_callers_change_over(site: Site) -> None:
    """The old one and the new one; the scheme's letters may be of any size."""
    for value in (f"Bearer {TOKEN}", f"Bearer {NEW_TOKEN}", f"bearer {NEW_TOKEN}"):
        reply = await raw_http.ask(site.address, FILE, headers={"Authorization": value})
        assert (reply.status, reply.body) == (200, DATA)


async def test_tokens_are_compared_in_constant_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, by the library's own comparison, whatever the first comparison says."""
    compared: list[object] = []
    compare = hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", noting)
    await site.ask(FILE)
    assert compared[:3] == [t.encode() for t in (TOKEN, NEW_TOKEN, READ_TOKEN)]
    assert len(compared) == 6  # and the two halves of each, as a browser has them


async def test_bodies_are_bounded_and_plain(site: Site) -> None:
    """Too large: 413, announced or not; compressed, of another type, no JSON: refused."""
    before = site.files()
    large = {**JSON, "Content-Length": str(1 << 30)}
    assert (await site.ask(READ, "POST", headers=large, body=b"x")).status in {0, 413, 400, 408}
    assert (await site.post(READ, b" " * (17 << 20))).status == 413
    for target in (READ, ARCHIVE):  # a thousand names need no more
        assert (await site.post(target, b" " * 256_001)).status == 413
    assert (await site.post(REJECT, b'{"reasons":{' + b" " * 256_001)).status == 400
    body = json.dumps({"names": [NAME]}).encode()
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "x"):
        headers = JSON | {"Content-Encoding": encoding}
        reply = await site.ask(ARCHIVE, "POST", headers=headers, body=gzip.compress(body))
        assert reply.status == 415, encoding
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind} if kind else {}
        assert (await site.ask(ARCHIVE, "POST", headers=headers, body=body)).status == 415
    assert site.files() == before


WRONG = [
    b"", b"null", b"[]", b"{}", b"\xff", b'{"names":', b'{"names":[]}', b'{"names":[1]}',
    b'{"names":"a"}', b'{"names":null}', b"[" * 100_000, b'{"x":' + b"[" * 100_000,
    b'{"names":["\\ud800"]}', b'{"names":["a","a"],"bytes_max":1}',
    b'{"names":["a"],"bytes_max":0}', b'{"names":["a"],"bytes_max":-1}',
    b'{"names":["a"],"bytes_max":1e99}', b'{"names":["a"],"bytes_max":' + b"9" * 5000 + b"}",
    json.dumps({"names": [str(i) for i in range(1001)], "bytes_max": 1}).encode(),
    b'{"reasons":{}}', b'{"reasons":{"a":"x"}}', b'{"reasons":{"a":"[]"}}', b'{"reasons":{"a":1}}',
    b'{"reasons":{"a":"\\ud800"}}', b'{"reasons":{"a":"{\\"x\\":\\"\\\\ud800\\"}"}}',
    json.dumps({"reasons": {"a": '{"x":' + "[" * 100_000}}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("target", [READ, ARCHIVE, REJECT])
async def test_a_question_that_makes_no_sense_is_400(site: Site, target: str) -> None:
    """Wrong types, counts, numbers, depths, half characters: the caller's mistake, no crash."""
    before = site.files()
    for body in WRONG:
        reply = await site.post(target, body)
        fine = target == ARCHIVE and b'["a"],"bytes' in body  # which it does not look at
        assert reply.status == 400 or (fine and reply.status == 200), body[:60]
    assert site.files() == before


async def test_queries_are_bounded(site: Site) -> None:
    """Numbers out of range, words, doubled or unknown names: 400, and no wait."""
    for query in (
        "limit=0", "limit=10001", "limit=-1", "limit=1.5", "limit=x", "limit=", "limit=1e3",
        "limit=%D9%A1", "limit=" + "9" * 5000, "wait=31", "wait=-1", "wait=nan", "wait=inf",
        "wait=1e1", "wait=", "limit=1&limit=2", "x=1", "after=a&after=b", "token=x",
    ):  # fmt: skip
        assert (await site.ask(f"/v1/files?{query}")).status == 400, query
    for before in (
        "", "x", "2026-11-25", "2026-11-25T12:00:00", "0", "-1", "nan", "9" * 400,
        "2026-13-01T00:00:00Z", "2026-11-25T12:00:00Z&before=2026-11-25T12:00:00Z",
    ):  # fmt: skip
        assert (await site.ask(f"/v1/archive?before={before}", "DELETE")).status == 400, before
    for edge in (
        "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z",
    ):  # fmt: skip
        assert (await site.ask(f"/v1/archive?before={edge}", "DELETE")).status == 200, edge


@pytest.mark.parametrize(
    "cursor",
    ["x", "0-0", "ffffffff-1", "-1", "%00", "../x", "a" * 5000, "12345678-" + "9" * 18, "%ff"],
)
async def test_a_cursor_of_anyone_starts_over(site: Site, cursor: str) -> None:
    """Unknown, forged, absurd: all files from the beginning, never silence."""
    assert (await site.ask("/v1/files")).status == 200
    reply = await site.ask(f"/v1/files?after={cursor}")
    assert [file["name"] for file in json.loads(reply.body)["files"]] == [NAME]


async def test_a_forged_place_starts_over(site: Site) -> None:
    """The right epoch with a place that nobody was given."""
    cursor = json.loads((await site.ask("/v1/files")).body)["cursor"]
    forged = cursor.rpartition("-")[0] + "-999999999"
    reply = await site.ask(f"/v1/files?after={forged}")
    assert len(json.loads(reply.body)["files"]) == 1


async def test_headers_are_bounded(site: Site) -> None:
    """Long addresses, large and many fields, broken ones: 4xx, and nothing told of versions."""
    many = {f"X-{number}": "a" for number in range(500)}
    for reply in (
        await site.ask("/v1/files/" + "a" * 20_000),
        await site.ask(FILE, headers={"X-Large": "a" * 20_000}),
        await site.ask(FILE, headers=many),
        await site.ask(FILE, headers={"X": "a\x00b"}),
        raw_http.parsed(await site.lines(f"GET {FILE} HTTP/9.9", "Host: localhost")),
        raw_http.parsed(await site.lines("\x16\x03\x01 not http")),
    ):
        assert 400 <= reply.status < 500
        assert reply.headers.get("Server") == "penstock"
        assert b"Traceback" not in reply.body


async def test_a_broken_request_with_a_token_leaves_none_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in the answer: what does not parse is quoted to nobody."""
    with caplog.at_level(logging.DEBUG):
        for lines in (
            ("Host: localhost", f"Authorization: Bearer {TOKEN}\x00"),
            ("Host: localhost", f"Authorization : Bearer {TOKEN}"),
            ("Host: localhost", f"Authorization: Bearer {TOKEN}\x01", "Content-Length: -1"),
        ):
            raw = await site.lines(f"GET {FILE} HTTP/1.1", *lines)
            assert TOKEN.encode() not in raw
    assert TOKEN not in caplog.text


async def test_the_access_log_is_a_line_a_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, too: no path forges a line of the log, or has it in red."""
    log = telemetry.LOG
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(log, name, getattr(log, name))
    monkeypatch.setattr(log, "handlers", [])
    telemetry.configure(verbose=False, as_json=False)
    app = web.application(Access())
    async with web.serving(app, ServeSettings(listen="127.0.0.1:0", access_log=True)) as address:
        await raw_http.ask(address, "/a%0a12:00:00%20claim.committed%1b[31m%0d%c2%9b31m")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "http.request" in said
    assert said[:-1].isprintable()


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    """Hundreds at once on one connection: one answer each, and a bad one harms no other."""
    one = f"GET {FILE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    bare = f"GET {FILE} HTTP/1.1\r\nHost: localhost\r\n"
    requests = (one + "\r\n" + bare + "\r\n") * 150 + one + "Connection: close\r\n\r\n"
    host, _, port = site.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(requests.encode())
    raw = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    statuses = [part[:3] for part in raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"401"] * 150 + [b"200"]


async def test_ambiguous_lengths_are_refused(site: Site) -> None:
    """What a proxy before us might read otherwise ends the connection."""
    body = "0\r\n\r\nGET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lengths in (
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
    ):
        lines = [f"POST {READ} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}",
                 "Content-Type: application/json", *lengths]  # fmt: skip
        raw = await raw_http.exchange(
            site.address, ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        )
        assert raw_http.parsed(raw).status in {0, 400}, lengths
        assert raw.count(b"HTTP/1.1 ") <= 1


async def test_an_answer_to_head_has_no_body(site: Site) -> None:
    """On a connection that goes on, a body there would be taken for the next answer."""
    for target in ("/v1/files", FILE, "/healthz", "/v1/openapi.json"):
        host, _, port = site.address.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"HEAD {target} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}",
                 "Connection: close"]  # fmt: skip
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        raw = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert raw.startswith((b"HTTP/1.1 200", b"HTTP/1.1 405")), target
        assert raw.partition(b"\r\n\r\n")[2] == b"", target


CONDITIONS = (
    "Range: bytes=0-0", "Range: bytes=-2", "Range: bytes=-0", "Range: bytes=5-2",
    "Range: bytes=0-" + "9" * 5000, "Range: bytes=" + ",".join(["0-"] * 500),
    "Range: lines=0-1", "Range: bytes=\u0661-", "If-None-Match: *", 'If-None-Match: "x"',
    'If-Match: "x"', "If-Match: garbage", 'If-Range: "x"',
)  # fmt: skip


@pytest.mark.parametrize("asked", CONDITIONS)
async def test_a_file_comes_whole_whatever_part_is_asked_for(site: Site, asked: str) -> None:
    """A server may pass over ranges and conditions (RFC 9110): no caller of ours has any."""
    lines = [f"GET {FILE} HTTP/1.1", "Host: localhost", "Connection: close", asked,
             *(f"{name}: {value}" for name, value in BEARER.items())]  # fmt: skip
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    reply = raw_http.parsed(await raw_http.exchange(site.address, head))
    assert (reply.status, reply.body) == (200, DATA)


@contextlib.asynccontextmanager
async def quick_app(root: Path, idle_seconds: float) -> AsyncGenerator[str]:
    """Serve with a short time for idle connections."""
    (root / "spool").mkdir()
    source = DirectorySource(
        root / "spool", pattern=r".*\.json", settle_seconds=0.0, max_file_bytes=64 << 20,
        archive_directory=root / "archive", rejects_directory=root / "rejected",
    )  # fmt: skip
    app = file_server.new_app(source, Access((TOKEN,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "_IDLE_SECONDS", idle_seconds)
        async with web.serving(app, ServeSettings(listen="127.0.0.1:0")) as address:
            yield address


async def _closed_after(address: str, start: bytes, drip: bytes = b"") -> float:
    """Return after how many seconds the server closes a connection that sends so little."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    began = time.monotonic()
    writer.write(start)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(TimeoutError):
                while await asyncio.wait_for(reader.read(65_536), 0.1):
                    pass
                break
            if drip:
                writer.write(drip)
    writer.close()
    return time.monotonic() - began


async def test_a_request_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    """Slow-loris: nothing, half a line, a field now and then, also behind a whole request."""
    whole = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET {FILE} HTTP/1.1\r\n".encode()
    async with quick_app(tmp_path, idle_seconds=0.6) as address:
        for start, drip in ((b"", b""), (b"GET /v1", b""), (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
                            (whole, b"X: y\r\n")):  # fmt: skip
            with contextlib.suppress(ConnectionError):
                assert await _closed_after(address, start, drip) < 15


async def test_a_body_that_does_not_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow body is 408, an endless one in chunks 413; other callers are served meanwhile."""
    monkeypatch.setattr(file_server, "_BODY_SECONDS", 0.5)
    head = [f"POST {READ} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}",
            "Content-Type: application/json", "Connection: close"]  # fmt: skip
    slow = "\r\n".join([*head, "Content-Length: 99", "", "{"]).encode()
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    endless = "\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode()
    async with quick_app(tmp_path, idle_seconds=5) as address:
        slowly = asyncio.create_task(raw_http.exchange(address, slow))
        assert (await raw_http.ask(address, "/healthz")).status == 200
        assert raw_http.parsed(await slowly).status == 408
        monkeypatch.setattr(file_server, "_BODY_SECONDS", 30)
        raw = await raw_http.exchange(address, endless + chunk * 20)
        assert raw_http.parsed(raw).status in {0, 413}


async def test_who_does_not_take_a_frame_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And while frames wait to be taken, no more of them are put together than fit."""
    monkeypatch.setattr(file_server, "_SEND_SECONDS", 2.0)
    monkeypatch.setattr(file_server, "_FRAMES_BYTES_MAX", 40 << 20)
    async with quick_app(tmp_path, idle_seconds=60) as address:
        (tmp_path / "spool" / NAME).write_bytes(b"x" * (30 << 20))
        body = json.dumps({"names": [NAME], "bytes_max": 1}).encode()
        head = [
            f"POST {READ} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}",
            "Content-Type: application/json", f"Content-Length: {len(body)}", "", "",
        ]  # fmt: skip
        host, _, port = address.removeprefix("http://").partition(":")
        waiting = [await asyncio.open_connection(host, int(port), limit=1024) for _ in range(2)]
        for _, writer in waiting:
            writer.write("\r\n".join(head).encode() + body)
        for reader, _ in waiting:
            await reader.readuntil(b"\r\n")
        headers = BEARER | JSON
        reply = await raw_http.ask(address, READ, method="POST", headers=headers, body=body)
        assert reply.status == 503
        while reply.status == 503:
            await asyncio.sleep(0.2)
            reply = await raw_http.ask(address, READ, method="POST", headers=headers, body=body)
        assert reply.status == 200
        for reader, writer in waiting:
            with contextlib.suppress(ConnectionError):
                assert len(await asyncio.wait_for(reader.read(), 15)) < 30 << 20
            writer.close()


async def test_other_methods_are_405(site: Site) -> None:
    """Nothing is written, moved or deleted by a method that is not described."""
    before = site.files()
    for target in ("/v1/files", FILE, READ, ARCHIVE, REJECT, "/v1/archive", "/healthz"):
        for method in ("PUT", "PATCH", "TRACE", "OPTIONS", "MOVE", "COPY", "PROPFIND"):
            reply = await site.ask(target, method)
            assert reply.status == 405, (method, target)
            assert reply.headers["Allow"]
    assert (await site.ask(FILE, "DELETE")).status == 405
    assert site.files() == before


async def test_a_bug_tells_the_caller_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with one line; what went wrong stands in the log alone."""

    async def broken(*_: object) -> aio.StreamResponse:
        raise RuntimeError("hush")

    monkeypatch.setattr(DirectorySource, "read", broken)
    reply = await site.ask(FILE)
    assert (reply.status, json.loads(reply.body)) == (
        500,
        {"error": "internal error; see the server's log"},
    )
