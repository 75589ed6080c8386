"""The one guard before every route: tokens of both kinds, hosts, other sites, browsers, sockets."""

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web as aio
from playwright.async_api import async_playwright
from pydantic import SecretStr

from penstock import wiring
from penstock.errors import Halt
from penstock.serve import file_server, guard, web
from penstock.serve.console import add_console
from penstock.serve.guard import Access, May, Refused, access_of
from penstock.settings.schema import ServeSettings
from penstock.settings.secrets import kept_secret
from penstock.settings.spool_place import Directory
from support.box import Box
from support.fileserver import READ_TOKEN, TOKEN
from support.require import require

ACCESS = Access((TOKEN,), (READ_TOKEN,))
OWN_CHECKS = [
    "LocalNetworkAccessChecks", "BlockInsecurePrivateNetworkRequests",
    "PrivateNetworkAccessSendPreflights", "PrivateNetworkAccessRespectPreflightResults",
]  # fmt: skip
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--host-resolver-rules=MAP evil.example 127.0.0.1",
    f"--disable-features={','.join(OWN_CHECKS)}",
]  # fmt: skip
SECONDS = aiohttp.ClientTimeout(total=20)


async def _new(_: aio.Request) -> aio.Response:
    return aio.Response(text="new")


def everything(box: Box, access: Access) -> aio.Application:
    """Return an application with all routes that Penstock has, and one that was just added."""
    source = wiring.directory_source(box.settings, Directory(box.spool), served=True)
    app = file_server.new_app(source, access)
    add_console(app, box.settings, access)
    app.router.add_get("/v1/new", _new)
    return app


def routes(app: aio.Application) -> list[tuple[str, str, May]]:
    """Return method, path and needs of all routes."""
    return [
        (
            r.method,
            r.resource.canonical.format(name="x.json"),
            getattr(r.handler, "needs", May.MOVE),
        )
        for r in app.router.routes()
        if r.resource
    ]


@contextlib.asynccontextmanager
async def served(box: Box, access: Access = ACCESS, **serve: str) -> AsyncGenerator[str]:
    """Serve all of it; yields the address."""
    given = ServeSettings.model_validate({"listen": "127.0.0.1:0"} | serve)
    async with web.serving(everything(box, access), given) as address:
        yield address


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


