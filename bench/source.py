"""The spool over HTTP: plain nginx and Penstock's file server side by side, in one run.

For each number of files: what a whole listing (nginx) and a page of 1,000 (server) take, in bytes
and seconds, and how long a starting worker needs to its first claim when all of them are processed
and not archived. Then files of 2.4 KB through one client process: GETs one by one from both, and
batches from the server; and files a second into the archive.
Usage: python bench/source.py [FILES …]; by default 1,000, 100,000 and 1,000,000.
"""

import asyncio
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import redis.asyncio as redis
import uvloop
from _servers import EmbeddedFileServer, EmbeddedNginx

from penstock.embedded.redis import EmbeddedRedis
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts
from penstock.model import Settled
from penstock.ports import Source
from penstock.source.candidates import Candidates
from penstock.source.file_server import ServerSource
from penstock.source.http import CONNECTIONS, HttpSite
from penstock.source.nginx import NginxSource

_READ = 20_000
_CLAIM = 500
_LANES = 4
_REPEATS = 5
_BODY = b'{"id":1,"text":"' + b"x" * 2_400 + b'"}'
_ALL = 1 << 28


def _name(number: int) -> str:
    return f"2026-11-23T06:15:00.{number:09d}.json"


def _write(spool: Path, first: int, until: int) -> None:
    for number in range(first, until):  # what is not read need not fill memory
        (spool / _name(number)).write_bytes(_BODY if number < _READ else b"{}")


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    """Return the median of some repeats, in seconds."""
    taken: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def _nginx_listing(site: HttpSite) -> tuple[int, float]:
    async def list_all() -> int:
        reply = await site.call("GET", "spool/", takes={200}, body_bytes_max=_ALL, wait_seconds=60)
        return len(reply.body)

    return await list_all(), await _timed(list_all)


async def _server_page(site: HttpSite) -> tuple[int, float]:
    async def page() -> int:
        query = {"limit": "1000"}
        reply = await site.call(
            "GET", "v1/files", takes={200}, body_bytes_max=_ALL, query=query, wait_seconds=60
        )
        return len(reply.body)

    return await page(), await _timed(page)


async def _process_all(source: Source, ledger: Ledger) -> None:
    """Claim and commit whatever there is, as a worker does."""
    candidates, stop = Candidates(source, linger_seconds=0), asyncio.Event()
    while (portion := await candidates.next(_CLAIM, stop)).names:
        answer = await ledger.claim(portion.names, _CLAIM, frontier=candidates.frontier)
        candidates.tried(portion, len(portion.names))
        if answer.claim:
            await ledger.commit(answer.claim, Settled((), {}, {}, {}))
    await ledger.claim((), 1, frontier=candidates.frontier)


async def _first_claim(new_source: Callable[[], ServerSource], ledger: Ledger) -> float:
    """Return the seconds from a worker's start to a claim, where all but one claim is processed."""
    source = new_source()
    began = time.perf_counter()
    candidates = Candidates(source, linger_seconds=0)
    candidates.resume(await ledger.reads.frontier(), "")
    portion = await candidates.next(_CLAIM, asyncio.Event())
    answer = await ledger.claim(portion.names, _CLAIM, frontier=candidates.frontier)
    seconds = time.perf_counter() - began
    if answer.claim is None or len(answer.claim.names) != _CLAIM:
        sys.exit("the first claim is not of what was written last")
    candidates.tried(portion, len(portion.names))
    await ledger.commit(answer.claim, Settled((), {}, {}, {}))
    await ledger.claim((), 1, frontier=candidates.frontier)
    await source.close()
    return seconds


async def _read(
    title: str, names: Sequence[str], claim: int, read: Callable[[Sequence[str]], Awaitable[int]]
) -> None:
    """Read files in claims, four at a time, and print the best of three rates."""
    rates: list[tuple[float, float]] = []
    for _ in range(3):
        claims = [names[at : at + claim] for at in range(0, len(names), claim)]

        async def lane(claims: list[Sequence[str]] = claims) -> None:
            while claims:
                wanted = claims.pop()
                _check(await read(wanted) == len(wanted))

        began, cpu = time.perf_counter(), _cpu_seconds()
        await asyncio.gather(*[lane() for _ in range(_LANES)])
        seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu
        rates.append((len(names) / seconds, len(names) / cpu_seconds))
    wall, cpu_rate = statistics.median_low(rates)
    print(f"{title:34} {wall:10,.0f} files/s {cpu_rate:10,.0f} a second of the client's CPU")


async def _archive(title: str, names: Sequence[str], source: Source) -> None:
    began = time.perf_counter()
    for at in range(0, len(names), _CLAIM):
        moved = await source.archive(names[at : at + _CLAIM])
        _check(not any(file.error or file.vanished for file in moved))
    print(f"{title:34} {len(names) / (time.perf_counter() - began):10,.0f} files/s")


