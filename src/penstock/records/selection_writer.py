"""Writes the Python function of a compiled selection: lines, names, and the forms of values.

A value in the function is one of a few forms, from the bytes of the record to a plain Python value;
what turns one into another is here, so that the compiler knows only JMESPath.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from penstock.records import selection_values as values
from penstock.records.selection_needs import NULL, Need

Tree = Mapping[str, Any]


class Form(Enum):
    """What the Python value of an expression is at run time."""

    RECORD = auto()  # the struct of the record itself
    RAW = auto()  # msgspec.Raw
    JSON = auto()  # bytes of JSON
    NODE = auto()  # what a Need that is not kept decodes to
    LIST = auto()  # a list of what its Need decodes to, or None
    PLAIN = auto()  # a Python value as json.loads gives
    CONST = auto()  # the same, known now


class Value(NamedTuple):
    """The Python expression, free of side effects, for a value, and what is known of it."""

    form: Form
    code: str
    need: Need
    const: Any = None


class Writer:
    """The lines of a function over records, and what they name.

    `record` is what is needed of a record, `roots` what is needed of computed values, by the
    identity of their node; both grow while a selection is walked.
    """

    def __init__(self, record: Need, roots: dict[int, Need]) -> None:
        self.record = record
        self._roots = roots
        self.lines: list[str] = []
        self._depth = 0
        self.variables = 0
        self.names: dict[str, object] = {
            "NULL": NULL,
            "Raw": msgspec.Raw,
            "join": b"".join,
            "v": values,
            "is_text": values.is_text,
            "is_true": values.is_true,
        }

    # Lines and names.

    def line(self, text: str) -> None:
        """Write a line."""
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def indented(self) -> Generator[None]:
        """Write what is inside a block."""
        self._depth += 1
        yield
        self._depth -= 1

    def let(self, code: str) -> str:
        """Write an assignment to a new variable."""
        self.variables += 1
        self.line(f"x{self.variables} = {code}")
        return f"x{self.variables}"

    def constant(self, value: object) -> str:
        """Return a name for a value that is known now."""
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def root(self, node: Tree) -> Need:
        """Return the Need of a computed value, the same in both walks."""
        if id(node) not in self._roots:
            self._roots[id(node)] = Need(f"_r{len(self._roots)}", whole=True)
        return self._roots[id(node)]

    # Conversions of a value's form.

    def raw(self, value: Value) -> str:
        """Return code for the value as msgspec.Raw, which compares by its bytes."""
        match value.form:
            case Form.RAW:
                value.need.whole = True
                return value.code
            case Form.JSON:
                return f"Raw({value.code})"
            case Form.CONST:
                return self.constant(msgspec.Raw(to_json(value.const)))
            case Form.PLAIN:
                return f"v.encoded({value.code})"
            case Form.LIST:
                value.need.whole = True
                return f"v.joined({value.code})"
            case _:
                value.need.whole = True  # the second walk will find it kept
                return value.code

    def plain(self, value: Value) -> str:
        """Return code for the value as json.loads gives it."""
        if value.form is Form.CONST:
            return self.constant(value.const)
        return value.code if value.form is Form.PLAIN else f"v.decoded({self.raw(value)})"

    def part(self, value: Value) -> str | bytes:
        """Return what stands for the value in a join: code for its bytes, or constant bytes."""
        if value.form is Form.CONST:
            return to_json(value.const)
        return value.code if value.form is Form.JSON else self.raw(value)

    def is_null(self, value: Value) -> str:
        """Return code that tells whether the value is null, "" where it never is."""
        match value.form:
            case Form.RECORD | Form.JSON:
                return ""  # a record is an object
            case Form.RAW:
                return "" if value.code == "r" else f"{value.code} == NULL"
            case Form.CONST:
                return "True" if value.const is None else ""
            case _:
                return f"{value.code} is None"

    # Access.

    def below(self, value: Value, way: str, node: Tree) -> Value:
        """Return the value with one way into it open: a struct, list or dict, or something else."""
        if value.form in {Form.JSON, Form.PLAIN, Form.CONST}:
            value = Value(Form.RAW, self.let(self.raw(value)), self.root(node))
        if value.need is self.record and way != "fields":
            value.need.whole = True  # a record is decoded to a struct or kept, to nothing else
        if value.form is not Form.RAW:
            return value
        return Value(Form.NODE, self.let(f"get_{way}{value.need.name}({value.code})"), value.need)

    def of(self, need: Need, code: str) -> Value:
        """Return the value that a need decodes to."""
        return Value(Form.RAW if need.kept else Form.NODE, code, need)

    def elements(self, value: Value, node: Tree) -> tuple[str, Value, str]:
        """Return code for the list, for one element named `e…`, and the test that it is a list."""
        if value.form is Form.LIST:
            need, test = value.need, f"{value.code} is not None"
        else:
            value = self.below(value, "items", node)
            need, test = value.need.item(), f"type({value.code}) is list"
        self.variables += 1
        return value.code, self.of(need, f"e{self.variables}"), test

    def joined(self, parts: Iterator[str | bytes]) -> str:
        """Return code that joins the parts, constants that meet made one."""
        codes: list[str] = []
        constant = b""
        for part in parts:
            if isinstance(part, bytes):
                constant += part
                continue
            codes += [self.constant(constant), part]
            constant = b""
        return f"join(({', '.join([*codes, self.constant(constant)])},))"


def to_json(value: object) -> bytes:
    """Return a constant as JSON."""
    return msgspec.json.encode(value)
