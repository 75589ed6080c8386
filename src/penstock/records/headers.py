"""Which setting would take off what stands around the JSON of a file that cannot be read.

What is proposed in a reason takes no record off, neither of that file nor of another: it is text
that is no part of one, and a pattern takes off nothing in which an object begins (`Preamble`).
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
# An array of objects or arrays, or an object: no [info] and no { of a sentence.
_JSON_BEGINS: Final = re.compile(rb"\[\s*+[\[{\]]|\{\s*+[\"}]")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
# The words of a line, up to its first number behind a letter: that varies from file to file.
_WORDS: Final = re.compile(r"[^{]*?[^\W\d_][^{\d]*+")
_ESCAPES: Final = {"\\ ": " ", "\\\n": r"\n", "\\\r": r"\r", "\\\t": r"\t"}


Literals = list[tuple[str, str]]
"""Prefixes, each with its suffix; "" for none."""


class Proposal(NamedTuple):
    """A parameter of Preamble and its value, the text that it takes off, and what that may be."""

    key: str
    value: str | Literals
    text: str
    what: str


def proposals(
    data: bytes, start: int = 0, *, common: str | None = None, damaged: bool = False
) -> Iterator[Proposal]:
    """Yield what may take off what stands around the JSON of a file; nothing of it is tried.

    The line at `start` is not JSON. `common` is how many such files' lines begin. With `damaged`,
    what may be the rest of a record is proposed, too.
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
    """Return a text as a setting can hold it, without the space behind it; None if none can."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text.lstrip() if "".join(text.split()).isprintable() else None


def _pattern(head: str, common: str | None) -> str:
    """Return a regular expression for headers like this one."""
    first, *more = _LINE_END.split(head)
    if not more or more[-1].strip():  # the JSON stands on the same line
        return generalised(head)
    end, rest = (r"\r?\n", r"[^\n]*\n") if "\n" in head else (r"\r", r"[^\r]*\r")
    words = _WORDS.match(first)
    known = words[0][: None if common is None else len(common)] if words else ""
    if len(known) >= _LITERAL_CHARACTERS_MIN:
        first, end = known, rest
    lines = len(more) - 1
    return generalised(first) + end + (f"(?:{rest}){{{lines}}}" if lines > 1 else rest * lines)


def generalised(text: str, *, exact: bool = False) -> str:
    """Return a regular expression for a text with other numbers in it, `exact`: as long ones."""
    pieces = re.split(r"([0-9]+)", text)
    pieces[1::2] = [rf"\d{{{len(digits)}}}" if exact else r"\d+" for digits in pieces[1::2]]
    pieces[::2] = [re.escape(piece) for piece in pieces[::2]]
    return re.sub(r"\\\s", lambda found: _ESCAPES.get(found[0], found[0]), "".join(pieces))


def toml(value: object) -> str:
    """Return a setting as TOML spells it: as JSON does, but for literals and backslashes."""
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
