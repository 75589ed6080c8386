"""GETs by the thousand: what is plain is read at once, all else is left to the general way."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from penstock.errors import Again, Halt
from penstock.http1 import Reply
from penstock.model import Unread
from penstock.source.http import HttpSite
from support import embedded_nginx, malicious_http
from support.malicious_http import MaliciousHttp, reply
from support.nginx import nginx_over, source_at
from support.require import require, require_nginx


@pytest.fixture
async def server() -> AsyncIterator[MaliciousHttp]:
    """Yield a server that answers as the test says."""
    async with MaliciousHttp() as running:
        yield running


@pytest.fixture
async def site(server: MaliciousHttp) -> AsyncIterator[HttpSite]:
    """Yield that server as a site."""
    made = HttpSite(server.address, timeout_seconds=2)
    yield made
    await made.close()


async def get(site: HttpSite, path: str) -> bytes:
    """Return the body of a file of at most 1,000 bytes."""
    (answer,) = await get_some(site, path)
    return answer.body


async def get_some(site: HttpSite, *paths: str) -> Sequence[Reply]:
    """Return the replies to the first of some paths, with bodies of at most 1,000 bytes."""
    return await site.get(paths, takes={200, 404}, body_bytes_max=1000, admit=lambda _, __: True)


async def get_all(site: HttpSite, *paths: str) -> list[bytes]:
    """Return the bodies for all paths: what was not answered is asked again."""
    replies: list[Reply] = []
    while len(replies) < len(paths):
        some = await get_some(site, *paths[len(replies) :])
        assert some
        replies += some
    return [reply.body for reply in replies]


def targets(server: MaliciousHttp) -> list[str]:
    """Return what was asked for, in order."""
    return [asked.target for asked in server.asked]


def in_pieces(*pieces: bytes, seconds: float = 0.02) -> malicious_http.Answer:
    """Answer with these pieces, with a pause after each."""

    async def answer() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(seconds)

    return answer


async def test_nginx_is_read_without_the_general_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replies to a file, there or not, have the plain form, as deploy/nginx.conf makes them."""
    require_nginx()
    async with nginx_over(tmp_path) as nginx:
        names = [f"{number}.json" for number in range(100)]
        for name in names[:-1]:
            (tmp_path / "spool" / name).write_bytes(name.encode() * 50)
        source = source_at(nginx.url, nginx.read_token)

        async def refused(*_: object, **__: object) -> None:
            pytest.fail("asked in the general way")

        monkeypatch.setattr(HttpSite, "call", refused)
        for _ in range(2):  # over new connections, and over those
            files = await source.read(names, 1 << 20)
            assert [file.data for file in files[:-1]] == [n.encode() * 50 for n in names[:-1]]
            assert len(files) == 100
        await source.close()


async def test_a_reply_in_pieces_is_one(server: MaliciousHttp, site: HttpSite) -> None:
    """Wherever the network cuts it: in the head, between head and body, in the body."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
    for pieces in ((head[:20], head[20:] + b"ab", b"cdef"), (head, b"abcdef"), (head + b"abcdef",)):
        server.answers["/x"] = in_pieces(*pieces)
        assert await get(site, "x") == b"abcdef"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nDate: 1\r\ndate: 2\r\n\r\n",
    ],
)
async def test_another_form_is_asked_for_in_the_general_way_from_then_on(
    server: MaliciousHttp, site: HttpSite, head: bytes
) -> None:
    """A reply that only aiohttp can judge costs a second question once, not each time."""
    body = b"" if b"chunked" in head else b"{}"
    server.answers["/x"] = malicious_http.raw(head + body)
    for _ in range(3):
        assert await get(site, "x") == b"{}"
    assert len(server.asked) == 4


async def test_an_idle_connection_that_was_closed_is_no_error(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """Nor is one that closes just as it is used again."""
    server.answers["/x"] = reply(body=b"{}")
    server.answers["/cut"] = malicious_http.short(b"{}", announced=2)
    assert await get(site, "cut") == b"{}"
    assert await get(site, "x") == b"{}"
    await asyncio.sleep(0.05)
    assert await get(site, "x") == b"{}"


async def test_a_call_that_was_given_up_leaves_its_reply_to_nobody(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """Its connection is closed: what comes late is not the answer to the next question."""
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    server.answers["/late"] = in_pieces(late, b"evil", seconds=0.1)
    server.answers["/x"] = reply(body=b"good")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await get(site, "late")
    assert await get(site, "x") == b"good"
    await asyncio.sleep(0.2)
    assert await get(site, "x") == b"good"


async def test_a_drip_is_given_up_in_time(server: MaliciousHttp) -> None:
    """The time is for the whole reply, not for each of its bytes."""
    site = HttpSite(server.address, timeout_seconds=0.2)
    drops = [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", *[b"x"] * 100]
    server.answers["/x"] = in_pieces(*drops, seconds=0.03)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Again, match=r"no answer in 0\.2 s"):
        await get(site, "x")
    assert asyncio.get_running_loop().time() - began < 1
    await site.close()


async def test_a_path_that_would_be_more_than_one_line_is_not_sent(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """No name becomes a header field of the request."""
    with pytest.raises((Again, Halt, ValueError)):
        await get(site, "x HTTP/1.1\r\nX-Evil: 1\r\n\r\n")
    assert not any("x-evil" in asked.headers for asked in server.asked)


async def test_a_token_that_is_no_line_is_not_sent(server: MaliciousHttp) -> None:
    """It is left to the general way, which refuses it."""
    site = HttpSite(server.address, token="t\r\nX-Evil: 1")  # noqa: S106  none at all
    server.answers["/x"] = reply(body=b"{}")
    with pytest.raises((Again, Halt, ValueError)):
        await get(site, "x")
    assert not server.asked
    await site.close()


async def test_many_are_asked_for_before_the_first_is_answered() -> None:
    """Down one connection: a round trip for all of them."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 3)
        await reader.read()  # until the client is done
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        site = HttpSite(f"http://127.0.0.1:{port}", timeout_seconds=2)
        assert len(await get_some(site, "a", "b", "c")) == 3
        await site.close()
        await ended.wait()
        await asyncio.sleep(0.01)  # the transport's end


