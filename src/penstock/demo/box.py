"""The Penstock that the demo runs: its settings, its environment, its processes."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from subprocess import STDOUT

import redis.asyncio as redis

from penstock.demo.tweets import SELECTION
from penstock.embedded.sqs import EmbeddedSqs
from penstock.embedded.tether import tethered
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts

SPOOL_NAME = "demo"
_STOP_SECONDS = 25.0
_SETTLE_SECONDS = 0.5


def settings(
    directory: Path,
    spool: Mapping[str, str],
    ledger_url: str,
    sqs: EmbeddedSqs,
    queue_url: str,
    workers: int,
) -> str:
    """Return the penstock.toml of a box that works in `directory`, with short intervals."""
    sections: dict[str, dict[str, str | float]] = {
        "source": {**spool, "settle_seconds": _SETTLE_SECONDS},
        "select": {"fields": SELECTION},
        "queue": {"url": queue_url, "endpoint_url": sqs.address, "region": sqs.region},
        # A short lease, to let one watch how a killed worker's claims are taken over.
        "ledger": {"url": ledger_url, "spool": SPOOL_NAME, "lease_seconds": 10},
        "run": {
            "workers": workers,
            "console": "",  # its port may be in use
            "state_directory": str(directory / "state"),
            "loader_interval_seconds": 0.1,
            "archiver_interval_seconds": 1.0,
            "checker_interval_seconds": 2.0,
        },
    }
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        # JSON strings and numbers are also valid TOML.
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()]
    return "\n".join(lines) + "\n"


def ledger(client: "redis.Redis") -> Ledger:
    """Return the ledger, only to be read."""
    scripts = Scripts(client, SPOOL_NAME)
    return Ledger(scripts, worker="demo", lease_seconds=60.0, margin_seconds=10.0)


def environment(sqs: EmbeddedSqs) -> dict[str, str]:
    """Return our environment without AWS's and Penstock's variables, which would override them."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PENSTOCK_"))}
    return ours | dict(sqs.environment)


@contextlib.asynccontextmanager
async def running(
    command: list[str], environment: Mapping[str, str], log: Path, *, reading: bool = False
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a process with its messages in `log`; ask it to end, then kill it."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *tethered(*command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if reading else output,
            stderr=output if reading else STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the demo, which stops its parts in order
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
