"""GETs by the thousand: what is plain is read at once, all else is left to the general way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import Again, Halt
from penstock.stages.source_http import HttpSite
from support import malicious_http
from support.malicious_http import MaliciousHttp, reply
from support.nginx import nginx_over, source_at
from support.require import require_nginx


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
    answer = await site.get(path, takes={200}, body_bytes_max=1000, admit=lambda _: True)
    return answer.body


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
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX: 1\r\nx: 2\r\n\r\n",
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


async def test_what_nobody_asked_for_closes_the_connection(
    server: MaliciousHttp, site: HttpSite
) -> None:
    """A second reply sent after the first is never taken for the next one."""
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
    server.answers["/x"] = in_pieces(first, first.replace(b"good", b"evil"))
    server.answers["/y"] = reply(body=b"fine")
    assert await get(site, "x") == b"good"
    await asyncio.sleep(0.1)
    assert await get(site, "y") == b"fine"


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
