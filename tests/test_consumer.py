"""The other end: messages taken apart and checked, repeats skipped, Lambda answered."""

import json
import logging
import math
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer import Deduplicator, Received, handle_event, read
from penstock.errors import Again, Reject
from penstock.model import Message
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from support.campaign import scaled
from support.json_samples import expression_text, record_text
from support.messages import CLAIM, attributes_of, numbered, packed
from support.sqs_stub import SqsStub
from support.threaded import threaded

DOCUMENT = Path(__file__).parent.parent / "docs/consumer.md"


def as_boto3(message: Message) -> dict[str, Any]:
    """Return a message as boto3's receive_message gives it."""
    return {
        "MessageId": str(message.index),
        "ReceiptHandle": f"handle-{message.index}",
        "Body": message.body.decode(),
        "MessageAttributes": {
            name: {"StringValue": value, "DataType": "String"}
            for name, value in attributes_of(message).items()
        },
    }


def as_lambda(message: Message, queue: str = "q") -> dict[str, Any]:
    """Return a message as a record of a Lambda event, whose keys are spelt otherwise."""
    return {
        "messageId": str(message.index),
        "receiptHandle": f"handle-{message.index}",
        "body": message.body.decode(),
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {
            name: {"stringValue": value, "dataType": "String", "stringListValues": []}
            for name, value in attributes_of(message).items()
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
    }


def event(messages: Sequence[Message], queue: str = "q") -> dict[str, Any]:
    """Return a Lambda event of these messages."""
    return {"Records": [as_lambda(message, queue) for message in messages]}


@pytest.mark.parametrize("shape", [as_boto3, as_lambda])
@pytest.mark.parametrize("records_per_message", ["many", 1])
def test_both_shapes_give_the_records(shape: Any, records_per_message: Literal["many", 1]) -> None:
    """A collection or a single record, from boto3 or from Lambda, reads the same."""
    message = packed([b'[1, "\xc3\xa9"]'], records_per_message=records_per_message)[0]
    received = read(shape(message))
    assert received == Received(
        message.id, [[1, "é"]], "20261123T062745.000001.json", "0", "handle-0", CLAIM
    )


def test_a_message_of_an_earlier_version_names_no_claim() -> None:
    """What lay in the queue before an upgrade is read as it was."""
    message = as_boto3(packed([b"1"])[0])
    del message["MessageAttributes"]["penstock_claim"]
    assert read(message).claim == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"MessageAttributes": {}}, 'received without MessageAttributeNames=\\["All"\\]'),
        ({"Body": '[{"n":0}'}, "not JSON"),
        ({"Body": "[]"}, "holds 0 records, but says 2"),
        ({"Body": "7"}, "not an array"),
        ({"MessageId": None}, "no MessageId"),
    ],
)
def test_what_is_not_whole_is_rejected(change: dict[str, Any], reason: str) -> None:
    """A message that cannot be Penstock's, or not all of it, is refused with the reason."""
    message = as_boto3(packed(numbered(2), records_per_message="many")[0])
    with pytest.raises(Reject, match=reason):
        read(message | change)


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 5_000, "-" + "9" * 5_000])
def test_a_number_beyond_int_and_float_is_a_decimal(number: str) -> None:
    """Penstock sends it as it is spelled; it does not take its neighbours to the dead letters."""
    body = f'{{"n":{number}}}'.encode()
    message = packed([b'{"n":1.5}', body, b'{"n":1}'], records_per_message="many")[0]
    first, second, third = read(as_boto3(message)).records
    assert (first, second, third) == ({"n": 1.5}, {"n": Decimal(number)}, {"n": 1})
    assert [type(record["n"]) for record in (first, second, third)] == [float, Decimal, int]


def test_a_number_beyond_decimal_is_infinite() -> None:
    """Its neighbours keep their types, large integers too."""
    large = int("7" * 400)
    message = packed([b"-1e%d" % 10**20, b"%d" % large], records_per_message="many")[0]
    assert read(as_boto3(message)).records == [-math.inf, large]


def same(found: Any, spelled: Any) -> bool:
    """Tell whether a value is that of JSON whose numbers were read as Decimals, exactly."""
    if isinstance(spelled, Decimal):
        near = float(spelled) if isinstance(found, float) else spelled
        return type(found) in (int, float, Decimal) and found == near
    if isinstance(spelled, dict):
        members: dict[str, Any] = spelled  # type: ignore[assignment]
        return list(found) == list(members) and all(same(found[key], members[key]) for key in found)
    if isinstance(spelled, list):
        items: list[Any] = spelled  # type: ignore[assignment]
        return len(found) == len(items) and all(map(same, found, items))
    return type(found) is type(spelled) and found == spelled


