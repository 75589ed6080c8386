"""Which stage of the path a sample of py-spy is: the innermost frame that a stage claims.

A sample is a line of py-spy's raw format: frames from the outermost in, `function (file:line)`
each, joined by `;`, a space, and how often it was seen.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath

START = "start and end"
"""Importing, opening, closing: once a process, and so in no file's share."""

OTHER = "event loop, other"

STAGES = {
    "list": (
        "source/candidates.py",
        "source/confirmed.py",
        "source/marker.py",
        "source/index.py",
        "source/order.py",
        "source/pace.py",
        "source/scan.py",
        "source/waiting.py",
        "source/settling.py",
        "source/nginx_backlog.py",
        "source/nginx_listing.py",
        "source/nginx.py:list",
        "source/file_server.py:list",
    ),
    "claim": (
        "ledger/ledger.py:claim",
        "ledger/ledger.py:_claim",
        "ledger/given.py",
        "ledger/spool.py",
        "ledger/connect.py",
    ),
    "read": (
        "source/directory.py",
        "source/nginx.py",
        "source/file_server.py",
    ),
    "strip": ("records/preamble.py",),
    "decode": ("records/decode.py", "records/json_errors.py"),
    "select": (
        "records/selection.py",
        "records/compile.py",
        "records/needs.py",
        "records/values.py",
    ),
    "pack": ("sqs/packer.py", "sqs/filling.py"),
    "send": (
        "sqs/queue.py",
        "sqs/batch.py",
        "sqs/errors.py",
        "sqs/limiter.py",
        "sqs/attributes.py",
        "sqs/endpoint.py",
        "sqs/client.py",
    ),
    "journal, commit": ("ledger/ledger.py", "ledger/outcome.py", "ledger/begun.py"),
    "log": ("telemetry.py",),
    "loader.py itself": ("loader.py", "worker.py", "records/transform.py"),
    "frame": ("serve/file_server.py",),
}
"""The modules of each stage, in the order of the path, or one function of a module, which goes
first. What is not here belongs to whoever called it. `frame` is the file server's own."""

FALLBACKS = {
    "read": ("penstock/source/http.py",),
    "compress": ("gzip.py",),
    "HTTP": ("aiohttp/", "penstock/serve/web.py", "penstock/http1.py"),
    "Redis client": ("redis/",),
}
"""Where no stage called: in callbacks, and in tasks and threads of a library's own."""

_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)")
_IDLE = ("_worker", "concurrent/futures/thread.py")  # it waits for work, which py-spy cannot see
_LOOPS = {"asyncio/runners.py", "threading.py"}
_OPENING = ("<frozen importlib", "importlib/", "penstock/wiring.py")

_OF_MODULE = {f"penstock/{what}": stage for stage, given in STAGES.items() for what in given}


def counted(lines: Iterable[str]) -> Counter[str]:
    """Return the samples of each stage; those of threads that wait for work are left out.

    A stack that changed while it was read may be no text at all: such a line is left out too.
    """
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if count.isdecimal() and (stage := stage_of(stack)):
            found[stage] += int(count)
    return found


def stage_of(stack: str) -> str:
    """Return the stage of one stack; empty for a thread that waits for work."""
    frames = [*_frames(stack)]
    files = [file for _, file in frames]
    if frames and frames[-1] == _IDLE:
        return ""
    if any(file.startswith(_OPENING) for file in files):
        return START
    for function, file in reversed(frames):
        if stage := _OF_MODULE.get(f"{file}:{function}") or _OF_MODULE.get(file):
            return stage
    for file in reversed(files):
        for stage, given in FALLBACKS.items():
            if file.startswith(given):
                return stage
    return OTHER if _LOOPS.intersection(files) else START


def _frames(stack: str) -> Iterator[tuple[str, str]]:
    """Yield function and file of each frame: without its class, and from its package on."""
    for text in stack.split(";"):
        if found := _FRAME.fullmatch(text):
            file = found["file"]
            parts = PurePath(file).parts
            if "penstock" in parts[:-1]:  # by its whole path, where it is not below sys.path
                last = len(parts) - 1 - parts[::-1].index("penstock")
                file = "/".join(parts[last:])
            yield found["function"].rpartition(".")[2], file
