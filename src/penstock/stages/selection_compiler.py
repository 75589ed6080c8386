"""From JMESPath's syntax tree to one Python function over records that are mostly still bytes.

    {id: id, en: lang == 'en'}          for r in records:
                                            out.append(join((b'{"id":', r.f0, b',"en":', …)))

The tree is walked twice: the first walk learns what is needed of a record (`Need`), the second
writes the function, knowing which places are kept as bytes. What is not covered raises Uncompiled.
The semantics to copy are those of `jmespath.visitor.TreeInterpreter`, errors included: what is not
evaluated there must not be evaluated here.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Final, NamedTuple, cast

import msgspec

from penstock.stages import selection_values as values
from penstock.stages.selection_needs import NULL, Need

Tree = Mapping[str, Any]

# Functions whose result is computed, so that nothing of the record is picked out through them.
_COMPUTING: Final = frozenset(
    (
        *("abs", "avg", "ceil", "floor", "sum"),
        *("contains", "ends_with", "join", "starts_with", "keys", "length"),
    )
)
# Functions of our own over bytes, with the form of their result.
_ORDERINGS: Final = {
    "lt": "less=True, equal=False",
    "lte": "less=True, equal=True",
    "gt": "less=False, equal=False",
    "gte": "less=False, equal=True",
}


class Uncompiled(Exception):
    """The expression is one for the jmespath library; the text says why."""


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


class Code(NamedTuple):
    """A compiled selection: `run(records, indexes)` returns the selections and their indexes."""

    run: Callable[[Sequence[Any], Sequence[int]], tuple[list[bytes], Sequence[int]]]
    record_type: type
    source: str


def compiled(select: Tree, where: Tree | None) -> Code:
    """Compile a selection. Raises Uncompiled with the reason."""
    record = Need("")
    roots: dict[int, Need] = {}
    try:
        _Writer(record, roots).function(select, where)
        writer = _Writer(record, roots)
        source = writer.function(select, where)
        record_type = record.record_type()
        names = {**writer.names, **_readers(source, [record, *roots.values()])}
        code = compile(source, "<selection>", "exec")
    except (RecursionError, SyntaxError, MemoryError):
        raise Uncompiled("it is nested too deeply") from None
    except ValueError as error:  # msgspec's word on a key
        raise Uncompiled(str(error)) from None
    exec(code, names)  # noqa: S102 - made of our own names and integers; texts come in as constants
    return Code(cast(Any, names["run"]), record_type, source)


def _readers(source: str, roots: Sequence[Need]) -> dict[str, object]:
    """Return the readers and structs that the source names."""
    found: dict[str, object] = {}
    queue = list(roots)
    while queue:
        need = queue.pop()
        below = [need.items, need.values, *need.fields.values()]
        queue.extend(filter(None, below))
        for way in ("fields", "items", "values"):
            name = f"get_{way}{need.name}"
            if f"{name}(" in source:
                found[name] = need.reader(way)
        if need.struct:
            found[f"Record{need.name}"] = need.struct
    return found


class _Writer:
    """Writes the lines of the function; the public method is `function`."""

    def __init__(self, record: Need, roots: dict[int, Need]) -> None:
        self._record = record
        self._roots = roots
        self._lines: list[str] = []
        self._depth = 0
        self._variables = 0
        self.names: dict[str, object] = {
            "NULL": NULL,
            "Raw": msgspec.Raw,
            "join": b"".join,
            "v": values,
            "is_text": values.is_text,
            "is_true": values.is_true,
        }

    def function(self, select: Tree, where: Tree | None) -> str:
        """Return the source of `run`."""
        self._line("def run(records, indexes):")
        with self._indented():
            start = len(self._lines)
            body = self._body(select, where)
            if len(self._lines) == start:
                self._line(f"return [{body} for r in records], indexes")
                return "\n".join(self._lines)
            lines, self._lines = self._lines[start:], self._lines[:start]
            self._line("out, kept = [], []")
            self._line("for i, r in zip(indexes, records):")
            self._lines.extend(f"    {line}" for line in lines)
            with self._indented():
                self._line(f"out.append({body})")
                self._line("kept.append(i)")
            self._line("return out, kept")
        return "\n".join(self._lines)

    def _body(self, select: Tree, where: Tree | None) -> str:
        record = Value(Form.RAW if self._record.kept else Form.RECORD, "r", self._record)
        if where is not None:
            self._line(f"if not {self._truth(where, record)}:")
            with self._indented():
                self._line("continue")
        value = self._value(select, record)
        if value.form is Form.CONST:
            return self._constant(_json(value.const))
        return value.code if value.form is Form.JSON else f"bytes({self._raw(value)})"

    # Lines and names.

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def _indented(self) -> Generator[None]:
        self._depth += 1
        yield
        self._depth -= 1

    def _let(self, code: str) -> str:
        """Write an assignment to a new variable."""
        self._variables += 1
        self._line(f"x{self._variables} = {code}")
        return f"x{self._variables}"

    def _constant(self, value: object) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def _root(self, node: Tree) -> Need:
        """Return the Need of a computed value, the same in both walks."""
        if id(node) not in self._roots:
            self._roots[id(node)] = Need(f"_r{len(self._roots)}", whole=True)
        return self._roots[id(node)]

    # Conversions of a value's form.

    def _raw(self, value: Value) -> str:
        """Return code for the value as msgspec.Raw, which compares by its bytes."""
        match value.form:
            case Form.RAW:
                value.need.whole = True
                return value.code
            case Form.JSON:
                return f"Raw({value.code})"
            case Form.CONST:
                return self._constant(msgspec.Raw(_json(value.const)))
            case Form.PLAIN:
                return f"v.encoded({value.code})"
            case Form.LIST:
                value.need.whole = True
                return f"v.joined({value.code})"
            case _:
                value.need.whole = True  # the second walk will find it kept
                return value.code

    def _plain(self, value: Value) -> str:
        """Return code for the value as json.loads gives it."""
        if value.form is Form.CONST:
            return self._constant(value.const)
        return value.code if value.form is Form.PLAIN else f"v.decoded({self._raw(value)})"

    def _part(self, value: Value) -> str | bytes:
        """Return what stands for the value in a join: code for its bytes, or constant bytes."""
        if value.form is Form.CONST:
            return _json(value.const)
        return value.code if value.form is Form.JSON else self._raw(value)

    def _is_null(self, value: Value) -> str:
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

    def _below(self, value: Value, way: str, node: Tree) -> Value:
        """Return the value with one way into it open: a struct, list or dict, or something else."""
        if value.form in {Form.JSON, Form.PLAIN, Form.CONST}:
            value = Value(Form.RAW, self._let(self._raw(value)), self._root(node))
        if value.need is self._record and way != "fields":
            value.need.whole = True  # a record is decoded to a struct or kept, to nothing else
        if value.form is not Form.RAW:
            return value
        return Value(Form.NODE, self._let(f"get_{way}{value.need.name}({value.code})"), value.need)

    def _of(self, need: Need, code: str) -> Value:
        return Value(Form.RAW if need.kept else Form.NODE, code, need)

    def _elements(self, value: Value, node: Tree) -> tuple[str, Value, str]:
        """Return code for the list, for one element named `e…`, and the test that it is a list."""
        if value.form is Form.LIST:
            need, test = value.need, f"{value.code} is not None"
        else:
            value = self._below(value, "items", node)
            need, test = value.need.item(), f"type({value.code}) is list"
        self._variables += 1
        return value.code, self._of(need, f"e{self._variables}"), test

    # One method a kind of node, named as in the tree: the value of the node in a scope.

    def _value(self, node: Tree, scope: Value) -> Value:
        method = getattr(self, f"_{node['type']}", None)
        if method is None:
            raise Uncompiled(f"{node['type']} is left to the jmespath library")
        return method(node, scope)

    def _field(self, node: Tree, scope: Value) -> Value:
        if scope.form is Form.LIST:
            return Value(Form.CONST, "", scope.need)
        key = node["value"]
        owner = self._below(scope, "fields", node)
        need = owner.need.field(key)
        code = f"{owner.code}.{owner.need.attribute(key)}"
        if owner.form is not Form.RECORD:
            null = "NULL" if need.kept else "None"
            code = f"{code} if type({owner.code}) is Record{owner.need.name} else {null}"
            code = self._let(code)
        return self._of(need, code)

    def _current(self, _: Tree, scope: Value) -> Value:
        return scope

    _identity = _current

    def _literal(self, node: Tree, scope: Value) -> Value:
        return Value(Form.CONST, "", scope.need, node["value"])

    def _subexpression(self, node: Tree, scope: Value) -> Value:
        for child in node["children"]:
            scope = self._value(child, scope)
        return scope

    _pipe = _index_expression = _subexpression

    def _key_val_pair(self, node: Tree, scope: Value) -> Value:
        return self._value(node["children"][0], scope)

    def _index(self, node: Tree, scope: Value) -> Value:
        index = node["value"]
        items, element, test = self._elements(scope, node)
        null = "NULL" if element.form is Form.RAW else "None"
        enough = f"len({items}) {'>' if index >= 0 else '>='} {abs(index)}"
        return self._of(
            element.need, self._let(f"{items}[{index}] if {test} and {enough} else {null}")
        )

    def _slice(self, node: Tree, scope: Value) -> Value:
        items, element, test = self._elements(scope, node)
        start, stop, step = ("" if part is None else str(part) for part in node["children"])
        code = self._let(f"{items}[{start}:{stop}:{step}] if {test} else None")
        return Value(Form.LIST, code, element.need)

    def _flatten(self, node: Tree, scope: Value) -> Value:
        items, element, test = self._elements(self._value(node["children"][0], scope), node)
        element.need.whole = True
        code = self._let(f"v.flattened({items}) if {test} else None")
        return Value(Form.LIST, code, self._root(node))

    def _projection(self, node: Tree, scope: Value) -> Value:
        left, right = node["children"]
        items, element, test = self._elements(self._value(left, scope), node)
        return self._projected(node, test, items, element, right, None)

    def _filter_projection(self, node: Tree, scope: Value) -> Value:
        left, right, condition = node["children"]
        items, element, test = self._elements(self._value(left, scope), node)
        return self._projected(node, test, items, element, right, condition)

    def _value_projection(self, node: Tree, scope: Value) -> Value:
        left, right = node["children"]
        base = self._value(left, scope)
        if base.form is Form.LIST:
            return Value(Form.CONST, "", scope.need)
        base = self._below(base, "values", node)
        self._variables += 1
        element = self._of(base.need.value(), f"e{self._variables}")
        test = f"type({base.code}) is dict"
        return self._projected(node, test, f"{base.code}.values()", element, right, None)

    def _projected(
        self, node: Tree, test: str, items: str, element: Value, right: Tree, condition: Tree | None
    ) -> Value:
        """Write the loop over `items`; null results are left out."""
        out = self._let("None")
        self._line(f"if {test}:")
        with self._indented():
            self._line(f"{out} = []")
            self._line(f"for {element.code} in {items}:")
            with self._indented():
                if condition is not None:
                    self._line(f"if not {self._truth(condition, element)}:")
                    with self._indented():
                        self._line("continue")
                result = self._let(self._raw(self._value(right, element)))
                self._line(f"if {result} != NULL:")
                with self._indented():
                    self._line(f"{out}.append({result})")
        return Value(Form.LIST, out, self._root(node))

    def _multi_select_dict(self, node: Tree, scope: Value) -> Value:
        def parts() -> Iterator[str | bytes]:
            # A key given twice has its first place and its last value, and both are evaluated.
            members = {child["value"]: b"" for child in node["children"]}
            found: dict[str, str | bytes] = dict(members)
            for child in node["children"]:
                found[child["value"]] = self._part(self._value(child, scope))
            for number, (key, part) in enumerate(found.items()):
                yield (b"," if number else b"{") + msgspec.json.encode(key) + b":"
                yield part
            yield b"}"

        return self._multi_select(node, scope, parts)

    def _multi_select_list(self, node: Tree, scope: Value) -> Value:
        def parts() -> Iterator[str | bytes]:
            for number, child in enumerate(node["children"]):
                part = self._part(self._value(child, scope))
                yield b"," if number else b"["
                yield part
            yield b"]"

        return self._multi_select(node, scope, parts)

    def _multi_select(
        self, node: Tree, scope: Value, parts: Callable[[], Iterator[str | bytes]]
    ) -> Value:
        """Join the parts; null if the scope is, whose parts are then not evaluated."""
        null = self._is_null(scope)
        if null == "True":
            return Value(Form.CONST, "", scope.need)
        if not null:
            return Value(Form.JSON, self._joined(parts()), scope.need)
        out = self._let("NULL")
        self._line(f"if not ({null}):")
        with self._indented():
            self._line(f"{out} = Raw({self._joined(parts())})")
        return Value(Form.RAW, out, self._root(node))

    def _joined(self, parts: Iterator[str | bytes]) -> str:
        """Return code that joins the parts, constants that meet made one."""
        codes: list[str] = []
        constant = b""
        for part in parts:
            if isinstance(part, bytes):
                constant += part
                continue
            codes += [self._constant(constant), part]
            constant = b""
        return f"join(({', '.join([*codes, self._constant(constant)])},))"

    def _comparator(self, node: Tree, scope: Value) -> Value:
        left, right = (self._value(child, scope) for child in node["children"])
        name = node["value"]
        if name in _ORDERINGS:
            code = f"v.ordered({self._plain(left)}, {self._plain(right)}, {_ORDERINGS[name]})"
        else:
            code = self._equality(left, right)
            code = code if name == "eq" else f"(not {code})"
        return Value(Form.PLAIN, self._let(code), scope.need)

    def _equality(self, left: Value, right: Value) -> str:
        if left.form is Form.CONST:
            left, right = right, left
        if right.form is Form.CONST and left.form not in {Form.PLAIN, Form.CONST}:
            if isinstance(right.const, str):
                quoted = self._constant(_json(right.const))
                return f"is_text({self._raw(left)}, {quoted}, {self._constant(right.const)})"
            if right.const is None or isinstance(right.const, bool):
                return f"({self._raw(left)} == {self._raw(right)})"  # they have one spelling
        return f"v.equal({self._plain(left)}, {self._plain(right)})"

    def _or_expression(self, node: Tree, scope: Value) -> Value:
        return self._either(node, scope, "if not")

    def _and_expression(self, node: Tree, scope: Value) -> Value:
        return self._either(node, scope, "if")

    def _either(self, node: Tree, scope: Value, test: str) -> Value:
        left, right = node["children"]
        out = self._let(self._raw(self._value(left, scope)))
        self._line(f"{test} is_true({out}):")
        with self._indented():
            self._line(f"{out} = {self._raw(self._value(right, scope))}")
        return Value(Form.RAW, out, self._root(node))

    def _not_expression(self, node: Tree, scope: Value) -> Value:
        truth = self._truth(node["children"][0], scope)
        return Value(Form.PLAIN, self._let(f"not {truth}"), scope.need)

    def _function_expression(self, node: Tree, scope: Value) -> Value:
        name = node["value"]
        if any(child["type"] == "expref" for child in node["children"]):
            raise Uncompiled(f"{name}() takes an expression, which the jmespath library evaluates")
        arguments = [self._value(child, scope) for child in node["children"]]
        own = {"type": "type_name", "to_string": "as_string", "to_number": "as_number"}
        if name == "not_null":
            own[name] = "first_not_null"
        if name in own:
            raws = ", ".join(self._raw(argument) for argument in arguments)
            code = self._let(f"v.{own[name]}({raws})")
            form = Form.PLAIN if name == "type" else Form.RAW
            return Value(form, code, self._root(node))
        if name not in _COMPUTING:
            raise Uncompiled(f"{name}() is left to the jmespath library")
        plain = ", ".join(self._plain(argument) for argument in arguments)
        return Value(Form.PLAIN, self._let(f"v.called({name!r}, {plain})"), scope.need)

    # Truth, where no value is needed.

    def _truth(self, node: Tree, scope: Value) -> str:
        """Return code that is true where JMESPath holds the node's value true."""
        if node["type"] == "not_expression":
            return f"(not {self._truth(node['children'][0], scope)})"
        if node["type"] in {"and_expression", "or_expression"}:
            left, right = node["children"]
            out = self._let(self._truth(left, scope))
            self._line(f"if {'' if node['type'] == 'and_expression' else 'not '}{out}:")
            with self._indented():
                self._line(f"{out} = {self._truth(right, scope)}")
            return out
        value = self._value(node, scope)
        if node["type"] == "comparator":
            return value.code  # true, false or null
        match value.form:
            case Form.CONST:
                return str(values.is_true_value(value.const))
            case Form.PLAIN:
                code = f"v.is_true_value({value.code})"
            case Form.LIST:
                code = f"bool({value.code})"
            case _:
                code = f"is_true({self._raw(value)})"
        return code


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
