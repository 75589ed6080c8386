"""Operations of compiled selections on values that are JSON text.

Null, true and false are always msgspec.Raw, which equals another Raw of the same text, but not
bytes. Other values may be either.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from jmespath import functions
from jmespath.visitor import TreeInterpreter

from penstock.records import expression

Json = msgspec.Raw | bytes

NULL: Final = msgspec.Raw(b"null")
_FALSE_TEXTS: Final = frozenset((b"null", b"false", b'""', b"[]", b"{}"))

_items = msgspec.json.Decoder(list[msgspec.Raw] | None)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
# Python's own conversion, as in json.loads: 1e400 is infinite, not an error.
_plain = msgspec.json.Decoder(float_hook=float)

call: Final = functions.Functions().call_function
COMPARE: Final = TreeInterpreter.COMPARATOR_FUNC


def constant(value: object) -> msgspec.Raw:
    """Return a constant of the expression as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def decoded(json: Json) -> Any:
    """Return the Python value that `json.loads` returns."""
    return _plain.decode(json)


def remembered(json: Json) -> object:
    """Return the Python value that `json.loads` returns, remembering its bytes."""
    return expression.read(bytes(json))


def encoded(value: object) -> msgspec.Raw:
    """Return a computed value as JSON; infinity and NaN become null."""
    return msgspec.Raw(expression.write(value))


def is_true(json: Json) -> bool:
    """Return what `expression.is_true` would, without decoding the value."""
    text = bytes(json)
    if text in _FALSE_TEXTS:
        return False
    # An empty array or object can have white space in it.
    return text[0] not in b"[{" or bool(text[1:-1].strip())


def items(json: Json) -> list[Json] | None:
    """Return the elements of an array; None for anything else."""
    try:
        return _items.decode(json)
    except msgspec.ValidationError:
        return None


def members(json: Json) -> list[Json] | None:
    """Return the values of an object's members; None for anything else."""
    try:
        found = _members.decode(json)
    except msgspec.ValidationError:
        return None
    return None if found is None else list(found.values())


def flattened(elements: Sequence[Json]) -> list[Json]:
    """Replace elements that are arrays by their elements, one level deep."""
    flat: list[Json] = []
    for element in elements:
        found = items(element) if bytes(element)[:1] == b"[" else None
        flat.extend([element] if found is None else found)
    return flat


def is_text(wanted: str) -> Callable[[Json], bool]:
    """Return a test for one string: it compares bytes, and decodes only if there are escapes."""
    quoted = msgspec.json.encode(wanted)

    def test(json: Json) -> bool:
        found = bytes(json)
        if found == quoted:
            return True
        return b"\\" in found and found[:1] == b'"' and decoded(json) == wanted

    return test


def is_comparable(value: object) -> bool:
    """Tell whether JMESPath orders a value: it orders numbers and strings."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)
