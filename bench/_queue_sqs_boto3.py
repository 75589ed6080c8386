"""A client of queue_sqs.py: boto3 with threads, its retries off."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import boto3
from _queue_sqs_client import CONNECTIONS, Count, entries_of, main, messages_of
from botocore.config import Config


def with_threads(url: str, workload: str, count: Count) -> None:
    """Send batches with boto3 from threads."""
    config = Config(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1})
    client: Any = boto3.client(  # pyright: ignore[reportUnknownVariableType]
        "sqs", endpoint_url=url.rpartition("/0")[0], config=config
    )
    batches = entries_of(messages_of(workload))
    lock = threading.Lock()

    def work(first: int) -> None:
        at = first
        while not count.over():
            batch = batches[at % len(batches)]
            reply = cast("Any", client.send_message_batch(QueueUrl=url, Entries=batch))
            with lock:
                count.messages += len(reply["Successful"])
                count.calls += 1
            at += CONNECTIONS

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(work, range(CONNECTIONS)))


if __name__ == "__main__":
    main(with_threads)
