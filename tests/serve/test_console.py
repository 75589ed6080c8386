"""The console in a real browser, and what its calls refuse."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Dialog, Page, Route, async_playwright, expect

from penstock.demo.tweets import SELECTION
from penstock.embedded.redis import EmbeddedRedis
from penstock.operate import health, requeue, spool_files
from penstock.serve import console, guard, verdict_help, web
from penstock.serve.console import add_console
from penstock.serve.guard import Access, access_of
from support.box import Box
from support.require import require

TOKEN = "a-token-of-more-than-16-characters"  # noqa: S105  a test's own
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = os.environ.get("SCREENSHOTS", "")
NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
def _named(box: Box) -> None:
    """Have a spool in a picture called as somebody would call it."""
    if SHOTS:
        box.set("ledger", spool=f"tweets-{next(NUMBERS)}")


@contextlib.asynccontextmanager
async def served(box: Box, **serve: Any) -> AsyncGenerator[str]:
    """Serve the console of a box on a free port of this machine; yields its address."""
    box.set("serve", **({"token": TOKEN} | serve))
    known = box.settings
    access = access_of(known.serve, box.root / "state")
    app = web.application(access)
    add_console(app, known, access)
    listen = known.serve.model_copy(update={"listen": "127.0.0.1:0"})
    async with web.serving(app, listen) as address:
        yield address


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Yield a headless Chromium."""
    program = shutil.which("chromium")
    require(present=bool(program), what="chromium (Debian: chromium)")
    async with async_playwright() as driver:
        made = await driver.chromium.launch(executable_path=program, args=FLAGS, timeout=90_000)
        yield made
        await made.close()


def caller() -> aiohttp.ClientSession:
    """Return a session with the token."""
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})


async def opened(
    browser: Browser, address: str, *, first: str = "", is_known: bool = True, **given: Any
) -> tuple[Page, list[str]]:
    """Open the page; also return what it complains of, and what it asks of other hosts.

    The browser has been given the token before, if `is_known`.
    """
    context = await browser.new_context(**given)
    page = await context.new_page()
    if is_known:
        access = Access((TOKEN,))
        cookie = {"name": access.cookie, "value": guard._half("cookie", TOKEN), "url": address}
        await context.add_cookies([cookie])  # type: ignore[list-item]
        half = guard._half("page", TOKEN)
        await page.add_init_script(
            f"if (origin === '{address}') localStorage.setItem('penstock-page', '{half}')"
        )
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if "Security Policy" in m.text else None)
    page.on(
        "request", lambda r: None if r.url.startswith((address, "data:")) else wrong.append(r.url)
    )
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    await page.goto(first or address)
    return page, wrong


async def shoot(page: Page, name: str) -> None:
    """Keep screenshots where SCREENSHOTS says: on a desk, in the dark, on a phone."""
    if not SHOTS:
        return
    for kind, scheme, wide in (
        ("", "light", 1280),
        ("-dark", "dark", 1280),
        ("-phone", "light", 390),
    ):
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        await page.set_viewport_size({"width": wide, "height": 900})
        path = Path(SHOTS) / f"console-{name}{kind}.png"
        await page.screenshot(path=str(path), full_page=True)


async def test_the_page_shows_the_spool_live(box: Box, browser: Browser) -> None:
    """Figures change by themselves; nothing comes from elsewhere; no rule of accessibility or of
    the content policy is broken, in the light, in the dark and on a phone."""  # noqa: D205, D209
    box.write_many(40)
    async with served(box) as address:
        page, wrong = await opened(browser, address, color_scheme="light")
        await expect(page.locator("#waiting .count")).to_have_text("40")
        await expect(page.locator("#verdict")).to_contain_text("no worker has asked for work")
        await box.load()
        await box.archive()
        await box.check()
        await expect(page.locator("#archived .count")).to_have_text("40")
        await expect(page.locator("#verdict")).to_contain_text("Healthy")
        await expect(page).to_have_title("✓ 0 waiting · Penstock")
        await expect(page.locator("#live-text")).to_have_text("live")
        for scheme, size in (("light", (1280, 900)), ("dark", (1280, 900)), ("dark", (390, 844))):
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            await page.set_viewport_size({"width": size[0], "height": size[1]})
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{wide} pixels wider than a window of {size}"
        await page.set_viewport_size({"width": 1280, "height": 900})
        await shoot(page, "rest")
        assert wrong == []


