"""Every case of tests/data/sqs_cases.json: that the stub answers as AWS does, and what we do."""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Halt, Reject
from penstock.model import Message, QueueLimits
from penstock.sqs.batch import batches, outcome_of, request_body
from penstock.sqs.packer import Packer
from support.messages import CLAIM, LIMITS, NAMES, attributes_of, numbered, packed
from support.sender import Sender, once
from support.sqs_model import Queue, SqsError, SqsModel
from support.sqs_stub import Fault

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "data/sqs_cases.json").read_text())["cases"]
}
LIMIT = 1_048_576
_covered: set[str] = set()


def cases(*ids: str) -> pytest.MarkDecorator:
    """Run a test for these cases, under their names."""
    _covered.update(ids)
    return pytest.mark.parametrize("case", [CASES[name] for name in ids], ids=ids)


@pytest.fixture
def model() -> SqsModel:
    """Give the stub's memory alone, without a server."""
    return SqsModel()


def entry(identity: str = "0", body: str = "b", **more: object) -> dict[str, Any]:
    """Return one entry as a client could send it."""
    return {"Id": identity, "MessageBody": body, **more}


def answer(model: SqsModel, queue: Queue, *entries: dict[str, Any]) -> dict[str, Any]:
    """Return what the stub answers to a batch, errors too, in the shape of the cases."""
    request = {"QueueUrl": queue.url, "Entries": list(entries)}
    try:
        return model.call("SendMessageBatch", request)
    except SqsError as error:
        return {"code": error.legacy_code, "message": error.text, "http": error.status}


def assert_answers_as_recorded(got: dict[str, Any], case: dict[str, Any]) -> None:
    """Compare an answer with the case's, in what the case says."""
    recorded = case["answer"]
    assert recorded["code"].endswith(got["code"].rpartition(".")[2])
    assert got["http"] == recorded.get("http", 400)
    assert got["message"] == recorded.get("message", got["message"])


def entries_of(batch: Sequence[Message], group: str | None = None) -> list[dict[str, Any]]:
    """Return the entries that the sender makes of messages."""
    return json.loads(request_body("http://sqs/q", batch, group))["Entries"]


@cases("batch-total-1-over")
async def test_a_batch_total_over_the_limit(
    model: SqsModel, sender: Sender, case: dict[str, Any]
) -> None:
    """Attributes count for the total; batches are cut to the byte; a too long one is halved."""
    attribute = {"k": {"DataType": "String", "StringValue": "x"}}
    first = entry(body="a" * (LIMIT - 8), MessageAttributes=attribute)
    got = answer(model, model.create("q"), first, entry("1", "b"))
    assert_answers_as_recorded(got, case)
    overhead = packed([b"1"])[0].size_bytes - 1
    small = packed([b"2"])[0]
    for over, count in ((0, 1), (1, 2)):
        large = packed([b"a" * (LIMIT - overhead - small.size_bytes + over)])[0]
        assert large.size_bytes + small.size_bytes == LIMIT + over
        assert len(list(batches([large, small], LIMITS))) == count
    sender.stub.script(Fault("error", status=400, code="BatchRequestTooLong"))
    sent = await sender.send(packed(numbered(2)))
    assert (len(sent.confirmed), sent.batches) == (2, 3)


@cases("single-1-over")
def test_a_message_over_the_limit(model: SqsModel, case: dict[str, Any]) -> None:
    """One byte too many is rejected by the packer, with the size; SQS would refuse it."""
    url = model.create("q").url
    with pytest.raises(SqsError, match=r"Message must be shorter than 1048576 bytes"):
        model.call("SendMessage", {"QueueUrl": url, "MessageBody": "a" * (LIMIT + 1)})
    packer = Packer(
        limits=LIMITS,
        message_bytes=None,
        records_per_message=1,
        fingerprint="",
        names=NAMES,
        claim=CLAIM,
    )
    overhead = packed([b"1"])[0].size_bytes - 1
    with pytest.raises(Reject, match="1048577"):
        packer.add(0, b"a" * (LIMIT + 1 - overhead))
    assert case["answer"]["code"] == "InvalidParameterValue"


@cases("single-exact-limit")
async def test_a_message_of_exactly_the_limit(sender: Sender, case: dict[str, Any]) -> None:
    """The limit is inclusive: SQS takes it, and the packer makes it."""
    overhead = packed([b"1"])[0].size_bytes - 1
    messages = packed([b"a" * (LIMIT - overhead)])
    assert messages[0].size_bytes == LIMIT
    assert len((await sender.send(messages)).confirmed) == 1
    assert case["answer"]["kind"] == "accepted"


