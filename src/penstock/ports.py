"""The edges of the path that do I/O, each as one Protocol with one contract suite in tests/.

The ledger has none: Redis is Redis in every form of Penstock, so there is nothing to interchange.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.model import FileRead, Message, Page, QueueLimits, Sent, SpoolIdentity


class Moved(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one name given to `archive` or `reject`.

    `error` is empty when the file is out of the spool: moved now, moved before, or not there at
    all (then `vanished` is true). Otherwise it says what stands in the way.
    """

    name: str
    error: str = ""
    vanished: bool = False


class Source(Protocol):
    """The way into the spool directory, and out of it.

    Owner: one worker, archiver or checker; every method may be called from several tasks at once.
    Names given to it are validated again; a name outside the alphabet is treated as vanished.
    """

    async def list(self, cursor: str) -> Page:
        """Return the next complete files that this source has not been told are dealt with.

        A file that may still be being written waits in the source, and is on a later page. With
        `source.settle_seconds = 0` every file passes for complete. Called by one task at a time, at
        most a few times a second. A page is dealt with when its cursor is given back; the previous
        cursor given again lists the same files afresh. An empty or unknown cursor starts over from
        everything in the spool. An empty page means that nothing new is complete now. Raises Again
        if the directory cannot be listed.
        """
        ...

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """Read files from the front of `names` until `bytes_max` is passed; at least one.

        Called per claim, not per file. Safe to repeat. A missing file is an entry, not an error. Of
        the first one the age is always told.
        """
        ...

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """Move files out of the spool (or delete them, by the settings); one result a name.

        Safe to repeat: a file that has been moved is moved. Never overwrites a different file.
        """
        ...

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """Move files to the rejects directory, each beside NAME.reason.json; safe to repeat.

        `reasons` maps each name to the text of its NAME.reason.json.
        """
        ...

    async def delete_archived(self, older_than_days: float) -> int:
        """Delete archived files past their retention; return how many. Safe to repeat."""
        ...

    async def close(self) -> None:
        """Give back what is open; nothing is called afterwards."""
        ...


class IdentifiedSource(Source, Protocol):
    """A source that can tell which spool it leads to: asked per call of it, never per file."""

    async def identity(self) -> SpoolIdentity:
        """Return which directory the spool is now. Raises Again if it is away.

        Makes the marker where there is none and it may. Nothing is known of a spool without one
        behind plain nginx, or behind a file server of an earlier version.
        """
        ...


class Queue(Protocol):
    """The way to SQS. Owner: one worker; `send` is called by many lanes at once."""

    async def open(self) -> QueueLimits:
        """Read the queue's attributes, once at start.

        Raises Again if the queue cannot be reached, Halt if it does not exist, refuses us or
        cannot work as configured.
        """
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
        """Bring every message to an end: confirmed by SQS, or rejected by it for ever.

        Batches by count and bytes, sends batches concurrently, resends only what failed, as the
        same objects. `group` is the message group on a FIFO queue. `deadline` is read before every
        call: the monotonic time in seconds after which nothing may be sent any more, because the
        lease would not cover it. `confirmed` is awaited after each receipt, before the next resend.
        Raises Again when `deadline` has passed with messages left, Halt when SQS says that no
        resend can help (queue gone, access denied); in both cases `confirmed` has had all that SQS
        has confirmed. An error of `confirmed` itself is raised unchanged. `tried`: a worker that
        died may have sent any of them.
        """
        ...

    async def close(self) -> None:
        """Give back what is open; nothing is called afterwards."""
        ...
