"""`penstock preview`: what would be sent of some files, without sending anything."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from penstock import settings
from penstock.entry import wiring
from penstock.entry.cli.options import Config
from penstock.errors import Halt, Reject
from penstock.model import Message, QueueLimits, RecordReject
from penstock.settings import Settings
from penstock.stages.pack import Packer
from penstock.stages.queue_sqs_batch import batches

# What SQS allows a queue at most; this one's own limit is not asked for.
_LIMITS = QueueLimits(message_bytes_max=1_048_576)
_TOLD_IN_FULL = 10
_TEXT_CHARACTERS = 76

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|DIR…",
        help="Files; of a directory, those whose names match source.pattern.",
        show_default=False,
    ),
]


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
        """The file as one line of JSON, the selected values with their own bytes."""
        start = {"file": self.file, "preamble_bytes": len(self.preamble)}
        rejected = [{"index": r.index, "reason": r.reason} for r in self.rejected]
        end = {"filtered": self.filtered, "rejected": rejected, "error": self.error}
        # A line end in a selected value is white space between its parts: in strings JSON has none.
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

    def add(self, preview: Preview) -> None:
        """Count one file."""
        self.files += 1
        self.rejected_files += preview.error is not None
        self.json_bytes += preview.json_bytes
        self.records += len(preview.records)
        self.record_bytes += sum(map(len, preview.records))
        self.filtered += preview.filtered
        self.rejected += len(preview.rejected)

    def send(self, messages: Sequence[Message]) -> None:
        """Count what would be sent in one go."""
        self.messages += [message.size_bytes for message in messages]
        self.batches += sum(1 for _ in batches(messages, _LIMITS))


def preview(
    paths: Paths,
    select: Annotated[
        str, typer.Option("--select", metavar="JMESPATH", help="Instead of select.fields.")
    ] = "",
    where: Annotated[
        str, typer.Option("--where", metavar="JMESPATH", help="Instead of select.where.")
    ] = "",
    records: Annotated[
        str, typer.Option("--records", metavar="JMESPATH", help="Instead of decode.records.")
    ] = "",
    config: Config = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, one for each file.")
    ] = False,
) -> None:
    """Show what would be sent of files, and send nothing.

    Tells the preamble that came off, the records before and after, what is filtered out, what is
    rejected and why, and how the records would be packed. Exits with 1 if a file is rejected.
    """
    given = {
        "select": {"fields": select, "where": where},
        "decode": {"records": records},
    }
    overrides = {
        section: {key: value for key, value in values.items() if value}
        for section, values in given.items()
    }
    known = settings.load(config, {section: keys for section, keys in overrides.items() if keys})
    totals = Totals()
    out = typer.get_binary_stream("stdout")
    files = list(_files(paths, known.source.pattern))
    for names in _claims(files, known.worker.claim_files_max):
        for shown in _previewed(names, known, totals):
            if as_json:
                out.write(shown.line)
            elif len(files) <= _TOLD_IN_FULL or shown.error or shown.rejected:
                _tell(shown)
    if not as_json:
        _tell_totals(totals, known)
    if totals.rejected_files:
        raise typer.Exit(1)


def _files(paths: Iterable[Path], pattern: str) -> Iterator[Path]:
    """Yield the files named, and those of the directories named, in order of name."""
    matches = re.compile(pattern).fullmatch
    for path in paths:
        if path.is_dir():
            try:
                inside = [entry for entry in path.iterdir() if matches(entry.name)]
            except OSError as error:
                raise Halt(f"{path}: {error.strerror}") from None
            yield from sorted(entry for entry in inside if entry.is_file())
        else:
            yield path


def _claims(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]


def _previewed(files: Sequence[Path], known: Settings, totals: Totals) -> Iterator[Preview]:
    """Yield what would become of the files of one claim."""
    look = _looker(known)
    packer = Packer(
        limits=_LIMITS,
        message_bytes=known.queue.message_bytes,
        records_per_message=known.queue.records_per_message,
        fingerprint="",
        names=[_text(path.name) for path in files],
    )
    messages: list[Message] = []
    for number, path in enumerate(files):
        shown = look(path)
        _refuse(shown, packer.add_file(number, shown.records))
        messages += packer.full()
        totals.add(shown)
        yield shown
    totals.send([*messages, *packer.rest()])


def _refuse(shown: Preview, rejects: Sequence[RecordReject]) -> None:
    """Take the records that fit no message out of a preview; `rejects` count the selected ones."""
    if not rejects:
        return
    refused = {reject.index for reject in rejects}
    of_file = [RecordReject(shown.indexes[r.index], r.reason) for r in rejects]
    shown.rejected = sorted([*shown.rejected, *of_file])
    kept = [number for number in range(len(shown.records)) if number not in refused]
    shown.records = [shown.records[number] for number in kept]
    shown.indexes = [shown.indexes[number] for number in kept]


def _looker(known: Settings) -> Callable[[Path], Preview]:
    """Return what takes one file the way the loader would, as far as its selected records."""
    preamble, decoder, selection = wiring.decode_side(known)
    largest = known.decode.max_file_bytes

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
                seconds = known.source.settle_seconds
                shown.note = f"left waiting until it has not changed for {seconds:g} s"
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
    """Return a name as UTF-8 can show it."""
    return name.encode("utf-8", "replace").decode()


def _tell(shown: Preview) -> None:
    typer.echo(f"{shown.file}  {shown.size_bytes:,} bytes")
    if shown.preamble:
        typer.echo(f"  preamble  {len(shown.preamble):,} bytes  {_begin(shown.preamble)}")
    if shown.error is not None:
        typer.echo(f"  rejected  {shown.error}")
        if shown.note:
            typer.echo(f"            {shown.note}")
        return
    count = len(shown.records) + shown.filtered + len(shown.rejected)
    size = sum(map(len, shown.records))
    typer.echo(
        f"  records   {count:,} in the file: {len(shown.records):,} selected,"
        f" {shown.filtered:,} filtered out, {len(shown.rejected):,} rejected"
    )
    typer.echo(f"  bytes     {shown.json_bytes:,} of JSON, {size:,} selected")
    for reject in shown.rejected[:_TOLD_IN_FULL]:
        typer.echo(f"  rejected  record {reject.index}: {reject.reason}")
    for record in shown.records[:1]:
        typer.echo(f"  first     {_begin(record)}")


def _begin(text: bytes) -> str:
    """Return the beginning of a text in one line."""
    shown = " ".join(text[: 4 * _TEXT_CHARACTERS].decode("utf-8", "replace").split())
    shown = "".join(c if c.isprintable() else "\ufffd" for c in shown)
    cut = shown[:_TEXT_CHARACTERS]
    return cut + "…" * (cut != shown or len(text) > 4 * _TEXT_CHARACTERS)


def _tell_totals(totals: Totals, known: Settings) -> None:
    limit = known.queue.message_bytes or _LIMITS.message_bytes_max
    fill = sum(totals.messages) / (limit * len(totals.messages)) if totals.messages else 0
    typer.echo(
        f"{totals.files:,} files, {totals.rejected_files:,} rejected;"
        f" {totals.records:,} records selected, {totals.filtered:,} filtered out,"
        f" {totals.rejected:,} rejected"
    )
    typer.echo(f"{totals.json_bytes:,} bytes of JSON, {totals.record_bytes:,} selected")
    typer.echo(
        f"{len(totals.messages):,} messages of at most {limit:,} bytes, {fill:.0%} full on average,"
        f" in {totals.batches:,} batches"
    )
    if known.queue.message_bytes is None:
        typer.echo("(the largest message SQS takes; if your queue takes less, there are more)")
