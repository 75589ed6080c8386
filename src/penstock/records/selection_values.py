"""What compiled selections do with values that are still bytes."""

import json
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from jmespath import functions

from penstock.records import expression
from penstock.records.selection_needs import NULL

# Python's own conversion, as in json.loads: 1e400 is infinite, not an error.
_plain = msgspec.json.Decoder(float_hook=float)
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_functions = functions.Functions()

TRUE: Final = msgspec.Raw(b"true")
FALSE: Final = msgspec.Raw(b"false")
_FALSE_TEXTS: Final = frozenset((b"null", b"false", b'""', b"[]", b"{}"))
_TYPES: Final = {
    b"{": "object",
    b"[": "array",
    b'"': "string",
    b"t": "boolean",
    b"f": "boolean",
    b"n": "null",
}


def decoded(raw: msgspec.Raw) -> Any:
    """Return the Python value that `json.loads` gives."""
    return _plain.decode(raw)


def encoded(value: object) -> msgspec.Raw:
    """Return a computed value as JSON; what JSON cannot hold, infinity and NaN, becomes null."""
    return msgspec.Raw(expression.write(value))


def is_true(raw: msgspec.Raw) -> bool:
    """Tell JMESPath's truth: null, false and what is empty are false, 0 is true."""
    text = bytes(raw)
    if text in _FALSE_TEXTS:
        return False
    # An empty array or object can have white space in it.
    return text[0] not in b"[{" or bool(text[1:-1].strip())


def is_true_value(value: object) -> bool:
    """Tell the same of a computed value."""
    return not (value is None or value is False or value in ("", [], {}))


def equal(left: object, right: object) -> bool:
    """Compare as JMESPath does: by JSON value, and 0 and 1 are not booleans."""
    if _is_number(left) and left in (0, 1):
        return not isinstance(right, bool) and left == right
    if _is_number(right) and right in (0, 1):
        return not isinstance(left, bool) and left == right
    return left == right


def is_text(raw: msgspec.Raw, quoted: bytes, text: str) -> bool:
    """Tell whether a value is a string: by its bytes, or decoded if it has escapes."""
    found = bytes(raw)
    return found == quoted or (b"\\" in found and found[:1] == b'"' and decoded(raw) == text)


def ordered(left: Any, right: Any, *, less: bool, equal: bool) -> bool | None:
    """Order two numbers or two strings; None for other types.

    Raises TypeError for a number and a string, as jmespath does.
    """
    if not (_is_comparable(left) and _is_comparable(right)):
        return None
    if equal and less:
        return left <= right
    if equal:
        return left >= right
    return left < right if less else left > right


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_comparable(value: object) -> bool:
    return _is_number(value) or isinstance(value, str)


def joined(parts: Sequence[msgspec.Raw] | None) -> msgspec.Raw:
    """Return the JSON array of some values, null for None."""
    if parts is None:
        return NULL
    return msgspec.Raw(b"[%b]" % b",".join(cast("Sequence[bytes]", parts)))


def flattened(parts: Sequence[msgspec.Raw]) -> list[msgspec.Raw]:
    """Replace the elements that are arrays by their elements, one level deep."""
    flat: list[msgspec.Raw] = []
    for part in parts:
        if bytes(part)[:1] == b"[":
            flat.extend(_elements.decode(part))
        else:
            flat.append(part)
    return flat


def called(name: str, *arguments: object) -> object:
    """Call a function of jmespath's library; raises JMESPathError for types it does not take."""
    return _functions.call_function(name, list(arguments))


def type_name(raw: msgspec.Raw) -> str:
    """Name the JSON type of a value."""
    return _TYPES.get(bytes(raw)[:1], "number")


def as_string(raw: msgspec.Raw) -> msgspec.Raw:
    """Apply to_string(): a string is itself, anything else the text of its JSON."""
    if bytes(raw)[:1] == b'"':
        return raw
    return encoded(json.dumps(decoded(raw), separators=(",", ":")))


def as_number(raw: msgspec.Raw) -> object:
    """Apply to_number(): a number is itself, a string the number it spells, anything else null.

    What a string spells may be infinite or NaN, which no JSON can hold, but which is true.
    """
    kind = type_name(raw)
    if kind == "number":
        return expression.read(bytes(raw))  # it remembers its bytes
    return called("to_number", decoded(raw)) if kind == "string" else None


def first_not_null(*raws: msgspec.Raw) -> msgspec.Raw:
    """Apply not_null()."""
    return next((raw for raw in raws if raw != NULL), NULL)
