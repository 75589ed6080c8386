"""Bytes become records, or a reason with its place."""

import tracemalloc
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import Halt, Reject
from penstock.model import Document, RecordReject
from penstock.records.decode import Decoder


class Record(msgspec.Struct):
    """A record type as a selection makes it."""

    a: msgspec.Raw = msgspec.Raw(b"null")


def texts(document: Document) -> list[bytes]:
    """Return what was decoded of each record."""
    return [
        bytes(record.a) if isinstance(record, Record) else bytes(record)  # type: ignore[call-overload]
        for record in document.records
    ]


def indexes(document: Document) -> Sequence[int]:
    """Return the indexes of the records, written out."""
    return range(len(document.records)) if document.indexes is None else document.indexes


@pytest.mark.parametrize(
    "json",
    [
        b'[{"a":1},{"a":2}]',
        b' [ {"a":1} , {"a":2} ] \n',
        b'{"a":1}{"a":2}',
        b'{"a":1}\n{"a":2}\n',
        b'{"a":1}\r\n\r\n{"a":2}\r\n',
        b'{\n "a":\n1}\n{"a":2}',
        b'\x1e{"a":1}\n\x1e{"a":2}\n',
        b'{"a":1}\n\x1e\n{"a":2}\n',
    ],
)
@pytest.mark.parametrize("record_type", [Record, msgspec.Raw])
def test_an_array_and_objects_one_after_another_hold_the_same_records(
    json: bytes, record_type: type
) -> None:
    """One a line or not, with record separators or not."""
    document = Decoder(record_type).decode(json)
    wanted = [b"1", b"2"] if record_type is Record else [b'{"a":1}', b'{"a":2}']
    assert [text.replace(b"\n ", b"").replace(b"\n", b"") for text in texts(document)] == wanted
    assert (list(indexes(document)), list(document.rejects)) == ([0, 1], [])


@pytest.mark.parametrize("json", [b"[]", b" [ ] "])
def test_an_empty_array_is_a_file_without_records(json: bytes) -> None:
    """It is read, and nothing of it is sent."""
    assert Decoder(Record).decode(json).records == []


@pytest.mark.parametrize("record_type", [Record, msgspec.Raw])
def test_what_is_no_object_is_rejected_by_its_index_and_type(record_type: type) -> None:
    """Its neighbours are records like any other."""
    document = Decoder(record_type).decode(b'[1,{"a":1},null,"x",[{"a":2}],true,{"a":3}]')
    assert (len(document.records), list(indexes(document))) == (2, [1, 6])
    assert [(reject.index, reject.reason) for reject in document.rejects] == [
        (0, "a record is an object, not a number"),
        (2, "a record is an object, not null"),
        (3, "a record is an object, not a string"),
        (4, "a record is an object, not an array"),
        (5, "a record is an object, not a boolean"),
    ]


