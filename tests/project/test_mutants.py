"""Planted bugs: each file in tests/mutants must be caught by the test that it names.

A file begins with `Bug:`, one line, and `Caught by:`, a test's id; `Quick: yes` has it run in
`make test` too, `make campaign` runs all. Then, for each place that it changes, `In:` a file,
`Was:` the exact lines that stand there, once, and `Is:` the lines that replace them. The code
around the place may change. Where the lines are gone, the test is red: plant the bug anew in the
code as it is now.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUGS = sorted((ROOT / "tests/mutants").glob("*.bug"))
_PLACE = re.compile(r"^In: (.+)\nWas:\n((?:(?!Is:$).*\n)+)Is:\n((?:(?!In: ).*\n)*)", re.MULTILINE)
_TESTS_FAILED = 1  # pytest's exit code; 2 and more are no verdict


def header(bug: Path, field: str) -> str:
    """Return a field of a bug's header, or nothing."""
    found = re.search(rf"^{field}: (.+)$", bug.read_text(), re.MULTILINE)
    return found[1] if found else ""


def planted(bug: Path, root: Path) -> dict[Path, str]:
    """Return the text of each file below `root` that a bug changes, with the bug in it."""
    changes: dict[Path, list[tuple[int, int, str]]] = {}
    for file, was, replacement in _PLACE.findall(bug.read_text()):
        text = "\n" + (root / file).read_text()
        assert text.count("\n" + was) == 1, f"{bug.name}: not there, once, in {file}:\n{was}"
        assert was != replacement, f"{bug.name}: changes nothing in {file}"
        at = text.index("\n" + was)
        changes.setdefault(root / file, []).append((at, at + len(was), replacement))
    assert changes, f"{bug.name}: changes nothing"
    texts: dict[Path, str] = {}
    for path, places in changes.items():
        text = path.read_text()
        for begin, end, replacement in sorted(places, reverse=True):
            text = text[:begin] + replacement + text[end:]
        texts[path] = text
    return texts


def _mark(bug: Path) -> object:
    mark = pytest.mark.both if header(bug, "Quick") == "yes" else pytest.mark.campaign
    return pytest.param(bug, id=bug.stem, marks=mark)


@pytest.mark.timeout(300)  # a pytest of its own, on a busy machine
@pytest.mark.parametrize("bug", [_mark(bug) for bug in BUGS])
def test_the_named_test_catches_the_bug(
    bug: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A copy of the product with the bug in it fails the test that was written against it."""
    record_property("planted bug", bug.stem)
    for part in ("src", "scripts", "deploy"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in planted(bug, tmp_path).items():
        path.write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "src"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis"),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-o", f"pythonpath={tmp_path} tests ."]
    done = subprocess.run(
        [*command, "--timeout", "60", header(bug, "Caught by")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == _TESTS_FAILED, f"{header(bug, 'Bug')}: survived\n{done.stdout}"


def test_every_bug_says_what_it_is_and_can_be_planted() -> None:
    """A header names the bug and a test that exists; the lines it replaces stand in the code."""
    for bug in BUGS:
        assert header(bug, "Bug")
        file, _, test = header(bug, "Caught by").partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(), bug.name
        assert planted(bug, ROOT)
