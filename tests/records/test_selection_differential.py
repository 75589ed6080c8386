"""The compiled form of a selection is jmespath's own answer, on whatever is thrown at both."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

import jmespath
import msgspec
import pytest

from penstock.model import Document
from penstock.records import expression
from penstock.records.decode import Decoder
from penstock.records.expression import EVALUATION_ERRORS, evaluate, parsed
from penstock.records.selection import Selection
from support.campaign import scaled
from support.json_samples import expression_text, record_text

_RECORDS_EACH = 8
# An old spelling of literals, which jmespath still takes and warns of.
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


def false(value: object) -> bool:
    """Tell JMESPath's falsehood, by the specification's list."""
    return value is None or value is False or (not value and isinstance(value, (str, list, dict)))


def comparable(value: object) -> object:
    """Return a value so that equality is JSON's: types apart, members in order, no infinity."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    if isinstance(value, (int, float)):
        # JSON has no infinity: what is computed becomes null, what is copied reads back as it was.
        finite = not isinstance(value, float) or math.isfinite(value)
        return ("number", value) if finite else ("NoneType", None)
    if isinstance(value, list):
        return ("array", [comparable(item) for item in cast("list[object]", value)])
    members: dict[str, Any] = value  # type: ignore[assignment]
    return ("object", [(key, comparable(member)) for key, member in members.items()])


def reference(texts: Sequence[str], select: str, where: str | None) -> dict[int, object]:
    """Return what json.loads and jmespath make of records: by index, an exception for an error."""
    found: dict[int, object] = {}
    for index, text in enumerate(texts):
        value = json.loads(text)
        try:
            if where is None or not false(jmespath.search(where, value)):
                found[index] = jmespath.search(select, value)
        except EVALUATION_ERRORS as error:
            found[index] = error
    return found


def interpreted(select: str, where: str | None, texts: Sequence[str]) -> list[bytes]:
    """Select by the library alone, over values that keep their bytes; escape what SQS refuses."""
    found: list[bytes] = []
    for text in texts:
        value = expression.read(text.encode())
        with contextlib.suppress(*EVALUATION_ERRORS):
            if where is None or not false(evaluate(parsed(where), value)):
                body = expression.write(evaluate(parsed(select), value))
                body = body.replace(b"\xef\xbf\xbe", rb"\ufffe")
                found.append(body.replace(b"\xef\xbf\xbf", rb"\uffff"))
    return found


def compare(select: str, where: str | None, texts: Sequence[str]) -> int:
    """Compare both ways on some records; return how many results were more than null."""
    selection = Selection(select, where)
    decoder = Decoder(selection.record_type)
    got = selection.select(decoder.decode(f"[{','.join(texts)}]".encode()))
    wanted = reference(texts, select, where)
    errors = {index for index, value in wanted.items() if isinstance(value, Exception)}
    case = (select, where, texts)
    rejected = {index for reject in got.rejects for index in reject.indexes}
    assert rejected == errors, case
    assert list(got.indexes) == [index for index in wanted if index not in errors], case
    assert got.filtered == len(texts) - len(wanted), case
    for index, body in zip(got.indexes, got.records, strict=True):
        assert comparable(json.loads(body)) == comparable(wanted[index]), (*case, body)
    # Byte for byte, too: the interpreter's values remember the bytes they were read from.
    assert interpreted(select, where, texts) == list(got.records), case
    raws = [msgspec.Raw(text.encode()) for text in texts]
    odd = selection.select(Document(raws, indexes=range(len(raws))))  # as what fits no struct
    assert list(odd.records) == list(got.records), case
    assert list(odd.indexes) == list(got.indexes), case
    return sum(body not in {b"null", b"[]", b"{}"} for body in got.records)


def run(seeds: range) -> None:
    """Compare on one expression and some records a seed; a failure shows its case."""
    told = 0
    for seed in seeds:
        random = Random(seed)
        select = expression_text(random)
        where = expression_text(random, 2) if random.random() < 0.3 else None
        texts = [record_text(random) for _ in range(_RECORDS_EACH)]
        told += compare(select, where, texts)
    assert told > len(seeds)  # the comparison is worth nothing if all is null


