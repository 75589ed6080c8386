"""`make bench` in small: it measures what it says, checks it, and writes it down."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support.require import require_nginx, require_redis

_ROOT = Path(__file__).parents[2]
_RUN = _ROOT / "bench" / "run.py"
_STAGES = runpy.run_path(str(_ROOT / "bench" / "_stages.py"))


def _told(
    script: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, and return what it told."""
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_measures_a_workload_beside_its_floor_and_the_first_script(tmp_path: Path) -> None:
    """Over nginx, and archiving: all records arrive, and the page has it all."""
    require_redis()
    require_nginx()
    small = ["--scale", "0.001", "--rounds", "1", "--directory", str(tmp_path)]
    done = _told(_RUN, "e", "g", *small, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["e", "g"]
    for result in results.values():
        assert [*result["contestants"]][:3] == ["penstock", "floor", "first script"]
        for one in result["contestants"].values():
            assert one["per_second"][0] > 0
    assert results["g"]["contestants"]["penstock"]["files"] == 100
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| (e) penstock | 12,000 files/s |" in page
    assert "## (g) as (a), and archived" in page
    assert not [*tmp_path.glob("penstock-bench-*")]  # nothing is left behind


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    """It says which there are, and measures nothing."""
    done = _told(_RUN, "z", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "no such workload: z; there are a, b, c" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_sample_belongs_to_the_innermost_stage() -> None:
    """Lines as py-spy wrote them, each with its stage; of a thread that waits, none is counted."""
    lines = (_ROOT / "tests/data/profile.tsv").read_text().splitlines()
    wanted = [line.split("\t") for line in lines]
    for stage, line in wanted:
        assert [*_STAGES["counted"]([line])] == ([] if stage == "idle" else [stage]), line
    samples = sum(int(line.rpartition(" ")[2]) for stage, line in wanted if stage != "idle")
    assert _STAGES["counted"](line for _, line in wanted).total() == samples
    assert {stage for stage, _ in wanted} >= {*_STAGES["STAGES"], *_STAGES["FALLBACKS"]}
    assert not _STAGES["counted"](["", "thread (7)", "run (asyncio/runners.py:9);\ufffd (", "( 1x"])


def test_a_package_that_is_no_part_of_its_path_is_found_by_its_whole_path() -> None:
    """As py-spy tells files outside sys.path, in a directory that has our name too."""
    stack = "run (asyncio/runners.py:9);_go (/src/penstock/src/penstock/sqs/packer.py:7)"
    assert _STAGES["stage_of"](stack) == "pack"


def test_every_module_of_the_path_has_a_stage() -> None:
    """Each named module exists; each of the rooms of the path is named, or called by one."""
    source = _ROOT / "src/penstock"
    named = {
        what.partition(":")[0] for modules in _STAGES["STAGES"].values() for what in modules
    } | {
        file.removeprefix("penstock/")
        for files in _STAGES["FALLBACKS"].values()
        for file in files
        if file.startswith("penstock/")
    }
    assert [name for name in sorted(named) if not (source / name).is_file()] == []
    callers = {"ledger/scripts.py", "ledger/receipts.py", "ledger/reads.py", "ledger/overview.py"}
    callers |= {"ledger/repairs.py", "ledger/loaders.py", "ledger/epoch.py"}
    callers |= {"source/moves.py", "source/nginx_dav.py", "source/frames.py"}
    callers |= {
        "ledger/lease.py",
        "ledger/upkeep.py",
        "records/expression.py",
        "records/headers.py",
    }
    modules = {
        f"{room}/{path.name}"
        for room in ("source", "ledger", "records", "sqs")
        for path in (source / room).glob("[a-z]*.py")
    }
    assert modules - named == callers


def test_py_spy_is_asked_for_where_it_is_missing(tmp_path: Path) -> None:
    """It is no dependency: the error says how to have it for one run."""
    script = _ROOT / "bench/profiling.py"
    done = _told(script, "a", "--directory", str(tmp_path), env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "uv run --with py-spy python bench/profiling.py" in done.stderr
    assert not [*tmp_path.iterdir()]
