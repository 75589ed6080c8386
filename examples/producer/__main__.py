"""A stand-in for what writes your files: python -m examples.producer DIRECTORY [--rate 10].

Each file is written under a hidden name, then renamed: nobody sees half of one.
"""

import argparse
import itertools
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path


def main() -> None:
    """Write files until stopped, or `--files` of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rate", type=float, default=10.0, help="files a second")
    parser.add_argument("--files", type=int, default=0, help="so many; 0 never stops")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)  # a container's first ignores it
    given.directory.mkdir(parents=True, exist_ok=True)
    for number in itertools.islice(itertools.count(), given.files or None):
        write(given.directory, number)
        time.sleep(1 / given.rate)


def _end(*_: object) -> None:
    sys.exit()


def write(directory: Path, number: int) -> None:
    """Write one file, named for now, a comment before its JSON."""
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f") + ".json"
    record = {"id": number, "user": {"name": "ann"}, "text": "good morning"}
    hidden = directory / f".{name}.tmp"
    hidden.write_text(f"// batch {number}\n[{json.dumps(record)}]\n")
    hidden.rename(directory / name)


if __name__ == "__main__":
    main()