def test_compiled_selections_agree_with_jmespath() -> None:
    """8,000 pairs of an expression and a record."""
    run(range(1_000))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_compiled_selections_agree_with_jmespath_on_100_000_pairs(
    record_property: Callable[[str, object], None],
) -> None:
    """Other seeds than the short form's."""
    seeds = max(100, scaled(100_000 // _RECORDS_EACH))
    run(range(1_000_000, 1_000_000 + seeds))
    pairs = f"{seeds * _RECORDS_EACH:,} pairs of an expression and a record"
    record_property("campaign", f"selection against jmespath: {pairs}, no difference")


@pytest.mark.parametrize(
    "select",
    [
        "a", '"x y"', "a.b", "a.b.c", "a[0]", "a[-1].b", "a[1:]", "a[::-1]", "a[*].b", "a.*.b", "*",
        "a[]", "a[].b[]", "a[?b == 'en'].c", "a[?b].c", "[?a]", "[a, b.c]", "{b: a, a: b.c}",
        "a | b", "(a || b).c", "a && b", "!a", "a == b", "a != `1.0`", "a < `2`", "a >= b",
        "`[1, 2]`", "'raw'", "@", "a.{b: b}", "a.[b]", "a[*].{b: b, c: c[0]}", "{a: @}",
        "length(a)", "contains(a, 'en')", "starts_with(a, 'e')", "ends_with(a, b)",
        "not_null(a, b, `0`)", "type(a)", "to_string(a)", "to_number(a)", "keys(@)", "keys(a)[0]",
        "a.length(@)", "{a: a, whole: a.b, c: a[0]}", "[a, a.b, a[0], a.*]", "[[a, b], c][*][0]",
    ],
)  # fmt: skip
def test_the_common_shapes_are_compiled_and_agree(
    select: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone, so that one that is left to the library is seen by name."""
    texts = [record_text(Random(seed)) for seed in range(60)]
    with monkeypatch.context() as patched:
        patched.setattr("penstock.records.compile._library", None)
        Selection(select)
    compare(select, None, texts)
    compare("a", select, texts)


@pytest.mark.parametrize(
    "select",
    [
        "sort_by(a, &b)",
        "map(&b, a)",
        "{x: a.b, y: sort_by(a, &b)[0], z: {q: a.c, r: map(&c, a)}}",
        "a.{x: b, x: c}",
        "a[*].{x: b, x: c}",
        "a.b.{x: a, x: b.c}",
        '"a\\"b"',
        'a."a\\"b"',
        '{a: a.b, c: "a\\"b"}',
    ],
)
def test_what_is_left_to_the_library_agrees(select: str) -> None:
    """A part of an expression is, with no more of the record than it reads."""
    texts = [record_text(Random(seed)) for seed in range(60)]
    texts.append('{"a\\"b":1,"a":{"a\\"b":2}}')
    compare(select, None, texts)
    compare("a", select, texts)


@pytest.mark.parametrize(
    ("select", "text", "body"),
    [
        ("{n: n}", '{"n":1e400}', b'{"n":1e400}'),
        ("n", '{"n":-0}', b"-0"),
        ("[n, o]", '{"n":18446744073709551616,"o":1.50}', b"[18446744073709551616,1.50]"),
        ("a[*].b", '{"a":[{"b":"\\u00e9"},{"b":{ "c" : 1E5 }}]}', b'["\\u00e9",{ "c" : 1E5 }]'),
        ("not_null(a, b)", '{"b":"\\/"}', b'"\\/"'),
        ("to_number(a)", '{"a":1.50}', b"1.50"),
        ("to_string(a)", '{"a":"\\u0041"}', b'"\\u0041"'),
        ("a || b", '{"a":[ ],"b":1.0e0}', b"1.0e0"),
        ("sort_by(a, &b)", '{"a":[{"b": 2.0},{"b":1e0}]}', b'[{"b":1e0},{"b": 2.0}]'),
        ("max(a)", '{"a":[1,2.50]}', b"2.50"),
        ("abs(a) && b", '{"a":-1e400,"b":1}', b"1"),
        ("abs(b) || b", '{"a":-1e400,"b":1.0}', b"1.0"),
        ("values(@)", '{"a":-0,"b":"\\u00e9"}', b'[-0,"\\u00e9"]'),
        ("a.b", '{"a":{"b":1,"b":2.0}}', b"2.0"),
        ("{a: a.b}", '{"a":1e400}', b'{"a":null}'),
        ("{a: a.b, c: a}", '{"a":{"b":{"x":1e999}}}', b'{"a":{"x":1e999},"c":{"b":{"x":1e999}}}'),
        ("[a.b.c, a]", '{"a":{"b":1e999}}', b'[null,{"b":1e999}]'),
        ("[a[*].b, a]", '{"a":[1e999,{"b":1}]}', b'[[1],[1e999,{"b":1}]]'),
        ("[a.*.b, a]", '{"a":{"x":1e999,"y":{"b":1}}}', b'[[1],{"x":1e999,"y":{"b":1}}]'),
    ],
)
def test_selected_values_are_the_bytes_of_the_file(select: str, text: str, body: bytes) -> None:
    """Compiled or interpreted, what is picked out is copied."""
    selection = Selection(select)
    document = Decoder(selection.record_type).decode(text.encode())
    assert list(selection.select(document).records) == [body]


_SCALARS = (
    "null", "true", "false", "0", "1", "-0", "0.0", "1.0", "10", "1e1", "18446744073709551616",
    '""', '"en"', '"\\u0065n"', '"1"', '"true"', "[]", "[ ]", "{}", "[0]", "[false]", '{"a":1}',
)  # fmt: skip


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", "&&", "||"])
def test_every_scalar_meets_every_other(operator: str) -> None:
    """As a field and as a literal, on either side: 1 is not true, and escapes spell one text."""
    texts = [f'{{"a":{left},"b":{right}}}' for left in _SCALARS for right in _SCALARS]
    compare(f"a {operator} b", None, texts)
    compare("!a", f"a {operator} b", texts)
    for scalar in _SCALARS:
        texts = [f'{{"a":{left}}}' for left in _SCALARS]
        compare(f"a {operator} `{scalar}`", None, texts)
        compare(f"`{scalar}` {operator} a", None, texts)
    texts = [f'{{"a":{scalar}}}' for scalar in (*_SCALARS, '"nan"', '"-inf"', '"1e999"', "1e999")]
    compare(f"to_number(a) {operator} `1`", "!to_number(a)", texts)
    compare(f"!to_number(a) {operator} a", None, texts)


def test_a_value_nested_deeper_than_bytes_are_kept_is_the_same_value() -> None:
    """The interpreter reads it in one pass, and the time stays linear in its size."""
    text = '{"a":' * 300 + "1.0" + "}" * 300
    compare("values(@)", None, [text])
