"""The stub itself: a client that is not ours can use it, and its faults are what they say."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from support.sender import Clock
from support.sqs_model import DEDUPLICATION_SECONDS, SqsModel
from support.sqs_stub import FAULTS, Fault, SqsStub
from support.threaded import threaded

ENTRIES = [{"Id": str(n), "MessageBody": f"body {n}"} for n in range(3)]


def client_of(url: str, secret: str = "test") -> Any:  # noqa: S107 - no secret
    """Return a boto3 client that does not retry."""
    return boto3.client(  # pyright: ignore[reportUnknownVariableType]
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=5),
    )


@pytest.fixture
def stub() -> Iterator[SqsStub]:
    """Give a stub with one queue, which checks signatures."""
    with threaded(SqsStub(keys=("test", "test"))) as running:
        running.model.create("q")
        yield running


def test_a_message_lives_as_in_sqs(stub: SqsStub) -> None:
    """Created, sent, received, hidden, made visible, deleted: by boto3."""
    sqs = client_of(stub.url)
    url = sqs.create_queue(QueueName="new")["QueueUrl"]
    assert sqs.get_queue_url(QueueName="new")["QueueUrl"] == url
    sqs.send_message(QueueUrl=url, MessageBody="one")
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert message["Body"] == "one"
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    handle = message["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    (message,) = sqs.receive_message(
        QueueUrl=url, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert stub.model.queues["new"].messages() == []


def test_a_wrong_signature_is_refused(stub: SqsStub) -> None:
    """With another secret, nothing is taken."""
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client_of(stub.url, "wrong").list_queues()


TAKEN = {"reset_after", "slow", "wrong_md5", "missing_id", "unknown_id", "repeated_id", "nonsense"}
PARTIAL = {"fail_receiver", "fail_sender"}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_does_what_it_says(stub: SqsStub, name: str) -> None:
    """It fires once, counts itself, and takes all, some or nothing of the batch."""
    sqs = client_of(stub.url)
    url = stub.model.queues["q"].url
    stub.script(Fault(name, status=503, seconds=0.01))
    reply: dict[str, Any] = {}
    with contextlib.suppress(ClientError, HTTPClientError):
        reply = sqs.send_message_batch(QueueUrl=url, Entries=ENTRIES)
    assert stub.fired == {name: 1}
    taken = len(stub.model.queues["q"].messages())
    assert taken == (3 if name in TAKEN else 2 if name in PARTIAL else 0)
    if name in PARTIAL:
        (failed,) = reply["Failed"]
        assert failed["SenderFault"] == (name == "fail_sender")
    assert len(sqs.send_message_batch(QueueUrl=url, Entries=ENTRIES)["Successful"]) == 3


@pytest.mark.parametrize("scope", ["queue", "messageGroup"])
def test_fifo_deduplicates_in_its_scope_for_five_minutes(scope: str) -> None:
    """A repeat is answered like the first, also after its deletion; another group is another."""
    clock = Clock()
    model = SqsModel(clock=clock)
    queue = model.create("q.fifo", DeduplicationScope=scope)

    def send(group: str) -> str:
        entry = {"MessageBody": "b", "MessageGroupId": group, "MessageDeduplicationId": "d"}
        return model.call("SendMessage", {"QueueUrl": queue.url, **entry})["MessageId"]

    first = send("g")
    (message,) = model.call("ReceiveMessage", {"QueueUrl": queue.url})["Messages"]
    model.call("DeleteMessage", {"QueueUrl": queue.url, **message})
    clock.now += DEDUPLICATION_SECONDS - 1
    assert send("g") == first
    assert (send("other") == first) == (scope == "queue")
    clock.now += 1
    assert send("g") != first


def test_fifo_holds_a_group_back_while_it_is_handled() -> None:
    """What follows in a group is not handed out before what is in flight is deleted."""
    model = SqsModel()
    queue = model.create("q.fifo")
    for group, number in (("g", 1), ("g", 2), ("h", 3)):
        entry = {"MessageGroupId": group, "MessageDeduplicationId": str(number)}
        model.call("SendMessage", {"QueueUrl": queue.url, "MessageBody": str(number), **entry})

    def receive() -> list[dict[str, Any]]:
        return model.call("ReceiveMessage", {"QueueUrl": queue.url}).get("Messages", [])

    (first,), (third,) = receive(), receive()
    assert (first["Body"], third["Body"], receive()) == ("1", "3", [])
    model.call("DeleteMessage", {"QueueUrl": queue.url, **first})
    assert receive()[0]["Body"] == "2"


def test_as_a_process_it_is_told_over_http() -> None:
    """`python -m support.sqs_stub` prints its address; GET and POST /_stub report and script."""
    command = [sys.executable, "-m", "support.sqs_stub", "--queue", "q", "--keys", "test:test"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            orders = json.dumps({"script": [{"name": "throttle"}]}).encode()
            urllib.request.urlopen(f"{url}/_stub", orders).close()  # noqa: S310 - our own
            sqs = client_of(url)
            queue_url = sqs.get_queue_url(QueueName="q")["QueueUrl"]
            with pytest.raises(ClientError, match="RequestThrottled"):
                sqs.send_message_batch(QueueUrl=queue_url, Entries=ENTRIES)
            sqs.send_message_batch(QueueUrl=queue_url, Entries=ENTRIES)
            with urllib.request.urlopen(f"{url}/_stub") as answer:  # noqa: S310 - our own
                report = json.load(answer)
        finally:
            process.kill()
    assert report["fired"] == {"throttle": 1}
    assert report["queues"]["q"] == {"accepted": 3, "deduplicated": 0, "messages": 3}
