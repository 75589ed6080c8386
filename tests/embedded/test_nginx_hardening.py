"""deploy/nginx.conf as it is shipped, against a real nginx: what it forbids, and to whom."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from support import raw_http
from support.embedded_nginx import EmbeddedNginx
from support.nginx import nginx_over
from support.raw_http import RawReply
from support.require import require_nginx
from support.traversal import spellings

NAME = "2026-11-23T06:15:00.123456.json"
HOUR = "2026/11/23/06"
SECRET = b"nobody outside may read this"
REFUSED = {400, 401, 403, 404, 405}


class Site:
    """A running nginx with something of everything in its directories."""

    def __init__(self, root: Path, nginx: EmbeddedNginx) -> None:
        self.root = root
        self.nginx = nginx
        for folder in ("spool", f"archive/{HOUR}", "rejected", "other"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / NAME).write_bytes(b"{}")
        (root / "secret.json").write_bytes(SECRET)

    async def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        holds: str = "move",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> RawReply:
        """Ask with a token, `read` or `move`, or with none."""
        known = {"read": self.nginx.read_token, "move": self.nginx.move_token}
        bearer = {"Authorization": f"Bearer {known[holds]}"} if holds else {}
        fields = bearer | dict(headers or {})
        return await raw_http.ask(
            self.nginx.address, target, method=method, headers=fields, body=body
        )

    def files(self) -> set[str]:
        """Return all that lies in the directories."""
        state = self.root / "state"
        return {str(p) for p in self.root.rglob("*") if p.is_file() and state not in p.parents}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield an nginx with files behind it."""
    require_nginx()
    async with nginx_over(tmp_path) as nginx:
        yield Site(tmp_path, nginx)


async def test_says_no_more_of_itself_than_its_name(site: Site) -> None:
    """Neither a file nor an error tells a version."""
    for target in (f"/spool/{NAME}", "/nothing", "/spool/"):
        reply = await site.ask(target)
        assert reply.headers["Server"] == "nginx"
        assert b"1." not in reply.body.replace(b"HTTP/1.", b"") or reply.status == 200


@pytest.mark.parametrize("target", ["/spool/", f"/spool/{NAME}", f"/dav/spool/{NAME}", "/nothing"])
async def test_nobody_gets_in_without_a_token(site: Site, target: str) -> None:
    """None, a wrong one, an empty one, another scheme, half of one, and one in the address."""
    good = site.nginx.move_token
    for value in (
        "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {good}", good, f"Bearer {good[:-1]}",
        f"Bearer {good}0", f"Bearer  {good}", f"Bearer {good},Bearer {good}", f"Bearer {good} x",
    ):  # fmt: skip
        reply = await site.ask(target, holds="", headers={"Authorization": value} if value else {})
        assert reply.status == 401, value
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    for query in (f"?token={good}", f"?access_token={good}", f"?Authorization=Bearer%20{good}"):
        assert (await site.ask(target + query, holds="")).status == 401
    host = site.nginx.address.removeprefix("http://")
    assert (await site.ask(f"http://{good}@{host}{target}", holds="")).status in REFUSED


async def test_two_tokens_in_one_request_are_refused(site: Site) -> None:
    """Not the first nor the last of them counts."""
    for second in (site.nginx.move_token, "wrong"):
        lines = [
            f"Authorization: Bearer {site.nginx.move_token}",
            f"Authorization: Bearer {second}",
        ]
        head = "\r\n".join([f"GET /spool/{NAME} HTTP/1.1", "Host: x", "Connection: close", *lines])
        raw = await raw_http.exchange(site.nginx.address, head.encode() + b"\r\n\r\n")
        assert raw_http.parsed(raw).status in {400, 401}


