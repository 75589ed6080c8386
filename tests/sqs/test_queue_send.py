"""The sender against the stub: every message ends somewhere, whatever SQS does."""

import asyncio
from collections.abc import Sequence
from typing import Any

import botocore.session
import pytest
from botocore.retries.standard import ThrottledRetryableChecker

from penstock.errors import Again, Halt
from penstock.model import Message
from penstock.sqs import errors
from penstock.sqs.errors import Kind, kind_of_call, remedy_of
from support.messages import attributes_of, numbered, packed
from support.sender import Clock, Sender, once
from support.sqs_stub import Fault, SqsStub


async def test_every_message_is_confirmed_and_told_once(sender: Sender) -> None:
    """25 messages are three batches; all are in the queue once, and told of."""
    messages = packed(numbered(25))
    sent = await sender.send(messages)
    assert sorted(message.index for message in sent.confirmed) == list(range(25))
    assert once(sender.confirmed) == once(messages) == sender.copies()
    assert (sent.batches, sent.possible_repeats, sent.rejected) == (3, 0, [])


async def test_nothing_to_send_makes_no_call(sender: Sender) -> None:
    """A claim without records is finished without asking SQS."""
    assert (await sender.send([])).batches == 0
    assert sender.stub.calls["SendMessageBatch"] == 0


async def test_bodies_and_attributes_arrive_unchanged(sender: Sender) -> None:
    """What a consumer receives is the packer's body, byte for byte, and its attributes."""
    message = packed(
        [b'{"t":"\xf0\x9f\x98\x80 \\" \\u0000 \xc3\xa9"}'], records_per_message="many"
    )[0]
    await sender.send([message])
    stored = sender.stub.model.queues["q"].messages()[0]
    assert stored.body.encode() == message.body
    assert {k: v["StringValue"] for k, v in stored.attributes.items()} == attributes_of(message)


@pytest.mark.parametrize(
    ("fault", "repeats"),
    [
        (Fault("throttle"), 0),
        (Fault("kms_throttle"), 0),
        (Fault("error", status=500), 1),
        (Fault("page", status=502), 1),
        (Fault("page", status=503), 1),
        (Fault("page", status=504), 1),
        (Fault("reset_before"), 1),
        (Fault("reset_after"), 1),
        (Fault("fail_receiver"), 0),
        (Fault("fail_receiver", entries=(0, 2)), 0),
        (Fault("wrong_md5"), 1),
        (Fault("missing_id"), 1),
        (Fault("nonsense"), 1),
    ],
    ids=str,
)
async def test_a_transient_fault_loses_nothing(sender: Sender, fault: Fault, repeats: int) -> None:
    """Each fault fires; all messages are confirmed; repeats are no more than those counted."""
    messages = packed(numbered(3))
    sender.stub.script(fault)
    sent = await sender.send(messages)
    assert sender.stub.fired[fault.name] == 1
    assert once(sent.confirmed) == once(messages) == once(sender.confirmed)
    copies = sender.copies()
    assert copies.keys() == once(messages).keys()
    assert copies.total() - 3 <= sent.possible_repeats
    assert bool(sent.possible_repeats) == bool(repeats)
    assert sent.throttled == ("throttle" in fault.name)


async def test_a_batch_too_long_is_halved_until_it_fits(sender: Sender) -> None:
    """BatchRequestTooLong is not retried as it is."""
    messages = packed(numbered(4))
    too_long = Fault("error", status=400, code="BatchRequestTooLong")
    sender.stub.script(too_long, too_long)
    sent = await sender.send(messages)
    assert sender.copies() == once(messages)
    assert sent.batches == 5  # 4, 2, 1, 1, 2
    assert sender.clock.pauses == []


async def test_a_refused_entry_is_rejected_alone(sender: Sender) -> None:
    """A poisoned entry is rejected with SQS's words; its neighbours go once."""
    messages = packed(numbered(3))
    sender.stub.script(Fault("fail_sender", entries=(1,)))
    sent = await sender.send(messages)
    assert [reject.message for reject in sent.rejected] == [messages[1]]
    assert "InvalidMessageContents" in sent.rejected[0].reason
    assert sender.copies() == once([messages[0], messages[2]])


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("QueueDoesNotExist", "create the queue"),
        ("AccessDenied", "sqs:SendMessage"),
        ("ExpiredToken", "renew the credentials"),
        ("SignatureDoesNotMatch", "clock"),
        ("InvalidSecurity", "https"),
        ("KmsAccessDenied", "kms:GenerateDataKey"),
    ],
)
async def test_what_no_resend_can_mend_halts(sender: Sender, code: str, remedy: str) -> None:
    """Halt names code and remedy; what was confirmed before was told of; nothing is rejected."""
    messages = packed(numbered(20))
    sender.stub.script(None, Fault("error", status=400, code=code))
    with pytest.raises(Halt, match=f"{code}.*; .*{remedy}"):
        await sender.send(messages)
    assert once(sender.confirmed) == sender.copies()
    assert len(sender.confirmed) == 10


