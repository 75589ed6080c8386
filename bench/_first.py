"""The first script: what a user would write. json, boto3, ten at a time, a set of names in Redis.

python bench/_first.py           the plan on standard input (_plan.py)
"""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import boto3
import redis
from _plan import Plan, main
from _workloads import FIELDS


def reader(plan: Plan) -> Callable[[str], str]:
    """Return what reads one file."""
    if plan.source == "directory":
        return lambda name: Path(plan.spool, name).read_text()
    connection = http.client.HTTPConnection(urlsplit(plan.address).netloc)
    path = "/v1/files/" if plan.source == "server" else "/spool/"

    def get(name: str) -> str:
        headers = {"Authorization": f"Bearer {plan.token}"}
        connection.request("GET", path + quote(name, safe=":"), headers=headers)
        return connection.getresponse().read().decode()

    return get


def run(plan: Plan) -> None:
    """Send each file that is not in the set, record by record, in tens."""
    endpoint_url = plan.queue_url.rpartition("/0")[0]
    client = cast("Any", boto3).client("sqs", endpoint_url=endpoint_url)
    store: Any = redis.Redis.from_url(plan.redis_url)
    read = reader(plan)
    entries: list[dict[str, str]] = []

    def send() -> None:
        reply = client.send_message_batch(QueueUrl=plan.queue_url, Entries=entries)
        if "Failed" in reply:
            raise SystemExit("not all was sent")
        entries.clear()

    for name in plan.names:
        if not store.sadd("first:processed", name):
            continue
        text = read(name)
        found: Any = json.loads(text[text.index("\n") + 1 :])
        records: list[dict[str, Any]] = [found] if plan.records == 1 else found
        for record in records:
            body = json.dumps({field: record[field] for field in FIELDS})
            entry = {"Id": str(len(entries)), "MessageBody": body}
            if plan.queue_url.endswith(".fifo"):
                entry |= {"MessageGroupId": "first", "MessageDeduplicationId": str(record["id"])}
            entries.append(entry)
            if len(entries) == 10:
                send()
    if entries:
        send()


if __name__ == "__main__":
    main(run)