def check_read(random: Random) -> None:
    """Assert that the consumer has each record that the loader selected, by value."""
    fields = random.choice(["@", "a", "{x: a, y: b.c}", "[@, a]", expression_text(random)])
    texts = [record_text(random) for _ in range(random.randrange(1, 8))]
    if random.random() < 0.3:
        digits = "7" * random.choice([300, 4_000, 5_000])
        texts.append(f'{{"a":[{digits},1e400]}}')
    selection = Selection(fields)
    data = Preamble().strip(f"[{','.join(texts)}]".encode())
    selected = selection.select(Decoder(selection.record_type).decode(data))
    for many in (1, "many"):
        messages = packed(selected.records, records_per_message=many)  # type: ignore[arg-type]
        found = [record for message in messages for record in read(as_boto3(message)).records]
        assert len(found) == len(selected.records)
        for record, body in zip(found, selected.records, strict=True):
            assert same(record, json.loads(body, parse_float=Decimal, parse_int=Decimal))


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_whatever_is_sent_is_read_record_by_record(seed: int) -> None:
    """A law, for every expression and every record."""
    check_read(Random(seed))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(max_examples=scaled(20_000))
@given(seed=st.integers(0, 2**32))
def test_whatever_is_sent_is_read_in_20_000_examples(seed: int) -> None:
    """The same, at length."""
    check_read(Random(seed))


def test_a_record_as_deep_as_the_loader_takes_is_read() -> None:
    """Also by a consumer that is itself deep in calls."""
    depth = 900
    text = b'{"a":' * depth + b"1" + b"}" * depth
    assert Decoder(msgspec.Raw).decode(text).records
    message = as_boto3(packed([text, b"2"], records_per_message="many")[0])

    def deep(calls: int) -> Received:
        return deep(calls - 1) if calls else read(message)

    record, other = deep(100).records
    for _ in range(depth):
        record = record["a"]
    assert (record, other) == (1, 2)


def test_an_unknown_content_type_is_rejected() -> None:
    """A later version's form is not guessed at."""
    message = as_boto3(packed([b"1"])[0])
    message["MessageAttributes"]["content_type"]["StringValue"] = "application/json"
    with pytest.raises(Reject, match="'application/json' is not known"):
        read(message)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """Give a blocking client of the session's Redis."""
    return redis.Redis.from_url(redis_url)


def deduplicator(client: redis.Redis, **settings: Any) -> Deduplicator:
    """Return a deduplicator with keys of its own."""
    return Deduplicator(client, prefix=f"test:{uuid.uuid4()}:", **settings)


@pytest.mark.parametrize("decode", [False, True])
def test_a_message_is_handled_once(redis_url: str, *, decode: bool) -> None:
    """The second copy is skipped, with clients that decode and with those that do not."""
    done = deduplicator(redis.Redis.from_url(redis_url, decode_responses=decode))
    seen: list[bool] = []
    for _ in range(3):
        with done.handling("m") as is_new:
            seen.append(is_new)
    assert seen == [True, False, False]


def test_a_message_in_progress_is_left_to_its_handler(client: redis.Redis) -> None:
    """A copy that comes meanwhile raises Again, and disturbs neither."""
    done = deduplicator(client)
    with done.handling("m") as first:
        assert first
        with pytest.raises(Again), done.handling("m"):
            pytest.fail("handled twice")
    with done.handling("m") as again:
        assert not again


def test_a_failure_frees_the_message_at_once(client: redis.Redis) -> None:
    """What its handler raised comes out, and the next try is new."""
    done = deduplicator(client)
    with pytest.raises(ZeroDivisionError), done.handling("m"):
        raise ZeroDivisionError
    with done.handling("m") as is_new:
        assert is_new


def test_a_late_failure_does_not_free_anothers_message(client: redis.Redis) -> None:
    """Who was overtaken cannot give away what the other holds."""
    done = deduplicator(client)

    def overtaken() -> None:
        client.set(f"{done._prefix}m", "another")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), done.handling("m"):
        overtaken()
    assert client.get(f"{done._prefix}m") == b"another"


