"""Packing: exact sizes, greedy filling, derived ids, the cut for cost."""

import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Halt, Reject
from penstock.model import BILLED_BYTES, Message, QueueLimits
from penstock.sqs.packer import Packer
from support.messages import CLAIM, attributes_of
from support.sqs_model import size_of

NAMES = ("a.json", "b-with-a-longer-name.json", "ünïcode.json")


def packer(
    *,
    limit: int = 2_000,
    records_per_message: Literal["many", 1] = "many",
    message_bytes: int | None = None,
    fingerprint: str = "f",
    names: Sequence[str] = NAMES,
    claim: str = CLAIM,
) -> Packer:
    """Return a packer for a queue that takes messages up to `limit` bytes."""
    return Packer(
        limits=QueueLimits(message_bytes_max=limit),
        message_bytes=message_bytes,
        records_per_message=records_per_message,
        fingerprint=fingerprint,
        names=names,
        claim=claim,
    )


def pack(files: Sequence[tuple[int, list[bytes]]], **settings: object) -> list[Message]:
    """Pack files given as (index, records), through the fast way in."""
    subject = packer(**settings)  # type: ignore[arg-type]
    for file, records in files:
        assert subject.add_file(file, records) == []
    return subject.rest()


def counted(message: Message) -> int:
    """Count a message as SQS does, by the stub's own arithmetic."""
    attributes = {
        name: {"DataType": "String", "StringValue": value}
        for name, value in attributes_of(message).items()
    }
    return size_of(message.body.decode(), attributes)


record = st.integers(0, 900).map(lambda n: json.dumps("é" * n, ensure_ascii=False).encode())
files = st.lists(st.tuples(st.integers(0, 2), st.lists(record, max_size=6)), max_size=12).map(
    lambda chosen: sorted(chosen, key=lambda pair: pair[0])
)


@given(
    files=files,
    limit=st.integers(1_200, 4_000),
    claim=st.sampled_from([CLAIM, f"{CLAIM}.1", f"{CLAIM}.500"]),
)
def test_every_message_is_counted_exactly_and_none_could_take_the_next_record(
    files: list[tuple[int, list[bytes]]], limit: int, claim: str
) -> None:
    """Sizes are SQS's own, within the limit, and packing is greedy to the byte."""
    subject = packer(limit=limit, claim=claim)
    kept: list[bytes] = []
    for file, records in files:
        rejects = {reject.index for reject in subject.add_file(file, records)}
        kept += [record for at, record in enumerate(records) if at not in rejects]
    messages = subject.rest()
    packed = [element for message in messages for element in json.loads(message.body)]
    assert packed == [json.loads(record) for record in kept]
    for message in messages:
        assert attributes_of(message)["penstock_claim"] == claim
        assert message.size_bytes == counted(message) <= limit
        assert message.records == len(json.loads(message.body))
    for message, following in itertools.pairwise(messages):
        more = len(kept[following.first_record]) + 1
        digits = len(str(message.records + 1)) - len(str(message.records))
        assert message.size_bytes + more + digits > limit


@given(files=files)
def test_one_by_one_and_whole_files_give_the_same_messages(
    files: list[tuple[int, list[bytes]]],
) -> None:
    """`add` and `add_file` are the same function at two speeds."""
    whole, single = packer(), packer()
    for file, records in files:
        rejected = {reject.index for reject in whole.add_file(file, records)}
        for at, element in enumerate(records):
            if at in rejected:
                with pytest.raises(Reject):
                    single.add(file, element)
            else:
                single.add(file, element)
    assert whole.rest() == single.rest()


def test_one_record_a_message_is_the_record_itself() -> None:
    """With records_per_message = 1 the body is the record, the content type says so."""
    messages = pack([(0, [b'{"a":1}', b"[2]"])], records_per_message=1)
    assert [message.body for message in messages] == [b'{"a":1}', b"[2]"]
    assert [message.index for message in messages] == [0, 1]
    assert attributes_of(messages[0]) == {
        "penstock_id": messages[0].id,
        "penstock_records": "1",
        "penstock_file": "a.json",
        "content_type": "application/vnd.penstock.record+json",
        "penstock_claim": CLAIM,
    }
    assert messages[1].size_bytes == counted(messages[1])


def test_a_message_of_many_knows_its_files_and_records() -> None:
    """first_file, last_file and first_record trace a message back to what it was made of."""
    big = [b'"' + b"x" * 700 + b'"']
    messages = pack([(0, big), (1, big), (2, big)])
    assert [(m.first_file, m.last_file, m.first_record, m.records) for m in messages] == [
        (0, 1, 0, 2),
        (2, 2, 2, 1),
    ]
    assert attributes_of(messages[1])["penstock_file"] == "ünïcode.json"
    assert attributes_of(messages[0])["content_type"] == "application/vnd.penstock.records+json"


