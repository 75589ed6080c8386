"""From JMESPath's syntax tree to one Python function over records that are mostly still bytes.

    {id: id, en: lang == 'en'}          for r in records:
                                            out.append(join((b'{"id":', r.f0, b',"en":', …)))

The tree is walked twice: the first walk learns what is needed of a record (`Need`), the second
writes the function, knowing which places are kept as bytes. What is not covered raises Uncompiled.
The semantics to copy are those of `jmespath.visitor.TreeInterpreter`, errors included: what is not
evaluated there must not be evaluated here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from penstock.records import selection_values as values
from penstock.records.selection_needs import Need
from penstock.records.selection_writer import Form, Tree, Value, Writer, to_json

# Functions whose result is computed, so that nothing of the record is picked out through them.
_COMPUTING: Final = frozenset(
    (
        *("abs", "avg", "ceil", "floor", "sum"),
        *("contains", "ends_with", "join", "starts_with", "keys", "length"),
    )
)
# Functions of our own, which pick out bytes, or look at no more of them than they must.
_OWN: Final = {
    "not_null": "first_not_null",
    "to_number": "as_number",
    "to_string": "as_string",
    "type": "type_name",
}
_ORDERINGS: Final = {
    "lt": "less=True, equal=False",
    "lte": "less=True, equal=True",
    "gt": "less=False, equal=False",
    "gte": "less=False, equal=True",
}


class Uncompiled(Exception):
    """The expression is one for the jmespath library; the text says why."""


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
        _Compiler(record, roots).function(select, where)
        writer = _Compiler(record, roots)
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


class _Compiler(Writer):
    """Writes what JMESPath says; the public method is `function`."""

    def function(self, select: Tree, where: Tree | None) -> str:
        """Return the source of `run`."""
        self.line("def run(records, indexes):")
        with self.indented():
            start = len(self.lines)
            body = self._body(select, where)
            if len(self.lines) == start:
                self.line(f"return [{body} for r in records], indexes")
                return "\n".join(self.lines)
            lines, self.lines = self.lines[start:], self.lines[:start]
            self.line("out, kept = [], []")
            self.line("for i, r in zip(indexes, records):")
            self.lines.extend(f"    {line}" for line in lines)
            with self.indented():
                self.line(f"out.append({body})")
                self.line("kept.append(i)")
            self.line("return out, kept")
        return "\n".join(self.lines)

    def _body(self, select: Tree, where: Tree | None) -> str:
        record = Value(Form.RAW if self.record.kept else Form.RECORD, "r", self.record)
        if where is not None:
            self.line(f"if not {self._truth(where, record)}:")
            with self.indented():
                self.line("continue")
        value = self._value(select, record)
        if value.form is Form.CONST:
            return self.constant(to_json(value.const))
        return value.code if value.form is Form.JSON else f"bytes({self.raw(value)})"

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
        owner = self.below(scope, "fields", node)
        need = owner.need.field(key)
        code = f"{owner.code}.{owner.need.attribute(key)}"
        if owner.form is not Form.RECORD:
            null = "NULL" if need.kept else "None"
            code = f"{code} if type({owner.code}) is Record{owner.need.name} else {null}"
            code = self.let(code)
        return self.of(need, code)

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
        items, element, test = self.elements(scope, node)
        null = "NULL" if element.form is Form.RAW else "None"
        enough = f"len({items}) {'>' if index >= 0 else '>='} {abs(index)}"
        return self.of(
            element.need, self.let(f"{items}[{index}] if {test} and {enough} else {null}")
        )

    def _slice(self, node: Tree, scope: Value) -> Value:
        items, element, test = self.elements(scope, node)
        start, stop, step = ("" if part is None else str(part) for part in node["children"])
        code = self.let(f"{items}[{start}:{stop}:{step}] if {test} else None")
        return Value(Form.LIST, code, element.need)

    def _flatten(self, node: Tree, scope: Value) -> Value:
        items, element, test = self.elements(self._value(node["children"][0], scope), node)
        element.need.whole = True
        code = self.let(f"v.flattened({items}) if {test} else None")
        return Value(Form.LIST, code, self.root(node))

    def _projection(self, node: Tree, scope: Value) -> Value:
        left, right = node["children"]
        items, element, test = self.elements(self._value(left, scope), node)
        return self._projected(node, test, items, element, right, None)

    def _filter_projection(self, node: Tree, scope: Value) -> Value:
        left, right, condition = node["children"]
        items, element, test = self.elements(self._value(left, scope), node)
        return self._projected(node, test, items, element, right, condition)

    def _value_projection(self, node: Tree, scope: Value) -> Value:
        left, right = node["children"]
        base = self._value(left, scope)
        if base.form is Form.LIST:
            return Value(Form.CONST, "", scope.need)
        base = self.below(base, "values", node)
        self.variables += 1
        element = self.of(base.need.value(), f"e{self.variables}")
        test = f"type({base.code}) is dict"
        return self._projected(node, test, f"{base.code}.values()", element, right, None)

    def _projected(
        self, node: Tree, test: str, items: str, element: Value, right: Tree, condition: Tree | None
    ) -> Value:
        """Write the loop over `items`; null results are left out."""
        out = self.let("None")
        self.line(f"if {test}:")
        with self.indented():
            self.line(f"{out} = []")
            self.line(f"for {element.code} in {items}:")
            with self.indented():
                if condition is not None:
                    self.line(f"if not {self._truth(condition, element)}:")
                    with self.indented():
                        self.line("continue")
                result = self.let(self.raw(self._value(right, element)))
                self.line(f"if {result} != NULL:")
                with self.indented():
                    self.line(f"{out}.append({result})")
        return Value(Form.LIST, out, self.root(node))

    def _multi_select_dict(self, node: Tree, scope: Value) -> Value:
        def parts() -> Iterator[str | bytes]:
            # A key given twice has its first place and its last value, and both are evaluated.
            members = {child["value"]: b"" for child in node["children"]}
            found: dict[str, str | bytes] = dict(members)
            for child in node["children"]:
                found[child["value"]] = self.part(self._value(child, scope))
            for number, (key, part) in enumerate(found.items()):
                yield (b"," if number else b"{") + msgspec.json.encode(key) + b":"
                yield part
            yield b"}"

        return self._multi_select(node, scope, parts)

    def _multi_select_list(self, node: Tree, scope: Value) -> Value:
        def parts() -> Iterator[str | bytes]:
            for number, child in enumerate(node["children"]):
                part = self.part(self._value(child, scope))
                yield b"," if number else b"["
                yield part
            yield b"]"

        return self._multi_select(node, scope, parts)

    def _multi_select(
        self, node: Tree, scope: Value, parts: Callable[[], Iterator[str | bytes]]
    ) -> Value:
        """Join the parts; null if the scope is, whose parts are then not evaluated."""
        null = self.is_null(scope)
        if null == "True":
            return Value(Form.CONST, "", scope.need)
        if not null:
            return Value(Form.JSON, self.joined(parts()), scope.need)
        out = self.let("NULL")
        self.line(f"if not ({null}):")
        with self.indented():
            self.line(f"{out} = Raw({self.joined(parts())})")
        return Value(Form.RAW, out, self.root(node))

    def _comparator(self, node: Tree, scope: Value) -> Value:
        left, right = (self._value(child, scope) for child in node["children"])
        name = node["value"]
        if name in _ORDERINGS:
            code = f"v.ordered({self.plain(left)}, {self.plain(right)}, {_ORDERINGS[name]})"
        else:
            code = self._equality(left, right)
            code = code if name == "eq" else f"(not {code})"
        return Value(Form.PLAIN, self.let(code), scope.need)

    def _equality(self, left: Value, right: Value) -> str:
        if left.form is Form.CONST:
            left, right = right, left
        if right.form is Form.CONST and left.form not in {Form.PLAIN, Form.CONST}:
            if isinstance(right.const, str):
                quoted = self.constant(to_json(right.const))
                return f"is_text({self.raw(left)}, {quoted}, {self.constant(right.const)})"
            if right.const is None or isinstance(right.const, bool):
                return f"({self.raw(left)} == {self.raw(right)})"  # they have one spelling
        return f"v.equal({self.plain(left)}, {self.plain(right)})"

    def _or_expression(self, node: Tree, scope: Value) -> Value:
        return self._either(node, scope, "if not")

    def _and_expression(self, node: Tree, scope: Value) -> Value:
        return self._either(node, scope, "if")

    def _either(self, node: Tree, scope: Value, test: str) -> Value:
        left, right = node["children"]
        out = self.let(self.raw(self._value(left, scope)))
        self.line(f"{test} is_true({out}):")
        with self.indented():
            self.line(f"{out} = {self.raw(self._value(right, scope))}")
        return Value(Form.RAW, out, self.root(node))

    def _not_expression(self, node: Tree, scope: Value) -> Value:
        truth = self._truth(node["children"][0], scope)
        return Value(Form.PLAIN, self.let(f"not {truth}"), scope.need)

    def _function_expression(self, node: Tree, scope: Value) -> Value:
        name = node["value"]
        if any(child["type"] == "expref" for child in node["children"]):
            raise Uncompiled(f"{name}() takes an expression, which the jmespath library evaluates")
        arguments = [self._value(child, scope) for child in node["children"]]
        if name in _OWN:
            raws = ", ".join(self.raw(argument) for argument in arguments)
            code = self.let(f"v.{_OWN[name]}({raws})")
            form = Form.PLAIN if name in {"type", "to_number"} else Form.RAW
            return Value(form, code, self.root(node))
        if name not in _COMPUTING:
            raise Uncompiled(f"{name}() is left to the jmespath library")
        plain = ", ".join(self.plain(argument) for argument in arguments)
        return Value(Form.PLAIN, self.let(f"v.called({name!r}, {plain})"), scope.need)

    # Truth, where no value is needed.

    def _truth(self, node: Tree, scope: Value) -> str:
        """Return code that is true where JMESPath holds the node's value true."""
        if node["type"] == "not_expression":
            return f"(not {self._truth(node['children'][0], scope)})"
        if node["type"] in {"and_expression", "or_expression"}:
            left, right = node["children"]
            out = self.let(self._truth(left, scope))
            self.line(f"if {'' if node['type'] == 'and_expression' else 'not '}{out}:")
            with self.indented():
                self.line(f"{out} = {self._truth(right, scope)}")
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
                code = f"is_true({self.raw(value)})"
        return code
