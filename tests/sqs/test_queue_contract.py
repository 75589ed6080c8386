"""One suite of the sender over three servers, and where the two emulators depart from AWS.

The stub answers as AWS does (test_queue_cases.py). What an emulator does otherwise stands in
DEPARTURES: a check named there must fail on that server.
"""

import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import boto3
import pytest
from botocore.exceptions import ClientError

from penstock.embedded.sqs import EmbeddedSqs
from penstock.errors import Halt
from penstock.model import Keys, Message, QueueLimits, Sent
from penstock.sqs.queue import SqsQueue
from support.messages import LIMITS, attributes_of, numbered, packed
from support.require import require_ministack
from support.sqs_stub import SqsStub
from support.threaded import threaded

pytestmark = pytest.mark.both

SERVERS = ("stub", "ministack", "moto")
LIMIT = 1_048_576

DEPARTURES = {
    "attribute sizes count": {
        "ministack": "counts bodies only",
        "moto": "counts bodies only",
    },
    "a size is in bytes": {
        "moto": "counts characters, so takes twice as much é",
    },
    "one bad entry fails alone": {
        "moto": "refuses the whole batch",
    },
    "invalid characters are refused": {
        "moto": "takes them",
    },
    "FIFO drops the repeat of a deleted message": {
        "moto": "takes it again",
    },
    "FIFO without a group fails the batch": {
        "ministack": "fails the entry alone",
    },
}


class Server(NamedTuple):
    """A running server, its address, and a client that is not ours."""

    name: str
    endpoint_url: str
    boto: Any
    keys: Keys | None = None


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Start each server once."""
    name = str(request.param)
    if name == "stub":
        with threaded(SqsStub()) as stub:
            yield _server(name, stub.url)
    elif name == "ministack":
        require_ministack()
        with threaded(EmbeddedSqs(tmp_path_factory.mktemp("ministack"))) as ministack:
            yield _server(name, ministack.address, ministack.keys)
    else:
        moto = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        yield _server(name, f"http://{host}:{port}")
        moto.stop()


def _server(name: str, endpoint_url: str, keys: Keys | None = None) -> Server:
    client: Any = boto3.client(  # pyright: ignore[reportUnknownVariableType]
        "sqs",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - no secret
        aws_session_token=keys.token if keys else None,
    )
    return Server(name, endpoint_url, client, keys)


_numbers = itertools.count()


class Opened(NamedTuple):
    """A sender to a new queue at a server."""

    server: Server
    url: str
    queue: SqsQueue
    limits: QueueLimits

    async def send(self, messages: Sequence[Message]) -> Sent:
        """Send with nothing in the way."""

        async def confirmed(_: Sequence[Message]) -> None:
            pass

        return await self.queue.send(
            messages, group="g", deadline=lambda: math.inf, confirmed=confirmed
        )

    def received(self) -> dict[str, list[Any]]:
        """Receive and delete all that is in the queue with boto3, by penstock_id."""
        found: dict[str, list[Any]] = {}
        while messages := self.server.boto.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            for message in messages:
                identity = message["MessageAttributes"]["penstock_id"]["StringValue"]
                found.setdefault(identity, []).append(message)
                self.server.boto.delete_message(
                    QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"]
                )
        return found


Open = Callable[..., Awaitable[Opened]]


@pytest.fixture
async def opened(server: Server, aws: None) -> AsyncIterator[Open]:
    """Give a function that makes a queue and opens a sender to it."""
    assert aws is None
    queues: list[SqsQueue] = []

    async def open_queue(*, fifo: bool = False, **attributes: str) -> Opened:
        name = f"q{next(_numbers)}" + (".fifo" if fifo else "")
        if fifo:
            attributes["FifoQueue"] = "true"
        url = server.boto.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        queue = SqsQueue(
            url, endpoint_url=server.endpoint_url, region="us-east-1", keys=server.keys
        )
        queues.append(queue)
        return Opened(server, url, queue, await queue.open())

    yield open_queue
    for queue in queues:
        await queue.close()


@pytest.fixture
def departs(server: Server) -> Callable[[str, bool], None]:
    """Give the check of a law that holds on AWS: where a departure is listed, it must fail."""

    def check(law: str, holds: bool) -> None:  # noqa: FBT001 - the one thing it is about
        assert holds == (server.name not in DEPARTURES[law]), law

    return check


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
async def test_what_is_sent_is_received(opened: Open, *, fifo: bool) -> None:
    """Bodies and attributes arrive unchanged, once, at a client that is not ours."""
    at = await opened(fifo=fifo)
    assert at.limits == QueueLimits(message_bytes_max=LIMIT, fifo=fifo)
    records = [*numbered(24), '{"t":"é😀\\u0001\\n"}'.encode()]
    messages = packed(records)
    sent = await at.send(messages)
    assert (len(sent.confirmed), sent.batches, sent.possible_repeats) == (25, 3, 0)
    received = at.received()
    assert received.keys() == {message.id for message in messages}
    for message in messages:
        (copy,) = received[message.id]
        assert copy["Body"].encode() == message.body
        values = {k: v["StringValue"] for k, v in copy["MessageAttributes"].items()}
        assert values == attributes_of(message)


async def test_the_largest_messages_and_batches_are_taken(opened: Open) -> None:
    """Messages of exactly 1 MiB, and a batch of ten of exactly that together, need no retry."""
    at = await opened()
    overhead = packed([b"1"])[0].size_bytes - 1
    large = packed([b"a" * (LIMIT - overhead)])
    tenth = packed([b"a" * (LIMIT // 10 - overhead)] * 9 + [b"a" * (LIMIT // 10 + 6 - overhead)])
    assert sum(message.size_bytes for message in tenth) == LIMIT
    for messages in (large, tenth):
        sent = await at.send(messages)
        assert (len(sent.confirmed), sent.batches) == (len(messages), 1)


async def test_a_claim_in_collections_is_received_record_by_record(opened: Open) -> None:
    """4,000 records in messages of up to 1 MiB arrive, each once."""
    at = await opened()
    records = numbered(4_000, 1_000)
    messages = packed(records, records_per_message="many", limits=at.limits)
    await at.send(messages)
    bodies = [copy["Body"] for copies in at.received().values() for copy in copies]
    elements = [element for body in bodies for element in body[1:-1].split("},")]
    assert len(elements) == len(records)


async def test_a_lower_limit_is_read_and_kept(opened: Open) -> None:
    """MaximumMessageSize bounds the messages that are made; a larger one is rejected alone."""
    at = await opened(MaximumMessageSize="1024")
    assert at.limits.message_bytes_max == 1_024
    messages = packed([*numbered(2), b"a" * 1_025, *numbered(2)])
    sent = await at.send(messages)
    assert [reject.message.index for reject in sent.rejected] == [2]
    assert len(at.received()) == 4


async def test_a_queue_that_is_gone_halts(opened: Open) -> None:
    """A deleted queue stops the sender, on every server."""
    at = await opened()
    at.server.boto.delete_queue(QueueUrl=at.url)
    with pytest.raises(Halt, match="QueueDoesNotExist"):
        await at.send(packed(numbered(2)))


async def test_fifo_drops_repeats(opened: Open, departs: Callable[[str, bool], None]) -> None:
    """The same messages sent by a successor of the claim are there once, even after deletion."""
    at = await opened(fifo=True)
    messages = packed(numbered(12))
    await at.send(messages)
    assert len((await at.send(messages)).confirmed) == 12
    copies = [len(copies) for copies in at.received().values()]
    assert copies == [1] * 12
    await at.send(messages)
    departs("FIFO drops the repeat of a deleted message", not at.received())


async def test_attribute_sizes_count(opened: Open, departs: Callable[[str, bool], None]) -> None:
    """A batch one byte over the limit, by its attributes, is refused as too long."""
    at = await opened()
    attributes = {"k": {"DataType": "String", "StringValue": "x"}}
    first = {"Id": "0", "MessageBody": "a" * (LIMIT - 8), "MessageAttributes": attributes}
    code = _send_raw(at, [first, {"Id": "1", "MessageBody": "b"}])
    departs("attribute sizes count", code.endswith("BatchRequestTooLong"))


async def test_a_size_is_in_bytes(opened: Open, departs: Callable[[str, bool], None]) -> None:
    """Half a million é are a million bytes: too many."""
    at = await opened()
    departs("a size is in bytes", _send_raw(at, [{"Id": "0", "MessageBody": "é" * 524_289}]) != "")


async def test_one_bad_entry_fails_alone(
    opened: Open, departs: Callable[[str, bool], None]
) -> None:
    """An entry over the queue's own limit does not keep its neighbour out."""
    at = await opened(MaximumMessageSize="1024")
    code = _send_raw(at, [{"Id": "0", "MessageBody": "a"}, {"Id": "1", "MessageBody": "b" * 1_025}])
    departs("one bad entry fails alone", code == "1: InvalidParameterValue")


