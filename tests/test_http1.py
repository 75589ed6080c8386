"""Calls over connections that are kept: each has its own reply or none, and no POST is made twice.

What `source.http` makes of GETs is tested in source/test_source_http.py.
"""

import asyncio
import base64
import contextlib
import importlib.util
import inspect
import itertools
import logging
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from penstock import http1
from penstock.http1 import Http1Client, NoReplyError, NotSentError, Reply
from support.require import require
from support.scripted_http import (
    Line,
    ScriptedHttp,
    closes,
    reply,
    says,
    silence,
    speaking_unasked,
    tunnel,
)
from support.sender import Clock


class Said(NamedTuple):
    """What a test looks at of a reply."""

    status: int
    query_error: str
    body: bytes


def said(came: Reply) -> Said:
    """Return that of a whole reply."""
    assert came.is_whole
    return Said(came.status, came.headers.get("X-Amzn-Query-Error", ""), came.body)


GOOD, EVIL, FINE = reply(b"good"), reply(b"evil"), Said(200, "", b"fine")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let no test pass in which an event loop complained of something."""
    yield
    records = caplog.get_records("call")
    assert [line.getMessage() for line in records if line.levelno >= logging.WARNING] == []


@contextlib.asynccontextmanager
async def client_to(
    server: str | ScriptedHttp, *, proxy: str = "", timeout_seconds: float = 2, **settings: Any
) -> AsyncGenerator[Http1Client]:
    """Give the connections to a server, and close them."""
    url = server if isinstance(server, str) else server.url
    settings = {"tls": None, "monotonic": Clock()} | settings
    client = Http1Client(
        URL(url),
        proxy=URL(proxy) if proxy else None,
        timeout_seconds=timeout_seconds,
        **settings,
    )
    try:
        yield client
    finally:
        client.close()
        await asyncio.sleep(0)  # the transports' end


async def ask(client: Http1Client, body: bytes = b"fine") -> Said:
    """Make one call."""
    return said(await client.post({"host": "sqs.example"}, body))


async def get(client: Http1Client, *paths: str, bytes_max: int = 1_000) -> Sequence[Reply]:
    """Ask for paths, or for one, in one write."""
    return await client.get(
        paths or ["/x"],
        {"host": "sqs.example"},
        takes={200, 404},
        body_bytes_max=bytes_max,
        admit=lambda _, __: True,
    )


async def post_one(client: Http1Client) -> bytes:
    """Make one POST, of nothing; return the body that comes."""
    return (await ask(client, b"")).body


async def get_one(client: Http1Client) -> bytes:
    """Make one GET; return the body that comes."""
    (came,) = await get(client)
    return came.body


WAYS = (post_one, get_one)
in_both_ways = pytest.mark.parametrize("call", WAYS)


async def answer(*pieces: bytes, ends: bool = False) -> Said:
    """Make one call, which is answered with these pieces."""
    async with ScriptedHttp((closes if ends else says)(*pieces)) as server:
        async with client_to(server) as client:
            came = await ask(client)
        assert len(server.asked) == 1
    return came


def trusting(certificate: Path) -> dict[str, Any]:
    """Return the settings with which a certificate is trusted."""
    return {"tls": ssl.create_default_context(cafile=str(certificate))}


def with_tls(certificate: Path) -> ssl.SSLContext:
    """Return what a server needs to show a certificate."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate)
    return made


def connections_of(server: ScriptedHttp) -> list[int]:
    """Return on which connection each request came."""
    return [asked.connection for asked in server.asked]


class Deaf(asyncio.Transport):
    """A transport that takes what is written to it, and does nothing."""

    def write(self, data: object) -> None:
        """See asyncio.Transport."""

    def abort(self) -> None:
        """See asyncio.Transport."""

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return False


# Connections, and when they are used again.


async def test_a_connection_is_used_again() -> None:
    """Calls one after the other go over one connection, each with its own reply."""
    async with ScriptedHttp() as server, client_to(server) as client:
        for body in (b"a", b"", b"c" * 70_000):
            assert await ask(client, body) == Said(200, "", body)
        assert connections_of(server) == [0, 0, 0]