def test_an_id_is_the_hash_of_fingerprint_names_index_and_body() -> None:
    """The id can be computed by anyone from its four parts, each behind its length."""
    message = pack([(0, [b"1"])], records_per_message=1)[0]

    def framed(part: bytes) -> bytes:
        return len(part).to_bytes(8, "big") + part

    parts = framed(b"f") + (3).to_bytes(8, "big")
    parts += b"".join(framed(name.encode()) for name in NAMES)
    parts += (0).to_bytes(8, "big") + framed(b"1")
    assert message.id == hashlib.sha256(parts).hexdigest()


def test_an_id_does_not_change_with_the_claim() -> None:
    """Claimed anew, after Redis forgot or was put back, the same files give the same ids."""
    one, other = (pack([(0, [b"1"])], claim=claim)[0] for claim in (CLAIM, "f" * 24))
    assert one.id == other.id
    assert attributes_of(one) != attributes_of(other)


def test_an_id_changes_with_each_of_its_parts() -> None:
    """Another fingerprint, name, order of names, index or body is another id."""
    base = pack([(0, [b"1", b"1"])], records_per_message=1)
    ids = {message.id for message in base}
    ids.add(pack([(0, [b"1"])], records_per_message=1, fingerprint="g")[0].id)
    ids.add(pack([(0, [b"1"])], records_per_message=1, names=("a.jso", "n"))[0].id)
    ids.add(pack([(0, [b"1"])], records_per_message=1, names=("n", "a.jso"))[0].id)
    ids.add(pack([(0, [b"2"])], records_per_message=1)[0].id)
    ids.add(pack([(0, [b"1"])], records_per_message=1, names=("ab", "c"))[0].id)
    ids.add(pack([(0, [b"1"])], records_per_message=1, names=("a", "bc"))[0].id)
    assert len(ids) == 8


@pytest.mark.parametrize("records_per_message", ["many", 1])
def test_a_record_that_fits_no_message_is_refused_with_its_size(
    records_per_message: Literal["many", 1],
) -> None:
    """A record too large by one byte is rejected; its neighbours are packed, without a gap."""
    overhead = pack([(0, [b"1"])], records_per_message=records_per_message)[0].size_bytes - 1
    fits, too_large = (b"x" * (2_000 - overhead + extra) for extra in (0, 1))
    subject = packer(records_per_message=records_per_message)
    subject.add(0, fits)
    with pytest.raises(Reject, match=r"1\d\d\d bytes makes a message of 2001 bytes"):
        subject.add(0, too_large)
    assert subject.add_file(0, [b"1", too_large, b"2"])[0].index == 1
    messages = subject.rest()
    assert messages[0].size_bytes == 2_000
    assert sum(message.records for message in messages) == 3
    assert messages[-1].first_record + messages[-1].records == 3


def test_full_gives_only_what_is_complete_and_gives_it_once() -> None:
    """`full` keeps the open message back; `rest` closes it; neither repeats."""
    subject = packer()
    subject.add_file(0, [b'"' + b"x" * 700 + b'"'] * 3)
    assert [message.index for message in subject.full()] == [0]
    assert subject.full() == []
    assert [message.index for message in subject.rest()] == [1]
    assert subject.rest() == []


def test_a_claim_without_records_makes_no_message() -> None:
    """An empty file is finished without a call: SQS refuses empty batches."""
    assert pack([(0, []), (1, [])]) == []


def test_message_bytes_lowers_the_limit_and_cannot_raise_it() -> None:
    """The setting wins where it is lower; where the queue cannot take it, it halts."""
    big = [b'"' + b"x" * 500 + b'"'] * 3
    assert len(pack([(0, big)])) == 1
    assert len(pack([(0, big)], message_bytes=1_300)) == 2
    with pytest.raises(Halt, match=r"message_bytes is 3000, .* MaximumMessageSize is 2000"):
        packer(message_bytes=3_000)


def test_a_message_just_over_64_kib_is_cut_before_it() -> None:
    """At a limit of 70,000 bytes a message costs two requests; cut, it costs one."""
    records = [b'"' + b"x" * 998 + b'"'] * 200
    messages = pack([(0, records)], limit=70_000)
    assert all(65_536 - 1_001 < message.size_bytes <= 65_536 for message in messages[:-1])
    assert sum(message.records for message in messages) == 200
    assert [message.size_bytes for message in messages] == [counted(m) for m in messages]