def test_an_overlap_is_logged(client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A handler slower than its mark lasts says so: its message may have been handled twice."""
    done = deduplicator(client)
    with done.handling("m"):
        client.delete(f"{done._prefix}m")
    assert [record.message for record in caplog.records] == ["consumer.overlap"]


class Resending(redis.Redis):
    """Sends each command twice, as redis-py does when the reply to the first is lost."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Return the second reply."""
        replies: list[Any] = [redis.Redis.execute_command(self, *args, **options) for _ in range(2)]
        return replies[1]


def test_lost_replies_change_nothing(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What reaches Redis twice takes a message once, frees it, and is no overlap."""
    done = deduplicator(Resending.from_url(redis_url))
    with pytest.raises(ZeroDivisionError), done.handling("m"):
        raise ZeroDivisionError
    seen: list[bool] = []
    for _ in range(2):
        with done.handling("m") as is_new:
            seen.append(is_new)
    assert seen == [True, False]
    assert not caplog.records


def test_marks_and_memories_expire(client: redis.Redis) -> None:
    """A dead handler's mark lasts in_progress_seconds, a done message done_seconds."""
    done = deduplicator(client, in_progress_seconds=7, done_seconds=70)
    with done.handling("m"):
        assert client.ttl(f"{done._prefix}m") in (6, 7)
    assert client.ttl(f"{done._prefix}m") in (69, 70)


def test_a_failed_message_alone_stays_in_the_queue(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The response names it; the others are done, and skipped when they come again."""
    messages = packed(numbered(5))
    handled: list[str] = []

    def handle(message: Received) -> None:
        if message.sqs_id == "2" and len(handled) == 2:
            raise ValueError(message.records)
        handled.append(message.sqs_id)

    done = deduplicator(client)
    response = handle_event(event(messages), handle, deduplicator=done)
    assert response == {"batchItemFailures": [{"itemIdentifier": "2"}]}
    assert handle_event(event(messages), handle, deduplicator=done) == {"batchItemFailures": []}
    assert handled == ["0", "1", "3", "4", "2"]
    fields = [vars(record)["fields"] for record in caplog.records]
    assert fields == [{"message": "2", "cause": "ValueError"}]


def test_on_fifo_everything_after_a_failure_stays() -> None:
    """The order is kept: what follows a failed message is not handled before it."""
    handled: list[str] = []

    def handle(message: Received) -> None:
        if message.sqs_id == "1":
            raise ValueError
        handled.append(message.sqs_id)

    response = handle_event(event(packed(numbered(4)), "q.fifo"), handle)
    assert [item["itemIdentifier"] for item in response["batchItemFailures"]] == ["1", "2", "3"]
    assert handled == ["0"]


def test_a_message_that_is_not_ours_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It stays, for the dead-letter queue; its neighbour is handled."""
    caplog.set_level(logging.WARNING)
    batch = event(packed(numbered(2)))
    batch["Records"][0]["messageAttributes"] = {}
    handled: list[str] = []
    response = handle_event(batch, lambda message: handled.append(message.sqs_id))
    assert response == {"batchItemFailures": [{"itemIdentifier": "0"}]}
    assert handled == ["1"]
    assert "no attribute penstock_id" in str(vars(caplog.records[0])["fields"])


def examples() -> list[str]:
    """Return the Python examples of the document."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_lambda_example_works(redis_url: str) -> None:
    """The document's handler stores each record once, also when the event comes twice."""
    stored: list[Any] = []
    names: dict[str, Any] = {"REDIS_URL": redis_url, "store": stored.append}
    exec(examples()[0], names)  # noqa: S102 - our own document
    messages = packed([b'{"x":"%s"}' % uuid.uuid4().hex.encode(), b"2", b"3"])
    for _ in range(2):
        assert names["lambda_handler"](event(messages), None) == {"batchItemFailures": []}
    assert len(stored) == 3


@pytest.mark.usefixtures("aws")
def test_the_boto3_example_works(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's loop stores each record of a queue once, and empties the queue."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    message = packed([b'"%s"' % uuid.uuid4().hex.encode(), b"2"], records_per_message="many")[0]
    stored: list[Any] = []
    with threaded(SqsStub()) as stub:
        queue = stub.model.create("q")
        send = {"QueueUrl": queue.url, "MessageBody": message.body.decode()}
        send["MessageAttributes"] = as_boto3(message)["MessageAttributes"]
        for _ in range(2):  # a reply was lost: the message is there twice
            stub.model.call("SendMessage", send)
        names: dict[str, Any] = {
            "REDIS_URL": redis_url,
            "ENDPOINT_URL": stub.url,
            "QUEUE_URL": queue.url,
            "WAIT_SECONDS": 0,
            "store": stored.append,
        }
        exec(examples()[1], names)  # noqa: S102 - our own document
        names["consume"]()
        assert queue.messages() == []
    assert len(stored) == 2
