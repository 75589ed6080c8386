"""Storms: whatever goes wrong with whichever call, nothing is lost and every repeat explained."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.model import Message
from penstock.sqs.queue import SqsQueue
from support.campaign import SCALE
from support.messages import numbered, packed
from support.sender import Clock, Sender, once
from support.sqs_stub import Fault, SqsStub

# Those after which sending goes on; wrong_md5 once is survived, thrice for one message is not.
TAKEN = ["reset_after", "missing_id", "nonsense"]
NOT_TAKEN = ["throttle", "kms_throttle", "reset_before", "fail_receiver", "fail_sender"]

faults = st.lists(
    st.none()
    | st.builds(
        Fault,
        st.sampled_from(TAKEN + NOT_TAKEN),
        entries=st.lists(st.integers(0, 9), unique=True, max_size=4).map(tuple),
    ),
    max_size=40,
)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("queue", ["q", "q.fifo"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=faults, count=st.integers(1, 45), connections=st.integers(1, 16))
def test_no_script_of_faults_loses_a_message(
    queue: str, script: list[Fault | None], count: int, connections: int
) -> None:
    """Each message ends confirmed and in the queue, or rejected and not; repeats are counted."""

    async def play() -> None:
        clock = Clock()
        async with SqsStub(clock=clock, sleep=clock.sleep) as stub:
            sender = Sender(stub, clock)
            await sender.open(queue, connections=connections)
            stub.script(*script)
            messages = packed(numbered(count))
            sent = await sender.send(messages)
            await sender.queue.close()
        copies = sender.copies(queue)
        rejected = {reject.message.id for reject in sent.rejected}
        assert once(sent.confirmed) == once(sender.confirmed)
        assert once(sent.confirmed) + Counter(rejected) == once(messages)
        assert copies.keys() >= once(sent.confirmed).keys()
        repeats = sum((copies - once(messages)).values())
        assert repeats <= (0 if queue == "q.fifo" else sent.possible_repeats)
        # Only a message that was taken unheard can be there although it was rejected later.
        assert len(copies.keys() & rejected) <= len(stub.unheard) + stub.fired["missing_id"] * 4

    asyncio.run(play())


RATES = {"throttle": 0.02, "reset_after": 0.005, "fail_receiver": 0.005}
SECONDS = 60 * min(1.0, SCALE)
LATENCY_SECONDS = 0.02
LANES = 4
CLAIM_MESSAGES = 500


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("name", ["q", "q.fifo"])
async def test_a_minute_of_storm(name: str, record_property: Callable[[str, object], None]) -> None:
    """A minute at 20 ms latency, 2 % throttles, 0.5 % lost replies, 0.5 % partial failures.

    Lost 0; on a standard queue exactly the messages whose receipt was lost are there twice, on
    FIFO none.
    """
    async with SqsStub(latency_seconds=LATENCY_SECONDS, seed=5) as stub:
        stub.rates = RATES
        queue = SqsQueue(stub.model.create(name).url, region="us-east-1", connections=16)
        await queue.open()
        told: Counter[str] = Counter()
        counted: Counter[str] = Counter()
        until = time.monotonic() + SECONDS

        async def confirmed(messages: Sequence[Message]) -> None:
            told.update(message.id for message in messages)

        async def lane(number: int) -> None:
            claims = 0
            while time.monotonic() < until:
                names = [f"{number}-{claims}.json"]
                messages = packed(numbered(CLAIM_MESSAGES, 200), names=names)
                sent = await queue.send(
                    messages, group=names[0], deadline=lambda: math.inf, confirmed=confirmed
                )
                assert once(sent.confirmed) == once(messages)
                counted.update(
                    messages=len(messages),
                    possible_repeats=sent.possible_repeats,
                    throttled=sent.throttled,
                    batches=sent.batches,
                )
                claims += 1

        await asyncio.gather(*[lane(number) for number in range(LANES)])
        await queue.close()
    copies = Counter(
        stored.attributes["penstock_id"]["StringValue"]
        for stored in stub.model.queues[name].messages()
    )
    repeats = copies.total() - len(copies)
    told_of = f"{counted['messages']:,} messages, lost {len(told.keys() - copies.keys())}"
    fired = ", ".join(f"{fault} {stub.fired[fault]:,}" for fault in RATES)
    record_property("campaign", f"storm, {name}: {told_of}, repeated {repeats}; fired: {fired}")
    assert all(stub.fired[fault] > 0 for fault in RATES)
    assert copies.keys() == told.keys()
    assert told.total() == len(told) == counted["messages"]
    assert counted["throttled"] == stub.fired["throttle"]
    assert repeats == (0 if name == "q.fifo" else len(stub.unheard))
    assert counted["possible_repeats"] == repeats