async def test_two_calls_at_once_have_two_connections() -> None:
    """Neither waits for the other; afterwards there are two to choose from."""
    both = asyncio.Barrier(2)

    async def wait(line: Line) -> None:
        body = await line.hear()
        await both.wait()
        await line.say(reply(body))
        await line.echo()

    async with ScriptedHttp(wait, wait) as server, client_to(server) as client:
        replies = await asyncio.gather(ask(client, b"a"), ask(client, b"b"))
        assert [came.body for came in replies] == [b"a", b"b"]
        await asyncio.gather(ask(client), ask(client))
        assert server.connections == 2


@pytest.mark.parametrize(
    ("last", "call"),
    [
        *itertools.product(
            (
                reply(b"good", "Connection: close"),
                GOOD + EVIL,
                GOOD + EVIL[:1],
                reply(b"good", "Connection: close") + EVIL,
            ),
            WAYS,
        ),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), post_one),
    ],
)
async def test_a_connection_that_ends_or_said_more_is_not_used_again(
    last: bytes, call: Callable[[Http1Client], Awaitable[bytes]]
) -> None:
    """The reply counts; the next call goes over another connection and has its own."""
    async with ScriptedHttp(says(last)) as server, client_to(server) as client:
        assert await call(client) == b"good"
        assert await call(client) == b""
        assert connections_of(server) == [0, 1]


@pytest.mark.parametrize("unasked", [EVIL, b"H", b"\r\n"], ids=["reply", "byte", "empty line"])
@in_both_ways
async def test_what_comes_unasked_ends_an_idle_connection(
    unasked: bytes, call: Callable[[Http1Client], Awaitable[bytes]]
) -> None:
    """It is closed at once, and the next call has its own reply."""
    now, ended = asyncio.Event(), asyncio.Event()

    async def speak(line: Line) -> None:
        await line.hear()
        await line.say(GOOD)
        await now.wait()
        await line.say(unasked)
        await line.ended()
        ended.set()

    async with ScriptedHttp(speak) as server, client_to(server) as client:
        assert await call(client) == b"good"
        now.set()
        await asyncio.wait_for(ended.wait(), 1)
        assert await call(client) == b""
        assert connections_of(server) == [0, 1]


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    """The next call opens another: nothing is lost on the closed one."""
    ended = asyncio.Event()

    async def leave(line: Line) -> None:
        await line.hear()
        await line.say(GOOD)
        line.writer.write_eof()
        await line.ended()
        ended.set()

    async with ScriptedHttp(leave) as server, client_to(server) as client:
        await ask(client)
        await asyncio.wait_for(ended.wait(), 1)
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 1]


async def test_a_connection_that_is_just_being_closed_is_not_used() -> None:
    """From the moment that the server's end of it has been seen."""
    now = asyncio.Event()

    async def leave(line: Line) -> None:
        await line.hear()
        await line.say(GOOD)
        await now.wait()

    async with ScriptedHttp(leave) as server, client_to(server) as client:
        await ask(client)
        transport = client._idle[0].transport
        assert transport
        now.set()
        while not transport.is_closing():
            await asyncio.sleep(0)
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 1]


async def test_what_came_while_the_loop_was_busy_is_not_the_next_reply() -> None:
    """A second reply, or the end, that lies unread when the next call is made, counts for it."""
    for unasked, call in itertools.product((EVIL, b""), WAYS):
        with speaking_unasked(GOOD, unasked, reply(b"fine")) as (url, speak):
            async with client_to(url) as client:
                assert await call(client) == b"good"
                speak()  # in one step with the next call: the loop sees nothing
                assert await call(client) == b"fine"


async def test_a_connection_idle_for_three_seconds_is_closed() -> None:
    """Shortly before it is still used; idle is counted from the end of the last call."""
    clock = Clock()
    async with ScriptedHttp() as server, client_to(server, monotonic=clock) as client:
        for pause in (0.0, 2.9, 2.9, 3.1):
            clock.now += pause
            assert await ask(client) == FINE
        assert connections_of(server) == [0, 0, 0, 1]
        client.close()
        await server.all_ended()


# What is a reply, and what is none.


