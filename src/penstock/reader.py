"""The middle of the path in loader.py: read → transform → pack, and what became of each file."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock import telemetry
from penstock.errors import Again, Reject
from penstock.ledger.outcome import ClaimOutcome
from penstock.model import Claim, Fate, FileRead, RecordReject, Transformed, Unread
from penstock.ports import Source
from penstock.records.transform import Transform
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer

_READ_BYTES = 1_048_576  # of all files in one read: as much as a CPU's cache holds
_DENIED_RETRY_SECONDS = 30.0  # a file that cannot be read: someone may be fixing its mode


class UnreadableError(Again):
    """A file of a claim cannot be read, and messages of the claim may have been sent.

    Without the file, the messages would differ and repeat records. `processed` are the positions
    of the files that SQS has completely, as ranges.
    """

    def __init__(self, cause: str, processed: str = "") -> None:
        super().__init__(cause)
        self.processed = processed


class Read(NamedTuple):
    """How many files were read and packed, the result of each, and records that fit no message.

    `unreadable` is the next file and why it cannot be read; empty if reading can go on.
    `oldest_at_seconds` is the monotonic time at which the oldest file was last changed.
    """

    files: int
    done: Sequence[tuple[Transformed | Fate, Sequence[RecordReject]]]
    unreadable: str = ""
    oldest_at_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files of a claim, a few at a time, and packs their selected records.

    `filling` learns how many records and bytes files give. A file that ends too early is retried
    while its last change is younger than `settle_seconds`: its writer may have continued after the
    listing.
    """

    source: Source
    transform: Transform
    filling: Filling
    claim_bytes_max: int
    settle_seconds: float
    denied: telemetry.ByCause = dataclasses.field(default_factory=telemetry.ByCause)

    async def read(
        self,
        claim: Claim,
        position: int,
        end: int,
        packer: Packer,
        note_age: Callable[[float], None],
    ) -> Read:
        """Read files of a claim from a position on, transform them, and pack their records.

        The same files always give the same messages: a worker that takes a claim over rebuilds
        those already sent. In such a claim, it stops before a file that it cannot read.
        """
        names = claim.names[position:end]
        files = await self.source.read(names, min(_READ_BYTES, self.claim_bytes_max))
        oldest_seconds = files[0].age_seconds or 0.0  # it was listed first
        note_age(oldest_seconds)
        readable = _readable(files) if claim.tried else len(files)
        unreadable = ""
        if readable < len(files):
            unreadable = f"{files[readable].name}: {files[readable].detail}"
            files = files[:readable]
        done: list[tuple[Transformed | Fate, Sequence[RecordReject]]] = []
        for one in self.transform.run(files, position, claim.put_back):
            if isinstance(one, Fate):
                done.append(((await self._aged(one)).without_data(), ()))
            else:
                done.append((one, packer.add_all(one.files, one.records)))
        self._learn_from([part for part, _ in done if not isinstance(part, Fate)])
        return Read(len(files), done, unreadable, time.monotonic() - oldest_seconds)

    def _learn_from(self, parts: Sequence[Transformed]) -> None:
        files = sum(len(part.of) for part in parts)
        records = sum(len(part.records) for part in parts)
        size_bytes = sum(sum(map(len, part.records)) for part in parts) + records
        self.filling.learn(files, records, size_bytes)

    async def _aged(self, fate: Fate) -> Fate:
        """Look up the age of a file that ends too early, if it is not known."""
        is_cut = isinstance(fate.cause, Reject) and fate.cause.truncated
        if not is_cut or fate.file.age_seconds is not None:
            return fate
        (file,) = await self.source.read([fate.file.name], 1)
        return fate._replace(file=file)

    def note(self, read: Sequence[Read], outcome: ClaimOutcome) -> None:
        """Note what became of files that were read, except those that were given back."""
        kept = outcome.files
        for one in read:
            outcome.oldest_at_seconds = min(outcome.oldest_at_seconds, one.oldest_at_seconds)
            for done, too_large in one.done:
                if isinstance(done, Fate):
                    if done.position < kept:
                        self.note_fate(done, outcome)
                elif done.of[0] < kept:
                    part = done.before(kept)
                    outcome.pack(part, [r for r in too_large if r.index < len(part.records)])

    def note_fate(self, fate: Fate, outcome: ClaimOutcome) -> None:
        """Note what becomes of a file that has nothing to send: gone, retried or rejected."""
        file, cause, age_seconds = fate.file, fate.cause, fate.file.age_seconds or 0.0
        if cause is Unread.VANISHED:
            outcome.vanish(file.name)
        elif isinstance(cause, Unread):
            self.denied.add(file.name, file.detail)
            outcome.retry(file.name, _DENIED_RETRY_SECONDS)
        elif cause.truncated and abs(age_seconds) < self.settle_seconds:
            # A file far ahead of the clock is settled: it was listed because it did not change.
            wait_seconds = self.settle_seconds - age_seconds
            outcome.retry(file.name, min(wait_seconds, self.settle_seconds))
        else:
            outcome.reject(file.name, cause.reason)

    def tell(self) -> None:
        """Log why files could not be read since the last call: one line per cause."""
        self.denied.tell("file.denied", remedy="make them readable; they are retried")


def _readable(files: Sequence[FileRead]) -> int:
    """Return how many files come before the first that cannot be read."""
    denied = (at for at, file in enumerate(files) if file.data is Unread.DENIED)
    return next(denied, len(files))
