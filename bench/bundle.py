"""The archives that `make bundle` builds: sizes, import times, and that they are reproducible.

    python -m bench.bundle

Builds each of the eight twice, compares the bytes, and prints the table that stands in docs/aws.md.
The time is CPU, of a new process that imports the handlers, the least of three; it is there where
this machine can run the archive. One for a Python that is not on PATH is not compiled.
"""

import tempfile
from pathlib import Path

from scripts import bundle
from scripts.bundle import ARCHITECTURES, PYTHONS, Bundle


def built(architecture: str, python: str, directory: Path) -> Bundle:
    """Build one archive twice; exit if they differ."""
    first, second = (
        bundle.build(directory / name, architecture=architecture, python=python)
        for name in ("first.zip", "second.zip")
    )
    if first.sha256 != second.sha256:
        raise SystemExit(f"{architecture}, Python {python}: two builds, two archives")
    return first


def main() -> None:
    """Build all, print the table."""
    print("| machine | Python | MB zipped | MB unzipped | import, s of CPU |")
    print("|---|---|---:|---:|---:|")
    for architecture in ARCHITECTURES:
        for python in PYTHONS:
            with tempfile.TemporaryDirectory() as directory:
                made = built(architecture, python, Path(directory))
            imported = "" if made.import_seconds is None else f"{made.import_seconds:.2f}"
            compiled = "" if made.compiled else ", not compiled"
            print(
                f"| {architecture} | {python}{compiled} | {made.zipped_bytes / 1e6:.1f}"
                f" | {made.unzipped_bytes / 1e6:.1f} | {imported} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
