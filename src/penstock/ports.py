"""The edges of the path that do I/O, each a Protocol with one contract suite in tests/.

The ledger has no Protocol, because it is always Redis.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.model import FileRead, Message, Page, QueueLimits, Sent, SpoolIdentity


class Moved(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The result for one name: out of the spool (`vanished`: it was not there), or an `error`."""

    name: str
    error: str = ""
    vanished: bool = False


class Source(Protocol):
    """The way into the spool directory, and out of it, for one worker, archiver or checker.

    Several tasks may call each method at once. An invalid name counts as vanished. Every method is
    safe to repeat.
    """

    async def list(self, cursor: str) -> Page:
        """Return the next complete files, without those that are dealt with.

        One task calls this, at most a few times a second. Give back a page's cursor to say that it
        is dealt with. The previous cursor lists the same files again; an empty or unknown one lists
        everything. An empty page means that nothing new is complete now. Raises Again if the
        directory cannot be listed.
        """
        ...

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """Read files from the front of `names`, at least one, until `bytes_max` is passed.

        The age of the first file is always given.
        """
        ...

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """Move files out of the spool, or delete them; repeatable, overwrites no other file."""
        ...

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """Move files to the rejects directory, each with the text of its NAME.reason.json."""
        ...

    async def delete_archived(self, older_than_days: float) -> int:
        """Delete archived files past their retention; return how many. Safe to repeat."""
        ...

    async def close(self) -> None:
        """Release what is open; the source is not used afterwards."""
        ...


class IdentifiedSource(Source, Protocol):
    """A source that can tell which spool it leads to: asked once per call, never per file."""

    async def identity(self) -> SpoolIdentity:
        """Return which spool this is now, making a missing marker if possible. Raises Again."""
        ...


class Queue(Protocol):
    """The way to SQS. It belongs to one worker; many lanes call `send` at once."""

    async def open(self) -> QueueLimits:
        """Read the queue's attributes. Raises Again if it is away, Halt if it cannot serve."""
        ...

    async def send(
        self,
        messages: Sequence[Message],
        *,
        group: str,
        deadline: Callable[[], float],
        confirmed: Callable[[Sequence[Message]], Awaitable[None]],
        tried: bool = False,
    ) -> Sent:
        """Settle every message: confirmed by SQS, or rejected by it for good.

        Resends only what failed, as the same objects. `group` is the message group on a FIFO queue.
        `deadline` is read before every call: the monotonic time after which nothing is sent,
        because the lease ends. `confirmed` is awaited after each receipt, before the next resend;
        its errors pass through. `tried`: an earlier owner may have sent any of the messages. Raises
        Again if `deadline` passes with messages left, Halt if no resend can help. By then,
        `confirmed` has received all receipts.
        """
        ...

    async def close(self) -> None:
        """Release what is open; the queue is not used afterwards."""
        ...