def test_a_record_that_does_not_fit_its_type_is_kept_as_its_bytes() -> None:
    """The selection reads it in its slower way; it is no reject."""

    class Narrow(msgspec.Struct):
        a: int

    document = Decoder(Narrow).decode(b'[{"a":1},{"a":"x"}]')
    assert document.records == [Narrow(1), msgspec.Raw(b'{"a":"x"}')]
    assert document.indexes == [0, 1]


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        (b'{"a":"\xff"}', "not UTF-8: invalid start byte, line 1, column 7 of the JSON (byte 6)"),
        (b'{"skipped":"\xc0\xaf"}', "not UTF-8: invalid start byte"),
        (b'{"skipped":"\xed\xa0\x80"}', "not UTF-8: invalid continuation byte"),
        (b'{"a":"' + b"\xc3\xa9" * 9000 + b'\xff"}', "not UTF-8: invalid start byte, line 1, "),
        (b'[{"a":1},\n{"a":NaN}]', "invalid character, line 2, column 6 of the JSON (byte 15)"),
        (b'{"a":Infinity}', "invalid character"),
        (b'{"a":1,}', "trailing comma in object, line 1, column 8 of the JSON (byte 7)"),
        (b'[{"a":1},]', "trailing comma in array"),
        (b'{"a":"\\ud800"}', "lone surrogate, line 1, column 7 of the JSON (byte 6)"),
        (b'{"skipped":"\\ud800"}', "lone surrogate"),
        (b'{"a":"\\\\\\uD83D\\n"}', "lone surrogate, line 1, column 9 of the JSON (byte 8)"),
        (b'{"a":"\\\\\\udc00 and more text"}', "surrogate"),
        (b'{"a":"\\ud83d\\u0041 and more text"}', "surrogate"),
        (b'{"a":"\\ud83d\\ude00","b":"\\udfff"}', "surrogate"),
        (b'{"a":"tab\there"}', "invalid character"),
        (b'{"a":01}', "invalid number"),
        (b'{"a":1} x', "line 1, column 9 of the JSON (byte 8)"),
        (b'[{"a":1}] ]', "trailing characters, line 1, column 11 of the JSON (byte 10)"),
        (b'{"a":1},{"a":2}', "invalid character"),
        (b"{'a':1}", "line 1, column 2 of the JSON (byte 1)"),
        (b'\x1e{"a":1}\n\x1e{"a":}\n', "invalid character, line 2, column 7 of the JSON (byte 15)"),
        (b'{"a":\x1e1}', "ends too early, line 1, column 6 of the JSON (byte 5)"),
        (b"[" * 100_000, "nested deeper than the parser goes"),
        (b'{"a":1}\n{"a":2}\n}\n', "invalid character, line 3, column 1 of the JSON (byte 16)"),
        (b'{"a":1},\n{"a":2}\n{"a":3}', "invalid character"),
        (b'{"a":1}\n{"a":\n{"b":2}\n}x\n', "invalid character"),
        (b'{"a":1}\n{"t":"b\n{}\nc"}\n', "invalid character"),
        (b'{"a":1}\n{"t":"b\n{"x":2}\nc"}\n', "invalid character"),
        (b'{"a":1}\n{}\n// note\n', "invalid character"),
        (b'{"a":1}\n{"b":2}\nb":3}\n', "invalid character"),
        (b'{\n"a":1,\n"b":tru\n}\n{"c":1}\n', 'of the JSON (byte 14): "tru"'),
        (b'{"a":1}\n[{"b":2},\n{"c":3}]x\n', "invalid character"),
        (b'{"a":NaN}', 'invalid character, line 1, column 6 of the JSON (byte 5): "NaN"'),
        (b'{"a":1}\0\0', "(byte 7): NUL bytes; was it being written when its machine stopped?"),
        (b'[{"a":1}]\n#close 1\n', '(byte 10): "#close 1"'),
        (b"{'Ann':1}", 'line 1, column 2 of the JSON (byte 1): "\'"'),
        (b'{"a":1}\x1e' + b"[" * 100_000, "nested deeper than the parser goes"),
        (b'{"a":' * 100_000, "nested deeper than the parser goes"),
    ],
)
@pytest.mark.parametrize("record_type", [Record, msgspec.Raw])
def test_what_is_not_json_is_rejected_with_place_and_reason(
    json: bytes, reason: str, record_type: type
) -> None:
    """Of the whole file nothing is sent, and no waiting would mend it."""
    with pytest.raises(Reject) as caught:
        Decoder(record_type).decode(json)
    assert reason in caught.value.reason
    assert not caught.value.truncated


@pytest.mark.parametrize(
    "json",
    [
        b'[{"a":"caf\\u00e9\\ud83d\\ude00 \xf0\x9f\x98\x80"},{"a":-1.5e-7},{"b":[true,null]}]',
        b'{"a":"x"}',
    ],
)
def test_every_prefix_of_a_document_merely_ends_too_early(json: bytes) -> None:
    """Its writer may not be done: cut UTF-8, escapes, numbers and words included."""
    for size in range(1, len(json)):
        with pytest.raises(Reject) as caught:
            Decoder(Record).decode(json[:size])
        assert caught.value.truncated, (caught.value.reason, json[:size])


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    """As everywhere; a key in escapes is the same key."""
    assert texts(Decoder(Record).decode(b'{"a":1,"b":2,"\\u0061":3}')) == [b"3"]


def test_numbers_no_parser_agrees_on_pass_as_they_are() -> None:
    """2^64, 1e400 and a number of 5,000 digits are not read, only passed on."""
    for number in (b"18446744073709551616", b"1e400", b"-0", b"1.0", b"9" * 5000):
        assert texts(Decoder(Record).decode(b'{"a":%b}' % number)) == [number]


