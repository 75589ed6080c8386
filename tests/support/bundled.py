"""The bundle for this machine's own interpreter, built once for all tests of a run."""

import fcntl
import functools
import hashlib
import json
import tempfile
from pathlib import Path

from scripts import bundle
from scripts.bundle import Bundle


@functools.cache
def built() -> Bundle:
    """Return the bundle of the sources as they are; the workers of one Python share one."""
    architecture, python = bundle.here()
    place = Path(tempfile.gettempdir()) / f"penstock-test-bundle-{python}-{_newest_source()}"
    place.mkdir(exist_ok=True)
    told = place / "bundle.json"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            made = bundle.build(place / "bundle.zip", architecture=architecture, python=python)
            told.write_text(json.dumps(made._asdict()))
    return Bundle(**json.loads(told.read_text()))


def _newest_source() -> str:
    """Return what changes whenever a source does, or another checkout is tested."""
    root = bundle.checkout()
    package = root / "src" / "penstock"
    files = [*package.rglob("*.py"), *package.rglob("*.lua"), root / "uv.lock"]
    files.append(Path(bundle.__file__))
    newest = max(path.stat().st_mtime_ns for path in files)
    place = hashlib.sha256(str(package).encode()).hexdigest()[:8]
    return f"{place}-{newest}"