async def test_a_request_says_what_it_must_and_no_more() -> None:
    """The path, the fields given, who asks, and how long the body is."""
    async with ScriptedHttp() as server:
        async with client_to(f"{server.url}/some%20path") as client:
            await client.post({"host": "sqs.example", "x-amz-target": "t"}, b"12345")
        first, agent, *lines = server.asked[0].head.split("\r\n")
        assert first == "POST /some%20path HTTP/1.1"
        assert agent.startswith("user-agent: penstock/")
        assert lines == ["host: sqs.example", "x-amz-target: t", "content-length: 5", "", ""]


@pytest.mark.parametrize("size", [65_536, 65_537, 1_100_000])
async def test_a_large_body_arrives_whole(size: int) -> None:
    """Whether it goes with the head or behind it."""
    body = random.randbytes(size)
    async with ScriptedHttp() as server, client_to(server) as client:
        assert (await ask(client, body)).body == body
        assert server.asked[0].body == body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ngo\r\n2;x=y\r\nod\r\n0\r\n"
OPEN_ENDED = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\ngood"


@pytest.mark.parametrize("last", [GOOD, CHUNKED + b"\r\n", CHUNKED + b"Trailer: x\r\n\r\n"])
async def test_a_reply_that_tells_its_length_leaves_the_connection(last: bytes) -> None:
    """In whatever way it is told, and whatever came before it."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"

    async def say(line: Line) -> None:
        for pieces in ([last], [early + last], [early, last], [bytes([one]) for one in last]):
            await line.hear()
            await line.say(*pieces)
        await line.echo()

    async with ScriptedHttp(say) as server, client_to(server) as client:
        for _ in range(4):
            assert await ask(client) == Said(200, "", b"good")
        assert await ask(client) == FINE
        assert connections_of(server) == [0] * 5


async def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    """However it is cut; an empty one, too."""
    assert await answer(OPEN_ENDED, ends=True) == Said(200, "", b"good")
    pieces = [bytes([one]) for one in OPEN_ENDED]
    assert await answer(*pieces, ends=True) == Said(200, "", b"good")
    assert await answer(OPEN_ENDED[:-4], ends=True) == Said(200, "", b"")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_status_without_a_body_ends_with_its_head(status: str) -> None:
    """Nothing is waited for, and the connection is used again."""

    async def say(line: Line) -> None:
        await line.hear()
        await line.say(f"HTTP/1.1 {status}\r\nX: y\r\n\r\n".encode())
        await line.echo()

    async with ScriptedHttp(say) as server, client_to(server) as client:
        assert await ask(client) == Said(int(status[:3]), "", b"")
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 0]


@pytest.mark.parametrize("status", ["301 Moved", "307 Temporary Redirect", "400 Bad", "503 Down"])
async def test_any_status_is_told_and_no_redirect_is_followed(status: str) -> None:
    """What to make of it is the caller's affair; there is one request."""
    async with ScriptedHttp() as other:
        whole = reply(b"", f"Location: {other.url}", status=status)
        assert await answer(whole) == Said(int(status[:3]), "", b"")
        assert other.connections == 0


@pytest.mark.parametrize("name", ["x-amzn-query-error", "X-Amzn-Query-Error", "X-AMZN-QUERY-ERROR"])
async def test_the_query_error_is_found_in_any_case_and_not_kept(name: str) -> None:
    """The reply that follows on the same connection has none."""

    async def say(line: Line) -> None:
        await line.hear()
        await line.say(reply(b"{}", f"{name}: Some.Code;Sender", status="400 Bad Request"))
        await line.echo()

    async with ScriptedHttp(say) as server, client_to(server) as client:
        assert await ask(client) == Said(400, "Some.Code;Sender", b"{}")
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 0]


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        GOOD.replace(b"HTTP/1.1", b"HTTP/9.9"),
        GOOD.replace(b": 4", b": four"),
        GOOD.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
        CHUNKED.replace(b"2\r\ngo", b"zz\r\ngo"),
    ],
    ids=["SSH", "TLS", "HTTP/9.9", "no number", "two lengths", "no chunk"],
)
async def test_what_is_no_http_is_no_reply(said: bytes) -> None:
    """The call may have arrived; the cause is told at once."""
    with pytest.raises(NoReplyError, match=r"no reply from http://127.*an invalid HTTP/1.1 reply"):
        await answer(said)