@pytest.mark.parametrize(
    ("records", "json", "wanted"),
    [
        ("statuses", b'{"n":2,"statuses":[{"a":1},{"a":2}]}', [b"1", b"2"]),
        ("r.statuses", b'{"r":{"statuses":[{"a":1}]}}\n{"r":{"statuses":[{"a":2}]}}', [b"1", b"2"]),
        ("statuses", b'{"statuses":{"a":1}}', [b"1"]),
        ("statuses", b'{"statuses":[]}', []),
        ('"odd\\"key"', b'{"odd\\"key":[{"a":1e400}]}', [b"1e400"]),
        ("[].statuses[]", b'[{"statuses":[{"a":1}]},{"statuses":[{"a":-0}]}]', [b"1", b"-0"]),
        ("pages[*].items[] | [?a]", b'{"pages":[{"items":[{"a":1e5},{}]}]}', [b"1e5"]),
    ],
)
def test_records_are_where_the_settings_say(
    records: str, json: bytes, wanted: Sequence[bytes]
) -> None:
    """A path is decoded in one pass, another expression is interpreted; both keep the bytes."""
    assert texts(Decoder(Record, records=records).decode(json)) == wanted


@pytest.mark.parametrize(
    ("records", "json", "reason"),
    [
        ("statuses", b'{"a":1}', "decode.records = 'statuses' finds null, not records"),
        ("statuses", b'{"statuses":"x"}', "finds a string, not records"),
        ("statuses", b'[{"a":1}]', "finds null, not records"),
        ("length(@)", b'{"a":1}', "finds a number, not records"),
        ("length(a)", b'{"a":1}', "fails: In function length()"),
    ],
)
def test_a_file_without_records_where_they_should_be_is_rejected(
    records: str, json: bytes, reason: str
) -> None:
    """Nothing is taken from elsewhere in the file."""
    with pytest.raises(Reject) as caught:
        Decoder(Record, records=records).decode(json)
    assert reason in caught.value.reason


@pytest.mark.parametrize("record_type", [Record, msgspec.Raw])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            b'{"a":2,"t":"a\tb"}',
            "invalid character, line 2, column 14 of the JSON (byte 21): U+0009",
        ),
        (b'{"a":2,"t{"a":2}', "expected ':', line 2, column 12 of the JSON"),
        (b'{"a":2}}', "line 2, column 8 of the JSON (byte 15)"),
        (b'{"a":2,"t":"\xff"}', "not UTF-8: invalid start byte, line 2, column 13 of the JSON"),
        (b'{"a":' * 100_000 + b"}", "nested deeper than the parser goes"),
        (b"// note", '(byte 8): "// note"; if it is a comment, set decode.skip_lines = "//.*"'),
        (b"npm WARN deprecated", '"npm WARN deprecated"'),
        (b"7", "a record is an object, not a number"),
    ],
)
def test_of_records_one_a_line_a_bad_one_is_rejected_alone(
    bad: bytes, reason: str, record_type: type
) -> None:
    """Its neighbours are sent, under the indexes that they would have had."""
    document = Decoder(record_type).decode(b'{"a":1}\n' + bad + b'\r\n\n{"a":3}\n')
    assert [text.count(b"a") + 1 for text in texts(document)] in ([1, 1], [2, 2])
    assert list(indexes(document)) == [0, 2]
    assert [(reject.index, reject.count) for reject in document.rejects] == [(1, 1)]
    assert reason in document.rejects[0].reason


def test_a_last_line_that_is_cut_off_may_still_be_being_written() -> None:
    """Also behind a bad line: the file waits while it is unsettled."""
    for cut in (b'{"a":3', b'{"a":"', b"{", b'{"a":"caf\xc3'):
        for bad in (b"", b"// note\n", b'{"t":"\t"}\n' * 200):
            with pytest.raises(Reject, match=r"ends too early|unexpected end") as caught:
                Decoder(Record).decode(b'{"a":1}\n' + bad + cut)
            assert caught.value.truncated


def test_lines_that_are_declared_are_skipped_and_no_record_is() -> None:
    """Where comments stand between records; what is left out keeps its index."""
    json = b'{"a":1}\n// {a: 0}\n{"a":2}\n# end "x\n{"a":"\t"}\n{"a":4}'
    for record_type in (Record, msgspec.Raw):
        document = Decoder(record_type, skip=".*").decode(json)
        assert list(indexes(document)) == [0, 2, 5]
        assert [reject.index for reject in document.rejects] == [4]
        for part in (b'{"a":1}\n{"b":\n{"a":2}\n}\n# x', b'{"a":1}\n{"a":2,"t":"x'):
            with pytest.raises(Reject):  # a line that begins an object may go on
                Decoder(record_type, skip=".*").decode(part)
    whole = Decoder(msgspec.Raw, skip="//.*").decode(b'{"a":1}\n// x\n{"a":2}')
    assert (list(indexes(whole)), list(whole.rejects)) == ([0, 2], [])
    told = Decoder(Record, skip="--.*").decode(b'{"a":1}\n// x\n{"a":2}').rejects[0].reason
    assert told.endswith('set decode.skip_lines = "--.*|//.*"')
    with pytest.raises(Halt, match=r"decode\.skip_lines: "):
        Decoder(Record, skip=r"\u00dc")


