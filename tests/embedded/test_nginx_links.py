"""What plain nginx holds against the writer's links and FIFOs: the table in docs/nginx.md."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from support import raw_http
from support.embedded_nginx import EmbeddedNginx
from support.nginx import nginx_over
from support.raw_http import RawReply
from support.require import require_nginx

PAGE = Path(__file__).parents[2] / "docs" / "nginx.md"
NAME = "2026-11-23T06:15:00.123456.json"
HOUR = "2026/11/23/06"
LINKED = f"2025/{HOUR[5:]}"  # archive/2025 is a link


class Site(NamedTuple):
    """A running nginx, and a directory that is none of its business, `away`."""

    root: Path
    nginx: EmbeddedNginx

    @property
    def away(self) -> dict[str, str]:
        """Return what lies there."""
        above = self.root / "away"
        return {
            str(path.relative_to(above)): path.read_text() if path.is_file() else ""
            for path in above.rglob("*")
        }

    async def ask(
        self, method: str, target: str, body: bytes = b"", destination: str = ""
    ) -> RawReply:
        """Ask with the moving token."""
        fields = {"Authorization": f"Bearer {self.nginx.move_token}"}
        if destination:
            fields |= {"Overwrite": "F", "Destination": destination}
        return await raw_http.ask(
            self.nginx.address, target, method=method, headers=fields, body=body
        )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield an nginx over directories in which links and FIFOs are planted."""
    require_nginx()
    for folder in ("spool", f"archive/{HOUR}", "rejected", f"away/{HOUR[5:]}"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "spool" / NAME).write_text("{}")
    (tmp_path / "away" / HOUR[5:] / NAME).write_text("hush")
    (tmp_path / "archive" / "2025").symlink_to(tmp_path / "away")
    async with nginx_over(tmp_path) as nginx:
        yield Site(tmp_path, nginx)


def plant(root: Path, path: str, kind: str) -> None:
    """Put a link to a foreign file, or a FIFO, at a path."""
    if kind == "link":
        (root / path).symlink_to(root / "away" / HOUR[5:] / NAME)
    else:
        os.mkfifo(root / path)


Case = tuple[str, list[tuple[str, str]], tuple[str, str, bytes, str], set[int]]
REASON = f"{NAME}.reason.json"
HELD: list[Case] = [
    ("`GET` of a link or a FIFO in spool, archive or rejects", plants, ask, {403, 404})
    for plants, ask in (
        ([("spool/l.json", "link")], ("GET", "/spool/l.json", b"", "")),
        ([("spool/l.json", "fifo")], ("GET", "/spool/l.json", b"", "")),
        ([(f"archive/{HOUR}/l.json", "link")], ("GET", f"/dav/archive/{HOUR}/l.json", b"", "")),
        ([(f"archive/{HOUR}/l.json", "fifo")], ("GET", f"/dav/archive/{HOUR}/l.json", b"", "")),
        ([("rejected/l.json", "link")], ("GET", "/dav/rejected/l.json", b"", "")),
        ([("rejected/l.json", "fifo")], ("GET", "/dav/rejected/l.json", b"", "")),
    )
]
HELD.extend(
    [
        (
            "`GET` or `DELETE` of what lies behind a linked folder of the archive",
            [],
            ask,
            {403, 404},
        )
        for ask in (
            ("GET", "/dav/archive/2025/", b"", ""),
            ("GET", f"/dav/archive/{LINKED}/", b"", ""),
            ("GET", f"/dav/archive/{LINKED}/{NAME}", b"", ""),
            ("DELETE", f"/dav/archive/{LINKED}/{NAME}", b"", ""),
            ("DELETE", f"/dav/archive/{LINKED}/", b"", ""),
            ("DELETE", "/dav/archive/2025/", b"", ""),
        )
    ]
)
HELD.extend([
    ("`DELETE` of a link in the spool: the link goes, not what it names",
     [("spool/l.json", "link")], ("DELETE", "/dav/spool/l.json", b"", ""), {204}),
    ("`MOVE` of a link: the link is moved, not what it names",
     [("spool/l.json", "link")],
     ("MOVE", "/dav/spool/l.json", b"", f"/archive/{HOUR}/l.json"), {204}),
    ("`MOVE` to a name where a link or a FIFO is",
     [(f"archive/{HOUR}/{NAME}", "link")],
     ("MOVE", f"/dav/spool/{NAME}", b"", f"/archive/{HOUR}/{NAME}"), {412}),
    ("`MOVE` to a name where a link or a FIFO is",
     [(f"rejected/{NAME}", "fifo")],
     ("MOVE", f"/dav/spool/{NAME}", b"", f"/rejected/{NAME}"), {412}),
    ("`PUT` of a reason where a link or a FIFO is: it is replaced, not written to",
     [(f"rejected/{REASON}", "link")], ("PUT", f"/dav/rejected/{REASON}", b"{}", ""), {201, 204}),
    ("`PUT` of a reason where a link or a FIFO is: it is replaced, not written to",
     [(f"rejected/{REASON}", "fifo")], ("PUT", f"/dav/rejected/{REASON}", b"{}", ""), {201, 204}),
])  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("line", "plants", "ask", "statuses"), HELD)
async def test_what_nginx_holds(
    site: Site,
    line: str,
    plants: list[tuple[str, str]],
    ask: tuple[str, str, bytes, str],
    statuses: set[int],
) -> None:
    """Nothing foreign is shown or changed, and nothing waits; the page says so."""
    for path, kind in plants:
        plant(site.root, path, kind)
    before = site.away
    reply = await site.ask(*ask)
    assert reply.status in statuses
    assert b"hush" not in reply.body
    assert site.away == before
    assert f"| {line} | held |" in PAGE.read_text()


async def _moves_through(site: Site) -> None:
    reply = await site.ask("MOVE", f"/dav/spool/{NAME}", b"", f"/archive/{LINKED}/new.json")
    assert reply.status == 204
    assert f"{HOUR[5:]}/new.json" in site.away


async def _deletes_through(site: Site) -> None:
    (site.root / "archive" / HOUR / ".l").symlink_to(site.root / "away")
    await site.ask("DELETE", f"/dav/archive/{HOUR}/")
    assert NAME not in "".join(site.away)


NOT_HELD: list[tuple[str, Callable[[Site], Awaitable[None]]]] = [
    ("`MOVE` into a linked folder of the archive: the file lies where the link leads",
     _moves_through),
    ("`DELETE` of a folder in which a linked folder is: what the link leads to is deleted",
     _deletes_through),
]  # fmt: skip


@pytest.mark.parametrize(("line", "shown"), NOT_HELD)
async def test_what_nginx_does_not_hold(
    site: Site, line: str, shown: Callable[[Site], Awaitable[None]]
) -> None:
    """It still does so, and the page says so, and what to do."""
    await shown(site)
    assert f"| {line} | not held |" in PAGE.read_text()


def test_the_page_has_no_line_without_a_test() -> None:
    """Each row of its table is one of those above."""
    rows = {line.rpartition(" | ")[0] for line in PAGE.read_text().splitlines() if "held |" in line}
    assert rows == {f"| {row[0]}" for row in (*HELD, *NOT_HELD)}
