r"""Evaluate JMESPath with the jmespath library, on JSON values that remember their bytes.

This is the reference for what an expression means. It evaluates those parts of an expression that
are not compiled.

A value read here is the Python value that `json.loads` returns, of a subclass that keeps its text.
So a value that an expression passes on unchanged is written back byte for byte: `1e400`, `-0`,
`"\u00e9"`, and inner white space.
"""

import difflib
import json as standard_json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import jmespath
import msgspec
from jmespath import exceptions, functions
from jmespath.visitor import TreeInterpreter

from penstock.errors import Halt

EVALUATION_ERRORS: Final = (
    exceptions.JMESPathError,  # an argument of the wrong type
    TypeError,  # a string ordered against a number
    ValueError,  # a slice with step 0; a number of more than 4,300 digits
    ArithmeticError,  # ceil of 1e400
    RecursionError,  # a value nested deeper than Python can compare
    msgspec.DecodeError,  # a number that no Python number can hold
)
"""The errors that a correct expression can raise on some records."""

# A level is read again for each level above it, so time grows with the square of the depth. Below
# this depth a value is read in one pass, without its bytes.
_DEPTH_KEPT: Final = 64

_FAILURE_CHARACTERS_MAX: Final = 200

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
# Python's own conversion, as in json.loads: 1e400 is infinite, not an error.
_plain = msgspec.json.Decoder(float_hook=float)
_interpreter = TreeInterpreter()


# jmespath's type checks compare class names, so these classes need the names of the built-in ones.
_Object: Any = type("dict", (dict,), {})
_Array: Any = type("list", (list,), {})
_String = type("str", (str,), {})
_Integer = type("int", (int,), {})
_Float = type("float", (float,), {})
_KEPT: dict[type, Any] = {str: _String, int: _Integer, float: _Float}


def read(json: bytes, depth: int = 0) -> object:
    """Return the value of valid JSON; its parts remember their bytes."""
    head = json[:1]
    if depth > _DEPTH_KEPT:
        return _plain.decode(json)
    if head == b"{":
        value: Any = _Object(
            (key, read(bytes(raw), depth + 1)) for key, raw in _fields.decode(json).items()
        )
    elif head == b"[":
        value = _Array(read(bytes(raw), depth + 1) for raw in _items.decode(json))
    else:
        scalar: object = _plain.decode(json)
        kept: Any = _KEPT.get(type(scalar))
        if kept is None:
            return scalar  # null, true and false have one spelling each
        value = kept(scalar)
    value.raw = json
    return value


def write(value: object) -> bytes:
    """Return a value as JSON: byte for byte if it was read, as msgspec writes it if computed.

    Infinity and NaN become null. Raises TypeError for the expression reference `&a`, which is not a
    JSON value.
    """
    raw = getattr(value, "raw", None)
    if raw is not None:
        return cast(bytes, raw)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value).items()
        return b"{%s}" % b",".join(b"%s:%s" % (_key(key), write(item)) for key, item in members)
    if isinstance(value, list):
        return b"[%s]" % b",".join(write(item) for item in cast("list[object]", value))
    return msgspec.json.encode(value)


def _key(key: object) -> bytes:
    """Return an object's key as JSON; a key that is not a string is spelled as json.dumps does."""
    if isinstance(key, str):
        return write(key)
    return msgspec.json.encode(next(iter(standard_json.loads(standard_json.dumps({key: None})))))


def is_true(value: object) -> bool:
    """Tell whether JMESPath finds a value true: not null, false or empty; 0 is true."""
    return not (value is None or value is False or value in ("", [], {}))


def failure(error: Exception) -> str:
    """Say in one line why an evaluation failed, without the value."""
    text = " ".join(str(error).split())
    # The library's own text quotes the value, which may be a whole file.
    if isinstance(error, exceptions.JMESPathTypeError):
        text = (
            f"In function {error.function_name}(), invalid type for value, expected one of:"
            f" {', '.join(error.expected_types)}, received: {error.actual_type}"
        )
    return text[:_FAILURE_CHARACTERS_MAX] + "…" * (len(text) > _FAILURE_CHARACTERS_MAX)


def evaluate(tree: Mapping[str, Any], value: object) -> Any:
    """Evaluate a syntax tree on a value. Raises one of EVALUATION_ERRORS."""
    return _interpreter.visit(cast(Any, tree), value)


def parsed(text: str) -> Mapping[str, Any]:
    """Return jmespath's syntax tree: "type", "children", "value". Raises Halt if it is wrong."""
    if error := check(text):
        raise Halt(f"{text!r} is not a JMESPath expression: {error}")
    return _parse(text)


def check(text: str) -> str | None:
    """Say in one line what is wrong with a JMESPath expression; None if nothing is.

    Also finds unknown functions, wrong numbers of arguments and text that is not Unicode, which
    jmespath finds only during evaluation.
    """
    try:
        for node in _nodes(_parse(text)):
            if error := _check_node(node):
                return error
    except RecursionError:
        return "it is nested too deeply"
    except exceptions.IncompleteExpressionError:
        return "it ends too early"
    except (ValueError, IndexError) as error:
        return str(error).split(", for expression:")[0].partition("\n")[0]
    return None


def _parse(text: str) -> Any:
    with warnings.catch_warnings():
        # jmespath still accepts an old spelling of string literals, and warns.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return jmespath.compile(text).parsed


def _nodes(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield tree
    for child in tree["children"]:
        if isinstance(child, Mapping):  # those of a slice are numbers
            yield from _nodes(cast("Mapping[str, Any]", child))


def _check_node(node: Mapping[str, Any]) -> str | None:
    kind = node["type"]
    if kind == "function_expression":
        name, given = node["value"], len(node["children"])
        known = functions.Functions.FUNCTION_TABLE.get(name)
        if known is None:
            near = difflib.get_close_matches(name, functions.Functions.FUNCTION_TABLE, n=1)
            guess = f"; did you mean {near[0]}()?" if near else ""
            return f"there is no function {name}(){guess}"
        wanted = len(known["signature"])
        more = bool(known["signature"] and known["signature"][-1].get("variadic"))
        if given < wanted or (given > wanted and not more):
            return f"{name}() takes {wanted}{' or more' if more else ''} arguments, not {given}"
    if kind == "slice" and node["children"][2] == 0:
        return "the step of a slice cannot be 0"
    if kind in {"field", "literal", "key_val_pair"}:
        msgspec.json.encode(node["value"])  # a lone surrogate raises ValueError
    return None
