"""What is selected is JMESPath's answer, with the bytes of the file."""

import json

import pytest

from penstock.errors import Halt
from penstock.model import RecordReject, Selected
from penstock.records.decode import Decoder
from penstock.records.expression import check
from penstock.records.selection import Selection


def select(json: bytes, fields: str, where: str | None = None) -> Selected:
    """Decode and select as the loader does."""
    selection = Selection(fields, where)
    return selection.select(Decoder(selection.record_type).decode(json))


def test_a_hash_of_fields_keeps_the_order_written_and_gives_null_for_what_is_missing() -> None:
    """Output keys stand as in the expression, not as in the record."""
    result = select(b'[{"a":1,"b":"x"},{"b":2}]', "{b: b, a: a}")
    assert result.records == [b'{"b":"x","a":1}', b'{"b":2,"a":null}']
    assert list(result.indexes) == [0, 1]


def test_where_filters_by_the_truth_of_jmespath_in_which_zero_is_true() -> None:
    """0 is true; null, false, and what is empty are false."""
    json = b'{"a":0}{"a":null}{"a":false}{"a":""}{"a":[]}{"a":{}}{"a":1}{}'
    result = select(json, "a", "a")
    assert (result.records, result.indexes, result.filtered) == ([b"0", b"1"], [0, 6], 6)


def test_a_whole_record_is_copied_byte_for_byte() -> None:
    """The selection @ changes nothing, not even white space."""
    assert select(b'[ { "a" : 1.50, "b":"\\u00e9" } ]', "@").records == [
        b'{ "a" : 1.50, "b":"\\u00e9" }'
    ]


def test_a_record_that_is_no_object_is_rejected_by_its_index() -> None:
    """The others are sent."""
    result = select(b'[{"a":1},5,{"a":2}]', "a")
    assert result.records == [b"1", b"2"]
    assert result.indexes == [0, 2]
    assert [reject.index for reject in result.rejects] == [1]
    assert isinstance(result.rejects[0], RecordReject)


def test_a_wrong_expression_is_one_line() -> None:
    """Settings show it as the error of their field."""
    assert check("{a: a}") is None
    assert "\n" not in (check("{a: ") or "\n")
    with pytest.raises(Halt):
        Selection("{a: ")


@pytest.mark.parametrize("fields", ["a", "{a: a}", "[a]", "@", "values(@)", "to_string(@)"])
def test_characters_that_sqs_refuses_are_escaped(fields: str) -> None:
    """U+FFFE and U+FFFF, raw or made by a function; the value is the same."""
    text = "x\ufffe\uffff\ufffd😀"
    result = select(f'[{{"a":"{text}"}},{{"a":"ok"}}]'.encode(), fields)
    assert len(result.records) == 2
    for body in result.records:
        assert not {"\ufffe", "\uffff"} & set(body.decode())
    value = json.loads(result.records[0])
    value = json.loads(value) if fields == "to_string(@)" else value
    assert text in json.dumps(value, ensure_ascii=False)


def test_a_record_the_expression_cannot_be_evaluated_on_is_rejected() -> None:
    """Its neighbours are sent; the reason is jmespath's, and not as long as the record."""
    result = select(b'[{"a":"xy"},{"a":%b},{"a":[1]}]' % (b"9" * 900), "length(a)", "a")
    assert (list(result.records), result.indexes, result.filtered) == ([b"2", b"1"], [0, 2], 0)
    assert result.rejects[0].index == 1
    assert "In function length(), invalid type for value" in result.rejects[0].reason
    assert len(result.rejects[0].reason) < 300


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("length(a)", "length(), invalid type for value, expected one of: string, array, object,"),
        ("sum([b])", "sum(), invalid type for value, expected one of: "),
        ("sort([a, b])", "sort(), invalid type for value, expected one of: "),
        ("abs(b)", "abs(), invalid type for value, expected one of: number, received: string"),
        ("sort_by([@, {a: `1`}], &b)", "sort_by(), invalid type for value, expected one of: "),
    ],
)
def test_a_reason_holds_nothing_of_the_record(fields: str, reason: str) -> None:
    """It goes to logs, Redis and terminals: the function and the types are enough."""
    (reject,) = select(b'{"a":4242424242,"b":"secret"}', f"[{fields}]").rejects
    assert reason in reject.reason
    assert "4242" not in reject.reason
    assert "secret" not in reject.reason


def test_a_record_with_a_number_beyond_python_is_selected_all_the_same() -> None:
    """1e999 where an object was expected: decoded alone, interpreted, same answer."""
    result = select(b'[{"a":{"b":1}},{"a":1e999},{"a":{"b":2}}]', "{b: a.b}")
    assert list(result.records) == [b'{"b":1}', b'{"b":null}', b'{"b":2}']


def test_what_cannot_ever_work_is_an_error_of_the_expression() -> None:
    """What jmespath would find record by record is told at once, in one line."""
    for text, error in (
        ("", "cannot be empty"),
        ("a[", "it ends too early"),
        ("nope(a)", "there is no function nope()"),
        ("length(a, b)", "length() takes 1 arguments, not 2"),
        ("not_null()", "not_null() takes 1 or more arguments, not 0"),
        ("a[::0]", "the step of a slice cannot be 0"),
        ('"\\ud800"', "surrogates not allowed"),
        ("(" * 10_000, "nested too deeply"),
    ):
        assert error in str(check(text))


def test_keys_that_are_no_text_are_spelled_as_json_does() -> None:
    """Jmespath's merge() takes an array of pairs for an object, whatever its keys are."""
    record = b'{"b": [[null, 1], [true, 2], [1.5, 3], ["x", 4]]}'
    (body,) = select(record, "merge({a: `0`}, b)").records
    assert json.loads(body) == {"a": 0, "null": 1, "true": 2, "1.5": 3, "x": 4}
