"""A first day, on a machine with nothing but Python and make: the pages' own commands, in order."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.rooted import Rooted

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def steps(page: str) -> str:
    """Return the shell blocks of a page that are to be run, but for the tests themselves."""
    found = _BLOCK.findall((ROOT / page).read_text())
    return "\n".join(code for skipped, code in found if not skipped and code != "make test\n")


@pytest.mark.campaign  # some minutes, and it fetches packages
@pytest.mark.timeout(1200)
def test_from_an_empty_machine_to_an_archived_file(tmp_path: Path) -> None:
    """README's Install, its demo and own directory, then the tutorial, copied line by line."""
    root = Rooted(tmp_path / "root")
    root.copy_checkout("/root/penstock")
    readme, tutorial = steps("README.md"), steps("docs/tutorial.md")
    install, _, own = readme.partition("mkdir -p spool")
    script = f"set -ex\ncd /root/penstock\n{install}\nmkdir /root/own /root/tutorial\n"
    script += f"cd /root/own\nmkdir -p spool{own}\ncd /root/tutorial\n{tutorial}"
    (root.path / "root/day.sh").write_text(script)
    began = time.monotonic()
    command = root.command("bash", "/root/day.sh")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    transcript = done.stdout + done.stderr
    assert done.returncode == 0, transcript[-6000:]
    typed = len([line for line in script.splitlines() if line.strip()])
    told = len(transcript.splitlines())
    sys.stdout.write(f"{typed} lines typed, {told} lines of transcript, {seconds:.0f} s\n")
    assert "installed: " in transcript
    assert "the settings can work" in transcript
    assert "every file is accounted for" in transcript
    archived = [path.name for path in root.path.glob("root/*/archive/**/*.json")]
    assert len(archived) == 5
