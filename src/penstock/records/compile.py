"""Compile JMESPath's syntax tree to closures over records that are mostly still bytes.

    {id: id, name: user.name}     join((b'{"id":', r.f0, b',"name":', r.f1.f0, b"}"))

A record is decoded to a struct of the values that the selection names, each kept as JSON. A node of
the tree becomes a function of its scope: the record, or a value found in it.

It must behave as `jmespath.visitor.TreeInterpreter` does, errors included: what that does not
evaluate must not be evaluated here. A node without a function here is evaluated by the library, on
a value that holds only what the node reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any, Final, NamedTuple

import msgspec

from penstock.records import expression, values
from penstock.records.needs import On, Struct, Tree, itself, then
from penstock.records.values import NULL, Json

_NOT_CONSTANT: Final = object()
_join: Final = b"".join
# From this many records on, working part by part on all of them takes a third less time.
_COLUMNS_MIN: Final = 8


Find = Callable[[Sequence[Any], Sequence[int]], tuple[list[bytes], Sequence[int]]]


class Code(NamedTuple):
    """A compiled selection: `run(records, indexes)` returns the selections and their indexes."""

    run: Find
    record_type: Any


@dataclass(frozen=True)
class _Value:
    """A function from scope to a node's value, and what is known in advance; a scope is one too.

    The value is JSON; or a struct, of the fields of an object that are needed; or plain, the Python
    value that json.loads returns.
    """

    on: On = itself
    struct: Struct | None = None
    is_plain: bool = False
    constant: Any = _NOT_CONSTANT
    parts: Sequence[bytes | On] = ()  # joined, they are the value


def compiled(select: Tree, where: Tree | None, *, whole: bool = False) -> Code:
    """Compile a selection, for records as structs of what it needs; if `whole`, as their JSON."""
    nodes = [select, *filter(None, [where])]
    try:
        struct = None if whole else Struct.of(nodes, depth_max=None)
        scope = _Value(struct=struct)
        test = _truth(where, scope) if where else None
        body = _value(select, scope)
    except RecursionError:  # too deep to compile, not to evaluate
        struct, scope = None, _Value()
        test = then(_library(where, scope).on, expression.is_true) if where else None
        body = _library(select, scope)
    parts, json = body.parts, _json(body)

    def run(records: Sequence[Any], indexes: Sequence[int]) -> tuple[list[bytes], Sequence[int]]:
        if test:
            kept = [*map(test, records)]
            records, indexes = [*compress(records, kept)], [*compress(indexes, kept)]
        if parts and len(records) >= _COLUMNS_MIN:
            columns = [repeat(p) if isinstance(p, bytes) else map(p, records) for p in parts]
            return [*map(_join, zip(*columns, strict=False))], indexes
        return [*map(bytes, map(json, records))], indexes

    return Code(run, struct.type if struct else msgspec.Raw)


# Compilers of nodes: one for each kind.


def _value(node: Tree, scope: _Value) -> _Value:
    return _NODES.get(node["type"], _library)(node, scope)


def _library(node: Tree, scope: _Value) -> _Value:
    """Evaluate a node with the jmespath library, on values that remember their bytes."""
    opened, struct = _opened(scope, [node])
    read = struct.library_value if struct else values.remembered
    known = then(opened if struct else _json(scope), read)
    return _Value(then(known, lambda value: expression.evaluate(node, value)), is_plain=True)


def _opened(scope: _Value, nodes: Sequence[Tree]) -> tuple[On, Struct | None]:
    """Return a function from scope to struct, for nodes that read only fields of the scope."""
    if scope.struct:
        return itself, scope.struct
    struct = Struct.of(nodes)
    return (then(_json(scope), struct.read) if struct else itself), struct


def _current(_: Tree, scope: _Value) -> _Value:
    return scope


def _literal(node: Tree, _: _Value) -> _Value:
    json = values.constant(node["value"])
    return _Value(lambda _: json, constant=node["value"])


def _field(node: Tree, scope: _Value) -> _Value:
    opened, struct = _opened(scope, [node])
    return _read(node, struct, opened) if struct else _library(node, scope)


def _read(node: Tree, struct: Struct, outer: On) -> _Value:
    on, inner = struct.field(node["value"], outer)
    return _Value(on, inner)


def _chain(node: Tree, scope: _Value) -> _Value:
    """Compile `a.b`, `a[0]`, `a | b`: each part is evaluated on the result of the one before."""
    first, *rest = node["children"]
    value = _value(first, scope)
    for part in rest:
        if value.struct and part["type"] == "field":
            value = _read(part, value.struct, value.on)
        else:
            found = _value(part, _Value(struct=value.struct, is_plain=value.is_plain))
            value = _Value(then(value.on, found.on), found.struct, found.is_plain)
    return value


# Lists.


def _index(node: Tree, scope: _Value) -> _Value:
    json = _json(scope)
    index: int = node["value"]

    def on(scope: Any) -> Json:
        elements = values.items(json(scope))
        if elements and -len(elements) <= index < len(elements):
            return elements[index]
        return NULL

    return _Value(on)


def _slice(node: Tree, scope: _Value) -> _Value:
    part = slice(*node["children"])
    return _list(_json(scope), values.items, lambda elements: elements[part])


def _flatten(node: Tree, scope: _Value) -> _Value:
    return _list(_json(_value(node["children"][0], scope)), values.items, values.flattened)


def _projection(node: Tree, scope: _Value) -> _Value:
    """Compile `a[*].b`, `a[?b].c`, `a.*.b`, which omit null results."""
    left, right, *conditions = node["children"]
    base = _json(_value(left, scope))
    struct = Struct.of([right, *conditions])
    element = _Value(struct=struct)
    result = _json(_value(right, element))
    tests = [_truth(condition, element) for condition in conditions]
    reader = struct or values
    read = reader.members if node["type"] == "value_projection" else reader.items

    def results(elements: Iterable[Any]) -> list[Json]:
        for test in tests:
            elements = filter(test, elements)
        return [json for json in map(result, elements) if json != NULL]

    return _list(base, read, results)


def _list(base: On, read: On, results: On) -> _Value:
    """Return an array of the `results` for the elements of `base`; null if it has none."""

    def on(scope: Any) -> Json:
        elements = read(base(scope))
        return NULL if elements is None else b"[%b]" % b",".join(results(elements))

    return _Value(on)


# New objects and arrays.


def _multi_select_list(node: Tree, scope: _Value) -> _Value:
    return _new(b"[]", [(b"", child) for child in node["children"]], scope)


def _multi_select_dict(node: Tree, scope: _Value) -> _Value:
    children = {child["value"]: child["children"][0] for child in node["children"]}
    if len(children) < len(node["children"]):
        return _library(node, scope)  # it gives a key twice
    keyed = [(msgspec.json.encode(key) + b":", child) for key, child in children.items()]
    return _new(b"{}", keyed, scope)


def _new(ends: bytes, keyed: Sequence[tuple[bytes, Tree]], scope: _Value) -> _Value:
    """Join the parts of a text; null if the scope is null, without evaluating the parts."""
    opened, struct = _opened(scope, [node for _, node in keyed])
    inner = _Value(struct=struct) if struct else scope
    parts: list[bytes | On] = []  # alternately constants and values
    text = ends[:1]
    for number, (key, node) in enumerate(keyed):
        value = _value(node, inner)
        text += (b"," if number else b"") + key
        if value.constant is _NOT_CONSTANT:
            parts += [text, _json(value)]
            text = b""
        else:
            text += values.constant(value.constant)
    parts.append(text + ends[1:])
    fill = _filled(parts)
    null = struct.null if struct else None if scope.is_plain else NULL
    if opened is itself and struct:
        return _Value(lambda scope: NULL if scope is null else fill(scope), parts=parts)

    def on(scope: Any) -> Json:
        found = opened(scope)
        return NULL if found == null else fill(found)

    return _Value(on)


def _filled(parts: Sequence[bytes | On]) -> Callable[[Any], bytes]:
    empty = [part if isinstance(part, bytes) else b"" for part in parts]
    variable = [part for part in parts if not isinstance(part, bytes)]

    def fill(scope: Any) -> bytes:
        texts = empty.copy()
        texts[1::2] = [on(scope) for on in variable]
        return _join(texts)

    return fill


# Comparison and truth.


def _comparator(node: Tree, scope: _Value) -> _Value:
    left, right = (_value(child, scope) for child in node["children"])
    name = node["value"]
    if name not in {"eq", "ne"}:
        return _Value(_ordering(name, _plain(left), _plain(right)), is_plain=True)
    equal = _equality(left, right)
    return _Value(equal if name == "eq" else lambda scope: not equal(scope), is_plain=True)


def _ordering(name: str, left: On, right: On) -> On:
    compare, comparable = values.COMPARE[name], values.is_comparable

    def on(scope: Any) -> bool | None:
        first, second = left(scope), right(scope)
        return compare(first, second) if comparable(first) and comparable(second) else None

    return on


def _equality(left: _Value, right: _Value) -> On:
    if left.constant is not _NOT_CONSTANT:
        left, right = right, left
    wanted = right.constant
    if not left.is_plain and left.constant is _NOT_CONSTANT:
        if isinstance(wanted, str):
            return then(_json(left), values.is_text(wanted))
        if wanted is None or isinstance(wanted, bool):  # each has only one spelling
            json, spelled = _json(left), values.constant(wanted)
            return lambda scope: json(scope) == spelled
    equal, first, second = values.COMPARE["eq"], _plain(left), _plain(right)
    return lambda scope: equal(first(scope), second(scope))


def _either(node: Tree, scope: _Value) -> _Value:
    """Compile `a || b`, `a && b`; `b` is evaluated only if needed."""
    first, second = (_value(child, scope) for child in node["children"])
    value, other, decisive = first.on, _json(second), node["type"] == "or_expression"
    # Infinity is true, but becomes null as JSON.
    is_plain = first.is_plain
    is_true = expression.is_true if is_plain else values.is_true

    def on(scope: Any) -> Json:
        found = value(scope)
        if is_true(found) is not decisive:
            return other(scope)
        return values.encoded(found) if is_plain else found

    return _Value(on)


def _not_expression(node: Tree, scope: _Value) -> _Value:
    true = _truth(node["children"][0], scope)
    return _Value(lambda scope: not true(scope), is_plain=True)


def _truth(node: Tree, scope: _Value) -> On:
    """Return a function whose result is true in Python where JMESPath finds the node's true."""
    kind = node["type"]
    if kind in {"and_expression", "or_expression"}:
        first, second = (_truth(child, scope) for child in node["children"])
        if kind == "and_expression":
            return lambda scope: first(scope) and second(scope)
        return lambda scope: first(scope) or second(scope)
    value = _value(node, scope)
    if not (value.is_plain or value.struct):
        return then(value.on, values.is_true)
    if kind in {"comparator", "not_expression"}:
        return value.on  # true, false or null
    return then(value.on, expression.is_true)