async def test_a_token_is_changed_without_a_gap(tmp_path: Path) -> None:
    """Two tokens for the same are good at the same time: the old one goes when all have the new."""
    require_nginx()
    nginx = nginx_over(tmp_path)
    await nginx.start()
    tokens = nginx.directory / "penstock.tokens"
    old = nginx.read_token
    await nginx.stop()
    tokens.write_text(tokens.read_text() + f'"Bearer {"ab" * 32}" read;\n')
    async with nginx:
        for token in (old, "ab" * 32):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await raw_http.ask(nginx.address, "/spool/", headers=headers)).status == 200


async def test_the_token_to_read_opens_nothing_of_dav(site: Site) -> None:
    """Whatever the method, the path and the fields."""
    before = site.files()
    move = {"Overwrite": "F", "Destination": f"/archive/{HOUR}/x.json"}
    for path in (
        f"/dav/spool/{NAME}", "/dav/archive/", f"/dav/archive/{HOUR}/",
        f"/dav/archive/{HOUR}/{NAME}", f"/dav/rejected/{NAME}", f"/dav/rejected/{NAME}.reason.json",
    ):  # fmt: skip
        for method in ("GET", "MOVE", "DELETE", "PUT", "COPY", "MKCOL"):
            body = b"{}" if method == "PUT" else b""
            reply = await site.ask(path, method, holds="read", headers=move, body=body)
            assert reply.status in {401, 403, 405}, (method, path)
    assert site.files() == before


@pytest.mark.parametrize("holds", ["read", "move"])
async def test_outside_of_dav_only_reading_is_allowed(site: Site, holds: str) -> None:
    """No method changes anything, on the listing nor on a file, nor one that nobody knows."""
    before = site.files()
    move = {"Overwrite": "F", "Destination": f"/archive/{HOUR}/x.json"}
    for target in ("/spool/", f"/spool/{NAME}", "/spool/new.json", "/", f"/archive/{HOUR}/{NAME}"):
        for method in (
            "POST", "PUT", "DELETE", "MOVE", "COPY", "MKCOL", "PROPFIND", "PROPPATCH", "LOCK",
            "UNLOCK", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PURGE", "get", "GETX",
        ):  # fmt: skip
            reply = await site.ask(target, method, holds=holds, headers=move)
            assert reply.status in REFUSED, (method, target)
    assert site.files() == before


async def test_dav_takes_no_other_method(site: Site) -> None:
    """Even with its token: no copy, no folder, no put into the spool or the archive."""
    before = site.files()
    move = {"Overwrite": "F", "Destination": f"/archive/{HOUR}/x.json"}
    allowed = {
        f"/dav/spool/{NAME}": {"MOVE", "DELETE"},
        "/dav/archive/": {"GET"},
        f"/dav/archive/{HOUR}/{NAME}": {"GET", "DELETE"},
        f"/dav/rejected/{NAME}": {"GET"},
        f"/dav/rejected/{NAME}.reason.json": {"PUT"},
        "/dav/spool/": set[str](),
        "/dav/rejected/": set[str](),
        "/dav/": set[str](),
        f"/dav/other/{NAME}": set[str](),
    }
    for target, methods in allowed.items():
        for method in {"GET", "PUT", "DELETE", "MOVE", "COPY", "MKCOL", "OPTIONS"} - methods:
            body = b"{}" if method == "PUT" else b""
            reply = await site.ask(target, method, headers=move, body=body)
            assert reply.status in REFUSED | {409}, (method, target)
    assert site.files() == before