async def test_another_protocol_is_no_reply() -> None:
    """Nobody asked to switch to one."""
    with pytest.raises(NoReplyError):
        await answer(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        )


@pytest.mark.parametrize(
    "said",
    [
        b"",
        GOOD[:9],
        GOOD[:-5],
        GOOD[:-1],
        CHUNKED,
        CHUNKED[:-3],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OPEN_ENDED[:20],
    ],
)
async def test_a_cut_reply_is_none(said: bytes) -> None:
    """Wherever it was cut: only a whole one tells what the server did."""
    with pytest.raises(NoReplyError, match="the server closed the connection"):
        await answer(said, ends=True)


@pytest.mark.parametrize("said", [b"", GOOD[:-1], OPEN_ENDED], ids=["nothing", "cut", "no length"])
async def test_a_reset_is_no_reply(said: bytes) -> None:
    """Even where closing would have been the end of a reply."""

    async def reset(line: Line) -> None:
        await line.hear()
        await line.say(said)
        line.reset()

    async with ScriptedHttp(reset) as server, client_to(server) as client:
        with pytest.raises(NoReplyError, match=r"no reply from .*reset"):
            await ask(client)
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 1]


async def test_a_reply_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each for itself: two that are not too large on one connection are not, together."""
    monkeypatch.setattr(http1, "_BODY_BYTES_MAX", 1_000)
    async with ScriptedHttp() as server, client_to(server) as client:
        for _ in range(3):
            assert (await ask(client, b"x" * 600)).status == 200
        with pytest.raises(NoReplyError, match="a reply of more than 1000 bytes"):
            await ask(client, b"x" * 1_001)
        await server.all_ended()
        assert connections_of(server) == [0] * 4


async def test_a_late_reply_reaches_nobody() -> None:
    """A silent server is waited for as long as it was said; its connection is not used again."""
    given_up = asyncio.Event()

    async def be_late(line: Line) -> None:
        await line.hear()
        await given_up.wait()
        await line.say(EVIL)
        await line.ended()

    async with (
        ScriptedHttp(be_late) as server,
        client_to(server, timeout_seconds=0.05) as client,
    ):
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoReplyError, match=r"did not answer within 0\.05 s"):
            await ask(client)
        assert 0.04 < asyncio.get_running_loop().time() - began < 1
        client._timeout_seconds = 2
        following = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        given_up.set()
        assert await following == FINE
        assert connections_of(server) == [0, 1]


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    """Its connection is closed, what comes late is nobody's, and no future is left."""
    heard = asyncio.Event()

    async def hear(line: Line) -> None:
        await line.hear()
        heard.set()
        await line.ended()

    async with ScriptedHttp(hear) as server, client_to(server) as client:
        call = asyncio.create_task(ask(client))
        await heard.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.all_ended()
        assert client._idle == []
        assert await ask(client) == FINE
        assert connections_of(server) == [0, 1]


# Several GETs in one write.

MEAN = reply(b"evil")  # a body that looks like a reply
DATE = "Wed, 25 Nov 2026 12:00:00 GMT"
USUAL = (
    f"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: {DATE}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(MEAN)}\r\nLast-Modified: {DATE}\r\nConnection: keep-alive\r\n\r\n"
).encode() + MEAN
MISSING = reply(b"no!", "Connection: keep-alive", status="404 Not Found")


async def cut_apart(*pieces: bytes) -> Sequence[Reply]:
    """Return the replies to four GETs that came in these pieces."""
    connection = http1._Connection()
    with socket.socket() as nowhere:
        connection.connection_made(Deaf({"socket": nowhere}))
    call = http1._Call(2, 4, 1_000, {200, 404}, lambda _, __: True, plain=True)
    connection.ask(call, b"")
    for piece in pieces:
        connection.data_received(piece)
    assert connection.may_be_asked
    await call.ended
    return call.replies


