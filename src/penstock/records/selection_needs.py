"""What a selection needs of a record, as a tree, and the msgspec types that decode only that.

    {id: id, tags: entities.tags[*].text}

    record ─┬─ id                      kept as bytes
            └─ entities ── tags ── [] ── text   kept as bytes

A place whose value is sent or compared is *kept*: decoded as `msgspec.Raw`, the bytes themselves.
A place that is only passed through becomes a struct, a list or a dict of what is needed below it.
Where the data holds something else there, decoding goes on: the place then holds a value of some
other Python type, whose fields and elements are null, as in JMESPath.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

NULL: Final = msgspec.Raw(b"null")
"""What a missing field is. Raw values are equal if their bytes are, and null has one spelling."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])


class _Other(msgspec.Struct, gc=False):
    """An object where none was expected."""


@dataclass(eq=False)
class Need:
    """What is needed of one place: the value itself, and of what is below it.

    `fields` are object members by key, `items` stands for every element of an array, `values` for
    every member of an object.
    """

    name: str
    whole: bool = False
    fields: "dict[str, Need]" = field(default_factory=dict["str", "Need"])
    items: "Need | None" = None
    values: "Need | None" = None
    struct: type | None = None

    @property
    def kept(self) -> bool:
        """Whether the place is decoded as its bytes: it is needed as such, or in several ways."""
        ways = bool(self.fields) + (self.items is not None) + (self.values is not None)
        return self.whole or ways != 1

    def field(self, key: str) -> "Need":
        """Need a member; the name of its attribute is its place among the fields."""
        if key not in self.fields:
            self.fields[key] = Need(f"{self.name}_{len(self.fields)}")
        return self.fields[key]

    def attribute(self, key: str) -> str:
        """Return the name of the struct's attribute for a member."""
        return f"f{list(self.fields).index(key)}"

    def item(self) -> "Need":
        """Need the elements."""
        self.items = self.items or Need(f"{self.name}_i")
        return self.items

    def value(self) -> "Need":
        """Need the members, whatever their keys."""
        self.values = self.values or Need(f"{self.name}_v")
        return self.values

    def record_type(self) -> type:
        """Return the type a record is decoded to: Raw or a struct, nothing beside it."""
        if self.kept:
            return msgspec.Raw
        return self._fields_struct()

    def decoded_type(self) -> Any:
        """Return the type the place is decoded to."""
        if self.kept:
            return msgspec.Raw
        return self._way_type("fields" if self.fields else "items" if self.items else "values")

    def _way_type(self, way: str) -> Any:
        scalars = None | bool | int | float | str
        if way == "fields":
            return self._fields_struct() | scalars | list[msgspec.Raw]
        if way == "items":
            return list[self.item().decoded_type()] | scalars | _Other
        return dict[str, self.value().decoded_type()] | scalars | list[msgspec.Raw]

    def _fields_struct(self) -> type:
        if self.struct is None:
            attributes: list[Any] = [
                (self.attribute(key), below.decoded_type(), NULL if below.kept else None)
                for key, below in self.fields.items()
            ]
            self.struct = msgspec.defstruct(
                f"Record{self.name}",
                attributes,
                rename={self.attribute(key): key for key in self.fields},
                gc=False,  # they hold no reference cycles; not being tracked saves a tenth
            )
        return self.struct

    def reader(self, way: str) -> "Reader":
        """Return what reads one way below a kept place from its bytes."""
        return Reader(self, way, msgspec.json.Decoder(self._way_type(way)))


@dataclass(frozen=True)
class Reader:
    """Reads a struct ("fields"), a list ("items") or a dict ("values") from a kept place."""

    need: Need
    way: str
    decoder: "msgspec.json.Decoder[Any]"

    def __call__(self, raw: msgspec.Raw) -> object:
        """Return what is needed of the value; anything but None if it is of another type."""
        try:
            return self.decoder.decode(raw)
        except msgspec.ValidationError:
            # A number that no Python number can hold, where an object or array was expected.
            return self._by_level(raw)

    def _by_level(self, raw: msgspec.Raw) -> object:
        head = bytes(raw)[:1]
        if head == b"[" and self.way == "items":
            return [_read(self.need.item(), element) for element in _items.decode(raw)]
        if head == b"{" and self.way == "values":
            members = _fields.decode(raw).items()
            return {key: _read(self.need.value(), member) for key, member in members}
        if head == b"{" and self.way == "fields" and self.need.struct:
            members = _fields.decode(raw)
            return self.need.struct(
                **{
                    self.need.attribute(key): _read(below, members[key])
                    for key, below in self.need.fields.items()
                    if key in members
                }
            )
        return None if raw == NULL else _Other()


def _read(need: Need, raw: msgspec.Raw) -> object:
    if need.kept:
        return raw
    way = "fields" if need.fields else "items" if need.items else "values"
    return need.reader(way)(raw)
