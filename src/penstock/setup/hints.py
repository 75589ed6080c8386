"""Find probable mistakes in valid expressions, from the fields of sample records."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from penstock import wiring
from penstock.errors import Reject
from penstock.records import expression
from penstock.records.decode import Decoder
from penstock.records.needs import seen
from penstock.settings.schema import Settings

_FILES_MAX: Final = 50
_RECORDS_MAX: Final = 1_000
_DEPTH_MAX: Final = 6


def hints(settings: Settings, files: Sequence[Path]) -> list[str]:
    """Return what is probably not intended in select.fields and select.where, a line each."""
    records = list(islice(_records(settings, files), _RECORDS_MAX))
    paths = {path for record in records for path in _paths(record)}
    select = settings.select
    lines: list[str] = []
    for name, text in (("select.fields", select.fields), ("select.where", select.where)):
        if text:
            tree = expression.parsed(text)
            quoted = [*_quoted(text, tree)]
            lines += [
                f"{name}: \"{word}\" is the field of that name; text needs single quotes: '{word}'"
                for word in quoted
            ]
            of_record = {path for path in seen(tree) if path and path != tuple(quoted[:1])}
            lines += [f"{name}: {line}" for line in _unknown(of_record, records, paths)]
    if select.where and records:
        lines += _kept(select.where, records)
    return lines


def _quoted(text: str, tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield names in double quotes that something is compared with, and that need no quotes."""
    if tree["type"] == "comparator":
        for side in tree["children"]:
            word = side.get("value")
            if side["type"] == "field" and f'"{word}"' in text and re.fullmatch(r"\w+", word):
                yield word
    for child in tree["children"]:
        if isinstance(child, Mapping):
            yield from _quoted(text, cast("Mapping[str, Any]", child))


def _unknown(
    wanted: set[tuple[str, ...]], records: Sequence[object], paths: set[tuple[str, ...]]
) -> Iterator[str]:
    real = {".".join(path): path for path in paths}
    for path in sorted(wanted) if records else ():
        if all(_value(record, path) is None for record in records):
            near = difflib.get_close_matches(".".join(path), real, n=1)
            guess = f"; did you mean {near[0]}?" if near and real[near[0]] != path else ""
            yield f"{'.'.join(path)} is null in all {len(records):,} sample records{guess}"


def _kept(where: str, records: Sequence[object]) -> Iterator[str]:
    tree, kept = expression.parsed(where), 0
    for record in records:
        try:
            kept += expression.is_true(expression.evaluate(tree, record))
        except expression.EVALUATION_ERRORS:
            return  # a reject, which the preview shows
    if kept in {0, len(records)}:
        which = "none" if kept == 0 else "all"
        yield f"select.where: keeps {which} of the {len(records):,} sample records"


def _records(settings: Settings, files: Sequence[Path]) -> Iterator[object]:
    preamble, _, _ = wiring.decode_side(settings)
    decode = settings.decode
    decoder = Decoder(msgspec.Raw, records=decode.records or None, skip=decode.skip_lines or None)
    step = max(1, len(files) // _FILES_MAX)
    for path in files[::step]:
        try:
            if not path.is_file() or path.stat().st_size > decode.max_file_bytes:
                continue
            data = path.read_bytes()
            start, end = preamble.span(data)
            for record in decoder.decode(data[start:end]).records:
                yield expression.read(bytes(cast("Any", record)))
        except (Reject, OSError):
            continue


def _paths(value: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and len(above) < _DEPTH_MAX:
        for key, below in cast("Mapping[str, object]", value).items():
            yield (*above, key)
            yield from _paths(below, (*above, key))


def _value(value: object, path: Sequence[str]) -> object:
    for key in path:
        value = cast("Mapping[str, object]", value).get(key) if isinstance(value, dict) else None
    return value