async def test_replies_are_told_apart_wherever_they_are_cut() -> None:
    """In any two pieces, and byte by byte: the same four replies, in the order of the requests."""
    whole = USUAL + MISSING + reply(b"") + USUAL
    at_once = await cut_apart(whole)
    assert [(one.status, one.body) for one in at_once] == [
        (200, MEAN), (404, b"no!"), (200, b""), (200, MEAN),
    ]  # fmt: skip
    assert at_once[0].headers["Last-Modified"] == at_once[3].headers["Date"] == DATE
    for at in range(1, len(whole)):
        assert await cut_apart(whole[:at], whole[at:]) == at_once
    assert await cut_apart(*[whole[at : at + 1] for at in range(len(whole))]) == at_once


async def test_what_follows_the_last_of_several_is_not_the_next_one() -> None:
    """In one piece with it, too: such a connection is not used again."""
    async with ScriptedHttp(says(GOOD + GOOD + EVIL)) as server, client_to(server) as client:
        assert [came.body for came in await get(client, "/a", "/b")] == [b"good"] * 2
        assert [came.body for came in await get(client, "/c", "/d")] == [b"", b""]
        assert connections_of(server) == [0, 1, 1]


async def test_a_head_has_a_largest_size_and_so_has_a_body() -> None:
    """What never ends, or is too large, is no reply; the connection is closed at once."""
    endless = [b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"x" * 1_000 + b"\r\n"] * 20]
    chunk = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;", *[b"x" * 1_000] * 20]
    for pieces in (endless, chunk, [reply(b"x" * 1_001)]):

        async def speak(line: Line, pieces: Sequence[bytes] = pieces) -> None:
            await line.hear()
            await line.say(*pieces)
            await line.ended()

        async with ScriptedHttp(speak, speak) as server, client_to(server) as client:
            assert await get(client) == []
            if len(pieces) > 1:
                with pytest.raises(NoReplyError, match="a head of more than 16384 bytes"):
                    await ask(client)
            await server.all_ended()


async def test_closing_ends_the_calls_under_way() -> None:
    """None is left waiting, and no connection open."""
    async with ScriptedHttp(silence) as server, client_to(server) as client:
        call = asyncio.create_task(get(client, "/a", "/b"))
        while not client._busy:
            await asyncio.sleep(0)
        client.close()
        assert await asyncio.wait_for(call, 1) == []
        await server.all_ended()


# Connecting: whatever goes wrong here, the server has nothing.


async def test_a_refused_connection_is_not_sent() -> None:
    """The error says where to, and why."""
    async with ScriptedHttp() as server:
        pass
    async with client_to(server) as client:
        with pytest.raises(
            NotSentError, match=rf"cannot connect to {server.url}: .*Connect call failed"
        ):
            await ask(client)


