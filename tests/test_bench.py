"""`make bench` in small: it measures what it says, checks it, and writes it down."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.require import require_nginx, require_redis

_RUN = Path(__file__).parent.parent / "bench" / "run.py"


@pytest.mark.timeout(300)
def test_measures_a_workload_beside_its_floor_and_the_first_script(tmp_path: Path) -> None:
    """Over nginx, and archiving: all records arrive, and the page has it all."""
    require_redis()
    require_nginx()
    small = ["--scale", "0.001", "--rounds", "1", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(_RUN), "e", "g", *small, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["e", "g"]
    for result in results.values():
        assert [*result["contestants"]] == ["penstock", "floor", "first script"]
        for one in result["contestants"].values():
            assert one["per_second"][0] > 0
    assert results["g"]["contestants"]["penstock"]["files"] == 100
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| (e) penstock | 12,000 files/s |" in page
    assert "## (g) as (a), and archived" in page
    assert not [*tmp_path.glob("penstock-bench-*")]  # nothing is left behind


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    """It says which there are, and measures nothing."""
    done = subprocess.run(
        [sys.executable, str(_RUN), "z", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no such workload: z; there are a, b, c" in done.stderr
    assert not [*tmp_path.iterdir()]
