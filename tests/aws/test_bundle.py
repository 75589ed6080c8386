"""What `make bundle` builds: imported alone, the same bytes again, small enough for Lambda."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.errors import Again, Halt
from scripts import bundle
from support.bundled import built
from support.require import require

ARCHITECTURE, PYTHON = bundle.here()


def test_the_bundle_is_whole_and_alone(tmp_path: Path) -> None:
    """An interpreter without any other package imports the handlers from it."""
    made = built()
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import penstock.aws.handlers as l;"
        "from importlib import resources;"
        "assert resources.files('penstock.ledger').joinpath('lua', 'claim.lua').is_file();"
        "from botocore.session import Session;"
        "Session().create_client('lambda', region_name='us-east-1');"
        "print(l.__file__, *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    file, *modules = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert not {"typer", "rich", "uvloop", "ministack"} & {*modules}
    assert not [name for name in names if name.startswith(("penstock/cli", "typer", "rich/"))]
    assert f"penstock/aws/__pycache__/handlers.cpython-{PYTHON.replace('.', '')}.pyc" in names


def test_its_versions_are_those_of_the_lock() -> None:
    """Nothing else than what uv.lock says, and all of it."""
    lock = tomllib.loads((bundle.checkout() / "uv.lock").read_text())
    locked = {package["name"]: package.get("version") for package in lock["package"]}
    with zipfile.ZipFile(built().path) as archive:
        found = {
            name.partition(".dist-info/")[0]
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA")
        }
    for versioned in found:
        name, _, version = versioned.partition("-")
        assert locked[name.replace("_", "-").lower()] == version
    assert {name.partition("-")[0] for name in found} >= {"aiohttp", "msgspec", "redis"}


@pytest.mark.campaign
def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Built again elsewhere, nothing differs: no time, no path, no order of a directory."""
    again = bundle.build(tmp_path / "again.zip", architecture=ARCHITECTURE, python=PYTHON)
    assert again.sha256 == built().sha256


def test_its_size_and_import_are_told() -> None:
    """Both figures are measured, and the size is the file's."""
    made = built()
    assert made.zipped_bytes == Path(made.path).stat().st_size < bundle.ZIPPED_BYTES_MAX
    assert made.unzipped_bytes < bundle.UNZIPPED_BYTES_MAX
    assert made.compiled
    assert made.import_seconds
    assert made.import_seconds > 0


def test_without_a_lock_there_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied elsewhere, it says that a checkout is needed."""
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    with pytest.raises(Halt, match=r"no uv\.lock in"):
        bundle.build(tmp_path / "b.zip", architecture=ARCHITECTURE, python=PYTHON)


def test_a_program_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of uv stand in the error, and no archive is left."""
    failing = tmp_path / "uv"
    failing.write_text("#!/bin/sh\necho no network >&2; exit 2\n")
    failing.chmod(0o755)

    def uv(_: Path) -> str:
        return str(failing)

    monkeypatch.setattr(bundle, "_uv", uv)
    with pytest.raises(Again, match="uv export ended with 2: no network"):
        bundle.build(tmp_path / "b.zip", architecture=ARCHITECTURE, python=PYTHON)
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.campaign
@pytest.mark.parametrize("python", bundle.PYTHONS)
@pytest.mark.parametrize("architecture", bundle.ARCHITECTURES)
def test_every_machine_of_lambda_gets_one(architecture: str, python: str, tmp_path: Path) -> None:
    """Both architectures and all four Pythons: wheels for each, extensions of the right machine."""
    require(
        present=bool(shutil.which("file")),
        what="file, which names a binary's machine (Debian: file)",
    )
    options = ["--arch", architecture, "--python", python, "-o", str(tmp_path / "b.zip"), "--json"]
    result = CliRunner().invoke(bundle.app, options)
    assert result.exception is None
    made = json.loads(result.stdout)
    assert made["zipped_bytes"] < bundle.ZIPPED_BYTES_MAX
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path / "tree")
    machines = {"arm64": "aarch64", "x86_64": "x86-64"}
    extensions = [*(tmp_path / "tree").rglob("*.so")]
    assert len(extensions) > 5
    for path in extensions:
        kind = subprocess.run(["file", "-b", path], capture_output=True, text=True, check=True)
        assert machines[architecture] in kind.stdout, path
        assert f"cpython-{python.replace('.', '')}-" in path.name or ".abi3." in path.name


@pytest.mark.parametrize(
    "text",
    [
        '[source]\ntoken = "abcdefghijklmnopqrst"\n',
        '[serve]\ntoken = "abcdefghijklmnopqrst"\n',
        '[ledger]\nurl = "redis://:hush@host:6379"\nspool = "s"\n',
    ],
)
def test_no_secret_goes_into_a_bundle(tmp_path: Path, text: str) -> None:
    """Whoever may read a function's code would have it: refused, and nothing is written."""
    archive = tmp_path / "b.zip"
    with pytest.raises(Halt, match="hold a token or a password"):
        bundle.add_config(archive, text)
    assert not archive.exists()


def test_settings_go_into_a_bundle_as_they_are(tmp_path: Path) -> None:
    """A function reads the penstock.toml that lies beside its code."""
    archive = tmp_path / "b.zip"
    text = "[select]\nfields = '{id: id}'\n"
    bundle.add_config(archive, text)
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("penstock.toml").decode() == text
    with pytest.raises(Halt, match=r"select\.fields"):
        bundle.add_config(archive, "[select]\nfields = '{'\n")


def test_an_authority_comes_in_and_a_key_does_not(tmp_path: Path) -> None:
    """`--ca` puts certificates where the template's CaInBundle has functions look; never a key."""
    archive = tmp_path / "a.zip"
    certificate = "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"
    bundle.add_ca(archive, certificate)
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("ca.pem").decode() == certificate
    for wrong in ("", certificate + "-----BEGIN PRIVATE KEY-----\n"):
        with pytest.raises(Halt, match="--ca"):
            bundle.add_ca(archive, wrong)