@cases("queue-limit-lower-partial")
async def test_a_queue_with_a_lower_limit(
    model: SqsModel, sender: Sender, case: dict[str, Any]
) -> None:
    """The entry over the queue's own limit fails alone and is rejected; the other is done."""
    queue = model.create("low", MaximumMessageSize="1024")
    got = answer(model, queue, entry("0", "a" * 1024), entry("1", "a" * 1025))
    recorded = case["answer"]["Failed"][0]
    assert [r["Id"] for r in got["Successful"]] == ["0"]
    assert {name: got["Failed"][0][name] for name in recorded} == recorded
    sender.stub.model.queues["q"].attributes["MaximumMessageSize"] = "1024"
    messages = packed([b"1", b"a" * 1025])
    sent = await sender.send(messages)
    assert (sent.confirmed, sent.batches) == ([messages[0]], 1)
    assert "shorter than 1024 bytes" in sent.rejected[0].reason


@cases("queue-limit-lower-not-for-batch-total")
async def test_a_lower_limit_does_not_bind_the_batch(
    model: SqsModel, sender: Sender, case: dict[str, Any]
) -> None:
    """Ten messages near a queue's own limit of 2,048 go in one batch."""
    queue = model.create("low", MaximumMessageSize="2048")
    got = answer(model, queue, entry("0", "a" * 2048), entry("1", "b"))
    assert len(got["Successful"]) == 2
    await sender.queue.close()
    sender.stub.model.create("low", MaximumMessageSize="2048")
    await sender.open("low")
    limits = sender.limits
    assert limits == QueueLimits(message_bytes_max=2_048)
    messages = packed(numbered(10, 1_700), limits=limits)
    assert (await sender.send(messages)).batches == 1
    assert case["answer"]["kind"] == "accepted"


@cases("one-invalid-char-of-ten")
async def test_one_invalid_character_among_ten(sender: Sender, case: dict[str, Any]) -> None:
    """One entry fails and is rejected; the nine others go once, in the same call."""
    messages = packed([case["given"]["bodies"][n].encode() for n in range(10)])
    sent = await sender.send(messages)
    assert [reject.message.index for reject in sent.rejected] == [9]
    assert case["answer"]["Failed"][0]["Code"] in sent.rejected[0].reason
    assert (sender.copies(), sent.batches) == (once(messages[:9]), 1)


@cases("invalid-chars-single")
async def test_invalid_characters_in_a_whole_call(
    model: SqsModel, sender: Sender, case: dict[str, Any]
) -> None:
    """Refused as a whole call, a message is rejected; among others it is found by halving."""
    url = model.create("q").url
    with pytest.raises(SqsError, match=case["answer"]["code"]):
        model.call("SendMessage", {"QueueUrl": url, "MessageBody": "\x00-\x08-\x13-\uffff"})
    refused = Fault("error", status=400, code="InvalidMessageContents")
    sender.stub.script(refused, None, refused, refused)
    sent = await sender.send(messages := packed(numbered(3)))
    assert once(sent.confirmed) == once(messages[:1] + messages[2:])
    assert [reject.message for reject in sent.rejected] == [messages[1]]


@cases("invalid-chars-silent-replacement")
def test_a_silent_replacement_is_no_receipt(case: dict[str, Any]) -> None:
    """A body stored with U+FFFD in place of a character has another MD5: not confirmed."""
    message = packed(['"\uffff"'.encode()])[0]
    stored = hashlib.md5('"\ufffd"'.encode(), usedforsecurity=False).hexdigest()
    receipt = {"Successful": [{"Id": "0", "MD5OfMessageBody": stored}]}
    outcome = outcome_of([message], 200, "", json.dumps(receipt).encode())
    assert (outcome.confirmed, outcome.garbled) == ([], [message])
    assert "MD5" in case["must"]


@cases("too-many-entries", "eleven-entries")
async def test_more_entries_than_ten(model: SqsModel, sender: Sender, case: dict[str, Any]) -> None:
    """SQS refuses the whole call; the sender never makes it."""
    count = case["given"]["entries"]
    got = answer(model, model.create("q"), *[entry(str(n)) for n in range(count)])
    assert_answers_as_recorded(got, case)
    sent = await sender.send(packed(numbered(count)))
    assert (len(sent.confirmed), sent.batches) == (count, 2)


