"""Write one log line per step. Counters are in tallies and in the ledger.

Never log record contents, tokens or passwords. File names, claim ids and counts are logged.
"""

import asyncio
import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any

PROGRESS_SECONDS = 10.0
_MANY = frozenset({"claim.committed"})  # dozens a second: too many for a terminal
_HOUR = re.compile(r"\d{4}/\d\d/\d\d/\d\d")  # a folder of the archive
LOG = logging.getLogger("penstock")


def event(step: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one step, such as `claim.committed`, with its fields; their names carry the units."""
    LOG.log(level, step, extra={"fields": fields})


def warn(step: str, /, **fields: Any) -> None:
    """Log a step that needs attention."""
    event(step, level=logging.WARNING, **fields)


class ByCause:
    """Why files could not be processed: per cause, their number and an example."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str, str]] = {}

    def add(self, file: str, cause: str) -> None:
        """Count a file; causes that differ only in its name and hour are one."""
        kind = _HOUR.sub("", cause.replace(file, ""))
        count, example, text = self.found.get(kind, (0, file, cause))
        self.found[kind] = (count + 1, example, text)

    def summary(self) -> str:
        """Return the cause that affects most files, with a count and an example; or ""."""
        files, example, cause = max(self.found.values(), default=(0, "", ""))
        count = f"{files:,} files, such as " if files > 1 else ""
        return f"{count}{example}: {cause}" if files else ""

    def tell(self, step: str, /, **fields: Any) -> None:
        """Log one line per cause since the last call, with the number of files."""
        found, self.found = self.found, {}
        for files, example, cause in found.values():
            warn(step, files=files, file=example, cause=cause, **fields)


@contextlib.contextmanager
def by_cause(step: str, /, **fields: Any) -> Generator[ByCause]:
    """Log one line per cause at the end, never one per file."""
    causes = ByCause()
    try:
        yield causes
    finally:
        causes.tell(step, **fields)


def configure(*, verbose: bool, as_json: bool | None = None) -> None:
    """Send events to standard error: text without claims' lines on a terminal, else JSON."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _Plain())
    if not (verbose or as_json):
        handler.addFilter(lambda record: record.getMessage() not in _MANY)
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


@contextlib.asynccontextmanager
async def progress(
    step: str, figures: Callable[[], Awaitable[Mapping[str, float]]]
) -> AsyncGenerator[None]:
    """Log the counts of `figures`, and their growth a second, every ten seconds if they changed."""

    async def report() -> None:
        before = await figures()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            now = await figures()
            if now and now != before:
                grown = {name: max(0, now[name] - before.get(name, 0)) for name in now}
                rates = {f"{n}_per_second": round(by / PROGRESS_SECONDS) for n, by in grown.items()}
                event(step, **now, **rates)
            before = now or before

    reporting = asyncio.create_task(report())
    try:
        yield
    finally:
        reporting.cancel()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def one_line(text: str) -> str:
    """Return a text with line breaks and terminal controls escaped: file names may have them."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "step": record.getMessage(),
            **_fields(record),
        }
        return one_line(json.dumps(line, default=str, ensure_ascii=False))


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        words = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return one_line(f"{at} {mark}{record.getMessage()} {words}".rstrip())