async def test_what_a_connection_left_open_when_it_ended_is_asked_again(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """A reply cut off in its head, in its body, or before it; those before it count."""
    server.answers["/a"] = reply(body=b"first")
    server.answers["/c"] = reply(body=b"third")
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
    for kept in (0, 10, len(whole) - 3):
        site._plain = None  # what it knows of the server

        async def cut(kept: int = kept) -> AsyncIterator[bytes]:
            yield whole[:kept]
            raise ConnectionResetError

        ways = iter([cut, reply(body=b"second")])
        server.answers["/b"] = lambda ways=ways: next(ways)()
        server.asked.clear()
        assert await get_all(site, "a", "b", "c") == [b"first", b"second", b"third"]
        assert targets(server) == ["/a", "/b", "/b", "/c"]


async def test_a_connection_that_is_closed_as_announced_goes_on_with_another(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """So nginx does once in a while, after keepalive_requests; the next are asked at once again."""
    end = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend"
    server.answers["/b"] = malicious_http.raw(
        end + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    )
    for name in "ac":
        server.answers[f"/{name}"] = reply(body=name.encode())
    assert [one.body for one in await get_some(site, "a", "b", "c", "a")] == [b"a", b"end"]
    assert [one.body for one in await get_some(site, "c", "a", "c")] == [b"c", b"a", b"c"]


@pytest.mark.parametrize("says", [True, False])
async def test_a_server_that_answers_one_request_a_connection_is_asked_one_by_one(
    server: MaliciousHttp, site: HttpSite, *, says: bool
) -> None:
    """Whether it says so or only does so; the first reply may be lost where it closes."""
    field = b"Connection: close\r\n" if says else b""
    whole = b"HTTP/1.1 200 OK\r\n" + field + b"Content-Length: 2\r\n\r\n{}"

    async def answer() -> AsyncIterator[bytes]:
        yield whole
        raise ConnectionResetError

    paths = [f"{number}.json" for number in range(9)]
    server.answers |= {f"/{path}": answer for path in paths}
    assert await get_all(site, *paths) == [b"{}"] * 9
    asked = [f"/{path}" for path in paths]
    assert targets(server) in (asked, [asked[0], *asked])
    assert [len(await get_some(site, *paths)) for _ in range(3)] == [1, 1, 1]


async def test_a_server_that_forgets_what_it_was_asked_early_is_asked_one_by_one(
    server: MaliciousHttp,
) -> None:
    """A proxy that reads one request, and drops the others, costs one wait, and no error."""
    site = HttpSite(server.address, timeout_seconds=1.0)
    server.answers["/a"], server.answers["/b"] = reply(body=b"a"), malicious_http.silence()
    assert [one.body for one in await get_some(site, "a", "b", "b")] == [b"a"]
    server.answers["/b"] = reply(body=b"b")
    assert await get_all(site, "b", "a", "b") == [b"b", b"a", b"b"]
    assert len(await get_some(site, "b", "a")) == 1
    await site.close()


@pytest.mark.parametrize("form", ["HTTP/1.0", "chunked", "doubled"])
async def test_another_form_among_plain_ones_is_judged_alone(
    server: MaliciousHttp, site: HttpSite, form: str
) -> None:
    """Those before it count, it is asked for in the general way, and so is all that follows."""
    server.answers["/b"] = malicious_http.raw({
        "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nb",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n",
        "doubled": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nDate: 1\r\ndate: 1\r\n\r\nb",
    }[form])  # fmt: skip
    server.answers["/a"], server.answers["/c"] = reply(body=b"a"), reply(body=b"c")
    assert await get_all(site, "a", "b", "c", "a") == [b"a", b"b", b"c", b"a"]
    assert await get_all(site, "c", "a") == [b"c", b"a"]


async def test_a_failure_among_many_is_told_of_the_one_that_failed(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """A 500 is Again, a redirect Halt, each with its own path; what came before it is kept."""
    server.answers["/a"] = reply(body=b"a")
    for status, kind in ((500, Again), (503, Again), (302, Halt), (401, Halt)):
        server.answers["/b"] = reply(status)
        assert [one.body for one in await get_some(site, "a", "b", "a")] == [b"a"]
        with pytest.raises(kind, match=rf"/b: answered {status}"):
            await get_some(site, "b", "a")


async def test_a_body_that_is_not_admitted_ends_its_connection_alone(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """It is told as not read; those behind it are asked again."""
    server.answers["/a"], server.answers["/b"] = reply(body=b"a"), reply(body=b"large")
    replies = await site.get(
        ["a", "b", "a"], takes={200}, body_bytes_max=9, admit=lambda place, _: place != 1
    )
    assert [(one.body, one.is_whole) for one in replies] == [(b"a", True), (b"", False)]
    assert await get_all(site, "a", "a") == [b"a", b"a"]


async def test_nginx_that_ends_connections_after_some_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """keepalive_requests is 1,000 in an nginx as it comes: wherever it cuts, every file is read."""
    require_nginx()
    text = embedded_nginx._CONFIGURATION.read_text()
    text, found = re.subn(r"keepalive_requests \d+;", "keepalive_requests 7;", text)
    assert found == 1
    (tmp_path / "nginx.conf").write_text(text)
    monkeypatch.setattr(embedded_nginx, "_CONFIGURATION", tmp_path / "nginx.conf")
    await _read_200(tmp_path)


async def test_nginx_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests in one write, inside TLS too; without the certificate's authority it halts."""
    require_nginx()
    require(present=shutil.which("openssl") is not None, what="openssl on PATH (Debian: openssl)")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    given = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *given], check=True, capture_output=True)
    text = embedded_nginx._CONFIGURATION.read_text()
    for directive, path in (("certificate_key", key), ("certificate", certificate)):
        text = re.sub(rf"# +(ssl_{directive}) [^;]*;", rf"\1 {path};", text)
    (tmp_path / "nginx.conf").write_text(text)
    monkeypatch.setattr(embedded_nginx, "_CONFIGURATION", tmp_path / "nginx.conf")
    values = embedded_nginx.EmbeddedNginx._values

    def with_tls(self: embedded_nginx.EmbeddedNginx, port: int) -> Mapping[str, str]:
        given = dict(values(self, port))
        return given | {"listen": f"{given['listen']} ssl"}

    async def answers(nginx: embedded_nginx.EmbeddedNginx) -> bool:
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(nginx.url.split(":")[2][:-7])
            )
        except OSError:
            return False
        writer.close()
        return True

    monkeypatch.setattr(embedded_nginx.EmbeddedNginx, "_values", with_tls)
    monkeypatch.setattr(embedded_nginx.EmbeddedNginx, "answers", answers)
    await _read_200(tmp_path, ca_file=str(certificate))


async def _read_200(root: Path, ca_file: str = "") -> None:
    """Read 200 files, one that is not there and a directory from an nginx over `root`."""
    names = [f"{number}.json" for number in range(200)]
    (root / "spool").mkdir(exist_ok=True)
    (root / "spool" / "d.json").mkdir()
    for name in names:
        (root / "spool" / name).write_bytes(name.encode() * 9)
    async with nginx_over(root) as nginx:
        url = nginx.url.replace("http:", "https:") if ca_file else nginx.url
        source = source_at(url, nginx.read_token, ca_file=ca_file)
        wanted = [*names[:77], "gone.json", "d.json", *names[77:]]
        for _ in range(2):
            files = await source.read(wanted, 1 << 20)
            expected = {name: name.encode() * 9 for name in names}
            assert [file.name for file in files] == wanted
            assert [file.data for file in files] == [
                expected.get(name, Unread.VANISHED) for name in wanted
            ]
        await source.close()
        if ca_file:
            source = source_at(url, nginx.read_token)
            with pytest.raises(Halt, match="certificate is not trusted"):
                await source.read(wanted, 1 << 20)
            await source.close()