async def test_a_peer_that_accepts_and_says_nothing_is_not_sent(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting has its own limit, and ends with the call's; the connection is closed."""
    for connect_seconds_max, timeout_seconds in ((0.04, 2), (3, 0.04)):
        monkeypatch.setattr(http1, "_CONNECT_SECONDS_MAX", connect_seconds_max)
        async with ScriptedHttp(silence) as server:
            url = server.url.replace("http:", "https:")
            async with client_to(
                url, timeout_seconds=timeout_seconds, **trusting(certificate)
            ) as client:
                began = asyncio.get_running_loop().time()
                with pytest.raises(NotSentError, match=rf"{url}.*: not within 0\.04 s"):
                    await ask(client)
                assert asyncio.get_running_loop().time() - began < 1
                await server.all_ended()


async def test_a_call_cancelled_while_it_connects_leaves_nothing_behind(
    certificate: Path,
) -> None:
    """The connection is closed, in a tunnel as well."""
    for proxied in (False, True):
        heard = asyncio.Event()

        async def hear(line: Line, heard: asyncio.Event = heard) -> None:
            await line.reader.read(1)
            heard.set()
            await line.ended()

        async with ScriptedHttp(hear) as server:
            url = server.url.replace("http:", "https:")
            async with client_to(
                "https://sqs.invalid" if proxied else url,
                proxy=server.url if proxied else "",
                **trusting(certificate),
            ) as client:
                call = asyncio.create_task(ask(client))
                await heard.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await server.all_ended()
                assert client._idle == []


async def test_a_server_that_speaks_before_it_is_asked_is_not_sent_to(certificate: Path) -> None:
    """What it said is the reply to nothing, in a tunnel as well."""
    await _has_nothing(certificate, EVIL)


async def test_a_server_that_closes_before_it_is_asked_is_not_sent_to(certificate: Path) -> None:
    """Nothing can be sent any more, in a tunnel as well."""
    await _has_nothing(certificate, b"")


async def _has_nothing(certificate: Path, said: bytes) -> None:
    async with (
        ScriptedHttp(*[_hasty(certificate, said)] * 2) as server,
        ScriptedHttp(tunnel(server.port)) as proxy,
    ):
        url = server.url.replace("http:", "https:")
        for through in ("", proxy.url):
            async with client_to(url, proxy=through, **trusting(certificate)) as client:
                with pytest.raises(NotSentError) as error:
                    await ask(client)
                assert "not within" not in str(error.value)
                await server.all_ended()


def _hasty(certificate: Path, said: bytes) -> Callable[[Line], Awaitable[None]]:
    """Say something, or close, in one piece with the last of the TLS handshake."""
    tls = with_tls(certificate)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # in which the server has the last word

    async def script(line: Line) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        wrapped = tls.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                wrapped.do_handshake()
                break
            except ssl.SSLWantReadError:
                await line.say(outgoing.read())
                incoming.write(await line.reader.read(65_536))
        if said:
            wrapped.write(said)
        else:
            with pytest.raises(ssl.SSLWantReadError):
                wrapped.unwrap()
        await line.say(outgoing.read())
        await line.ended()

    return script


def lookups(monkeypatch: pytest.MonkeyPatch, *found: list[int] | OSError) -> list[str]:
    """Let each look-up of a name find the next of `found`: ports of 127.0.0.1, or an error.

    Returns what is looked up.
    """
    asked: list[str] = []
    answers = iter(found)
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **kind: Any) -> Sequence[object]:
        if host == "127.0.0.1":  # which uvloop asks for to connect
            return await real(host, port, **kind)
        asked.append(f"{host}:{port}")
        await asyncio.sleep(0)
        some = next(answers)
        if isinstance(some, OSError):
            raise some
        usual = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*usual, ("127.0.0.1", port)) for port in some]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    return asked


async def test_an_unknown_name_is_not_sent_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer of none is not kept."""
    async with ScriptedHttp() as server, client_to("http://sqs.example:81") as client:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        asked = lookups(monkeypatch, unknown, [server.port])
        with pytest.raises(NotSentError, match=r"http://sqs\.example:81.*: .*not known"):
            await ask(client)
        assert await ask(client) == FINE
        assert asked == ["sqs.example:81"] * 2


async def test_a_name_that_cannot_be_one_is_not_sent() -> None:
    """The look-up refuses it in its own way."""
    async with client_to("http://sqs..example") as client:
        with pytest.raises(NotSentError, match=r"http://sqs\.\.example"):
            await ask(client)


async def test_a_name_with_a_dead_address_is_connected_to_at_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that lives is enough; with none, the call is not sent."""
    async with ScriptedHttp() as dead, ScriptedHttp() as other:
        pass
    async with ScriptedHttp() as server:
        for ports, works in (([dead.port, server.port], True), ([dead.port, other.port], False)):
            lookups(monkeypatch, ports)
            async with client_to("http://sqs.example") as client:
                if works:
                    assert await ask(client) == FINE
                else:
                    with pytest.raises(NotSentError, match=r"cannot connect to http://sqs\."):
                        await ask(client)


