"""`penstock preview`: shows what would be sent of some files, without sending anything."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.options import Config, say
from penstock.model import BILLED_BYTES, RecordReject
from penstock.operate.reject_filter import kind_of
from penstock.operate.wording import plural, printable
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.setup import survey
from penstock.setup.hints import hints
from penstock.setup.preview import LIMITS, Preview, Totals, files_of, previewed

_SHOWN_IN_FULL = 10
_TEXT_CHARACTERS = 76
_GOOD = ""  # no reason

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|DIR…", help="Files, or directories: then the files that a loader would list."
    ),
]


def preview(
    paths: Paths,
    select: Annotated[
        str | None, typer.Option("--select", metavar="JMESPATH", help="Replaces select.fields.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="JMESPATH", help="Replaces select.where; empty: all records."
        ),
    ] = None,
    records: Annotated[
        str | None,
        typer.Option(
            "--records", metavar="JMESPATH", help="Replaces decode.records; empty: the document."
        ),
    ] = None,
    config: Config = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object a line for each file; line ends in a record become spaces.",
        ),
    ] = False,
) -> None:
    """Show what would be sent of files, and send nothing.

    Shows the removed preamble, the records before and after, which are filtered out or rejected and
    why, and how they would be packed. Of more than ten files, it shows one for each reason, then
    one that can be sent; --json shows all. Exits with 0 if every file could be read, with 1 if a
    file or one of its records was rejected.
    """
    overrides = {"select": {"fields": select, "where": where}, "decode": {"records": records}}
    settings = load(config, overrides)
    totals = Totals()
    out = typer.get_binary_stream("stdout")
    files, left_out = files_of(paths, settings.source.pattern)
    if left_out:
        typer.echo(survey.left_out_line(left_out), err=True)
    kinds: Counter[str] = Counter()
    first: dict[str, Preview] = {}
    for shown in previewed(files, settings, totals):
        if as_json:
            out.write(shown.line)
        elif len(files) <= _SHOWN_IN_FULL:
            _print(shown)
        elif why := shown.error or "".join(one.reason for one in shown.rejected[:1]):
            kinds[kind_of(why)] += 1
            first.setdefault(kind_of(why), shown)
        elif shown.records:
            first.setdefault(_GOOD, shown)
    _tell_kinds(kinds, first)
    for line in hints(settings, files):
        say(f"warning: {line}", err=True)
    if not as_json:
        _tell_totals(totals, settings)
    if totals.rejected_files:
        raise typer.Exit(1)


def _tell_kinds(kinds: Counter[str], first: Mapping[str, Preview]) -> None:
    """For many files, show each reason once, with one file; then one file that can be sent."""
    for kind, count in kinds.most_common(_SHOWN_IN_FULL):
        say(f"{plural(count, 'file')} rejected, such as:")
        _print(first[kind])
    if len(kinds) > _SHOWN_IN_FULL:
        typer.echo(f"and {len(kinds) - _SHOWN_IN_FULL:,} more reasons; --json shows every file")
    if _GOOD in first:
        typer.echo("a file that can be sent:")
        _print(first[_GOOD])


def _print(shown: Preview) -> None:
    say(f"{shown.file}  {shown.size_bytes:,} bytes")
    if shown.preamble:
        typer.echo(f"  preamble  {len(shown.preamble):,} bytes  {_begin(shown.preamble)}")
    if shown.error is not None:
        say(f"  rejected  {shown.error}")
        if shown.note:
            typer.echo(f"            {shown.note}")
        return
    rejected = RecordReject.total(shown.rejected)
    count = len(shown.records) + shown.filtered + rejected
    size = sum(map(len, shown.records))
    typer.echo(
        f"  records   {count:,} in the file: {len(shown.records):,} selected,"
        f" {shown.filtered:,} filtered out, {rejected:,} rejected"
    )
    typer.echo(f"  bytes     {shown.json_bytes:,} of JSON, {size:,} selected")
    for reject in shown.rejected[:_SHOWN_IN_FULL]:
        say(f"  rejected  {reject}")
    if shown.rejected:
        typer.echo("            the file is kept as rejected; its other records are sent")
    for record in shown.records[:1]:
        typer.echo(f"  first     {_begin(record)}")


def _begin(text: bytes) -> str:
    shown = " ".join(text[: 4 * _TEXT_CHARACTERS].decode("utf-8", "replace").split())
    shown = printable(shown)
    cut = shown[:_TEXT_CHARACTERS]
    return cut + "…" * (cut != shown or len(text) > 4 * _TEXT_CHARACTERS)


def _tell_totals(totals: Totals, settings: Settings) -> None:
    limit = settings.queue.message_bytes or LIMITS.message_bytes_max
    fill = sum(totals.messages) / (limit * len(totals.messages)) if totals.messages else 0
    typer.echo(
        f"{plural(totals.files, 'file')}, {totals.rejected_files:,} rejected;"
        f" {plural(totals.records, 'record')} selected, {totals.filtered:,} filtered out,"
        f" {totals.rejected:,} rejected"
    )
    typer.echo(f"{totals.json_bytes:,} bytes of JSON, {totals.record_bytes:,} selected")
    typer.echo(
        f"{plural(len(totals.messages), 'message')} of at most {limit:,} bytes, {fill:.0%} full on"
        f" average, in {plural(totals.batches, 'batch', 'batches')},"
        f" billed as {plural(totals.requests_billed, 'request')} of 64 KiB"
        f" ({math.ceil(sum(totals.messages) / BILLED_BYTES):,} is the minimum)"
    )
    if settings.queue.message_bytes is None:
        typer.echo("(the limit of SQS; if that of your queue is lower, there are more messages)")