@pytest.mark.parametrize("record_type", [Record, msgspec.Raw])
@pytest.mark.parametrize("mark", ["//", "#", ";", "--", "%"])
def test_a_declared_line_in_which_an_object_begins_is_a_reject(
    mark: str, record_type: type
) -> None:
    """The record may stand behind a number, or be commented out: nobody can tell."""
    for line in (mark + '1 {"a":3}', mark + ' { "a":3}', mark + " {}", mark + ' x {"a":'):
        json = b'{"a":1}\n%b\n{"a":2}' % line.encode()
        document = Decoder(record_type, skip=f"{mark}.*").decode(json)
        assert [text.count(b"a") + 1 for text in texts(document)] in ([1, 1], [2, 2])
        assert list(indexes(document)) == [0, 2]
        (wrong,) = document.rejects
        at = line.index("{")
        assert (wrong.index, wrong.count) == (1, 1)
        assert wrong.reason == (
            f"an object begins at line 2, column {at + 1} of the JSON (byte {at + 8}), so"
            " decode.skip_lines does not skip the line; if it is a record, correct the line;"
            " if not, remove it"
        )
    many = Decoder(Record, skip="#.*").decode(b'{"a":1}\n' + b"# {}\n" * 20_000)
    assert len(many.rejects) == 101
    assert many.rejects[-1].count == 19_900


def test_a_byte_order_mark_may_begin_every_line() -> None:
    """As where files with one were put together; elsewhere it is no JSON."""
    document = Decoder(Record).decode(b'{"a":1}\r\n\xef\xbb\xbf{"a":2}\r\n')
    assert (texts(document), list(document.rejects)) == ([b"1", b"2"], [])


def test_a_million_values_that_are_no_records_are_one_reject() -> None:
    """What is kept of them does not grow with their number."""
    tracemalloc.start()
    try:
        document = Decoder(Record).decode(b"[" + b"1," * 300_000 + b'{"a":1},null,2]')
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 100 * 600_000
    finally:
        tracemalloc.stop()
    assert [str(reject) for reject in document.rejects] == [
        "records 0-299999: a record is an object, not a number",
        "record 300001: a record is an object, not null",
        "record 300002: a record is an object, not a number",
    ]


def test_a_million_bad_lines_are_told_in_short() -> None:
    """The first hundred with their places; the others are one reject."""
    document = Decoder(Record).decode(b'{"a":1}\n' + b"oh no\n" * 20_000)
    assert len(document.rejects) == 101
    assert document.rejects[-1] == RecordReject(101, "the line is not JSON", 19_900)


def test_the_reason_does_not_quote_the_file() -> None:
    """The text of jmespath would: a reason is shown, logged and kept in Redis."""
    with pytest.raises(Reject, match="fails: In function join") as rejected:
        Decoder(Record, records="join(`,`, @)").decode(b'{"a":"a word of ann\'s"}')
    assert "ann" not in str(rejected.value)


def test_what_is_no_record_in_an_envelope_is_rejected_by_its_index() -> None:
    """As in a plain array."""
    document = Decoder(Record, records="s").decode(b'{"s":[{"a":1},5]}')
    assert (texts(document), indexes(document), len(document.rejects)) == ([b"1"], [0], 1)


def test_each_document_of_a_file_is_an_envelope() -> None:
    """Whether all are decoded at once or one by one."""
    json = b'{"s":[{"a":1}]}\n{"s":[{"a":2},5]}'
    assert texts(Decoder(Record, records="s").decode(json)) == [b"1", b"2"]
    assert texts(Decoder(msgspec.Raw, records="s").decode(json)) == [b'{"a":1}', b'{"a":2}']


def test_a_wrong_expression_stops_the_start() -> None:
    """It is the settings' fault, not a file's."""
    with pytest.raises(Halt):
        Decoder(Record, records="a[")


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_no_bytes_do_anything_but_decode_or_be_rejected(data: bytes) -> None:
    """Not even those that begin like JSON."""
    for json in (data, b'{"a":"' + data + b'"}', b"[" + data + b"]"):
        try:
            document = Decoder(Record).decode(json)
        except Reject as reject:
            assert reject.reason  # noqa: PT017 - decoded or rejected
        else:
            assert len(document.records) == len(indexes(document))