@cases("empty-batch")
async def test_an_empty_batch(model: SqsModel, sender: Sender, case: dict[str, Any]) -> None:
    """SQS refuses it; a claim without records makes no call."""
    assert_answers_as_recorded(answer(model, model.create("q")), case)
    sent = await sender.send(packed([]))
    assert (sent.batches, sender.stub.calls["SendMessageBatch"]) == (0, 0)


@cases("empty-body")
def test_an_empty_body(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses it; the smallest body there is has the brackets of an array, or a value."""
    assert_answers_as_recorded(answer(model, model.create("q"), entry(body="")), case)
    assert packed([b"0"])[0].body == b"0"
    assert packed([b"0"], records_per_message="many")[0].body == b"[0]"


@cases(*[name for name in CASES if name.startswith("bad-id-")])
def test_bad_entry_ids(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses the whole call; the sender's ids are the indexes of the messages."""
    bad = case["given"]["Id"]
    bad = "i" * 81 if bad == "i*81" else bad
    assert_answers_as_recorded(answer(model, model.create("q"), entry(bad)), case)
    assert [made["Id"] for made in entries_of(packed(numbered(3)))] == ["0", "1", "2"]


@cases("duplicate-ids")
def test_duplicate_entry_ids(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses the whole call; the sender's ids are unique in a claim."""
    got = answer(model, model.create("q"), *[entry(name) for name in case["given"]["Ids"]])
    assert_answers_as_recorded(got, case)
    made = [e["Id"] for batch in batches(packed(numbered(95)), LIMITS) for e in entries_of(batch)]
    assert len(set(made)) == 95


@cases("queue-missing")
async def test_a_queue_that_is_gone(sender: Sender, case: dict[str, Any]) -> None:
    """The worker stops; nothing is rejected."""
    del sender.stub.model.queues["q"]
    with pytest.raises(Halt, match=case["answer"]["QueryErrorCode"]):
        await sender.send(packed(numbered(3)))
    assert sender.stub.calls["SendMessageBatch"] == 1


@cases("fifo-no-group")
async def test_fifo_without_a_group(model: SqsModel, sender: Sender, case: dict[str, Any]) -> None:
    """SQS refuses the whole batch; every entry of the sender's has one on FIFO, none elsewhere."""
    one = entry(MessageGroupId="g", MessageDeduplicationId="d")
    got = answer(model, model.create("q.fifo"), one, entry("1", MessageDeduplicationId="e"))
    assert got["code"] == "InvalidParameterValue"
    assert got["message"] == case["answer"]["message"]
    await sender.queue.close()
    await sender.open("q.fifo")
    assert sender.limits.fifo
    assert all(made["MessageGroupId"] == "g" for made in entries_of(packed(numbered(3)), "g"))
    assert not any("MessageGroupId" in made for made in entries_of(packed(numbered(3))))


@cases("fifo-no-dedup")
def test_fifo_without_a_deduplication_id(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses the whole batch; every entry of the sender's has its message's id."""
    one = entry("0", MessageGroupId="g", MessageDeduplicationId="d")
    got = answer(model, model.create("q.fifo"), one, entry("1", MessageGroupId="g"))
    assert_answers_as_recorded(got, case)
    messages = packed(numbered(3))
    made = [e["MessageDeduplicationId"] for e in entries_of(messages, "g")]
    assert made == [message.id for message in messages]


@cases("group-id-bad-on-standard")
async def test_bad_group_ids(model: SqsModel, sender: Sender, case: dict[str, Any]) -> None:
    """SQS refuses them on any queue; the sender refuses them before any call."""
    for bad in ("", "a" * 129, "group 123"):
        got = answer(model, model.create("q"), entry(MessageGroupId=bad))
        assert_answers_as_recorded(got, case)
        with pytest.raises(ValueError, match="not a message group"):
            await sender.queue.send(
                packed(numbered(1)), group=bad, deadline=lambda: 0, confirmed=sender.keep
            )


@cases("dedup-id-bad")
def test_bad_deduplication_ids(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses them; ours are 64 hexadecimal digits."""
    for bad in ("", "a" * 129, "group 123"):
        made = entry(MessageGroupId="g", MessageDeduplicationId=bad)
        assert_answers_as_recorded(answer(model, model.create("q.fifo"), made), case)
    assert len(bytes.fromhex(packed([b"1"])[0].id)) == 32


@cases("attr-empty-string")
def test_an_empty_attribute(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses the entry; no attribute of ours is empty."""
    attributes = {"ErrorDetails": {"DataType": "String", "StringValue": ""}}
    got = answer(model, model.create("q"), entry(MessageAttributes=attributes))
    assert got["Failed"][0]["Message"] == case["answer"]["message"]
    assert all(attributes_of(packed([b"1"])[0]).values())


@cases("attr-bad-names")
def test_attribute_names(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses some names and takes others; ours are among those it takes."""
    queue = model.create("q")

    def taken(name: str) -> bool:
        attributes = {name: {"DataType": "String", "StringValue": "x"}}
        return "Failed" not in answer(model, queue, entry(MessageAttributes=attributes))

    names = [name.replace("L*257", "L" * 257) for name in case["given"]["names"]]
    assert not any(map(taken, names))
    assert all(map(taken, case["given"]["ok"]))
    assert all(map(taken, attributes_of(packed([b"1"])[0])))


@cases("attr-count-11")
def test_eleven_attributes(model: SqsModel, case: dict[str, Any]) -> None:
    """SQS refuses the entry; ours has five."""
    many = {f"a{n}": {"DataType": "String", "StringValue": "x"} for n in range(11)}
    assert len(many) == case["given"]["attrs"]
    assert "Failed" in answer(model, model.create("q"), entry(MessageAttributes=many))
    assert len(attributes_of(packed([b"1"])[0])) == 5


@cases("partial-non-sender-fault")
async def test_an_entry_that_failed_without_our_fault(sender: Sender, case: dict[str, Any]) -> None:
    """It alone is sent again, with the same id and body."""
    messages = packed(numbered(case["given"]["entries"]))
    failed = [case["answer"] | case["given"]["Failed"][0]]
    done = [{"Id": str(n), "MD5OfMessageBody": _md5(messages[n])} for n in (0, 2)]
    reply = json.dumps({"Successful": done, "Failed": failed}).encode()
    outcome = outcome_of(messages, 200, "", reply)
    assert (outcome.confirmed, outcome.again) == ([messages[0], messages[2]], [messages[1]])
    sender.stub.script(Fault("fail_receiver", entries=(1,)))
    sent = await sender.send(messages)
    assert sender.copies() == once(messages)
    assert (sent.batches, sent.possible_repeats) == (2, 0)
    assert entries_of([messages[1]]) == entries_of(messages)[1:2]


@cases("partial-then-error")
async def test_a_partial_failure_and_then_an_error(sender: Sender, case: dict[str, Any]) -> None:
    """Entries 0 and 2 go once; 1 goes until its outcome is known, which is counted."""
    messages = packed(numbered(case["given"]["entries"]))
    sender.stub.script(Fault("fail_receiver", entries=(1,)), "reset_after")
    sent = await sender.send(messages)
    copies = sender.copies()
    assert [copies[message.id] for message in messages] == [1, 2, 1]
    assert sent.possible_repeats == 1


@cases("throttled", "kms-throttled")
async def test_throttles(sender: Sender, case: dict[str, Any]) -> None:
    """A storm of throttles costs time, never a message, never a repeat."""
    fault = {"RequestThrottled": "throttle", "KmsThrottled": "kms_throttle"}[case["answer"]["code"]]
    sender.stub.script(*[fault] * 20)
    messages = packed(numbered(30))
    sent = await sender.send(messages)
    assert sender.copies() == once(messages)
    assert (sent.throttled, sent.possible_repeats) == (20, 0)
    assert sender.stub.fired[fault] == 20
    assert sender.queue._limiter.limit < 16


@cases("kms-denied", "auth")
async def test_what_a_person_must_mend(sender: Sender, case: dict[str, Any]) -> None:
    """Each code halts at once: one call, nothing confirmed, nothing rejected."""
    for code in case["answer"]["code"]:
        sender.stub.calls.clear()
        sender.stub.script(Fault("error", status=400, code=code))
        with pytest.raises(Halt, match=code):
            await sender.send(packed(numbered(3)))
        assert sender.stub.calls["SendMessageBatch"] == 1
    assert sender.confirmed == []


@cases("timeout-after-accept")
@pytest.mark.parametrize("queue", ["q", "q.fifo"])
async def test_a_reply_that_is_lost(sender: Sender, queue: str, case: dict[str, Any]) -> None:
    """Nothing is lost; on a standard queue repeats are those counted, on FIFO there are none."""
    await sender.queue.close()
    await sender.open(queue)
    sender.stub.script("reset_after", None, "reset_after")
    messages = packed(numbered(20))
    sent = await sender.send(messages)
    copies = sender.copies(queue)
    assert copies.keys() == once(messages).keys()
    assert copies.total() - 20 == sent.possible_repeats == (0 if queue == "q.fifo" else 20)
    assert sender.stub.fired["reset_after"] == 2
    assert "repeats" in case["must"]


@cases("5xx")
async def test_server_errors(sender: Sender, case: dict[str, Any]) -> None:
    """Each status, from SQS or from a proxy's page, is outlived."""
    for status in case["given"]["http"]:
        sender.stub.script(Fault("error", status=status), Fault("page", status=status))
    messages = packed(numbered(2))
    sent = await sender.send(messages)
    assert sender.copies() == once(messages)
    assert (sent.batches, len(sender.clock.pauses)) == (9, 8)


@cases("wrong-md5")
async def test_a_wrong_md5(sender: Sender, case: dict[str, Any]) -> None:
    """It confirms nothing; the message is sent again, and after three times the worker stops."""
    sender.stub.script("wrong_md5")
    messages = packed(numbered(2))
    sent = await sender.send(messages)
    assert once(sender.confirmed) == once(messages)
    assert (sender.stub.fired["wrong_md5"], sent.possible_repeats) == (1, 1)
    sender.stub.script(*["wrong_md5"] * 3)
    with pytest.raises(Halt, match="MD5"):
        await sender.send(messages)
    assert "MD5" in case["given"]["response"]


@cases("missing-id")
async def test_an_id_that_the_reply_leaves_out(sender: Sender, case: dict[str, Any]) -> None:
    """It is never counted as success: it is sent again."""
    sender.stub.script(Fault("missing_id", entries=(0, 1)))
    messages = packed(numbered(3))
    sent = await sender.send(messages)
    assert once(sender.confirmed) == once(messages)
    assert (sent.batches, sent.possible_repeats) == (2, 2)
    assert "not confirmed" in case["must"]


@cases("unknown-id")
async def test_an_id_that_was_not_sent(sender: Sender, case: dict[str, Any]) -> None:
    """The reply proves nothing: the worker stops, nothing is confirmed."""
    sender.stub.script("unknown_id")
    with pytest.raises(Halt, match="not sent"):
        await sender.send(packed(numbered(3)))
    assert sender.confirmed == []
    assert "claim keeps" in case["must"]


@cases("multibyte-size")
def test_multibyte_sizes(model: SqsModel, case: dict[str, Any]) -> None:
    """Bytes count, not characters: 524,289 é are too many, for SQS and for the packer."""
    body = "é" * 524_289
    with pytest.raises(SqsError, match="shorter than"):
        model.call("SendMessage", {"QueueUrl": model.create("q").url, "MessageBody": body})
    packer = Packer(
        limits=LIMITS,
        message_bytes=None,
        records_per_message=1,
        fingerprint="",
        names=NAMES,
        claim=CLAIM,
    )
    with pytest.raises(Reject, match="a selected record of 1048578 bytes"):
        packer.add(0, body.encode())
    assert "bytes" in case["answer"]["kind"]


@cases("attrs-not-counted")
def test_attributes_count(model: SqsModel, case: dict[str, Any]) -> None:
    """Batches are filled by the stub's and the packer's equal counts, attributes included."""
    messages = packed(numbered(4_000, 5_000))
    queue = model.create("q")
    made = list(batches(messages, QueueLimits(message_bytes_max=LIMIT, batch_entries_max=10)))
    assert all("code" not in answer(model, queue, *entries_of(batch)) for batch in made)
    large = packed(numbered(40, 150_000))
    for batch, following in pairwise(batches(large, LIMITS)):
        over = [*batch, following[0]]
        assert len(over) <= 10
        assert answer(model, queue, *entries_of(over))["code"].endswith("BatchRequestTooLong")
    assert "moto" in case["answer"]["emulators"]


@cases("moto-all-or-nothing")
async def test_a_server_that_refuses_the_batch_for_one(
    sender: Sender, case: dict[str, Any]
) -> None:
    """As moto does it: the whole batch fails for one entry; halving saves its neighbour."""
    refused = Fault("error", status=400, code="InvalidParameterValue")
    sender.stub.script(refused, refused)
    messages = packed(numbered(2))
    sent = await sender.send(messages)
    assert [reject.message for reject in sent.rejected] == [messages[0]]
    assert sender.copies() == once([messages[1]])
    assert case["answer"]["kind"] == "emulator gap"


def test_every_case_has_its_test() -> None:
    """41 cases, each named by a test of this module."""
    assert _covered == set(CASES)
    assert len(CASES) == 41


def _md5(message: Message) -> str:
    return hashlib.md5(message.body, usedforsecurity=False).hexdigest()
