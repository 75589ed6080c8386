"""What is selected is JMESPath's answer, with the bytes of the file."""

import pytest

from penstock.errors import Halt
from penstock.model import RecordReject, Selected
from penstock.stages.decode import Decoder
from penstock.stages.selection import Selection, check_expression


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
    assert check_expression("{a: a}") is None
    assert "\n" not in (check_expression("{a: ") or "\n")
    with pytest.raises(Halt):
        Selection("{a: ")
