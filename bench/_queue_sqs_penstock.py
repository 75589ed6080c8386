"""A client of queue_sqs.py: Penstock's own sender."""

import asyncio
import math
from collections.abc import Sequence

from _queue_sqs_client import CONNECTIONS, Count, main, messages_of

from penstock.model import Message
from penstock.sqs.queue import SqsQueue

LANES = 4


async def penstock(url: str, workload: str, count: Count) -> None:
    """Send claims with Penstock's own sender."""
    queue = SqsQueue(url, connections=CONNECTIONS)
    await queue.open()
    messages = messages_of(workload)

    async def confirmed(_: Sequence[Message]) -> None:
        pass

    async def lane() -> None:
        while not count.over():
            sent = await queue.send(
                messages, group="g", deadline=lambda: math.inf, confirmed=confirmed
            )
            count.messages += len(sent.confirmed)
            count.calls += sent.batches

    await asyncio.gather(*[lane() for _ in range(LANES)])
    await queue.close()


if __name__ == "__main__":
    main(penstock)
