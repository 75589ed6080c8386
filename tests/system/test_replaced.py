"""The package's files go while it runs, as by an upgrade in place: a process needs none of them."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from support.box import Box

FILES = 60


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds, half a minute at most."""
    for _ in range(300):
        if await holds():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it never came about")


_IMPORTING = ["import_parts(given)", "directory_source(given, spool_place(given.source.url))"]


@pytest.mark.parametrize("do", _IMPORTING)
def test_what_a_bucket_needs_is_imported_before_waiting(box: Box, do: str) -> None:
    """Console and archiver ask for the bucket first when somebody looks for a file, or packs."""
    box.set("archive", action="pack", directory="s3://bucket/prefix/")
    code = (
        "import sys; from pathlib import Path; from penstock import wiring;"
        "from penstock.settings.reading import load;"
        "from penstock.settings.spool_place import spool_place;"
        f"given = load(Path({str(box.toml())!r})); wiring.{do}; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "penstock.archive.bucket" in done.stdout.split()


async def test_what_runs_reads_no_file_of_the_package(box: Box, tmp_path: Path) -> None:
    """Idle loader, archiver and checker go on to send, reject, archive and sweep."""
    package = tmp_path / "site" / "penstock"
    shutil.copytree(Path(penstock.__file__).parent, package)
    box.set("ledger", lease_seconds=1, sweep_seconds=1)
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}

    async def start(command: str) -> Any:
        given = [command, "--every", "0.1", "--config", str(box.toml())]
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "penstock", *given],
            env=environment,
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )

    processes = [await start(command) for command in ("load", "archive", "check")]

    async def all_idle() -> bool:
        async with box.look() as client:
            prefix = f"penstock:{{{box.given['ledger']['spool']}}}:"
            return await client.exists(f"{prefix}workers", f"{prefix}sweeper") == 2

    async def all_archived() -> bool:
        counted = await box.counters()
        return (counted.get("files_archived"), counted.get("files_rejected_moved")) == (FILES, 1)

    await until(all_idle)
    await asyncio.sleep(1)  # for the archiver, whose empty pass leaves no trace
    package.rename(package.with_name("gone"))
    box.write_many(FILES)
    box.write("2026-11-23T07:00:00.json", "no JSON")
    await until(all_archived)
    assert [process.returncode for process in processes] == [None] * 3
    for process in processes:
        process.terminate()
    logs = [(await process.communicate())[1].decode() for process in processes]
    assert box.received_ids() == dict.fromkeys(range(FILES), 1)
    assert not [line for log in logs for line in log.splitlines() if "waits" in line]
