"""Get uv, which sets up everything else, on a machine that has only Python.

    python3 get_uv.py DIRECTORY

Puts it at DIRECTORY/bin/uv: by pip in a virtual environment or, where the system's Python comes
without those (Debian's does), from its wheel on PyPI, whose hash is checked.
"""

import hashlib
import io
import json
import platform
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

UV_VERSION = "0.13.9"


def main() -> None:
    """Get uv, the plain way first."""
    if sys.version_info < (3, 11):
        sys.exit(
            f"Penstock needs Python 3.11 or newer; this is {platform.python_version()}"
            f" ({sys.executable}). Give another one: make PYTHON=/path/to/python3.12 …"
        )
    directory = Path(sys.argv[1])
    try:
        by_pip(directory)
    except (subprocess.CalledProcessError, OSError):
        by_wheel(directory)


def by_pip(directory: Path) -> None:
    """Make a virtual environment and install uv there. Raises if Python lacks venv or pip."""
    quiet = subprocess.DEVNULL
    make = [sys.executable, "-m", "venv", "--clear", str(directory)]
    subprocess.run(make, check=True, stdout=quiet, stderr=quiet)
    install = [directory / "bin" / "python", "-m", "pip", "install", "-q", f"uv=={UV_VERSION}"]
    subprocess.run(install, check=True, stdout=quiet, stderr=quiet)


def by_wheel(directory: Path) -> None:
    """Unpack uv from its wheel: one file, bin/uv."""
    wheel = find_wheel(fetch("https://pypi.org/simple/uv/"))
    archive = fetch(wheel["url"])
    if hashlib.sha256(archive).hexdigest() != wheel["hashes"]["sha256"]:
        sys.exit(f"{wheel['url']}: the hash differs from the one PyPI gives; try again")
    with zipfile.ZipFile(io.BytesIO(archive)) as unpacked:
        name = next(n for n in unpacked.namelist() if n.endswith("/scripts/uv"))
        target = directory / "bin" / "uv"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(unpacked.read(name))
        target.chmod(0o755)


def find_wheel(index: bytes) -> dict[str, Any]:
    """Return PyPI's entry of the wheel for this machine."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    system = "macosx" if platform.system() == "Darwin" else "manylinux"
    machine = machine if system == "macosx" else machine.replace("arm64", "aarch64")
    for wheel in json.loads(index)["files"]:
        name = wheel["filename"]
        if (
            name.startswith(f"uv-{UV_VERSION}-")
            and system in name
            and name.endswith(f"{machine}.whl")
        ):
            return wheel
    sys.exit(f"no wheel of uv for {system} {machine}: install uv, then make UV=$(command -v uv) …")


def fetch(url: str) -> bytes:
    """Return what lies at an https address of PyPI."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json, */*;q=0.1"}
    request = urllib.request.Request(url, headers=accept)  # noqa: S310  PyPI's own addresses
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  the same
            return answer.read()
    except OSError as error:
        sys.exit(f"{url}: {error}; Penstock's set-up needs PyPI, once")


if __name__ == "__main__":
    main()
