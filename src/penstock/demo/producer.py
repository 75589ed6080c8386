r"""The demo's producer: a process that writes files like those Penstock is made for.

    python -m penstock.demo.producer --spool DIR --rate 6000 --seconds 10 \
        --records-per-file 1 --seed 1

Prints JSON lines, several a second: `{"files": …}`, the files written so far, first 0. Ends when
all are written; SIGTERM ends it between two files. Like the real one, it shares no code and no lock
with what reads the files.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from penstock.demo.corpus import Corpus

_SLEEP_SECONDS_MIN = 0.002  # a dozen files at 6,000 a second: fewer wake-ups, still smooth
_SLEEP_SECONDS_MAX = 0.1  # to notice a stop in time
_REPORT_SECONDS = 0.2


def names(clock_ns: Callable[[], int] = time.time_ns) -> Iterator[str]:
    """Yield file names without end: the time now in microseconds, never the same twice."""
    last, second, prefix = 0, -1, ""
    while True:
        last = max(last + 1, clock_ns() // 1000)
        if last // 1_000_000 != second:
            second = last // 1_000_000
            prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H-%M-%S")
        yield f"{prefix}.{last % 1_000_000:06}Z.json"


def seconds_of(name: str) -> float:
    """Return the creation time in a name, in seconds since 1970."""
    return datetime.strptime(name, "%Y-%m-%dT%H-%M-%S.%f%z.json").timestamp()


class SpoolWriter:
    """Writes files so that each appears whole under its name, or not at all."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def write(self, name: str, data: bytes) -> None:
        """Write a dot-file, then rename it into place. Raises OSError."""
        hidden = f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(hidden, flags, 0o644, dir_fd=self._fd)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(hidden, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)


def produce(
    spool: SpoolWriter,
    corpus: Corpus,
    *,
    rate: float,
    files: int,
    report: Callable[[int], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write `files` files at `rate` a second, catching up if late, until `stopped` is true."""
    name, written, reported = names(), 0, -_REPORT_SECONDS
    start = time.monotonic()
    while written < files and not stopped():
        elapsed = time.monotonic() - start
        if elapsed - reported >= _REPORT_SECONDS:
            reported = elapsed
            report(written)
        due = min(files, int(elapsed * rate) + 1)
        if written == due:
            ahead = written / rate - elapsed
            time.sleep(min(_SLEEP_SECONDS_MAX, max(_SLEEP_SECONDS_MIN, ahead)))
        while written < due and not stopped():
            spool.write(next(name), corpus.file(written))
            written += 1
    report(written)


def main() -> None:
    """Read the arguments and produce."""
    parser = argparse.ArgumentParser(description="Write the demo's files into a spool directory.")
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="files a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--records-per-file", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    stopped: list[int] = []
    # Noted, not raised, so that a begun file is finished and counted.
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))

    def report(files: int) -> None:
        print(f'{{"files": {files}}}', flush=True)  # noqa: T201  its protocol

    produce(
        SpoolWriter(given.spool),
        Corpus(given.seed, given.records_per_file),
        rate=given.rate,
        files=max(1, round(given.rate * given.seconds)),
        report=report,
        stopped=lambda: bool(stopped),
    )


if __name__ == "__main__":
    main()