STRANGERS: list[tuple[dict[str, str], int]] = [
    ({}, 401),
    (_bearer("x" * 64), 401),
    ({"Cookie": f"{ACCESS.cookie}={guard._half('cookie', TOKEN)}"}, 401),
    ({guard.PAGE_HEADER: guard._half("page", TOKEN)}, 401),
    (_bearer(TOKEN) | {"Host": "evil.example"}, 403),
    (_bearer(TOKEN) | {"Host": "127.0.0.1.evil.example"}, 403),
    (_bearer(TOKEN) | {"Host": ""}, 403),
    (_bearer(TOKEN) | {"Origin": "http://evil.example"}, 403),
    (_bearer(TOKEN) | {"Origin": "null"}, 403),
    (_bearer(TOKEN) | {"Origin": "http://127.0.0.1:1"}, 403),
    (_bearer(TOKEN) | {"Sec-Fetch-Site": "cross-site"}, 403),
    (_bearer(TOKEN) | {"Sec-Fetch-Site": "same-site"}, 403),
    (_bearer(TOKEN) | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
]


async def test_no_route_answers_a_stranger(box: Box) -> None:
    """The router's own list, walked: without a token, half of one, another Host, another site."""
    walked = routes(everything(box, ACCESS))
    assert ("GET", "/v1/new", May.MOVE) in walked
    assert len(walked) > 20
    async with served(box) as address, aiohttp.ClientSession(timeout=SECONDS) as session:
        for method, path, needs in walked:
            for headers, status in STRANGERS:
                async with session.request(method, address + path, headers=headers) as reply:
                    link = "Sec-Fetch-Mode" in headers and method == "GET"
                    if needs is May.NOTHING and (status == 401 or link):
                        assert reply.status in {200, 415}, (method, path, headers)
                    else:
                        assert reply.status == status, (method, path, headers)


async def test_a_reading_token_moves_nothing(box: Box) -> None:
    """Every route that may change something refuses it, and no other one does."""
    async with served(box) as address, aiohttp.ClientSession(timeout=SECONDS) as session:
        for method, path, needs in routes(everything(box, ACCESS)):
            headers = _bearer(READ_TOKEN)
            async with session.request(method, address + path, headers=headers) as reply:
                assert (reply.status == 403) is (needs is May.MOVE), (method, path)
                assert reply.status != 401
                changes = method not in {"GET", "HEAD"} and path not in {"/login", "/v1/files:read"}
                assert needs is May.MOVE or not changes, (method, path)


async def test_a_browser_keeps_two_halves_of_a_token(box: Box) -> None:
    """They do what the token does, only together; a wrong token gets none."""
    async with served(box) as address, aiohttp.ClientSession(timeout=SECONDS) as session:
        wrong = await session.post(f"{address}/login", json={"token": "x" * 64})
        assert (wrong.status, wrong.cookies) == (401, {})
        for token, status in ((TOKEN, 409), (READ_TOKEN, 403)):
            reply = await session.post(f"{address}/login", json={"token": token})
            (cookie,) = reply.cookies.values()
            assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
            half = (await reply.json())["page"]
            assert token not in (half, cookie.value)
            headers = {guard.PAGE_HEADER: half, "Cookie": f"{cookie.key}={cookie.value}"}
            async with session.get(f"{address}/v1/files", headers=headers) as listing:
                assert listing.status == 200
            spool = {"Penstock-Spool": '{"marker": "another"}'}
            async with session.post(
                f"{address}/v1/files:archive", json={"names": ["a.json"]}, headers=headers | spool
            ) as moved:
                assert moved.status in {status, 200 if token == TOKEN else status}


async def test_without_tokens_only_the_socket_answers(box: Box) -> None:
    """Whoever reaches it may call; over TCP an application without tokens lets nobody in."""
    async with served(box, Access()) as address, aiohttp.ClientSession(timeout=SECONDS) as session:
        assert (await session.get(f"{address}/v1/files")).status == 401
        assert (await session.get(f"{address}/v1/files", headers=_bearer(""))).status == 401
    path = str(box.root / "s")
    async with served(box, Access(), unix_socket=path):
        connector = aiohttp.UnixConnector(path)
        async with aiohttp.ClientSession(connector=connector, timeout=SECONDS) as session:
            for host in ("localhost", "whatever.example"):
                reply = await session.get("http://h/v1/files", headers={"Host": host})
                assert reply.status == 200
            foreign = {"Origin": "http://evil.example"}
            assert (await session.get("http://h/v1/files", headers=foreign)).status == 403


async def test_hosts_are_those_of_the_settings(box: Box) -> None:
    """A proxy's name is one that serve.hosts has; without any, another machine may say what it
    likes."""  # noqa: D205, D209
    named = Access((TOKEN,), hosts=frozenset({"penstock.example"}))
    async with served(box, named) as address, aiohttp.ClientSession(timeout=SECONDS) as session:
        for host, status in (
            ("penstock.example", 200), ("PENSTOCK.example:443", 200), ("evil.example", 403),
            ("localhost", 200), ("[::1]:80", 200), ("127.9.9.9", 200),
        ):  # fmt: skip
            headers = _bearer(TOKEN) | {"Host": host}
            assert (await session.get(f"{address}/v1/files", headers=headers)).status == status
    assert (
        access_of(ServeSettings(token=SecretStr(TOKEN), hosts=("Penstock.example",)), box.root)
        == named
    )


def test_tokens_are_made_once(tmp_path: Path) -> None:
    """By twenty starts at once: one pair, of this user's alone; a start later finds it."""
    state = tmp_path / "deep" / "state"
    with ThreadPoolExecutor(20) as pool:
        (made,) = set(pool.map(access_of, [ServeSettings()] * 20, [state] * 20))
    access = access_of(ServeSettings(), state)
    assert access == made
    assert access.moving[0] != access.reading[0]
    assert len(access.moving[0]) == 64
    assert sorted(path.name for path in state.iterdir()) == ["move.token", "read.token"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    how = access.how_to_use()
    assert how["token_file"] == str(state / "move.token")
    assert access.moving[0] not in str(how)


@pytest.mark.parametrize("planted", ["open", "foreign", "link", "fifo", "empty", "folder"])
def test_a_planted_token_is_none(tmp_path: Path, planted: str) -> None:
    """What others could have made, or can read, is not taken; and nothing waits, or is changed."""
    path = tmp_path / "s"
    (tmp_path / "known").write_text("0" * 64)
    (tmp_path / "known").chmod(0o600)
    if planted == "link":
        path.symlink_to(tmp_path / "known")
    elif planted == "fifo":
        os.mkfifo(path, 0o600)
    elif planted == "folder":
        path.mkdir()
    else:
        path.write_text("" if planted == "empty" else "0" * 64)
        path.chmod(0o644 if planted == "open" else 0o600)
        if planted == "foreign":
            require(present=os.geteuid() == 0, what="root, to give a file to another user")
            os.chown(path, 12345, 12345)
    before = path.lstat()
    with pytest.raises(Halt, match=r"serve\.token: none is set, and .*/s cannot be used: "):
        kept_secret(tmp_path, "s", "serve.token")
    assert path.lstat() == before


def test_a_link_for_the_state_directory_is_another_users(tmp_path: Path) -> None:
    """It could lead anywhere."""
    require(present=os.geteuid() == 0, what="root, to give a link to another user")
    (tmp_path / "state").symlink_to(tmp_path)
    os.lchown(tmp_path / "state", 12345, 12345)
    with pytest.raises(Halt, match="belongs to another user"):
        kept_secret(tmp_path / "state", "s", "serve.token")


ATTACK = """async ([at, routes, half]) => {
  const told = [];
  for (const [method, path] of routes) {
    for (const mode of ['cors', 'no-cors']) {
      const simple = method === 'HEAD' || method === 'GET' || method === 'POST';
      if (mode === 'no-cors' && !simple) continue;
      for (const type of ['text/plain', 'application/json']) {
        const body = method === 'POST' ? new Blob(['{"names":["x.json"]}'], {type}) : undefined;
        const headers = mode === 'cors' && half ? {'Penstock-Page': half} : {};
        const abort = AbortSignal.timeout(5000);
        try {
          const reply = await fetch(at + path,
            {method, mode, body, headers, signal: abort, credentials: 'include'});
          if (reply.type !== 'opaque') told.push([method, path, reply.status]);
        } catch { /* the browser, or the server, refuses */ }
      }
    }
  }
  return told;
}"""


async def test_a_page_of_another_site_gets_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real browser whose operator is logged in, the checks of its own for local networks off.

    The page lies at another port of the same host, at another name, and at a name that is made to
    lead to this server (DNS rebinding): on no route it gets past the guard.
    """
    program = shutil.which("chromium")
    require(present=bool(program), what="chromium (Debian: chromium)")
    walked = [
        (method, path) for method, path, _ in routes(everything(box, ACCESS)) if method != "*"
    ]
    passed: list[str] = []
    refused: list[str] = []
    check = Access.check

    def noting(access: Access, request: aio.Request) -> None:
        line = f"{request.method} {request.path} from {request.headers.get('Origin')}"
        try:
            check(access, request)
        except Refused:
            refused.append(line)
            raise
        passed.append(line)

    async def blank(_: aio.Request) -> aio.Response:
        return aio.Response(text="<title>evil</title>", content_type="text/html")

    evil = aio.Application()
    evil.router.add_get("/", blank)
    runner = aio.AppRunner(evil)
    await runner.setup()
    site = aio.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with served(box) as address, async_playwright() as driver:
        made = await driver.chromium.launch(executable_path=program, args=FLAGS, timeout=90_000)
        context = await made.new_context()
        reply = await context.request.post(f"{address}/login", data={"token": TOKEN})
        half = (await reply.json())["page"]
        page = await context.new_page()
        monkeypatch.setattr(Access, "check", noting)
        for origin in (f"http://127.0.0.1:{port}", f"http://evil.example:{port}"):
            await page.goto(origin)
            assert await page.evaluate(ATTACK, [address, walked, ""]) == []
            assert await page.evaluate(ATTACK, [address, walked, half]) == []
        rebound = f"http://evil.example:{address.rpartition(':')[2]}"
        await page.route(
            f"{rebound}/evil", lambda r: r.fulfill(body="evil", content_type="text/html")
        )
        await page.goto(f"{rebound}/evil")
        told = await page.evaluate(ATTACK, [rebound, walked, half])
        assert {status for _, _, status in told} == {403}
        assert len({(method, path) for method, path, _ in told}) == len(walked)
        await page.goto(f"http://evil.example:{port}")
        async with asyncio.timeout(20):
            await page.set_content(
                f"<img src='{address}/healthz'><script src='{address}/console.js'></script>"
                f"<iframe src='{address}/'></iframe>"
            )
        await made.close()
    await runner.cleanup()
    links = {"GET / from None"}  # the empty page: a link to it is let through, framed it is not
    assert set(passed) <= links
    assert len(refused) > 100