async def test_a_halt_keeps_the_receipts_of_its_own_reply(sender: Sender) -> None:
    """Where one entry's error halts, the others' receipts in the same reply are told of."""
    messages = packed(numbered(3))
    sender.stub.script(Fault("fail_receiver", entries=(1,), code="KmsAccessDenied"))
    with pytest.raises(Halt, match="KmsAccessDenied"):
        await sender.send(messages)
    assert once(sender.confirmed) == once([messages[0], messages[2]]) == sender.copies()


async def test_a_deleted_queue_halts(sender: Sender) -> None:
    """The queue's own answer after its deletion, in its legacy spelling too."""
    del sender.stub.model.queues["q"]
    with pytest.raises(Halt, match="QueueDoesNotExist"):
        await sender.send(packed(numbered(1)))


@pytest.mark.parametrize("fault", ["unknown_id", "repeated_id"])
async def test_a_reply_about_other_entries_proves_nothing(sender: Sender, fault: str) -> None:
    """The claim is kept: nothing is confirmed by a reply that is not ours."""
    sender.stub.script(fault)
    with pytest.raises(Halt, match="entry"):
        await sender.send(packed(numbered(2)))
    assert sender.confirmed == []


async def test_a_server_that_changes_bodies_is_not_fed_for_ever(sender: Sender) -> None:
    """Three wrong MD5s for one message halt: each resend would store another copy."""
    sender.stub.script(*["wrong_md5"] * 10)
    with pytest.raises(Halt, match="changes messages"):
        await sender.send(packed(numbered(1)))
    assert sender.stub.fired["wrong_md5"] == 3


async def test_nothing_is_sent_after_the_lease(sender: Sender) -> None:
    """When `before` has passed, Again is raised, and SQS was not called once more."""
    sender.stub.script(*["throttle"] * 1_000)
    limit = sender.clock() + 30
    with pytest.raises(Again, match="lease"):
        await sender.send(packed(numbered(1)), deadline=lambda: limit)
    calls = sender.stub.calls["SendMessageBatch"]
    assert sender.clock() == pytest.approx(limit)
    with pytest.raises(Again):
        await sender.send(packed(numbered(1)), deadline=lambda: limit)
    assert sender.stub.calls["SendMessageBatch"] == calls


async def test_pauses_double_up_to_five_seconds(sender: Sender) -> None:
    """The upper bound of the jittered pause: 0.1 s, doubled, at most 5 s."""
    sender.stub.script(*["throttle"] * 8)
    await sender.send(packed(numbered(1)))
    assert sender.clock.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_an_error_of_confirmed_is_raised_unchanged(sender: Sender) -> None:
    """What the ledger raises reaches the caller as it is, after the calls in flight."""

    class LostError(Exception):
        """The ledger's own."""

    async def lose(_: Sequence[Message]) -> None:
        raise LostError

    with pytest.raises(LostError):
        await sender.send(packed(numbered(30)), confirmed=lose)


@pytest.mark.parametrize(("queue", "repeats"), [("q", 20), ("q.fifo", 0)])
async def test_receipts_that_cannot_be_noted_are_possible_repeats(
    sender: Sender, queue: str, repeats: int
) -> None:
    """Redis is away just then: the claim's next owner does not know that SQS has them."""
    await sender.queue.close()
    await sender.open(queue)
    noted: list[Message] = []

    async def note(batch: Sequence[Message]) -> None:
        if batch[0].index:
            raise Again("ledger.journal: Redis cannot be reached")
        noted.extend(batch)

    with pytest.raises(Again) as raised:
        await sender.send(packed(numbered(30)), confirmed=note)
    assert (len(noted), raised.value.possible_repeats) == (10, repeats)


async def test_confirmed_is_awaited_before_the_rest_is_sent_again(sender: Sender) -> None:
    """After a partial failure the journal has the receipts before the next call begins."""
    calls_seen: list[int] = []

    async def note(_: Sequence[Message]) -> None:
        calls_seen.append(sender.stub.calls["SendMessageBatch"])

    sender.stub.script("fail_receiver")
    await sender.send(packed(numbered(2)), confirmed=note)
    assert calls_seen == [1, 2]


async def test_fifo_drops_the_repeat_of_a_lost_reply(sender: Sender) -> None:
    """On FIFO a reset after accepting leaves one copy, and is not counted as a repeat."""
    await sender.queue.close()
    await sender.open("q.fifo")
    sender.stub.script("reset_after", "reset_after")
    messages = packed(numbered(5))
    sent = await sender.send(messages)
    assert sender.copies("q.fifo") == once(messages)
    assert sent.possible_repeats == 0
    assert sender.stub.model.queues["q.fifo"].deduplicated == 10
    stored = sender.stub.model.queues["q.fifo"].messages()[0]
    assert (stored.group, stored.deduplication_id) == ("g", messages[0].id)


async def test_fifo_counts_a_resend_past_the_window(sender: Sender) -> None:
    """An unknown outcome resent more than four minutes later is a possible repeat."""
    await sender.queue.close()
    await sender.open("q.fifo")
    sender.stub.script("reset_after", *["throttle"] * 60)
    sent = await sender.send(packed(numbered(1)))
    assert sender.clock() - 1_000 > 240
    assert sent.possible_repeats == 1


