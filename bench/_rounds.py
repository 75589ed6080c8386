"""One round of `make bench`: real processes do a workload; what they did is checked and timed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import _spool
import msgspec
import redis
from _plan import Plan
from _workloads import SELECT, WORKLOADS, Contestant, Workload

from penstock.archive import staging

_HERE = Path(__file__).parent
_TICKS = os.sysconf("SC_CLK_TCK")
AWS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Round(NamedTuple):
    """What one round took. `cpu_us` is CPU a file, in microseconds, by what used it."""

    per_second: float
    cpu_us: Mapping[str, float]
    memory_bytes: int  # the largest of its loaders


@dataclass(slots=True)
class Place:
    """Where a workload is done: its directories, and the servers that run for all rounds."""

    root: Path  # holds spool/, archive/ and penstock.toml
    redis_url: str
    sink_url: str
    services: Mapping[str, int]  # their processes, by name
    source_url: str
    address: str = ""
    token: str = ""
    names: Sequence[str] = field(default_factory=list[str])

    @property
    def spool(self) -> Path:
        """The spool."""
        return self.root / "spool"

    @property
    def state(self) -> Path:
        """What loaders keep from one pass to the next."""
        return self.root / "loaders"

    @property
    def log(self) -> Path:
        """What the processes said on standard error."""
        return self.root / "log"

    def ask_sink(self, path: str = "/", *, post: bool = False) -> Mapping[str, int]:
        """Ask the sink what it has, or tell it something."""
        request = urllib.request.Request(  # noqa: S310  our own process
            self.sink_url + path, data=b"" if post else None
        )
        with urllib.request.urlopen(request) as reply:  # noqa: S310  the same
            return cast("Mapping[str, int]", json.loads(reply.read()))


class _Ended(NamedTuple):
    """A process that did its share: its output, when it printed it, what it used."""

    said: Mapping[str, Any]
    ended: float
    cpu_seconds: float
    memory_bytes: int


def idle_seconds(place: Place, workload: Workload) -> float:
    """Return the CPU of a `penstock load` that finds nothing: what a loader pays for its start.

    It looks into an empty directory, but imports what the workload's source needs. The least of
    three: the first may compile what it imports.
    """
    (place.root / "nothing").mkdir(exist_ok=True)
    text = configured(place, WORKLOADS[0]).read_text()
    config = place.root / "nothing.toml"
    config.write_text(text.replace(f'"{place.source_url}"', f'"{place.root}/nothing"', 1))
    source = {"server": "file_server"}.get(workload.source, workload.source)
    run_penstock = "runpy.run_module('penstock', run_name='__main__', alter_sys=True)"
    load = ["-c", f"import runpy, penstock.source.{source}; {run_penstock}"]
    load += ["load", "--json", "--config", str(config)]
    return min(_wait(_start(load, place.log), place.log).cpu_seconds for _ in range(3))


def forget(place: Place) -> None:
    """Let Redis forget everything, and loaders that it ever knew more."""
    store: Any = redis.Redis.from_url(place.redis_url)
    store.flushall()
    store.close()
    shutil.rmtree(place.state, ignore_errors=True)


def run(place: Place, workload: Workload, contestant: Contestant, idle_seconds: float) -> Round:
    """Do a workload once. Exits if not all of its records came to the sink.

    `idle_seconds` of each loader's CPU, and of the archiver's, were its start.
    """
    forget(place)
    place.ask_sink(f"/latency?{contestant.latency_ms / 1000}", post=True)
    names = place.names[: contestant.files or None]
    before, used = place.ask_sink()["records"], services_seconds(place)
    did = _penstock if contestant.kind == "penstock" else _script
    seconds, ended, others = did(place, workload, contestant, names)
    services = {name: took - used[name] for name, took in services_seconds(place).items()}
    records = place.ask_sink()["records"] - before
    if records != len(names) * workload.records:
        sys.exit(f"{workload.name}, {contestant.name}: {records} records came, not all")
    start_seconds = idle_seconds if contestant.kind == "penstock" else 0.0
    loaders = sum(one.cpu_seconds - start_seconds for one in ended)
    count = len(names) * (workload.records if workload.unit == "records" else 1)
    others = {name: took - start_seconds for name, took in others.items()}
    cpu_seconds = {**services, "loader": loaders, **others}
    cpu_us = {name: took / len(names) * 1e6 for name, took in cpu_seconds.items()}
    return Round(count / seconds, cpu_us, max(one.memory_bytes for one in ended))


def _penstock(
    place: Place, workload: Workload, contestant: Contestant, _: Sequence[str]
) -> tuple[float, Sequence[_Ended], Mapping[str, float]]:
    """Run `penstock load`; the time is from the first pass's beginning to the last one's end."""
    config = configured(place, workload, contestant.archive)
    of_config = ["--config", str(config)]
    archive = ["-m", "penstock", "archive", "--every", "0.05", *of_config]
    archiver = _start(archive, place.log) if workload.archiver else None
    load = ["-m", "penstock", "load", "--json", *of_config]
    ended = _all([_start(load, place.log) for _ in range(contestant.workers)], place.log)
    began = min(one.ended - one.said["seconds"] for one in ended)
    last = max(one.ended for one in ended)
    if archiver is None:
        return last - began, ended, {}
    while any(not entry.name.startswith(".") for entry in os.scandir(place.spool)) or any(
        entry.name.startswith(("open-", "sealed-")) for entry in _staged(place)
    ):
        time.sleep(0.01)
    last = time.monotonic()
    archiver.send_signal(signal.SIGTERM)
    archived = _wait(archiver, place.log)
    if contestant.archive == "pack":
        extract = ["archived", "extract", str(place.root / "unpacked"), *of_config]
        _wait(_start(["-m", "penstock", *extract], place.log), place.log)
        shutil.rmtree(place.root / "archive")
        (place.root / "unpacked").rename(place.root / "archive")
    _spool.put_back(place.root / "archive", place.spool)
    return last - began, ended, {"archiver": archived.cpu_seconds}


def _staged(place: Place) -> list[os.DirEntry[str]]:
    """Return the rooms in which files wait until they are packed."""
    with contextlib.suppress(FileNotFoundError), os.scandir(place.spool / staging.FOLDER) as rooms:
        return list(rooms)
    return []


def _script(
    place: Place, workload: Workload, contestant: Contestant, names: Sequence[str]
) -> tuple[float, Sequence[_Ended], Mapping[str, float]]:
    command = [str(_HERE / f"_{contestant.kind}.py")]
    processes = [_start(command, place.log) for _ in range(contestant.workers)]
    for number, process in enumerate(processes):
        plan = Plan(
            names=[*names[number :: contestant.workers]],
            records=workload.records,
            records_per_message=workload.records_per_message,
            source=workload.source,
            spool=str(place.spool),
            address=place.address,
            token=place.token,
            queue_url=_queue_url(place, workload),
            redis_url=place.redis_url,
        )
        with cast("IO[bytes]", process.stdin) as stdin:
            stdin.write(msgspec.json.encode(plan))
    ended = _all(processes, place.log)
    began = min(one.said["began"] for one in ended)
    return max(one.said["ended"] for one in ended) - began, ended, {}


def _queue_url(place: Place, workload: Workload) -> str:
    return f"{place.sink_url}/000000000000/{'q.fifo' if workload.fifo else 'q'}"


def configured(place: Place, workload: Workload, archive: str = "move") -> Path:
    """Write the penstock.toml of a workload."""
    per_message = workload.records_per_message
    lines = [
        "[source]", f'url = "{place.source_url}"', f'token = "{place.token}"', "settle_seconds = 0",
        "[select]", f'fields = "{SELECT}"',
        "[queue]", f'url = "{_queue_url(place, workload)}"', f'endpoint_url = "{place.sink_url}"',
        f"records_per_message = {json.dumps(per_message)}",
        "[ledger]", f'url = "{place.redis_url}"', 'spool = "bench"',
        "[archive]", f'action = "{archive}"', "pack_seconds = 1",
        "[run]", f'state_directory = "{place.state}"',
    ]  # fmt: skip
    path = place.root / "penstock.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **AWS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )


def _all(processes: Sequence[subprocess.Popen[bytes]], log: Path) -> Sequence[_Ended]:
    """Wait for all; each is read as it speaks, so that the time it ended is its own."""
    with ThreadPoolExecutor(len(processes)) as pool:
        return [*pool.map(_wait, processes, [log] * len(processes))]


def _wait(process: subprocess.Popen[bytes], log: Path) -> _Ended:
    """Read what a process prints, and when; then what it used."""
    line = process.stdout.readline() if process.stdout else b""
    ended = time.monotonic()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{process.args}: exit code {process.returncode}\n{log.read_text()[-3000:]}")
    said: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
    cpu_seconds = said.get("cpu_seconds", usage.ru_utime + usage.ru_stime)
    return _Ended(said, ended, cpu_seconds, usage.ru_maxrss * 1024)


def services_seconds(place: Place) -> dict[str, float]:
    """Return the CPU that each service has used so far, in seconds."""
    return {name: _cpu_seconds(pid) for name, pid in place.services.items()}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
