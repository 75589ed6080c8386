"""Files taken many at once have the fate that each has alone, and every file has one."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import Reject
from penstock.file_names import are_safe, is_safe
from penstock.ledger.outcome import ClaimOutcome
from penstock.model import (
    Document,
    Fate,
    FileRead,
    PutBack,
    QueueLimits,
    RecordReject,
    Transformed,
    Unread,
)
from penstock.records import transform
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from penstock.records.transform import Transform
from penstock.sqs.packer import Packer

# Pieces that meet at the ends of files: open strings, open objects, commas, escapes, odd spaces.
_PIECES = [
    '{"a":1',
    '{"a":',
    "{",
    "}",
    "}}",
    '{"a":"',
    '"}',
    '"',
    ",",
    '"b":2',
    "[",
    "]",
    ":",
    "1",
    "\n",
    "\r",
    "\x1e",
    "\\",
    '{"a":{"b":1}}',
    '{"a":1}',
    '{"a":"}',
    "\ud800",
    " ",
    "é",
]
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=4).map(
    lambda parts: "".join(("{", *parts, "}")).encode("utf-8", "surrogatepass")
)
_GOOD = st.sampled_from([b'{"a":1}', b'{"a":{"b":[]}}\n', b"{}", b"{}{}", b'{"a":1}\n{"a":2}'])


def _alone(decoder: Decoder, selection: Selection, text: bytes) -> Sequence[bytes] | None:
    """Return the selections of a file that is one good record by itself, else None."""
    try:
        document = decoder.decode(text)
    except Reject:
        return None
    good = len(document.records) == 1 and not document.rejects
    return selection.select(document).records if good else None


@settings(max_examples=1_000)
@given(
    texts=st.lists(_TEXTS | _GOOD, min_size=1, max_size=5),
    select=st.sampled_from(["{a: a}", "@", "keys(@)"]),
)
def test_together_is_as_alone(texts: list[bytes], select: str) -> None:
    """Where many decode at once, each holds one record, and it is the one that it holds alone."""
    selection = Selection(select)
    decoder = Decoder(selection.record_type)
    records = decoder.decode_ones(texts)
    alone = [_alone(decoder, selection, text) for text in texts]
    if records is None:
        return
    assert None not in alone
    together = selection.select(Document(records))
    assert [*together.records] == [body for bodies in alone for body in bodies or ()]


def test_good_ones_go_together() -> None:
    """Else the property above would hold of a function that always gives up."""
    selection = Selection("{a: a}")
    texts = [b'{"a":%d}' % n + end for n, end in enumerate((b"", b"\n", b" \r\n", b"\t"))]
    assert all(transform._may_be_one(text) for text in texts)
    records = Decoder(selection.record_type).decode_ones(texts)
    assert records is not None
    assert [*selection.select(Document(records)).records] == [b'{"a":%d}' % n for n in range(4)]


def test_what_runs_over_into_the_next_file_is_not_taken() -> None:
    """Three files that hold three records, of which none is one file's."""
    decoder = Decoder(Selection("@").record_type)
    assert decoder.decode_ones([b'{"a":{"b":1}', b'{"c":1}}', b"{}{}"]) is None
    assert decoder.decode_ones([b'{"a":"}', b'{","b":1}', b"{}{}"]) is None


class _OneByOne(Decoder):
    """A decoder that knows only one file at a time."""

    def decode_ones(self, texts: Sequence[bytes]) -> None:
        """Give up."""
        del texts


def _made(decoder: type[Decoder] = Decoder, max_file_bytes: int = 1 << 24) -> Transform:
    selection = Selection("{a: a}", "a != `7`")
    return Transform(
        Preamble(), decoder(selection.record_type), selection, max_file_bytes=max_file_bytes
    )


def _files(datas: Sequence[bytes | Unread]) -> list[FileRead]:
    return [
        FileRead(f"{number}.json", data, len(data) if isinstance(data, bytes) else 0, 9.0)
        for number, data in enumerate(datas)
    ]


