"""Files taken many at once have the fate that each has alone."""

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import Reject
from penstock.model import Document
from penstock.names import are_safe, is_safe
from penstock.stages.decode import Decoder, may_be_one
from penstock.stages.preamble import Preamble
from penstock.stages.selection import Selection

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
    assert all(may_be_one(text) for text in texts)
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
    assert all(may_be_one(text) for text in texts)
    records = Decoder(selection.record_type).decode_ones(texts)
    assert records is not None
    assert [*selection.select(Document(records)).records] == [b'{"a":%d}' % n for n in range(4)]


def test_what_runs_over_into_the_next_file_is_not_taken() -> None:
    """Three files that hold three records, of which none is one file's."""
    decoder = Decoder(Selection("@").record_type)
    assert decoder.decode_ones([b'{"a":{"b":1}', b'{"c":1}}', b"{}{}"]) is None
    assert decoder.decode_ones([b'{"a":"}', b'{","b":1}', b"{}{}"]) is None


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
