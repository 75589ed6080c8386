"""Batches and replies, by properties: what goes in comes out, in exactly one place."""

import hashlib
import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.model import Message, QueueLimits
from penstock.sqs.batch import BatchOutcome, batches, error_of, outcome_of, request_body
from support.messages import numbered, packed

BATCH = packed(numbered(6))


def message(index: int, size_bytes: int) -> Message:
    """Return a message that says it has this size."""
    return Message(index, str(index), b"1", 1, 0, 0, index, "f", "t", "c", size_bytes)


@given(
    sizes=st.lists(st.integers(1, 1_048_576) | st.integers(1, 2_000), max_size=60),
    entries=st.integers(1, 10),
)
def test_batches_are_in_order_within_the_limits_and_as_full_as_they_can_be(
    sizes: list[int], entries: int
) -> None:
    """No batch is too large, and none could have taken the next message."""
    limits = QueueLimits(message_bytes_max=1_048_576, batch_entries_max=entries)
    messages = [message(index, size) for index, size in enumerate(sizes)]
    made = list(batches(messages, limits))
    assert list(itertools.chain(*made)) == messages
    for batch in made:
        assert 1 <= len(batch) <= entries
        assert sum(one.size_bytes for one in batch) <= limits.batch_bytes_max
    for batch, following in itertools.pairwise(made):
        over = sum(one.size_bytes for one in [*batch, following[0]]) > limits.batch_bytes_max
        assert over or len(batch) == entries


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_carried_unchanged(text: str) -> None:
    """Quotes, backslashes, controls and every plane of Unicode survive the request's JSON."""
    (one,) = packed([text.encode()])
    request = json.loads(request_body("https://sqs/q", [one], None))
    assert request["Entries"][0]["MessageBody"] == text
    assert request["QueueUrl"] == "https://sqs/q"


def everything(outcome: BatchOutcome) -> list[int]:
    """Return the indexes of all messages that an outcome speaks of."""
    rejected = [reject.message for reject in outcome.rejected]
    lists = (outcome.confirmed, rejected, outcome.again, outcome.unknown, outcome.garbled)
    return sorted(one.index for one in itertools.chain(*lists, outcome.split))


ids = st.sampled_from(["0", "1", "2", "3", "4", "5", "6", "x", ""])
receipts = st.fixed_dictionaries(
    {"Id": ids},
    optional={"MD5OfMessageBody": st.sampled_from(["right", "wrong", ""])},
)
refusals = st.fixed_dictionaries(
    {"Id": ids},
    optional={
        "SenderFault": st.booleans(),
        "Code": st.sampled_from(["InvalidMessageContents", "InternalError", "KmsThrottled", "xx"]),
        "Message": st.text(max_size=20),
    },
)
replies = st.fixed_dictionaries(
    {},
    optional={
        "Successful": st.lists(receipts, max_size=7),
        "Failed": st.lists(refusals, max_size=7),
    },
)


@given(reply=replies)
def test_every_reply_puts_every_message_in_one_place(reply: dict[str, list[Any]]) -> None:
    """Confirmed is only what one receipt with the right MD5 names, in a reply about this batch."""
    for receipt in reply.get("Successful", []):
        if receipt.get("MD5OfMessageBody") == "right" and receipt["Id"] in "012345":
            body = BATCH[int(receipt["Id"] or 0)].body
            receipt["MD5OfMessageBody"] = hashlib.md5(body, usedforsecurity=False).hexdigest()
    outcome = outcome_of(BATCH, 200, "", json.dumps(reply).encode())
    assert everything(outcome) == [0, 1, 2, 3, 4, 5]
    named = [one["Id"] for part in reply.values() for one in part]
    ours = {str(one.index) for one in BATCH}
    if len(set(named)) < len(named) or not set(named) <= ours:
        assert outcome.halt
        assert not outcome.confirmed
    right = {
        one["Id"]
        for one in reply.get("Successful", [])
        if len(one.get("MD5OfMessageBody", "")) == 32
    }
    assert {str(one.index) for one in outcome.confirmed} == (set() if outcome.halt else right)


@given(
    status=st.sampled_from([100, 200, 204, 301, 400, 403, 404, 413, 429, 500, 502, 503, 504]),
    header=st.sampled_from(["", "AWS.SimpleQueueService.NonExistentQueue;Sender", ";;", "x"]),
    body=st.binary(max_size=60)
    | st.sampled_from([b"", b"null", b"[]", b'{"__type":1}', b'{"message":"' + b"m" * 999 + b'"}']),
)
def test_no_reply_is_too_strange(status: int, header: str, body: bytes) -> None:
    """Whatever comes back: no error, nothing confirmed, every message in one place."""
    outcome = outcome_of(BATCH, status, header, body)
    assert everything(outcome) == [0, 1, 2, 3, 4, 5]
    assert not outcome.confirmed
    assert len(error_of(body, header)[1]) <= 300
