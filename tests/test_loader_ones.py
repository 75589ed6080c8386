"""Files taken many at once have the fate that each has alone."""

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import Reject
from penstock.file_names import are_safe, is_safe
from penstock.ledger.outcome import ClaimOutcome
from penstock.loader import Loader
from penstock.model import Claim, Document, FileRead, QueueLimits
from penstock.records.decode import Decoder, may_be_one
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
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
    assert all(may_be_one(text) for text in texts)
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


def _taken(datas: Sequence[bytes], decoder: type[Decoder], message_bytes: int) -> object:
    """Return all that becomes of files: messages, journal entries, fates and counters."""
    names = tuple(f"{number}.json" for number in range(len(datas)))
    claim = Claim("c", "t", names, 1, {})
    selection = Selection("{a: a}", "a != `7`")
    parts: Any = None
    loader = Loader(
        source=parts, candidates=parts, ledger=parts, queue=parts, new_packer=parts,
        preamble=Preamble(), decoder=decoder(selection.record_type), selection=selection,
        fingerprint="f", lanes=1, claim_files_max=500, claim_bytes_max=1 << 24,
        max_file_bytes=1 << 24, settle_seconds=0.0,
    )  # fmt: skip
    packer = Packer(
        limits=QueueLimits(1_048_576), message_bytes=message_bytes, records_per_message="many",
        fingerprint="f", names=names, claim=claim.id,
    )  # fmt: skip
    outcome = ClaimOutcome(names)
    files = [FileRead(name, data, len(data), 9.0) for name, data in zip(names, datas, strict=True)]
    loader.take(files, 0, claim, packer, outcome)
    messages = packer.rest()
    entries = [outcome.journal_entry(message) for message in messages]
    return messages, entries, outcome.settled(attempt=1, now="")


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
def test_what_becomes_of_files_does_not_depend_on_their_neighbours(
    datas: list[bytes], message_bytes: int
) -> None:
    """Messages, journal and every fate are those of a loader that decodes one file at a time."""
    together = _taken(datas, Decoder, message_bytes)
    assert together == _taken(datas, _OneByOne, message_bytes)


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
