"""What a process keeps: memory for its next claim, and nothing of parts that it closed."""

import asyncio
import gc
import platform
import subprocess
import sys
import weakref
from contextlib import AsyncExitStack

import pytest

from penstock import passes
from penstock.errors import Again


class Parts:
    """Parts that refer to themselves, as clients with connections do."""

    def __init__(self) -> None:
        self.itself = self


async def test_closed_parts_are_not_kept_frozen() -> None:
    """Else each minute without Redis would cost memory for good."""
    opened: list[weakref.ref[Parts]] = []
    stop = asyncio.Event()

    async def open_parts(_: AsyncExitStack) -> passes.OnePass[None]:
        parts = Parts()
        opened.append(weakref.ref(parts))

        async def one_pass(stop: asyncio.Event) -> None:
            assert parts.itself is parts
            if len(opened) == 1:
                raise Again("away")
            stop.set()

        return one_pass

    try:
        await passes.every(0, open_parts, stop, what="test")
        assert len(opened) == 2
        assert opened[0]() is None
    finally:
        gc.unfreeze()


_CLAIMS = """
import resource

from penstock import passes


async def main(stop):
    faults = []
    for _ in range(20):
        claim = [b"x" * 1_000_000 for _ in range(20)]
        del claim
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return faults[-1] - faults[0]


print(passes.run(main))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets what only glibc has")
def test_memory_of_one_claim_serves_the_next() -> None:
    """Pages that were given back would be faulted in again: some 4,900 a claim."""
    done = subprocess.run(
        [sys.executable, "-c", _CLAIMS], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 4_900
