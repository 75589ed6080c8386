"""A penstock command that kills or stops itself at a labelled point: `killable POINT N SIGNAL …`.

The product knows nothing of it: the points are methods, wrapped here before the command runs.
`N` is how often the point is passed first.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from penstock.archive import pack
from penstock.cli import main
from penstock.ledger.scripts import Scripts
from penstock.source.directory import DirectorySource
from penstock.sqs.queue import SqsQueue

POINTS = (
    "claim.before", "claim.after", "read.before", "read.after", "send.before", "send.after",
    "journal.before", "journal.after", "commit.before", "commit.after",
)  # fmt: skip
ARCHIVER_POINTS = ("archive.before", "archive.after", "archived.before", "archived.after")
PACK_POINTS = ("pack.before", "segment.before", "segment.after", "let_go.after", "pack.after")


def arm(point: str, times: int, number: signal.Signals) -> None:
    """Wrap the methods, so that this process gets the signal at `point` after `times` passes."""
    left = times

    def reach(here: str) -> None:
        nonlocal left
        if here == point:
            left -= 1
            if left < 0:
                left = 1_000_000
                os.kill(os.getpid(), number)

    _wrap(Scripts, "run", lambda args: args[1], reach)
    _wrap(SqsQueue, "_call", lambda _: "send", reach)
    _wrap_plain(DirectorySource, "_read", "read", reach)
    _wrap_plain(DirectorySource, "_archive", "archive", reach)
    _wrap_plain(pack, "pack", "pack", reach)
    _wrap_plain(pack._Packing, "_name", "segment", reach)
    _wrap_plain(pack, "_let_go", "let_go", reach)


def _wrap(
    owner: type, name: str, label: Callable[[Any], str], reach: Callable[[str], None]
) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(f"{label(args)}.before")
        answer = await original(*args, **kwargs)
        reach(f"{label(args)}.after")
        return answer

    setattr(owner, name, wrapped)


def _wrap_plain(owner: Any, name: str, label: str, reach: Callable[[str], None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(f"{label}.before")
        answer = original(*args, **kwargs)
        reach(f"{label}.after")
        return answer

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]])
    sys.argv[1:] = sys.argv[4:]
    main()
