"""A backlog behind the file server: files come, nobody reads, then one worker lists them all.

Prints whether every file was told exactly once, and the server's memory.
Usage: python bench/backlog.py [SECONDS [RATE [DIRECTORY]]]; by default 300 s of 6,000 files/s.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from _servers import EmbeddedFileServer

from penstock.source.file_server import ServerSource
from penstock.source.http import HttpSite


def _memory_bytes(server: EmbeddedFileServer) -> int:
    """Return the resident memory of the server's process, which holds its log open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"serve\0" in command and str(server.directory).encode() in command:
                pages = int((process / "statm").read_text().split()[1])
                return pages * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return 0


def _produce(spool: Path, seconds: float, rate: float) -> float:
    """Write files as evenly as it goes; return the seconds that it took."""
    began = time.monotonic()
    for number in range(round(seconds * rate)):
        path = spool / f"2026-11-23T06-15-00.{number:09d}.json"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"[]")
        os.close(fd)
        if number % 100 == 0:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
    return time.monotonic() - began


async def main(seconds: float, rate: float, place: str | None) -> None:
    """Print the figures."""
    root = Path(tempfile.mkdtemp(prefix="penstock-backlog-", dir=place))
    spool = root / "spool"
    spool.mkdir()
    try:
        async with EmbeddedFileServer(root / "state", spool=spool) as server:
            empty_bytes = _memory_bytes(server)
            took = await asyncio.to_thread(_produce, spool, seconds, rate)
            files = round(seconds * rate)
            print(f"written   {files:,} files in {took:.0f} s, {files / took:,.0f} a second")
            full_bytes = _memory_bytes(server)
            site = HttpSite(server.address, token=server.token, timeout_seconds=120)
            source = ServerSource(site, max_file_bytes=1 << 20, wait_seconds=0)
            began = time.monotonic()
            seen: set[str] = set()
            told, cursor, slowest = 0, "", 0.0
            while len(seen) < files and time.monotonic() - began < seconds + 600:
                asked = time.monotonic()
                page = await source.list(cursor)
                slowest = max(slowest, time.monotonic() - asked)
                cursor = page.cursor
                told += len(page.names)
                seen.update(page.names)
            drained = time.monotonic() - began
            listed_bytes = _memory_bytes(server)
            again = len((await source.list(cursor)).names)
            await source.close()
        print(f"told      {told:,}, of them {len(seen):,} different, {again} more after the end")
        rate = told / drained
        print(f"listed    in {drained:.1f} s, {rate:,.0f} a second; slowest page {slowest:.2f} s")
        print(
            f"memory    {empty_bytes / 1e6:.0f} MB empty, {full_bytes / 1e6:.0f} MB full,"
            f" {listed_bytes / 1e6:.0f} MB listed:"
            f" {(listed_bytes - empty_bytes) / files:.0f} bytes a file"
        )
        if not told == len(seen) == files or again:
            sys.exit("not every file was told exactly once")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    place = sys.argv[3] if len(sys.argv) > 3 else None
    uvloop.run(
        main(float((sys.argv[1:2] or ["300"])[0]), float((sys.argv[2:3] or ["6000"])[0]), place)
    )
