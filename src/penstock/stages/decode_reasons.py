"""What is wrong with bytes that are not JSON, where, and whether they merely end too early."""

import re
from typing import Final

import msgspec

from penstock.errors import Reject

_TYPES: Final = {"[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
_TRUNCATED: Final = "Input data was truncated"
# Half a surrogate pair without its other half; one that the end of the file cut off is none.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w"
    rb"|(?P<lone>\\u[dD][89a-fA-F]\w\w(?!(?:\\(?:u(?:[dD](?:[c-fC-F]\w?)?)?)?)?\Z))"
    rb"|\\.",
    re.DOTALL,
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
        # What msgspec also says of a lone surrogate at the end of a string at the end of a file.
        lone = _lone_surrogate(json, start)
        if lone is None:
            reason = f"the JSON ends too early, {place(json, end)}"
            return Reject(reason, truncated=end == len(json))
        return Reject(f"the JSON is malformed: lone surrogate, {place(json, lone)}")
    if found:
        # Of trailing characters msgspec counts the first as read.
        byte = int(found[2]) + start - (found[1] == "trailing characters")
        return Reject(f"the JSON is malformed: {found[1]}, {place(json, byte)}")
    return Reject(f"the JSON is malformed: {text}")


def _lone_surrogate(json: bytes, start: int) -> int | None:
    """Return where half a surrogate pair stands alone; None if none does."""
    escapes = _LONE_SURROGATE.finditer(json, start)
    return next((escape.start() for escape in escapes if escape["lone"]), None)


def place(json: bytes, byte: int) -> str:
    """Return where a byte is: line and column from 1, the byte from 0."""
    line = json.count(b"\n", 0, byte) + 1
    column = byte - (json.rfind(b"\n", 0, byte) + 1) + 1
    return f"line {line}, column {column} of the JSON (byte {byte})"


def type_name(json: bytes) -> str:
    """Return the JSON type of a value with its article."""
    name = _TYPES.get(json[:1].decode("latin-1"), "number")
    return f"an {name}" if name == "array" else name if name == "null" else f"a {name}"