async def test_concurrency_halves_when_throttled_and_grows_back(sender: Sender) -> None:
    """A round of throttles halves the calls in flight once, not once each."""
    limiter = sender.queue._limiter
    sender.stub.script(*["throttle"] * 16)
    await sender.send(packed(numbered(160)))
    assert 8 <= limiter.limit < 16
    await sender.send(packed(numbered(2_000)))
    assert limiter.limit == 16


async def test_a_large_claim_keeps_all_connections_busy(sender: Sender) -> None:
    """Batches go out concurrently, as many as there are connections, no more."""
    sender.stub.latency_seconds = 0.02
    await sender.send(packed(numbered(1_000)))
    assert 2 <= sender.stub.in_flight_max <= 16


async def test_large_calls_are_few_at_a_time(sender: Sender) -> None:
    """However many connections there are, the requests of eight large calls are in memory."""
    await sender.queue.close()
    await sender.open(connections=64)
    sender.stub.latency_seconds = 0.05
    await sender.send(packed([b"1" * 200_000] * 200))
    assert 4 < sender.stub.in_flight_max <= 8
    sender.stub.in_flight_max = 0
    await sender.send(packed(numbered(1_000)))
    assert sender.stub.in_flight_max > 8


async def test_a_connection_is_free_when_its_receipts_are_told(sender: Sender) -> None:
    """However slow telling is, SQS has no more untold messages than the connections carry."""
    await sender.queue.close()
    await sender.open(connections=4)
    told, go_on = 0, asyncio.Event()

    async def tell(batch: Sequence[Message]) -> None:
        nonlocal told
        told += len(batch)
        await go_on.wait()

    sending = asyncio.create_task(sender.send(packed(numbered(200)), confirmed=tell))
    while told < 40:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert sender.copies().total() == told == 40
    go_on.set()
    await sending
    assert sender.copies().total() == told == 200


async def test_a_storm_is_reported_every_ten_seconds(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning at once, then one in ten seconds: cause, resends so far, calls in flight."""
    sender.stub.script(*["throttle"] * 11)
    await sender.send(packed(numbered(1)))
    assert sum(sender.clock.pauses) > 30
    lines = [record for record in caplog.records if record.message == "queue.again"]
    assert len(lines) == 3
    fields = vars(lines[-1])["fields"]
    assert "RequestThrottled" in fields["cause"]
    assert fields["resends"] > 5


async def test_fifos_own_rate_limit_costs_only_time(aws: None) -> None:
    """Above 300 calls a second a FIFO queue throttles: everything arrives, once, later."""
    assert aws is None
    clock = Clock()
    async with SqsStub(clock=clock, sleep=clock.sleep, calls_per_second_max=300) as stub:
        sender = Sender(stub, clock)
        await sender.open("q.fifo", connections=64)
        messages = packed(numbered(8_000))
        sent = await sender.send(messages)
        assert stub.fired["throttle_fifo"] == sent.throttled > 0
        assert sender.copies("q.fifo") == once(messages)
        await sender.queue.close()


def test_the_table_knows_what_botocore_knows() -> None:
    """Every error that AWS models for the call, and every throttle botocore knows, has its kind."""
    model: Any = botocore.session.Session().get_service_model("sqs")
    modelled = {str(shape.name) for shape in model.operation_model("SendMessageBatch").error_shapes}
    assert {code for code in modelled if code not in errors._KIND_OF} == set()
    halting = modelled - {"RequestThrottled", "KmsThrottled", "BatchRequestTooLong"}
    assert {kind_of_call(code, 400) for code in halting} == {Kind.HALT}
    throttles = set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES)
    # Of other services: a transaction, provisioned tables, bandwidth, a request order.
    throttles -= {"TransactionInProgressException", "ProvisionedThroughputExceededException"}
    throttles -= {"BandwidthLimitExceeded", "PriorRequestNotComplete"}
    assert {kind_of_call(code, 400) for code in throttles} == {Kind.THROTTLED}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Kind.HALT),
        ("com.amazonaws.sqs#QueueDoesNotExist", 400, Kind.HALT),
        ("KMS.DisabledException", 400, Kind.HALT),
        ("KMS.ThrottlingException", 400, Kind.THROTTLED),
        ("com.amazon.coral.service#ThrottlingException", 400, Kind.THROTTLED),
        ("", 503, Kind.UNKNOWN),
        ("", 429, Kind.THROTTLED),
        ("", 404, Kind.HALT),
        ("SomethingNew", 400, Kind.HALT),
        ("AccessDenied", 403, Kind.HALT),
    ],
)
def test_codes_in_every_spelling(code: str, status: int, kind: Kind) -> None:
    """The shape, the legacy code and a namespace mean the same; what nobody knows halts."""
    assert kind_of_call(code, status) is kind
    assert bool(remedy_of(code)) or kind is not Kind.HALT