def _check(right: bool) -> None:  # noqa: FBT001  what is measured must also be right
    if not right:
        sys.exit("not all files came")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _listings(sizes: Sequence[int], root: Path, stack: AsyncExitStack) -> None:
    nginx = await stack.enter_async_context(EmbeddedNginx(root / "state", root=root))
    nginx_site = HttpSite(f"{nginx.address}/", token=nginx.move_token, timeout_seconds=120)
    stack.push_async_callback(nginx_site.close)
    store = await stack.enter_async_context(EmbeddedRedis(root / "state"))
    client = redis.from_url(store.address, decode_responses=True)
    stack.push_async_callback(client.aclose)
    print(f"{'files':>9}   nginx, all of them     server, 1,000 of them    first claim")
    written = 0
    for files in sizes:
        _write(root / "spool", written, files)
        written = files
        async with _server(root) as server:
            all_bytes, all_seconds = await _nginx_listing(nginx_site)
            site = _site(server)
            page_bytes, page_seconds = await _server_page(site)
            await site.close()
            ledger = Ledger(
                Scripts(client, str(files)), worker="b", lease_seconds=60, margin_seconds=1
            )
            source = _source(server)
            await _process_all(source, ledger)
            await source.close()
            firsts: list[float] = []
            for _ in range(_REPEATS):
                _write(root / "spool", written, written + _CLAIM)
                written += _CLAIM
                firsts.append(await _first_claim(lambda server=server: _source(server), ledger))
        print(
            f"{files:9,}  {all_bytes / 1e6:8.2f} MB {all_seconds * 1e3:7.0f} ms"
            f"  {page_bytes / 1e6:8.3f} MB {page_seconds * 1e3:7.2f} ms"
            f"  {statistics.median(firsts) * 1e3:9.2f} ms"
        )


async def _reads(names: Sequence[str], root: Path, stack: AsyncExitStack) -> None:
    nginx = await stack.enter_async_context(EmbeddedNginx(root / "state", root=root))
    above = HttpSite(f"{nginx.address}/", token=nginx.move_token, connections=CONNECTIONS)
    behind_nginx = NginxSource(
        above, spool="spool", pattern=r".*", settle_seconds=0, max_file_bytes=1 << 24
    )
    stack.push_async_callback(behind_nginx.close)
    server = await stack.enter_async_context(_server(root))
    site, source = _site(server), _source(server)
    stack.push_async_callback(site.close)
    stack.push_async_callback(source.close)
    gate = asyncio.Semaphore(CONNECTIONS)

    async def get(name: str) -> bool:
        async with gate:
            path = f"v1/files/{quote(name, safe='')}"
            reply = await site.call("GET", path, takes={200}, body_bytes_max=1 << 24)
            return len(reply.body) == len(_BODY)

    async def one_by_one(wanted: Sequence[str]) -> int:
        return sum(await asyncio.gather(*[get(name) for name in wanted]))

    async def from_nginx(wanted: Sequence[str]) -> int:
        return len(await behind_nginx.read(wanted, _ALL))

    async def from_server(wanted: Sequence[str]) -> int:
        return len(await source.read(wanted, 1 << 24))

    await _read("nginx, one by one", names, _CLAIM, from_nginx)
    await _read("server, one by one", names, _CLAIM, one_by_one)
    await _read("server, batches of 100", names, 100, from_server)
    await _read("server, batches of 500", names, 500, from_server)
    await _archive("archived by nginx", names[: len(names) // 2], behind_nginx)
    await _archive("archived by the server", names[len(names) // 2 :], source)


def _server(root: Path) -> EmbeddedFileServer:
    config = root / "penstock.toml"
    config.write_text("[source]\nsettle_seconds = 0\n")
    return EmbeddedFileServer(root / "state", spool=root / "spool", config=config)


def _site(server: EmbeddedFileServer) -> HttpSite:
    return HttpSite(
        server.address, token=server.token, timeout_seconds=120, connections=CONNECTIONS
    )


def _source(server: EmbeddedFileServer) -> ServerSource:
    return ServerSource(_site(server), max_file_bytes=1 << 24, wait_seconds=0)


async def main(sizes: list[int]) -> None:
    """Print the tables."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  mkdtemp in it
    root = Path(tempfile.mkdtemp(prefix="penstock-bench-", dir=memory))
    (root / "spool").mkdir()
    try:
        async with AsyncExitStack() as stack:
            await _listings(sizes, root, stack)
        async with AsyncExitStack() as stack:
            await _reads([_name(number) for number in range(min(_READ, sizes[-1]))], root, stack)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    uvloop.run(main([int(word) for word in sys.argv[1:]] or [1_000, 100_000, 1_000_000]))
