"""A client of queue_sqs.py: our connections and a signature, nothing checked: none is faster."""

import hashlib
import hmac
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from _queue_sqs_client import Count, entries_of, from_tasks, main, messages_of
from yarl import URL

from penstock.http1 import Http1Client

Send = Callable[[Sequence[Mapping[str, Any]]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def sender(url: str) -> AsyncGenerator[Send]:
    """Give what posts a batch of entries to the queue at `url`, with nothing but a signature."""
    key = b"AWS4bench"
    day = datetime.now(UTC).strftime("%Y%m%d")
    for part in (day, "us-east-1", "sqs", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    endpoint = url.rpartition("/0")[0] + "/"
    host = endpoint.split("/")[2]
    names = "content-type;host;x-amz-date;x-amz-target"
    encode = msgspec.json.Encoder().encode

    client = Http1Client(URL(endpoint), tls=None, timeout_seconds=60)

    async def send(batch: Sequence[Mapping[str, Any]]) -> None:
        body = encode({"QueueUrl": url, "Entries": batch})
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "host": host,
            "x-amz-date": stamp,
            "x-amz-target": "AmazonSQS.SendMessageBatch",
        }
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/us-east-1/sqs/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential=bench/{scope}, SignedHeaders={names}, "
            f"Signature={signature}"
        )
        await client.post(headers, body)

    yield send
    client.close()


async def floor(url: str, workload: str, count: Count) -> None:
    """Send the same batches again and again."""
    async with sender(url) as send:
        await from_tasks(count, entries_of(messages_of(workload)), send)


if __name__ == "__main__":
    main(floor)