def _flat(done: Transformed | Fate) -> list[object]:
    """Return what becomes of each file or record, one by one, whatever they went with."""
    if isinstance(done, Fate):
        return [(done.file.name, str(done.cause))]
    records = zip(done.files, done.records, done.indexes, strict=True)
    return [*records, *done.rejects, *[None] * done.filtered]


def _taken(datas: Sequence[bytes], decoder: type[Decoder], message_bytes: int) -> object:
    """Return all that becomes of files: messages, journal entries, fates and counters."""
    files = _files(datas)
    names = [file.name for file in files]
    packer = Packer(
        limits=QueueLimits(1_048_576), message_bytes=message_bytes, records_per_message="many",
        fingerprint="f", names=names, claim="c",
    )  # fmt: skip
    outcome = ClaimOutcome(names)
    fates: list[object] = []
    for done in _made(decoder).run(files, 0, {}):
        if isinstance(done, Fate):
            fates += _flat(done)
        else:
            outcome.pack(done, packer.add_all(done.files, done.records))
    messages = packer.rest()
    entries = [outcome.journal_entry(message) for message in messages]
    return messages, entries, sorted(map(str, fates)), outcome.settled(attempt=1, now="")


_KINDS = [
    b'{"a":1}',
    b'// c\n{"a":"\xc3\xa9"}\n',
    b'{"a":7}',
    b'{"a":"' + b"x" * 400 + b'"}',
    b'{"a":1}\n{"a":2}\n',
    b'[{"a":1},{"a":7},3]',
    b'{"a":',
    b'{"a":"}',
    b'{","b":1}',
    b"",
    b'{"a":"\xff"}',
    b"{}{}",
    b'{"a":1}{"a":2}',
]


@given(
    datas=st.lists(st.sampled_from(_KINDS), min_size=1, max_size=120),
    message_bytes=st.sampled_from([700, 2_000, 1_048_576]),
)
@example(datas=[b'{"a":7}', b'{"a":1}'], message_bytes=700)
def test_what_becomes_of_files_does_not_depend_on_their_neighbours(
    datas: list[bytes], message_bytes: int
) -> None:
    """Messages, journal and every fate are those of a loader that decodes one file at a time."""
    together = _taken(datas, Decoder, message_bytes)
    assert together == _taken(datas, _OneByOne, message_bytes)


@given(
    datas=st.lists(st.sampled_from([*_KINDS, *Unread]), min_size=1, max_size=120),
    first=st.integers(0, 3),
)
def test_each_file_is_in_one_result_and_in_its_place(
    datas: list[bytes | Unread], first: int
) -> None:
    """Every record keeps its file, its index and the claim's order; so does each of a later read.

    `first` files were read before these: they are the same, at places behind them.
    """
    files = _files(datas)
    alone = [item for done in _made(_OneByOne).run(files, 0, {}) for item in _flat(done)]
    made = _made()
    done = [*made.run(files[:first], 0, {}), *made.run(files[first:], first, {})]
    together = [item for one in done for item in _flat(one)]
    assert sorted(map(str, together)) == sorted(map(str, alone))
    runs = [one for one in done if isinstance(one, Transformed)]
    positions = [position for run in runs for position in run.files]
    assert positions == sorted(positions)
    fates = [one.file.name for one in done if isinstance(one, Fate)]
    assert len(fates) == len(set(fates))
    assert not {files[position].name for position in positions} & set(fates)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (Unread.VANISHED, Unread.VANISHED),
        (Unread.DENIED, Unread.DENIED),
        (b"x" * 101, "101 bytes; decode.max_file_bytes = 100"),
        (b"// only a comment", "the file holds only preamble, no JSON"),
        (b"7", "the document is a single value, not an object or an array of objects"),
    ],
)
def test_a_file_with_nothing_to_send_has_a_fate(data: bytes | Unread, cause: Unread | str) -> None:
    """Its neighbours are none the worse for it."""
    good, fate, after = _made(max_file_bytes=100).run(
        _files([b'[{"a":1}]', data, b'[{"a":2}]']), 5, {}
    )
    assert isinstance(good, Transformed)
    assert isinstance(after, Transformed)
    assert (good.files, after.files) == ([5], [7])
    assert isinstance(fate, Fate)
    assert fate.file.name == "1.json"
    assert (fate.cause.reason if isinstance(fate.cause, Reject) else fate.cause) == cause