async def test_invalid_characters(opened: Open, departs: Callable[[str, bool], None]) -> None:
    """A control character, raw in a body, is refused; the sender rejects that message alone."""
    at = await opened()
    sent = await at.send(packed([b"1", b'"\x01"', b"3"]))
    departs("invalid characters are refused", len(sent.rejected) == 1)


async def test_fifo_without_a_group(opened: Open, departs: Callable[[str, bool], None]) -> None:
    """An entry without a group fails the whole batch, which the sender never makes."""
    at = await opened(fifo=True)
    entries = [
        {"Id": "0", "MessageBody": "a", "MessageDeduplicationId": "0", "MessageGroupId": "g"},
        {"Id": "1", "MessageBody": "a", "MessageDeduplicationId": "1"},
    ]
    code = _send_raw(at, entries)
    departs("FIFO without a group fails the batch", bool(code) and not code.startswith("1: "))


def _send_raw(at: Opened, entries: list[dict[str, Any]]) -> str:
    """Send a batch with boto3; return the call's error code, or ID: CODE of what failed, or ''."""
    try:
        reply = at.server.boto.send_message_batch(QueueUrl=at.url, Entries=entries)
    except ClientError as error:
        return cast("str", error.response["Error"]["Code"])
    return ", ".join(f"{failed['Id']}: {failed['Code']}" for failed in reply.get("Failed", []))


def test_limits_are_the_services() -> None:
    """The limits the tests assume are the product's."""
    assert QueueLimits(message_bytes_max=LIMIT) == LIMITS