async def test_a_reject_is_retried_by_keyboard_alone(
    box: Box, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tab to the button, Enter: the file is back in the spool, and sent; no content shows."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)
    content = "a word of ann's"
    file = box.write("2026-11-23T07~b=x.json", f'@@ machine @@\n{{"id": 1, "text": "{content}"}}')
    await box.load()
    await box.archive()
    async with served(box) as address:
        page, wrong = await opened(browser, address)
        button = page.get_by_role("button", name=f"Retry {file}")
        await expect(button).to_be_visible()
        assert content not in await page.content()
        for _ in range(24):
            await page.keyboard.press("Tab")
            if await button.evaluate("b => b === document.activeElement"):
                break
        box.set("decode", preamble_lines=1)
        await page.keyboard.press("Enter")
        await expect(page.locator("#rejects-said")).to_contain_text("is back in the spool")
        await box.load()
        assert box.received_ids() == {1: 1}
        await expect(page.locator("#rejects")).to_contain_text("no rejected file is kept")
        assert wrong == []


async def test_rejects_are_retried_and_discarded_by_reason(
    box: Box, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One button for all of a reason; who discards is asked first, and may say no."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)
    for i in range(3):
        box.write(f"2026-11-23T07-00-0{i}.json", f'@@ machine {i} @@\n{{"id": {i}}}')
        box.write(f"2026-11-23T08-00-0{i}.json", '{"id": 1')
    await box.load()
    await box.archive()
    async with served(box) as address:
        page, wrong = await opened(browser, address, viewport={"width": 390, "height": 844})
        groups = page.locator("#reject-groups li")
        await expect(groups).to_have_count(2)
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{wide} pixels wider than a phone"
        asked: list[str] = []
        answers = iter((False, True))

        async def answer(dialog: Dialog) -> None:
            asked.append(dialog.message)
            await (dialog.accept() if next(answers) else dialog.dismiss())

        page.on("dialog", answer)
        discard = page.get_by_role("button", name="Discard them: the JSON ends too early")
        await discard.click()
        await expect(groups).to_have_count(2)
        await discard.click()
        await expect(page.locator("#rejects-said")).to_contain_text("3 files discarded")
        assert asked == [asked[0]] * 2
        assert "3 files will never be sent" in asked[0]
        await expect(groups).to_have_count(1)
        box.set("decode", preamble_lines=1)
        await page.get_by_role("button", name="Retry all 3: ").click()
        await expect(page.locator("#rejects-said")).to_contain_text("3 files are back in the spool")
        await box.load()
        assert box.received_ids() == {0: 1, 1: 1, 2: 1}
        assert len([*(box.root / "rejected" / "discarded").glob("*T08*.json")]) == 6
        assert wrong == []


async def test_the_chart_tells_its_values(box: Box, browser: Browser) -> None:
    """At the pointer and by the arrow keys, for an hour and a day, in the zone that was chosen."""
    box.write_many(7)
    async with served(box) as address:
        page, wrong = await opened(browser, address, timezone_id="Asia/Kolkata")
        await expect(page.locator("#waiting .count")).to_have_text("7")
        await page.evaluate("historyKey = ''")
        await expect(page.locator("#charts rect.waiting")).to_have_count(1)
        await page.locator("#charts").focus()
        await page.keyboard.press("ArrowLeft")
        said = page.locator("#chart-said")
        await expect(said).to_contain_text("0 files processed, 0 rejected; 7 waiting, the oldest ")
        utc = await said.inner_text()
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z: ", utc)
        place = await page.locator("#charts svg").first.bounding_box()
        assert place
        await page.mouse.move(place["x"] + 2, place["y"] + 5)
        await expect(said).to_contain_text("waiting not known")
        await page.locator("#zone").select_option("here")
        await expect(page.locator("#chart-times span").last).not_to_have_text(utc[11:16])
        await page.get_by_role("button", name="day").click()
        await expect(page.locator("#charts rect.waiting")).to_have_count(1)
        async with caller() as session:
            told = await (await session.get(f"{address}/v1/history?minutes=1440")).json()
            assert (told["step_minutes"], len(told["bars"])) == (15, 96)
            assert told["bars"][-1]["waiting"] == 7
            refused = await session.get(f"{address}/v1/history?minutes=7")
            assert refused.status == 400
        assert wrong == []


async def test_a_file_is_found_and_a_verdict_explained(box: Box, browser: Browser) -> None:
    """The page tells what `penstock explain` tells, but nothing of what the file holds."""
    file = box.write("2026-11-23T07.json", "hush, a secret")
    await box.load()
    await box.archive()
    async with served(box) as address:
        page, wrong = await opened(browser, address)
        await page.locator("#find-name").fill(f"spool/{file}")
        await page.keyboard.press("Enter")
        await expect(page.locator("#found")).to_contain_text(f"{file}: rejected")
        assert "hush" not in await page.content()
        link = page.get_by_role("link", name="some-rejected")
        await link.click()
        await expect(page.locator("#some-rejected")).to_contain_text("What to do:")
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert wrong == []
        async with caller() as session:
            assert (await session.get(f"{address}/v1/file?name=")).status == 400


def test_every_verdict_has_its_help() -> None:
    """The page is made of docs/monitoring.md; the links of the console lead into it."""
    codes = set(re.findall(r'"([a-z]+-[a-z-]+)"[,}:]', Path(health.__file__).read_text()))
    assert {"redis-away", "loader-fails"} < codes
    assert not [code for code in codes if f'id="{code}"' not in verdict_help.page().decode()]


async def test_the_page_asks_for_the_token(box: Box, browser: Browser) -> None:
    """Without it no figure is shown; a wrong one is said to be wrong; the right one is kept, half
    in a strict cookie that no script sees, and half by the page."""  # noqa: D205, D209
    async with served(box, token=TOKEN) as address:
        page, wrong = await opened(browser, address, is_known=False)
        await expect(page.locator("#login")).to_be_visible()
        await expect(page.locator("#all")).to_be_hidden()
        await page.get_by_label("Token").fill("a token, pasted from a letter \N{EM DASH}")
        await page.keyboard.press("Enter")
        await expect(page.locator("#login-wrong")).to_contain_text("printable ASCII characters")
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#login-wrong")).to_have_text("That is not the server's token.")
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#all")).to_be_visible()
        await page.reload()
        await expect(page.locator("#all")).to_be_visible()
        other = await page.context.new_page()
        await other.goto(address)
        await expect(other.locator("#all")).to_be_visible()
        (cookie,) = await page.context.cookies()
        assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
        seen = await page.evaluate("document.cookie + JSON.stringify(localStorage)")
        for secret in (TOKEN, cookie.get("value", "")):
            assert secret not in seen + page.url
        assert wrong == []


async def test_redis_down_and_back_is_seen(box: Box, browser: Browser, tmp_path: Path) -> None:
    """Redis goes: said, with what is still known; it comes back: the page recovers by itself."""
    server = EmbeddedRedis(tmp_path / "state")
    await server.start()
    box.set("ledger", url=server.address)
    box.write_many(3)
    await box.load()
    await box.archive()
    await box.check()
    async with served(box) as address:
        page, wrong = await opened(browser, address)
        await expect(page.locator("#verdict")).to_contain_text("Healthy")
        await server.stop()
        box.write_many(5, first=10)
        await expect(page.locator("#verdict")).to_contain_text("Redis cannot be reached")
        await expect(page.locator("#figures")).to_contain_text("5files")
        await shoot(page, "redis-down")
        await server.start()
        await expect(page.locator("#waiting .count")).to_have_text("5")
        assert wrong == []
    await server.stop()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/status", {}, 401),
        ("GET", "/metrics", {}, 401),
        ("GET", "/v1/rejects", {"Authorization": "Bearer wrong-token-wrong-token"}, 401),
        ("POST", "/v1/rejects:retry", {}, 401),
        ("POST", "/v1/rejects:discard", {}, 401),
        ("GET", "/v1/history", {}, 401),
        ("GET", "/v1/file?name=x", {}, 401),
        ("GET", "/", {}, 200),
    ],
)
async def test_everything_but_the_empty_page_needs_the_token(
    box: Box, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """The page holds no data; the calls do."""
    async with served(box, token=TOKEN) as address, aiohttp.ClientSession() as session:
        reply = await session.request(method, address + path, headers=headers)
        assert reply.status == status
        if path == "/":
            policy = reply.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 403),
        ({"Content-Type": "application/json"}, 200),
    ],
)
async def test_another_site_cannot_make_a_browser_retry(
    box: Box, headers: dict[str, str], status: int
) -> None:
    """Without a token: no form, no other origin, no name that was pointed at this machine."""
    async with served(box) as address, caller() as session:
        data = json.dumps({"names": ["nobody.json"]})
        reply = await session.post(f"{address}/v1/rejects:retry", data=data, headers=headers)
        assert reply.status == status
        if status == 200:
            assert (await reply.json())["refused"] == {"nobody.json": "it is not a rejected file"}


