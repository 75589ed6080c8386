"""Find what a selection needs of a record, and make msgspec types that decode only that.

{id: id, name: user.name, tags: entities.tags[*].text}

record ─┬─ id                  kept as JSON
        ├─ user ── name        kept as JSON
        └─ entities ── tags    kept as JSON; its elements ── text
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from penstock.records import values
from penstock.records.values import NULL, Json

Tree = Mapping[str, Any]
Path = tuple[str, ...]
On = Callable[[Any], Any]
"""A function from a scope, which is a record or a value found in one, to a value."""

_CHAINS: Final = {"subexpression", "pipe", "index_expression"}
_PROJECTIONS: Final = {"projection", "filter_projection", "value_projection", "flatten"}


def itself(scope: Any) -> Any:
    """Return the scope."""
    return scope


def then(first: On, second: On) -> On:
    """Return a function that applies `second` to the result of `first`."""
    if first is itself:
        return second
    return first if second is itself else lambda scope: second(first(scope))


def seen(node: Tree) -> Iterator[Path]:
    """Yield the paths of fields that a node reads in its scope; () for the whole scope."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield (node["value"],)
    elif kind in {"current", "identity", "index", "slice"}:
        yield ()
    elif kind in _CHAINS and children[0]["type"] == "field":
        rest = [{"type": kind, "children": children[1:]}] if len(children) > 1 else []
        below = [path for part in rest for path in seen(part)]
        yield from ((children[0]["value"], *path) for path in below or [()])
    elif kind in _CHAINS | _PROJECTIONS:
        yield from seen(children[0])  # the other children read its result
    else:
        for child in children:
            yield from seen(child)


class Struct:
    """The msgspec type for the needed part of an object: the values at some paths, as JSON.

    A value that is needed whole is not also decoded in parts: for `a` and `a.b`, `a` is kept.
    `null` is what a null becomes where an object was expected.
    """

    def __init__(self, paths: Sequence[Path], *, nested: bool = False) -> None:
        self._nested = nested
        self._fields: dict[str, tuple[str, Struct | None]] = {}
        fields: list[Any] = []
        for key in dict.fromkeys(path[0] for path in paths):
            name = f"f{len(fields)}"
            below = [path[1:] for path in paths if path[0] == key]
            inner = None if () in below else Struct(below, nested=True)
            self._fields[key] = name, inner
            other = None | bool | int | float | str | list[msgspec.Raw]
            fields.append((name, inner.type | other, None) if inner else (name, msgspec.Raw, NULL))
        rename = {name: key for key, (name, _) in self._fields.items()}
        # Records hold no reference cycles; not tracking them saves a tenth of the time.
        self.type: Any = msgspec.defstruct("Record", fields, rename=rename, gc=False, eq=False)
        self.null = None if nested else self.type()
        self._empty = self.type()
        self._decode_one = msgspec.json.Decoder(self.type | None).decode
        self._decode_all = msgspec.json.Decoder(list[self.type] | None).decode

    @classmethod
    def of(cls, nodes: Sequence[Tree], depth_max: int | None = 1) -> "Struct | None":
        """Return what some nodes need of their scope; None if that is everything, or nothing.

        Only a record's inner objects are decoded in parts. A record that does not fit, such as with
        a number beyond Python where an object is expected, is decoded again.
        """
        paths = [path[:depth_max] for node in nodes for path in seen(node)]
        try:
            return cls(paths) if paths and () not in paths else None
        except ValueError:  # msgspec refuses a key as a field: keep the whole
            return None

    def field(self, key: str, outer: On) -> "tuple[On, Struct | None]":
        """Return a function for a field (null if another type), and the field's own struct."""
        name, inner = self._fields[key]
        if not self._nested:
            return then(outer, attrgetter(name)), inner
        missing = None if inner else NULL
        return lambda scope: getattr(outer(scope), name, missing), inner

    def read(self, json: Json) -> Any:
        """Return the struct of a value; an empty one if it is not an object."""
        try:
            found = self._decode_one(json)
        except msgspec.ValidationError:
            return self._empty
        return self.null if found is None else found

    def library_value(self, scope: Any) -> Any:
        """Return a struct as the jmespath library expects it: an object of its fields only."""
        if scope is self.null or not isinstance(scope, self.type):
            return None if scope is self.null else {}
        read = values.remembered
        return {
            key: (inner.library_value if inner else read)(getattr(scope, name))
            for key, (name, inner) in self._fields.items()
        }

    def items(self, json: Json) -> list[Any] | None:
        """Return the structs of an array's elements; None if the value is not an array."""
        try:
            return self._decode_all(json)
        except msgspec.ValidationError:
            return self._read_all(values.items(json))

    def members(self, json: Json) -> list[Any] | None:
        """Return the structs of an object's values; None if the value is not an object."""
        return self._read_all(values.members(json))

    def _read_all(self, found: list[Json] | None) -> list[Any] | None:
        return None if found is None else [*map(self.read, found)]