@pytest.mark.parametrize(
    ("data", "cut"),
    [(b'{"a":1', [True]), (b"// c", [True]), (b'{"a":1,}', [False]), (b"@", [False])],
)
def test_a_file_that_ends_too_early_is_told_from_a_wrong_one(data: bytes, cut: list[bool]) -> None:
    """Its writer may not be done: the loader decides by its age."""
    fates = [done for done in _made().run(_files([data]), 0, {}) if isinstance(done, Fate)]
    assert [fate.cause.truncated for fate in fates if isinstance(fate.cause, Reject)] == cut


def test_of_a_file_put_back_the_records_that_are_wanted_are_left() -> None:
    """Also of one that looks like a single record; the others go as they do without it."""
    datas = [b'{"a":1}', b'{"a":2}{"a":3}', b'{"a":4}', b'[{"a":5},6]', b'{"a":8}']
    by = PutBack("operator", records=(1,))
    put_back = {"1.json": by, "2.json": by, "3.json": by}
    done = [*_made().run(_files(datas), 0, put_back)]
    assert [item for one in done for item in _flat(one)] == [
        (0, b'{"a":1}', 0),
        (1, b'{"a":3}', 1),
        (3, RecordReject(1, "a record is an object, not a number")),
        (4, b'{"a":8}', 0),
    ]


_HEADS = [
    "",
    "// c\n",
    "/* { */",
    "#\n",
    ")]}',\n",
    "while(1);",
    "throw 1;",
    "{}&&",
    "x = ",
    "f(",
    "\ufeff",
    " ",
    "<!-- -->",
    "throw 1;\n<a>",
    "&&&START&&&",
    "-- {\n",
    "{}",
    "/*",
]
_BODIES = ['{"a":1}', "[1]", "{}", '{"a":1};', '{"a":1})', "{}&&{}", "{ }", '{"a":1}&&&END&&&']
_FILES = st.tuples(
    st.lists(st.sampled_from(_HEADS), max_size=3).map("".join), st.sampled_from(_BODIES)
).map(lambda file: "".join(file).encode())


@settings(max_examples=1_000)
@given(files=st.lists(_FILES, min_size=2, max_size=6))
def test_a_preamble_seen_before_is_no_other_than_a_new_one(files: list[bytes]) -> None:
    """What was remembered of one file takes off of the next what a new grammar would."""

    def stripped(preamble: Preamble, file: bytes) -> bytes | str:
        try:
            return preamble.strip(file)
        except Reject as reject:
            return reject.reason

    kept = Preamble()
    for file in files:
        assert stripped(kept, file) == stripped(Preamble(), file)


def test_every_preamble_after_every_other_is_itself() -> None:
    """The same, of every pair of heads and every pair of documents behind it."""
    heads = ["".join(pair) for pair in itertools.product(_HEADS, repeat=2)]
    for head in heads:
        kept = Preamble()
        for body, other in itertools.product(_BODIES, repeat=2):
            for file in (f"{head}{body}".encode(), f"{head}{other}".encode()):
                results: list[object] = []
                for preamble in (kept, Preamble()):
                    try:
                        results.append(preamble.strip(file))
                    except Reject as reject:
                        results.append(reject.reason)
                assert results[0] == results[1], file


@given(
    names=st.lists(st.sampled_from(["a", "a.tmp", ".a", "a/b", "", "a.reason.json", "é", "a\n"]))
)
def test_many_names_are_safe_where_each_is(names: list[str]) -> None:
    """A separator in a name does not make two of it."""
    assert are_safe(names) == all(map(is_safe, names)) or not names