async def test_no_content_of_a_file_is_in_a_reason(box: Box) -> None:
    """Reasons that quote a line of the file are shown without the quotation."""
    box.write("2026-11-23T07.json", 'a word of ann"}, {"name": "bob"}]')
    await box.load()
    await box.archive()
    async with served(box) as address, caller() as session:
        told = await (await session.get(f"{address}/v1/rejects")).text()
    assert "line 1 is neither JSON" in told
    assert "ann" not in told.replace("cannot", "")
    assert "bob" not in told


async def test_the_stream_ends_when_the_server_stops(box: Box) -> None:
    """An open page holds nobody up."""
    async with caller() as session:
        async with served(box) as address:
            reply = await session.get(f"{address}/v1/status/stream")
            line = await reply.content.readline()
            assert json.loads(line.removeprefix(b"data: "))["waiting"] == 0
        async with asyncio.timeout(10):
            await reply.read()


async def test_who_works_by_keyboard_stays_where_they_are(
    box: Box, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry and another reject change the table: the focus goes to the row that is there now."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)
    files = [box.write(f"2026-11-23T07-00-0{i}.json", "garbage") for i in range(3)]
    await box.load()
    await box.archive()
    async with served(box) as address:
        page, wrong = await opened(browser, address)
        await page.get_by_role("button", name=f"Retry {files[1]}").focus()
        focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
        box.write("2026-11-23T07-00-09.json", "garbage")
        await box.load()
        await expect(page.locator("#rejects button")).to_have_count(4)
        assert await page.evaluate(focused) == f"Retry {files[1]}"
        for left in (3, 2, 1, 0):
            await page.keyboard.press("Enter")
            await expect(page.locator("#rejects button")).to_have_count(left)
            assert (await page.evaluate(focused)).startswith("Retry " if left else "rejects-title")
        assert wrong == []


async def test_the_rejects_are_asked_for_again_after_a_failure(box: Box, browser: Browser) -> None:
    """One answer that is an error leaves no old table behind."""
    box.write("2026-11-23T07.json", "garbage")
    await box.load()
    async with served(box) as address:
        page, _ = await opened(browser, address, first="about:blank")
        answers = iter([503, 503])

        async def fails(route: Route) -> None:
            status = next(answers, None)
            await (route.fulfill(status=status) if status else route.continue_())

        await page.route("**/v1/rejects", fails)
        await page.goto(address)
        await expect(page.locator("#rejects")).to_contain_text("2026-11-23T07.json")


async def test_a_reason_that_cannot_be_read_is_told(box: Box) -> None:
    """Somebody else wrote it, or the disk was full: the others are shown all the same."""
    files = [box.write(f"2026-11-23T07-00-0{i}.json", "garbage") for i in range(5)]
    await box.load()
    await box.archive()
    broken = ["", "[1]", '{"records": [{"index": "one"}]}', "\udcff"]
    for file, text in zip(files, broken, strict=False):
        reason = box.root / "rejected" / f"{file}.reason.json"
        reason.write_bytes(text.encode(errors="surrogateescape"))
    async with served(box) as address, caller() as session:
        told = await (await session.get(f"{address}/v1/rejects")).json()
        reasons = [reject["reason"] for reject in told["rejects"]]
        assert reasons.count("its reason is missing or cannot be read") == 4
        assert told["total"] == 5


async def test_of_many_rejects_only_the_latest_are_read(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is the 50 that came last, and how many there are; two pages cost one look."""
    for i in range(60):
        box.write(f"2026-11-23T07-00-{i:02d}.json", "garbage")
        if i % 20 == 19:
            await box.load()
            await box.archive()
    read: list[str] = []
    one = spool_files.SpoolFiles.rejected_one

    def counted(where: spool_files.SpoolFiles, name: str) -> spool_files.RejectedFile:
        read.append(name)
        return one(where, name)

    monkeypatch.setattr(spool_files.SpoolFiles, "rejected_one", counted)
    async with served(box) as address, caller() as session:
        asked = [session.get(f"{address}/v1/rejects") for _ in range(5)]
        for reply in await asyncio.gather(*asked):
            told = await reply.json()
            assert (len(told["rejects"]), told["total"]) == (50, 60)
            shown = {reject["file"] for reject in told["rejects"]}
            assert shown >= {f"2026-11-23T07-00-{i:02d}.json" for i in range(20, 60)}
    assert len(read) <= 2 * 50


async def test_a_retry_that_cannot_be_done_says_why(box: Box) -> None:
    """Names that are no names, and a spool that went: no traceback, nothing lost."""
    file = box.write("2026-11-23T07.json", "garbage")
    await box.load()
    await box.archive()
    async with served(box) as address, caller() as session:
        names = [file, "../../etc/passwd", f"{file}.reason.json", ""]

        async def retried() -> tuple[int, dict[str, Any]]:
            reply = await session.post(f"{address}/v1/rejects:retry", json={"names": names})
            return reply.status, await reply.json()

        box.spool.rename(box.root / "elsewhere")
        status, said = await retried()
        assert (status, str(box.spool) in said["error"]) == (409, True)
        (box.root / "elsewhere").rename(box.spool)
        status, said = await retried()
        assert status == 200
        assert said["refused"].keys() == set(names)
        assert "an archiver may still be moving it" in said["refused"].pop(file)
        assert set(said["refused"].values()) == {"it is not a rejected file"}
    assert (box.root / "rejected" / file).exists()


async def test_behind_a_proxy_that_ends_tls_the_origin_is_the_host(box: Box) -> None:
    """The browser says https, we hear http: the same host is the same site."""
    hosts = ("penstock.example",)
    async with served(box, hosts=hosts) as address, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "penstock.example"}
        for origin, status in (("https://penstock.example", 200), ("https://evil.example", 403),
                               ("null", 403)):  # fmt: skip
            reply = await session.post(
                f"{address}/v1/rejects:retry", json={"names": ["x"]},
                headers=headers | {"Origin": origin},
            )  # fmt: skip
            assert reply.status == status


async def test_a_verdict_is_spoken_once(box: Box, browser: Browser) -> None:
    """Its figures change every second: they are seen to, and a screen reader stays silent."""
    box.write_many(3)
    async with served(box) as address:
        page, _ = await opened(browser, address)
        said = page.locator("#verdict-said")
        await expect(said).to_have_attribute("role", "status")
        await expect(said).to_contain_text("3 files wait")
        box.write_many(4, first=3)
        await expect(page.locator("#verdict")).to_contain_text("7 files wait")
        await expect(said).to_contain_text("3 files wait")
        assert await page.locator("#verdict [aria-live], #verdict[aria-live]").count() == 0
        await box.load()
        await box.archive()
        await box.check()
        await expect(said).to_have_text("Healthy")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_another_site_takes_no_place_of_an_operator(
    box: Box, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page may ask for streams in an operator's browser: it gets none, the operator does."""
    monkeypatch.setattr(console, "_STREAMS_MAX", 2)
    async with served(box) as address, caller() as session:
        url = f"{address}/v1/status/stream"
        foreign = [await session.get(url, headers=headers) for _ in range(2)]
        own = await session.get(url, headers={"Sec-Fetch-Site": "same-origin", "Origin": address})
        assert [reply.status for reply in (*foreign, own)] == [403, 403, 200]
        for call in ("status", "rejects"):
            assert (await session.get(f"{address}/v1/{call}", headers=headers)).status == 403
        page = await session.get(address, headers=headers | {"Sec-Fetch-Mode": "navigate"})
        assert page.status == 200  # a link to the console, from wherever
        for reply in (*foreign, own):
            reply.close()


async def test_a_page_that_nobody_reads_keeps_no_place(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone that sleeps: its stream is ended, and another page gets in."""
    monkeypatch.setattr(console, "_STREAMS_MAX", 1)
    monkeypatch.setattr(console, "_STREAM_SECONDS", 0.001)
    monkeypatch.setattr(console, "_WRITE_SECONDS", 0.3)
    async with served(box) as address, caller() as session:
        host, _, port = address.removeprefix("http://").partition(":")
        asleep = socket.socket()
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.connect((host, int(port)))
        asleep.send(
            f"GET /v1/status/stream HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        statuses: list[int] = []
        async with asyncio.timeout(40):
            while 503 not in statuses or 200 not in statuses[statuses.index(503) :]:
                await asyncio.sleep(0.1)
                reply = await session.get(f"{address}/v1/status/stream")
                statuses.append(reply.status)
                reply.close()
        asleep.close()


@pytest.mark.skipif(not SHOTS, reason="set SCREENSHOTS=docs to take them")
async def test_screenshots(box: Box, browser: Browser) -> None:
    """Take what docs/ shows: with rejects."""
    box.write_many(2000)
    for i in range(6):
        box.write(f"2026-11-23T07-00-{i:02d}.json", "@@ machine 7 @@\n" * (i % 2) + '{"id": 1')
    await box.load()
    await box.archive()
    await box.check()
    async with served(box) as address:
        page, _ = await opened(browser, address, color_scheme="light")
        await expect(page.locator("#rejects button")).to_have_count(6)
        await shoot(page, "rejects")


@pytest.mark.skipif(not SHOTS, reason="set SCREENSHOTS=docs to take them")
@pytest.mark.timeout(240)
async def test_screenshot_under_load(box: Box, browser: Browser) -> None:
    """Take what docs/ shows: `penstock run` at 6,000 files/s, all in processes of their own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    log = (box.root / "log").open("wb")

    async def started(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", *arguments],
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )

    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    sqs = await started("support.sqs_stub", "--queue", "q", "--discard")
    assert sqs.stdout
    url = (await sqs.stdout.readline()).decode().strip()
    box.set("queue", url=f"{url}/000000000000/q", endpoint_url=url)
    box.set("select", fields=SELECTION)
    box.set("run", console=listen, archiver_interval_seconds=1.0, checker_interval_seconds=5.0)
    box.set("source", settle_seconds=0.5)
    box.set("serve", token=TOKEN)
    run = await started("penstock", "run", "--config", str(box.toml()))
    given = {"spool": box.spool, "rate": 6000, "seconds": 120, "records-per-file": 1, "seed": 1}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    producer = await started("penstock.demo.producer", *options)
    try:
        while "console.listens" not in (box.root / "log").read_text():
            await asyncio.sleep(0.1)
        page, _ = await opened(
            browser, f"http://{listen}", color_scheme="dark", reduced_motion="reduce"
        )
        # In the second minute, when the rate is that of the producer, and claims are open.
        shown = (
            "() => document.querySelectorAll('#claims tr').length > 1 &&"
            " Math.abs(parseFloat(document.querySelector('#processed .more').textContent"
            ".replace(',', '')) - 6000) < 300"
        )
        await asyncio.sleep(60)
        await page.wait_for_function(shown)
        await shoot(page, "load")
    finally:
        for process in (producer, run, sqs):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()
        log.close()