async def test_addresses_are_asked_for_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one call at a time; a server that moved is found."""
    clock = Clock()
    async with ScriptedHttp() as old, ScriptedHttp() as new:
        asked = lookups(monkeypatch, [old.port], [new.port])
        async with client_to("http://sqs.example", monotonic=clock) as client:
            await asyncio.gather(ask(client), ask(client))
            for seconds in (3.5, 3.5, 2.9):
                clock.now += seconds
                await ask(client)
            assert (len(asked), new.connections) == (1, 0)
            clock.now += 3.5
            assert await ask(client) == FINE
            assert (len(asked), new.connections) == (2, 1)


async def test_over_tls_connections_are_kept_too(certificate: Path) -> None:
    """And large bodies arrive."""
    body = random.randbytes(1_100_000)
    async with (
        ScriptedHttp(tls=with_tls(certificate)) as server,
        client_to(server, **trusting(certificate)) as client,
    ):
        assert await ask(client) == FINE
        assert (await ask(client, body)).body == body
        assert connections_of(server) == [0, 0]


async def test_a_certificate_that_nobody_vouches_for_is_not_sent_to(certificate: Path) -> None:
    """Nor is one of another name, of the server's own or behind a proxy."""
    async with (
        ScriptedHttp(tls=with_tls(certificate)) as server,
        ScriptedHttp(*[tunnel(server.port)] * 2) as proxy,
    ):
        other = server.url.replace("127.0.0.1", "localhost")
        nobody, trusted = ssl.create_default_context(), trusting(certificate)["tls"]
        for url, tls in ((server.url, nobody), (other, trusted)):
            for through in ("", proxy.url):
                async with client_to(url, proxy=through, tls=tls) as client:
                    with pytest.raises(NotSentError, match="certificate verify failed"):
                        await ask(client)
        assert proxy.connections == 2
        assert server.asked == []


# Proxies.

PASSWORD = "p@ss/wörd"  # noqa: S105  none at all
AUTHORIZATION = f"proxy-authorization: Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"


def with_user(proxy: ScriptedHttp) -> str:
    """Return the address of a proxy with a user and a password."""
    return str(URL(proxy.url).with_user("me").with_password(PASSWORD))


async def test_a_plain_proxy_is_asked_for_the_whole_url() -> None:
    """It is told who asks where its URL says so; the server's name is not looked up here."""
    async with ScriptedHttp() as proxy:
        for url, lines in ((proxy.url, []), (with_user(proxy), [AUTHORIZATION])):
            async with client_to("http://sqs.invalid/a%20b", proxy=url) as client:
                assert await ask(client) == FINE
                assert await ask(client) == FINE
            first, _, *fields = proxy.asked.pop().head.split("\r\n")
            assert first == "POST http://sqs.invalid/a%20b HTTP/1.1"
            assert fields == [*lines, "host: sqs.example", "content-length: 4", "", ""]
        assert proxy.connections == 2


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
async def test_a_proxy_digs_a_tunnel_to_a_tls_server(certificate: Path, *, over_tls: bool) -> None:
    """It is kept like any connection; what the proxy is told, the server is not."""
    tls = with_tls(certificate)
    async with ScriptedHttp(tls=tls) as server:
        dig = tunnel(server.port)
        async with ScriptedHttp(dig, dig, tls=tls if over_tls else None) as proxy:
            for url, lines in ((proxy.url, []), (with_user(proxy), [AUTHORIZATION])):
                async with client_to(server, proxy=url, **trusting(certificate)) as client:
                    assert await ask(client) == FINE
                    assert await ask(client) == FINE
                host = f"127.0.0.1:{server.port}"
                asked = proxy.asked[-1].head.split("\r\n")
                assert asked == [f"CONNECT {host} HTTP/1.1", f"host: {host}", *lines, "", ""]
                assert "proxy" not in server.asked[-1].head
            assert connections_of(proxy) == [0, 1]
            assert connections_of(server) == [0, 0, 1, 1]


async def no_tls(line: Line) -> None:
    """As a proxy, grant the tunnel, and speak HTTP in it."""
    await line.hear()
    await line.say(b"HTTP/1.1 200 OK\r\n\r\n")
    await line.reader.read(1)
    await line.say(GOOD)
    await line.ended()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (says(reply(b"", status="407 Proxy Authentication Required")), "the proxy answered 407$"),
        (closes(), "the proxy closed the connection"),
        (closes(b"HTTP/1.1 200 O"), "the proxy closed the connection"),
        (
            says(b"SSH-2.0-OpenSSH 200\r\n\r\n"),
            r"the proxy sent an invalid HTTP/1\.1 reply \(.*\)$",
        ),
        (says(b"x" * 20_000), r"the proxy sent an invalid HTTP/1\.1 reply \(.*\)$"),
        (no_tls, "(?i:ssl)"),
        (silence, r"not within 0\.1 s"),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), r"not within 0\.1 s"),
    ],
    ids=["407", "closes", "cut", "SSH", "endless", "no TLS", "silent", "silent later"],
)
async def test_a_proxy_that_digs_no_tunnel_is_not_sent_to(
    certificate: Path, script: Callable[[Line], Awaitable[None]], cause: str
) -> None:
    """The error says which proxy and why, and never with which password."""
    seconds = 0.1 if cause.startswith("not within") else 2
    async with (
        ScriptedHttp(script) as proxy,
        client_to(
            "https://sqs.invalid", proxy=with_user(proxy), timeout_seconds=seconds,
            **trusting(certificate),
        ) as client,
    ):  # fmt: skip
        with pytest.raises(NotSentError) as error:
            await ask(client)
        await proxy.all_ended()
    error.match(
        rf"cannot connect to https://sqs\.invalid/? through the proxy {proxy.url}: .*{cause}"
    )
    for secret in (PASSWORD, "p%40ss", AUTHORIZATION[-12:]):
        assert secret not in str(error.value)