# Functions.

# These return no part of their arguments, so the arguments need not remember their bytes.
_COMPUTING: Final = frozenset(
    (
        *("abs", "avg", "ceil", "floor", "sum"),
        *("contains", "ends_with", "join", "starts_with", "keys", "length", "type"),
    )
)


def _function_expression(node: Tree, scope: _Value) -> _Value:
    name, children = node["value"], node["children"]
    if any(child["type"] == "expref" for child in children):
        return _library(node, scope)
    if name == "not_null":  # frequent, and computes nothing
        texts = [_json(_value(child, scope)) for child in children]
        return _Value(lambda scope: _first([text(scope) for text in texts]))
    decode = values.decoded if name in _COMPUTING else values.remembered
    arguments = [_plain(_value(child, scope), decode) for child in children]
    return _Value(
        lambda scope: values.call(name, [argument(scope) for argument in arguments]), is_plain=True
    )


def _first(given: Sequence[Json]) -> Json:
    return next((json for json in given if json != NULL), NULL)


# From one kind of value to another.


def _json(value: _Value) -> On:
    return then(value.on, values.encoded) if value.is_plain else value.on


def _plain(value: _Value, decode: On = values.decoded) -> On:
    """Return a function for the value as json.loads returns it, or as `decode` does."""
    if value.constant is not _NOT_CONSTANT:
        return lambda _: value.constant
    return value.on if value.is_plain else then(_json(value), decode)


_NODES: Final[Mapping[str, Callable[[Tree, _Value], _Value]]] = {
    "and_expression": _either,
    "comparator": _comparator,
    "current": _current,
    "field": _field,
    "filter_projection": _projection,
    "flatten": _flatten,
    "function_expression": _function_expression,
    "identity": _current,
    "index": _index,
    "index_expression": _chain,
    "literal": _literal,
    "multi_select_dict": _multi_select_dict,
    "multi_select_list": _multi_select_list,
    "not_expression": _not_expression,
    "or_expression": _either,
    "pipe": _chain,
    "projection": _projection,
    "slice": _slice,
    "subexpression": _chain,
    "value_projection": _projection,
}