@pytest.mark.parametrize(
    "destination",
    [
        "", "/", "/spool/x.json", "/archive/x.json", f"/archive/{HOUR}/", f"/archive/{HOUR}/../x",
        f"/archive/{HOUR}/.hidden.json", f"/archive/{HOUR}/a/b.json", "/archive/2026/11/23/x.json",
        f"/archive/{HOUR}/%2e%2e/x.json", f"/archive/{HOUR}/x%2f..%2fy", f"/archive/{HOUR}/x.tmp",
        f"/archive/{HOUR}/x%00.json", f"/archive/{HOUR}/x?y", f"/archive//{HOUR}/x.json",
        "/rejected/../x.json", "/rejected/", "/rejected/a/b", "/other/x.json", "/../../../tmp/x",
        "http://127.0.0.1/archive/2026/11/23/06/x.json", "file:///tmp/x", "//x/archive/a",
        f"/dav/archive/{HOUR}/x.json", f"/archive/{HOUR}/\\x.json", f" /archive/{HOUR}/a b.json",
    ],
)  # fmt: skip
async def test_files_are_moved_only_where_they_belong(site: Site, destination: str) -> None:
    """Any other Destination is refused before nginx's DAV sees it."""
    before = site.files()
    for source in (f"/dav/spool/{NAME}", f"/dav/rejected/{NAME}", f"/dav/archive/{HOUR}/{NAME}"):
        headers = {"Overwrite": "F", "Destination": destination}
        assert (await site.ask(source, "MOVE", headers=headers)).status in REFUSED
    assert site.files() == before


@pytest.mark.parametrize("overwrite", [None, "T", "t", "f", "", "F, T", "FF"])
async def test_nobody_overwrites(site: Site, overwrite: str | None) -> None:
    """Without `Overwrite: F`, which is nginx's word for never, nothing is moved at all."""
    headers = {"Destination": f"/archive/{HOUR}/{NAME}"}
    headers |= {} if overwrite is None else {"Overwrite": overwrite}
    (site.root / "spool" / NAME).write_bytes(b"new")
    assert (await site.ask(f"/dav/spool/{NAME}", "MOVE", headers=headers)).status == 403
    assert (site.root / "archive" / HOUR / NAME).read_bytes() == b"{}"
    headers["Overwrite"] = "F"
    assert (await site.ask(f"/dav/spool/{NAME}", "MOVE", headers=headers)).status == 412
    assert (site.root / "archive" / HOUR / NAME).read_bytes() == b"{}"


async def test_the_archive_as_a_whole_cannot_be_deleted(site: Site) -> None:
    """Nor the spool, nor the rejects; an hour can, because retention removes it."""
    for target in ("/dav/archive/", "/dav/spool/", "/dav/rejected/", "/dav/", "/archive/", "/"):
        assert (await site.ask(target, "DELETE")).status in REFUSED | {409}
    assert (site.root / "archive" / HOUR / NAME).exists()
    assert (await site.ask(f"/dav/archive/{HOUR}/", "DELETE")).status == 204
    assert not (site.root / "archive" / HOUR).exists()


@pytest.mark.parametrize("prefix", ["/spool/", "/dav/archive/", "/dav/rejected/", "/", "/spool"])
async def test_no_spelling_leads_out(site: Site, prefix: str) -> None:
    """Over a thousand ways to write `../secret.json`: each is refused, and none shows a secret."""
    path = str(site.root / "secret.json").lstrip("/")
    for tail in spellings(path):
        reply = await site.ask(prefix + tail)
        assert reply.status in REFUSED, tail
        assert SECRET not in reply.body, tail


async def test_what_is_not_yet_or_no_file_is_not_there(site: Site) -> None:
    """Hidden names, drafts, reasons, other characters, folders: refused, though they lie there."""
    spool = site.root / "spool"
    for name in (".hidden.json", "draft.tmp", "a.json.reason.json", "b.json\n", "f\u00e9.json"):
        (spool / name).write_bytes(SECRET)
    (spool / "folder").mkdir()
    (spool / "folder" / "a.json").write_bytes(SECRET)
    (spool / "index.html").write_bytes(b"<h1>instead of the listing</h1>")
    for target in (
        ".hidden.json", "draft.tmp", "a.json.reason.json", "b.json%0a", "f%c3%a9.json", "folder/",
        "folder/a.json", "%2ehidden.json", "draft.tm%70", "-.json", "%20a.json", "a" * 241,
    ):  # fmt: skip
        assert (await site.ask(f"/spool/{target}")).status in {403, 404}, target
    listing = await site.ask("/spool/")
    assert listing.headers["Content-Type"] == "application/json"
    assert b"instead of" not in listing.body


