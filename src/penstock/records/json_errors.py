"""Describe what is wrong with malformed JSON, where, and whether it only ends too early."""

import re
from typing import Final

import msgspec

from penstock.errors import Reject

UNREADABLE: Final = (UnicodeDecodeError, RecursionError, msgspec.DecodeError)
"""The errors of the UTF-8 check and the parser."""

OBJECT_BEGINS: Final = re.compile(rb"\{\s*+[\"}]")
"""Every object begins like this. If it does not match, there is no object, even a cut-off one."""

_ASCII: Final = rb"[\t\n\r -~]"  # JSON begins with two of these
OTHER_ENCODINGS: Final = tuple(
    (begins.replace(b"A", _ASCII), f"{name}; Penstock reads UTF-8")
    for begins, name in (
        (rb"\xff\xfe\0\0|\0\0\xfe\xff|(?:A\0\0\0){2}|(?:\0\0\0A){2}", "UTF-32"),
        (rb"\xff\xfe|\xfe\xff|(?:A\0){2}|(?:\0A){2}", "UTF-16"),
    )
)
"""How files in them begin, with or without a byte order mark, and what to say of such a file."""
_TYPES: Final = {
    b"{": "object",
    b"[": "array",
    b'"': "string",
    b"t": "boolean",
    b"f": "boolean",
    b"n": "null",
}
_TRUNCATED: Final = "Input data was truncated"
# The first half of a surrogate pair without the second, unless the end of the data cut that off.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*+(?P<lone>\\u[dD][89abAB]\w\w)"
    rb"(?!\\u[dD][c-fC-F]\w\w)(?!(?:\\(?:u(?:[dD](?:[c-fC-F]\w?)?)?)?)?\Z)"
)
_BYTE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)")
_WORD = re.compile(r"[^\W\d]{1,12}|.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*+"')
_PAIR = re.compile(rb"\[[^\[\]{}]*+\]|\{[^\[\]{}]*+\}")
_LETTER = re.compile(rb"[A-Za-z\x80-\xff]")
_RECORDS_END = re.compile(rb"(?m)[},][ \t\r]*+$")
_PROSE_BYTES_MAX: Final = 4_096
_QUOTED_CHARACTERS_MAX: Final = 60
_raw = msgspec.json.Decoder(msgspec.Raw)


def reject(json: bytes, error: Exception, start: int = 0, end: int | None = None) -> Reject:
    """Say what is wrong with `json[start:end]`, and where; `error` is one of UNREADABLE."""
    for begins, kind in OTHER_ENCODINGS:
        if re.match(begins, json):
            return Reject(f"the file is not JSON but {kind}")
    return _reject(json, error, start, len(json) if end is None else end)


def _reject(json: bytes, error: Exception, start: int, end: int) -> Reject:
    text = str(error)
    if isinstance(error, RecursionError):
        return Reject("the JSON is nested deeper than the parser goes")
    if isinstance(error, UnicodeDecodeError):
        cut = error.reason == "unexpected end of data" and end == len(json)
        at = place(json, start + error.start)
        return Reject(f"the JSON is not UTF-8: {error.reason}, {at}", truncated=cut)
    found = _BYTE.fullmatch(text)
    if text == _TRUNCATED or (found and int(found[2]) + start >= end and "trailing" not in text):
        # msgspec also says so of half a surrogate pair in the last dozen bytes.
        lone = _LONE_SURROGATE.search(json, max(start, end - 24), end)
        if lone:
            return Reject(
                f"the JSON is malformed: lone surrogate, {place(json, lone.start('lone'))}"
            )
        reason = f"the JSON ends too early, {place(json, end)}"
        return Reject(reason, truncated=end == len(json))
    if found:
        # For trailing characters, msgspec counts the first one as read.
        byte = int(found[2]) + start - (found[1] == "trailing characters")
        there = _there(json, start, byte)
        return Reject(f"the JSON is malformed: {found[1]}, {place(json, byte)}{there}")
    return Reject(f"the JSON is malformed: {text}")


def _there(json: bytes, start: int, byte: int) -> str:
    """Quote the word at a byte; or the whole line, if it is not part of a record."""
    if json[byte : byte + 1] == b"\0":
        return ": NUL bytes; was it being written when its machine stopped?"
    while byte > start and json[byte - 1 : byte + 1].isalpha():
        byte -= 1  # in a word like `null`, msgspec points to the first wrong letter
    line = json[byte : byte + _PROSE_BYTES_MAX].split(b"\n", 1)[0]
    word = _WORD.match(line.decode("utf-8", "replace"))
    if is_prose(line) and is_json(json[start:byte]):
        return f": {quoted(line)}"
    if not word:
        return ""
    return f': "{word[0]}"' if word[0].isprintable() else f": U+{ord(word[0]):04X}"


def is_json(json: bytes) -> bool:
    """Tell whether bytes are an array, or values one after another, to the last byte."""
    try:
        json.decode()
        (_raw.decode if json[:1] == b"[" else _raw.decode_lines)(json)
    except UNREADABLE:
        return False
    return True


def is_prose(text: bytes) -> bool:
    """Tell whether a text cannot be part of a record: no half string, no unmatched bracket."""
    if len(text) > _PROSE_BYTES_MAX or OBJECT_BEGINS.search(text) or _RECORDS_END.search(text):
        return False
    words, pairs = _STRING.sub(b"", text), 1
    rest = words
    while pairs:
        rest, pairs = _PAIR.subn(b"", rest)
    return bool(_LETTER.search(words)) and not re.search(rb'["\[\]{}]', rest)


def place(json: bytes, byte: int) -> str:
    """Return where a byte is: line and column count from 1, the byte from 0."""
    line = json.count(b"\n", 0, byte) + 1
    column = byte - (json.rfind(b"\n", 0, byte) + 1) + 1
    return f"line {line}, column {column} of the JSON (byte {byte})"


def json_type(json: bytes) -> str:
    """Return the JSON type of a value."""
    return _TYPES.get(json[:1], "number")


def quoted(text: bytes) -> str:
    """Return the beginning of a text, fit for a reason."""
    shown = text.strip().decode("utf-8", "replace")
    shown = "".join(character if character.isprintable() else "\ufffd" for character in shown)
    cut = shown[:_QUOTED_CHARACTERS_MAX]
    return f'"{cut}…"' if cut != shown else f'"{cut}"'


def type_name(json: bytes) -> str:
    """Return the JSON type of a value with its article."""
    name = json_type(json)
    return f"an {name}" if name[0] in "ao" else name if name == "null" else f"a {name}"
