"""Planted bugs: each patch in tests/mutants must be caught by the test that it names.

A patch begins with `Bug:`, one line, and `Caught by:`, a test's id; `Quick: yes` has it run in
`make test` too, `make campaign` runs all. A patch that no longer applies is red: plant the bug anew
in the code as it is now.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATCHES = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
_TESTS_FAILED = 1  # pytest's exit code; 2 and more are no verdict


def header(patch: Path, field: str) -> str:
    """Return a field of a patch's header, or nothing."""
    found = re.search(rf"^{field}: (.+)$", patch.read_text(), re.MULTILINE)
    return found[1] if found else ""


def _mark(patch: Path) -> object:
    mark = pytest.mark.both if header(patch, "Quick") == "yes" else pytest.mark.campaign
    return pytest.param(patch, id=patch.stem, marks=mark)


@pytest.mark.parametrize("patch", [_mark(patch) for patch in PATCHES])
def test_the_named_test_catches_the_bug(
    patch: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A copy of the product with the bug in it fails the test that was written against it."""
    record_property("planted bug", patch.stem)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "--whitespace=nowarn", patch], cwd=tmp_path, check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "src"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis"),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--timeout", "60", header(patch, "Caught by")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == _TESTS_FAILED, f"{header(patch, 'Bug')}: survived\n{done.stdout}"


def test_every_patch_says_what_it_is() -> None:
    """A header names the bug and a test that exists."""
    for patch in PATCHES:
        assert header(patch, "Bug")
        file, _, test = header(patch, "Caught by").partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(), patch.name
