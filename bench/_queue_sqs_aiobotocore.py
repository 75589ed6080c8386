"""A client of queue_sqs.py: aiobotocore, which is not among Penstock's dependencies."""

# pyright: basic, reportMissingImports=false

from _queue_sqs_client import CONNECTIONS, Count, entries_of, from_tasks, main, messages_of
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session


async def with_tasks(url: str, workload: str, count: Count) -> None:
    """Send batches with aiobotocore from tasks."""
    config = AioConfig(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1})
    batches = entries_of(messages_of(workload))
    endpoint = url.rpartition("/0")[0]
    async with get_session().create_client("sqs", endpoint_url=endpoint, config=config) as client:
        await from_tasks(
            count, batches, lambda batch: client.send_message_batch(QueueUrl=url, Entries=batch)
        )


if __name__ == "__main__":
    main(with_tasks)
