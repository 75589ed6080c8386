"""What is wrong with bytes that are not JSON, where, and whether they merely end too early."""

import re
from typing import Final

import msgspec

from penstock.errors import Reject

_TYPES: Final = {
    b"{": "object",
    b"[": "array",
    b'"': "string",
    b"t": "boolean",
    b"f": "boolean",
    b"n": "null",
}
_TRUNCATED: Final = "Input data was truncated"
# The first half of a surrogate pair, without the second; one that the end cut off is not meant.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*+(?P<lone>\\u[dD][89abAB]\w\w)"
    rb"(?!\\u[dD][c-fC-F]\w\w)(?!(?:\\(?:u(?:[dD](?:[c-fC-F]\w?)?)?)?)?\Z)"
)
_BYTE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)")


def reject(
    json: bytes, error: msgspec.DecodeError, start: int = 0, end: int | None = None
) -> Reject:
    """Say what is wrong with `json[start:end]`, and where."""
    text = str(error)
    end = len(json) if end is None else end
    found = _BYTE.fullmatch(text)
    if text == _TRUNCATED or (found and int(found[2]) + start >= end and "trailing" not in text):
        # Which is also said of half a surrogate pair in the last dozen bytes.
        lone = _LONE_SURROGATE.search(json, max(start, end - 24), end)
        if lone:
            return Reject(
                f"the JSON is malformed: lone surrogate, {place(json, lone.start('lone'))}"
            )
        reason = f"the JSON ends too early, {place(json, end)}"
        return Reject(reason, truncated=end == len(json))
    if found:
        # Of trailing characters msgspec counts the first as read.
        byte = int(found[2]) + start - (found[1] == "trailing characters")
        return Reject(f"the JSON is malformed: {found[1]}, {place(json, byte)}")
    return Reject(f"the JSON is malformed: {text}")


def place(json: bytes, byte: int) -> str:
    """Return where a byte is: line and column from 1, the byte from 0."""
    line = json.count(b"\n", 0, byte) + 1
    column = byte - (json.rfind(b"\n", 0, byte) + 1) + 1
    return f"line {line}, column {column} of the JSON (byte {byte})"


def json_type(json: bytes) -> str:
    """Return the JSON type of a value."""
    return _TYPES.get(json[:1], "number")


def type_name(json: bytes) -> str:
    """Return the JSON type of a value with its article."""
    name = json_type(json)
    return f"an {name}" if name[0] in "ao" else name if name == "null" else f"a {name}"