async def test_a_dead_proxy_is_told_without_its_password() -> None:
    """Plain or not, the call is not sent."""
    async with ScriptedHttp() as proxy:
        pass
    for url in ("http://sqs.invalid", "https://sqs.invalid"):
        async with client_to(url, proxy=with_user(proxy)) as client:
            with pytest.raises(NotSentError, match=rf"through the proxy {proxy.url}: ") as error:
                await ask(client)
            assert "p%40ss" not in str(error.value)


# Any reply, cut anywhere; and the other event loop.


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, Said, bool]:
    """Draw a reply: as it is sent, as it is read, and whether closing is its end."""
    body = draw(st.binary(max_size=300) | st.sampled_from([GOOD, b"\r\n\r\n", b"0\r\n\r\n"]))
    status = draw(st.sampled_from([200, 302, 400, 403, 503]))
    error = draw(st.sampled_from(["", "Some.Code;Sender"]))
    form = draw(st.sampled_from(["length", "chunked", "open"]))
    head = draw(st.sampled_from(["", "HTTP/1.1 100 Continue\r\n\r\n"]))
    head += f"HTTP/1.1 {status} Said\r\nServer: x\r\n"
    head += f"x-amzn-query-error: {error}\r\n" if error else ""
    match form:
        case "length":
            whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        case "chunked":
            cut = draw(st.integers(0, len(body)))
            chunks = [part for part in (body[:cut], body[cut:]) if part]
            whole = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
            whole += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks)
            whole += b"0\r\n\r\n"
        case _:
            whole = f"{head}\r\n".encode() + body
    return whole, Said(status, error, body), form == "open"


@given(drawn=replies(), data=st.data())
async def test_a_reply_is_the_same_however_it_is_cut(
    drawn: tuple[bytes, Said, bool], data: st.DataObject
) -> None:
    """For any reply and any places to cut it, twice on one connection."""
    whole, expected, ends = drawn
    connection = http1._Connection()
    with socket.socket() as nowhere:
        connection.connection_made(Deaf({"socket": nowhere}))
    for _ in range(1 if ends else 2):
        cuts = sorted(data.draw(st.lists(st.integers(1, len(whole) - 1), max_size=9, unique=True)))
        call = http1._Call(2, body_bytes_max=300)
        connection.ask(call, b"")
        for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            assert not call.ended.done()
            connection.data_received(whole[begin:end])
        assert call.ended.done() is connection.may_be_asked is not ends
        if ends:
            connection.connection_lost(None)
        await call.ended
        assert [said(came) for came in call.replies] == [expected]


_AGAIN = [
    test
    for name, test in globals().items()
    if name.startswith("test_")
    and inspect.iscoroutinefunction(test)
    and not hasattr(test, "is_hypothesis_test")
    and not hasattr(test, "pytestmark")
]


@pytest.mark.parametrize("test", _AGAIN, ids=lambda test: test.__name__.removeprefix("test_"))
def test_on_uvloop_it_is_the_same(test: Any, request: pytest.FixtureRequest) -> None:
    """Whichever event loop there is: all tests of this file that have no cases of their own."""
    require(present=importlib.util.find_spec("uvloop") is not None, what="uvloop")
    import uvloop  # noqa: PLC0415  an extra that may be missing

    given = {name: request.getfixturevalue(name) for name in inspect.signature(test).parameters}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test(**given))
