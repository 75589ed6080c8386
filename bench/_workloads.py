"""What `make bench` measures, as data: the workloads, who does each, and what must be reached."""

from dataclasses import dataclass
from typing import Literal

FIELDS = ("id", "created_at", "text", "lang", "retweet_count")
SELECT = "{" + ", ".join(f"{name}: {name}" for name in FIELDS) + "}"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do a workload.

    `penstock`: real `penstock load` processes. `floor`: as many processes that read, cut, decode,
    pack, sign and post, with no ledger, no receipt looked at, no archive (_floor.py). `first`: what
    a user would write first, one process (_first.py). `files` are those it is given; a script is
    given fewer where it would take minutes.
    """

    name: str
    kind: Literal["penstock", "floor", "first"] = "penstock"
    workers: int = 2
    files: int = 0  # 0: all of the workload's
    latency_ms: int = 0
    archive: Literal["move", "pack"] = "move"


@dataclass(frozen=True, slots=True)
class Workload:
    """One table of results. `records` of 2.4 KB are in each file; `unit` is what is counted."""

    name: str
    title: str
    files: int
    contestants: tuple[Contestant, ...]
    records: int = 1
    unit: Literal["files", "records"] = "files"
    records_per_message: Literal["many", 1] = "many"
    source: Literal["directory", "server", "nginx"] = "directory"
    fifo: bool = False
    archiver: bool = False
    is_scaled: bool = True  # not where its numbers of files are what is compared


def _usual(workers: int = 2, first: int = 3_000, floor: int = 0) -> tuple[Contestant, ...]:
    return (
        Contestant("penstock", workers=workers),
        Contestant("floor", "floor", workers=workers, files=floor),
        Contestant("first script", "first", workers=1, files=first),
    )


_LATE = Contestant("penstock, 20 ms", latency_ms=20)

WORKLOADS = (
    Workload("a", "1 record of 2.4 KB a file", 150_000, (*_usual(), _LATE)),
    Workload("b", "100 records a file", 6_000, _usual(first=30), records=100, unit="records"),
    Workload(
        "c",
        "1 record a file, one record a message, in tens",
        100_000,
        (*_usual(), _LATE),
        unit="records",
        records_per_message=1,
    ),
    Workload(
        "d",
        "as (a), over HTTP: one loader, one file server",
        100_000,
        _usual(1),
        source="server",
    ),
    Workload(
        "e",
        "as (a), over nginx one by one: one loader, one nginx",
        40_000,
        _usual(1),
        source="nginx",
    ),
    Workload("f", "as (a), to a FIFO queue", 100_000, _usual(), fifo=True),
    Workload(
        "g",
        "as (a), and archived; until the last file is in the archive",
        100_000,
        (*_usual(), Contestant("penstock, packed", archive="pack")),
        archiver=True,
    ),
    Workload(
        "scaling",
        "as (a), 1, 2 and 4 loaders at one Redis",
        100_000,
        tuple(Contestant(f"{workers} workers", workers=workers) for workers in (1, 2, 4)),
    ),
    Workload(
        "depth",
        "as (a), one loader, a backlog of so many files",
        1_000_000,
        tuple(
            Contestant(f"{files:,} files", workers=1, files=files)
            for files in (1_000, 10_000, 100_000, 1_000_000)
        ),
        is_scaled=False,
    ),
)

LOADER_MEMORY_BYTES_MAX = 200_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """What `workload`'s contestant `who` must reach, a second, or as a ratio to another's."""

    workload: str
    least: float
    who: str = "penstock"
    over: str = ""


TARGETS = (
    Target("a", 70_000),
    Target("a", 0.45, over="floor"),
    Target("a", 20, over="first script"),
    Target("a", 0.9, "penstock, 20 ms", "penstock"),
    Target("b", 350_000),
    Target("b", 0.65, over="floor"),
    Target("c", 40_000),
    Target("c", 0.9, "penstock, 20 ms", "penstock"),
    Target("d", 35_000),
    Target("e", 12_000),
    Target("g", 35_000),
    Target("depth", 1 / 1.3, "1,000,000 files", "100,000 files"),
)
