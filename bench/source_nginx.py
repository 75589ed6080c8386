"""Plain nginx: how long its listing takes, and how many files a second one process reads over it.

For each number of files: the listing's bytes and seconds as they come over the wire, and the
seconds to the first page made of it. Then one by one GETs of 2.4 KB files through
`NginxSource.read`, in claims of 500, four at a time, and their MOVEs into the archive.
Usage: python bench/source_nginx.py [FILES …]; by default 1,000, 100,000 and 1,000,000.
"""

import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from penstock.entry.embedded_nginx import EmbeddedNginx
from penstock.stages.source_http import HttpSite
from penstock.stages.source_nginx import NginxSource, place_of
from penstock.stages.source_nginx_many import CONNECTIONS

_READ = 20_000
_CLAIM = 500
_LANES = 4
_BODY = b'{"id":1,"text":"' + b"x" * 2_400 + b'"}'


def _write(spool: Path, first: int, until: int) -> None:
    for number in range(first, until):
        path = spool / f"2026-11-23T06:15:00.{number:09d}.json"
        path.write_bytes(
            _BODY if number < _READ else b"{}"
        )  # what is not read need not fill memory


async def _list(site: HttpSite, url: str, token: str, files: int) -> str:
    raw = await site.call("GET", "spool/", takes={200}, body_bytes_max=1 << 28, wait_seconds=60)
    began = time.perf_counter()
    await site.call("GET", "spool/", takes={200}, body_bytes_max=1 << 28, wait_seconds=60)
    wire_seconds = time.perf_counter() - began
    source = _source(HttpSite(place_of(url)[0], token=token, connections=CONNECTIONS))
    began = time.perf_counter()
    page = await source.list("")
    seconds = time.perf_counter() - began
    _check(len(page.files) == min(files, 10_000))
    await source.close()
    return f"{len(raw.body) / 1e6:9.2f} MB  {wire_seconds:7.3f} s  {seconds:9.3f} s"


def _source(site: HttpSite) -> NginxSource:
    return NginxSource(
        site, spool="spool", pattern=r".*\.json", settle_seconds=0, max_file_bytes=1 << 24
    )


async def _read(source: NginxSource, names: list[str]) -> tuple[float, float]:
    """Return the files a second, by the wall clock and by the CPU time of this process."""
    claims = iter([names[at : at + _CLAIM] for at in range(0, len(names), _CLAIM)])

    async def lane() -> None:
        for claim in claims:
            files = await source.read(claim, 1 << 24)
            _check(len(files) == len(claim))

    began, cpu = time.perf_counter(), _cpu_seconds()
    await asyncio.gather(*[lane() for _ in range(_LANES)])
    return len(names) / (time.perf_counter() - began), len(names) / (_cpu_seconds() - cpu)


def _check(right: bool) -> None:  # noqa: FBT001  what is measured must also be right
    if not right:
        sys.exit("not all files came")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(sizes: list[int]) -> None:
    """Print the table."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  mkdtemp in it
    root = Path(tempfile.mkdtemp(prefix="penstock-bench-", dir=memory))
    try:
        (root / "spool").mkdir()
        async with EmbeddedNginx(root / "state") as nginx:
            site = HttpSite(nginx.address, token=nginx.move_token, connections=CONNECTIONS)
            print("files         listing        on the wire  first page of 10,000")
            written = 0
            for files in sizes:
                _write(root / "spool", written, files)
                written = files
                print(f"{files:9,} {await _list(site, nginx.url, nginx.move_token, files)}")
            names = [f"2026-11-23T06:15:00.{n:09d}.json" for n in range(min(_READ, written))]
            source = _source(site)
            for _ in range(3):
                wall, cpu = await _read(source, names)
                print(f"read one by one: {wall:,.0f} files/s; {cpu:,.0f} a second of our CPU time")
            began = time.perf_counter()
            moved = await source.archive(names)
            seconds = time.perf_counter() - began
            _check(not any(file.error for file in moved))
            print(f"archived: {len(names) / seconds:,.0f} files/s")
            await source.close()
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    uvloop.run(main([int(word) for word in sys.argv[1:]] or [1_000, 100_000, 1_000_000]))
