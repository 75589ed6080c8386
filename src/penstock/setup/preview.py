"""Show what would become of files, up to their messages: by the loader's parts, sending nothing."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from penstock import wiring
from penstock.errors import Reject
from penstock.model import BILLED_BYTES, CLAIM_ID_LIKE, Message, QueueLimits, RecordReject
from penstock.settings.schema import Settings
from penstock.setup import survey
from penstock.sqs.batch import batches
from penstock.sqs.packer import Packer

LIMITS: Final = QueueLimits(message_bytes_max=1_048_576)
"""The most that SQS allows a queue; nobody asks the queue for its own limit."""


@dataclass
class Preview:
    """What would become of one file."""

    file: str
    size_bytes: int = 0
    preamble: bytes = b""
    json_bytes: int = 0
    records: Sequence[bytes] = ()
    indexes: Sequence[int] = ()
    filtered: int = 0
    rejected: Sequence[RecordReject] = ()
    error: str | None = None
    note: str = ""

    @property
    def line(self) -> bytes:
        """The file as one line of JSON; line ends between the parts of values become spaces."""
        start = {"file": self.file, "preamble_bytes": len(self.preamble)}
        rejected = msgspec.to_builtins(self.rejected)
        end = {"filtered": self.filtered, "rejected": rejected, "error": self.error}
        values = b",".join(self.records).translate(bytes.maketrans(b"\r\n", b"  "))
        head, tail = json.dumps(start)[:-1].encode(), json.dumps(end)[1:].encode()
        return b'%b, "records": [%b], %b\n' % (head, values, tail)


@dataclass
class Totals:
    """What would become of all files together."""

    files: int = 0
    rejected_files: int = 0
    json_bytes: int = 0
    records: int = 0
    record_bytes: int = 0
    filtered: int = 0
    rejected: int = 0
    messages: list[int] = field(default_factory=list[int])
    batches: int = 0
    requests_billed: int = 0

    def add(self, preview: Preview) -> None:
        """Count one file."""
        self.files += 1
        self.rejected_files += preview.error is not None or bool(preview.rejected)
        self.json_bytes += preview.json_bytes
        self.records += len(preview.records)
        self.record_bytes += sum(map(len, preview.records))
        self.filtered += preview.filtered
        self.rejected += RecordReject.total(preview.rejected)

    def send(self, messages: Sequence[Message]) -> None:
        """Count messages that would be sent together."""
        self.messages += [message.size_bytes for message in messages]
        for batch in batches(messages, LIMITS):
            self.batches += 1
            self.requests_billed += math.ceil(sum(m.size_bytes for m in batch) / BILLED_BYTES)


def files_of(paths: Iterable[Path], pattern: str) -> tuple[list[Path], Counter[str]]:
    """Return the files named or in named directories, and how many others are skipped, and why."""
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            inside, others = survey.listed(path, pattern)
            files += [path / name for name in inside]
            left_out += others
        else:
            files.append(path)
    return files, left_out


def previewed(files: Sequence[Path], settings: Settings, totals: Totals) -> Iterator[Preview]:
    """Yield what would become of files, packed one after the other as in full claims."""
    look = _looker(settings)
    packer = Packer(
        limits=LIMITS,
        message_bytes=settings.queue.message_bytes,
        records_per_message=settings.queue.records_per_message,
        fingerprint="",
        names=[_text(path.name) for path in files],
        claim=CLAIM_ID_LIKE,
    )
    messages: list[Message] = []
    for number, path in enumerate(files):
        shown = look(path)
        _refuse(shown, packer.add_file(number, shown.records))
        messages += packer.full()
        if len(messages) > LIMITS.batch_entries_max:
            totals.send(messages)
            messages = []
        totals.add(shown)
        yield shown
    totals.send([*messages, *packer.rest()])


def _refuse(shown: Preview, rejects: Sequence[RecordReject]) -> None:
    """Remove the records that fit no message from a preview; `rejects` index the selected ones."""
    if not rejects:
        return
    refused = {reject.index for reject in rejects}
    of_file = [RecordReject(shown.indexes[r.index], r.reason) for r in rejects]
    shown.rejected = sorted([*shown.rejected, *of_file])
    kept = [number for number in range(len(shown.records)) if number not in refused]
    shown.records = [shown.records[number] for number in kept]
    shown.indexes = [shown.indexes[number] for number in kept]


def _looker(settings: Settings) -> Callable[[Path], Preview]:
    """Return a function that reads one file as the loader would, up to its selected records."""
    preamble, decoder, selection = wiring.decode_side(settings)
    largest = settings.decode.max_file_bytes

    def look(path: Path) -> Preview:
        shown = Preview(_text(str(path)))
        try:
            shown.size_bytes = path.stat().st_size
            data = _read(path, shown.size_bytes, largest)
            start, end = preamble.span(data)
            shown.preamble, shown.json_bytes = data[:start], end - start
            selected = selection.select(decoder.decode(data[start:end]))
            shown.records, shown.indexes = selected.records, selected.indexes
            shown.filtered, shown.rejected = selected.filtered, selected.rejects
        except Reject as reject:
            shown.error = reject.reason
            if reject.truncated:
                seconds = settings.source.settle_seconds
                shown.note = f"waits until it has not changed for {seconds:g} s"
        except OSError as error:
            shown.error = f"it cannot be read: {error.strerror}"
        return shown

    return look


def _read(path: Path, size_bytes: int, largest: int) -> bytes:
    if not path.is_file():
        raise Reject("it is not a regular file")
    if size_bytes > largest:
        raise Reject(f"{size_bytes} bytes; decode.max_file_bytes = {largest}")
    return path.read_bytes()


def _text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
