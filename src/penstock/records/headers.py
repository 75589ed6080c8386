"""Propose settings that remove what stands around the JSON of an unreadable file.

A proposal must not remove a record, in this file or another. So it removes only text that is not
part of a record, and a pattern never removes the beginning of an object (see `Preamble`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, cast

from penstock.records.json_errors import is_prose

_HEADER_BYTES_MAX: Final = 4_096
_BEGINNINGS_TRIED: Final = 4
_LITERAL_CHARACTERS_MIN: Final = 4
# An array of objects or arrays, or an object; not `[info]`, and not a `{` in a sentence.
_JSON_BEGINS: Final = re.compile(rb"\[\s*+[\[{\]]|\{\s*+[\"}]")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
# The words of a line, up to its first number after a letter: numbers vary from file to file.
_WORDS: Final = re.compile(r"[^{]*?[^\W\d_][^{\d]*+")
_ESCAPES: Final = {"\\ ": " ", "\\\n": r"\n", "\\\r": r"\r", "\\\t": r"\t"}


Literals = list[tuple[str, str]]
"""Prefixes, each with its suffix; "" for none."""


class Proposal(NamedTuple):
    """A parameter of Preamble and its value, the text that it removes, and what that may be."""

    key: str
    value: str | Literals
    text: str
    what: str


def proposals(
    data: bytes, start: int = 0, *, common: str | None = None, damaged: bool = False
) -> Iterator[Proposal]:
    """Yield settings that may remove what stands around a file's JSON. The caller must try them.

    The line at `start` is not JSON. `common` is how the lines of all such files begin. With
    `damaged`, text that may be the rest of a record is also proposed.
    """
    tail = _text(data[max(data.rfind(b"}"), data.rfind(b"]")) + 1 :])
    if tail is None or re.match(r'[,:]|.*[\[{"]', tail, re.DOTALL):
        return
    tail = tail.rstrip()
    beginnings = _JSON_BEGINS.finditer(data, start, start + _HEADER_BYTES_MAX)
    for found in islice(beginnings, _BEGINNINGS_TRIED):
        head = _text(data[start : found.start()])
        if head and not (damaged or is_prose(head.encode())):
            continue
        if tail and head is not None:
            text, what = (head, "header") if head else (tail, "footer")
            yield Proposal("literals", [(head.strip(), tail)], text, what)
        elif head:
            yield Proposal("pattern", _pattern(head, common), head, "header")


def _text(data: bytes) -> str | None:
    """Return a text as a setting can hold it, without leading space; None if none can."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text.lstrip() if "".join(text.split()).isprintable() else None


def _pattern(head: str, common: str | None) -> str:
    first, *more = _LINE_END.split(head)
    if not more or more[-1].strip():  # the JSON begins on the same line
        return generalised(head)
    end, rest = (r"\r?\n", r"[^\n]*\n") if "\n" in head else (r"\r", r"[^\r]*\r")
    words = _WORDS.match(first)
    known = words[0][: None if common is None else len(common)] if words else ""
    if len(known) >= _LITERAL_CHARACTERS_MIN:
        first, end = known, rest
    lines = len(more) - 1
    return generalised(first) + end + (f"(?:{rest}){{{lines}}}" if lines > 1 else rest * lines)


def generalised(text: str, *, exact: bool = False) -> str:
    """Return a regular expression for a text with other numbers; `exact`: of the same lengths."""
    pieces = re.split(r"([0-9]+)", text)
    pieces[1::2] = [rf"\d{{{len(digits)}}}" if exact else r"\d+" for digits in pieces[1::2]]
    pieces[::2] = [re.escape(piece) for piece in pieces[::2]]
    return re.sub(r"\\\s", lambda found: _ESCAPES.get(found[0], found[0]), "".join(pieces))


def toml(value: object) -> str:
    """Return a setting in TOML: like JSON, except for literals and backslashes."""
    if isinstance(value, list):
        items = cast("list[Mapping[str, str] | tuple[str, str]]", value)
        tables = [one if isinstance(one, Mapping) else _literal(*one) for one in items]
        inner = [", ".join(f"{k} = {toml(v)}" for k, v in table.items()) for table in tables]
        return "[" + ", ".join(f"{{ {table} }}" for table in inner) + "]"
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _literal(prefix: str, suffix: str) -> Mapping[str, str]:
    return {key: text for key, text in (("prefix", prefix), ("suffix", suffix)) if text}