def test_a_cut_that_saves_nothing_is_not_made() -> None:
    """Three records of 33,000 bytes in two requests beat one record in one."""
    records = [b'"' + b"x" * 32_998 + b'"'] * 6
    assert [m.records for m in pack([(0, records)], limit=100_000)] == [3, 3]


@given(sizes=st.lists(st.integers(2, 60_000), max_size=60), limit=st.integers(65_537, 300_000))
def test_cutting_loses_nothing(sizes: list[int], limit: int) -> None:
    """Whatever the sizes: every record once, in order, in messages of exact size."""
    records = [b'"' + b"x" * size + b'"' for size in sizes if size < limit - 500]
    messages = pack([(0, records)], limit=limit)
    assert [r for m in messages for r in json.loads(m.body)] == [json.loads(r) for r in records]
    assert all(message.size_bytes == counted(message) <= limit for message in messages)


def test_cutting_saves_requests_on_the_whole() -> None:
    """Over many claims it is some percent cheaper; a single claim may be unlucky by a request."""
    chance = random.Random(5)
    requests = {True: 0, False: 0}
    for _ in range(200):
        limit, largest = chance.randint(65_537, 300_000), chance.choice([2_000, 20_000, 60_000])
        records = [b"x" * chance.randint(2, largest) for _ in range(60)]
        for cuts in requests:
            subject = packer(limit=limit)
            subject._cuts = cuts
            subject.add_file(0, records)
            requests[cuts] += sum(-(-m.size_bytes // BILLED_BYTES) for m in subject.rest())
    assert requests[True] < 0.96 * requests[False]


@given(
    st.lists(st.lists(record, max_size=4), min_size=1, max_size=12),
    st.sampled_from([1_200, 2_000, 70_000]),
    st.integers(0, 12),
)
def test_what_is_kept_is_packed_as_if_there_were_nothing_else(
    records: list[list[bytes]], limit: int, kept: int
) -> None:
    """A successor, who knows of the kept files only, rebuilds the same messages and ids."""
    names = [f"{number}.json" for number in range(len(records))]
    kept = min(kept, len(names))
    subject, other = (packer(limit=limit, names=some) for some in (names, names[:kept]))
    for number, some in enumerate(records):
        subject.add_file(number, some)
        if number < kept:
            other.add_file(number, some)
    subject.keep(kept)
    assert [*subject.full(), *subject.rest()] == [*other.full(), *other.rest()]


def test_what_is_kept_is_packed_alike_where_messages_are_cut_for_cost() -> None:
    """There a message may end before the record that did not fit it any more."""
    names = [f"{number}.json" for number in range(12)]
    for kept in range(13):
        subject, other = (packer(limit=100_000, names=some) for some in (names, names[:kept]))
        for number in range(12):
            subject.add_file(number, [b"1" * 30_000])
            if number < kept:
                other.add_file(number, [b"1" * 30_000])
        subject.keep(kept)
        assert subject.rest() == other.rest()


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([500] * 9, 9),  # 3 a message: three full ones
        ([500] * 10, 9),  # the tenth would be in a message of its own
        ([500] * 3, 3),
        ([500] * 2, 0),  # less than a message
        ([1_400] * 3, 3),  # no message can be fuller
        ([500, 500, 500, 100], 3),
    ],
)
def test_files_are_kept_so_that_messages_are_full(sizes: list[int], kept: int) -> None:
    """What begins a message that would not be full is left for another claim."""
    names = [f"{number}.json" for number in range(len(sizes))]
    overhead = counted(pack([(0, [b"1"])], names=names)[0]) - 3
    subject = packer(limit=overhead + 1_510, names=names)
    for number, size in enumerate(sizes):
        subject.add_file(number, [b"1" * size])
    assert subject.fullest(len(sizes)) == kept


def test_a_file_that_ends_in_the_next_message_is_kept_or_left_as_fills_more() -> None:
    """Half of it fills the first message; without the file, that one is nearly empty."""
    overhead = counted(pack([(0, [b"1"])])[0]) - 3
    subject = packer(limit=overhead + 1_010)
    subject.add_file(0, [b"1" * 100])
    subject.add_file(1, [b"1" * 90] * 19)
    assert subject.fullest(2) == 2


def test_a_limit_that_cannot_be_raised_is_not_to_be() -> None:
    """Where it is SQS's own, to select less is all that helps."""
    for limit, can_be_raised in ((2_000, True), (1_048_576, False)):
        packer = Packer(
            limits=QueueLimits(message_bytes_max=limit), message_bytes=None,
            records_per_message="many", fingerprint="", names=["a.json"], claim="c",
        )  # fmt: skip
        (reject,) = packer.add_file(0, [b'"%s"' % (b"x" * limit)])
        assert ("MaximumMessageSize" in reject.reason) == can_be_raised