async def test_links_are_not_followed(site: Site, tmp_path: Path) -> None:
    """To a file, to a folder, in the spool, in the archive and among the rejects."""
    for folder in ("spool", f"archive/{HOUR}", "rejected"):
        (site.root / folder / "link.json").symlink_to(tmp_path / "secret.json")
    (site.root / "archive/2026/11/24").symlink_to(site.root / "other")
    (site.root / "archive/2025").symlink_to("/etc")
    for target in (
        "/spool/link.json", f"/dav/archive/{HOUR}/link.json", "/dav/rejected/link.json",
        "/dav/archive/2026/11/24/", "/dav/archive/2025/",
    ):  # fmt: skip
        reply = await site.ask(target)
        assert reply.status in {403, 404}, target
        assert SECRET not in reply.body


async def test_a_link_put_in_a_files_place_is_not_followed(site: Site, tmp_path: Path) -> None:
    """Swapped to and fro while it is read: the file, or nothing, and never what the link names."""
    path = site.root / "spool" / NAME
    statuses = set[int]()
    for turn in range(60):
        link, file = path.with_name(".l"), path.with_name(".f")
        link.symlink_to(tmp_path / "secret.json")
        file.write_bytes(b"{}")
        (link if turn % 2 else file).replace(path)
        (file if turn % 2 else link).unlink()
        reply = await site.ask(f"/spool/{NAME}")
        statuses.add(reply.status)
        assert SECRET not in reply.body
    assert statuses == {200, 403}


async def test_the_three_directories_may_be_links(tmp_path: Path) -> None:
    """Those that the administrator made, next to `root`: files lie where they lie already."""
    require_nginx()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAME).write_text("{}")
    (tmp_path / "kept").mkdir()
    (tmp_path / "spool").symlink_to("elsewhere")
    (tmp_path / "archive").symlink_to("kept")
    async with nginx_over(tmp_path) as nginx:
        headers = {"Authorization": f"Bearer {nginx.move_token}"}
        assert NAME.encode() in (await raw_http.ask(nginx.address, "/spool/", headers=headers)).body
        headers |= {"Overwrite": "F", "Destination": f"/archive/{HOUR}/{NAME}"}
        target = f"/dav/spool/{NAME}"
        moved = await raw_http.ask(nginx.address, target, method="MOVE", headers=headers)
    assert moved.status == 204
    assert (tmp_path / "kept" / HOUR / NAME).exists()


async def test_requests_are_bounded(site: Site) -> None:
    """Long addresses, large and many header fields, bodies: refused while they come in."""
    assert (await site.ask("/spool/" + "a" * 20_000)).status == 414
    assert (await site.ask("/spool/", headers={"X-Large": "a" * 20_000})).status == 400
    many = {f"X-{number}": "a" * 1000 for number in range(50)}
    assert (await site.ask("/spool/", headers=many)).status == 400
    large = await site.ask(f"/spool/{NAME}", body=b"x" * 2000)
    assert large.status == 413
    reason = f"/dav/rejected/{NAME}.reason.json"
    assert (await site.ask(reason, "PUT", headers={"Content-Length": "17000000"})).status == 413
    assert not (site.root / "rejected" / f"{NAME}.reason.json").exists()


async def test_ranges_are_not_served(site: Site) -> None:
    """Thousands of overlapping ranges of one file would be thousands of copies of it."""
    ranges = ",".join(f"{number}-" for number in range(200))
    reply = await site.ask(f"/spool/{NAME}", headers={"Range": f"bytes={ranges}"})
    assert (reply.status, reply.body) == (200, b"{}")


async def test_is_private_where_penstock_runs_it(site: Site) -> None:
    """The embedded one listens on loopback, and its tokens are for its user only."""
    assert site.nginx.address.startswith("http://127.0.0.1:")
    tokens = site.nginx.directory / "penstock.tokens"
    assert tokens.stat().st_mode & 0o777 == 0o600
    assert site.nginx.read_token != site.nginx.move_token
