"""How fast is the sender? Four clients, one after the other, the same messages, the same sink.

    python bench/queue_sqs.py [--seconds 3] [--rounds 2] [--latency 0]
        [--aiobotocore-python PATH]

penstock     SqsQueue.send from four lanes
boto3        send_message_batch from 16 threads, its retries off
aiobotocore  the same from 16 tasks; it pins botocore to a narrow range, so it may need an
             interpreter of its own, with aiobotocore, aiohttp, msgspec and uvloop
floor        our connections and a signature with a cached key: no MD5, no reply looked at

All use 16 connections. The sink is the tests' SQS stub in a process of its own, which counts and
forgets. The clients take turns, so that a busy machine hits them all. Prints messages/s and the
client's CPU a call, then what a new process pays until its first call is answered.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from _queue_sqs_client import WORKLOADS

HERE = Path(__file__).parent
CLIENTS = ("penstock", "boto3", "aiobotocore", "floor")
AWS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "PYTHONPATH": str(HERE.parent / "src"),
}
READY = {
    "penstock": (
        "import asyncio; from penstock.sqs.queue import SqsQueue; "
        "q = SqsQueue({url!r}); asyncio.run(q.open())"
    ),
    "boto3": (
        "import boto3; c = boto3.client('sqs', endpoint_url={url!r}); "
        "c.get_queue_attributes(QueueUrl={url!r}, AttributeNames=['All'])"
    ),
}


def ready_seconds(name: str, url: str) -> float:
    """Return CPU seconds a new process pays for its first call, imports included; best of five."""
    code = READY[name].format(url=url) + "; import time; print(time.process_time())"
    environment = {**os.environ, **AWS}
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment, capture_output=True, check=True, text=True,
        ).stdout
        for _ in range(5)
    ]  # fmt: skip
    return min(map(float, runs))


def run(python: str, name: str, url: str, workload: str, seconds: float) -> dict[str, float] | str:
    """Let one client work for so long; return what it did, or why it could not."""
    done = subprocess.run(
        [python, str(HERE / f"_queue_sqs_{name}.py"), url, workload, str(seconds)],
        env={**os.environ, **AWS},
        capture_output=True,
        check=False,
        text=True,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else json.loads(done.stdout)


def measure(url: str, python: dict[str, str], seconds: float, rounds: int) -> None:
    """Print one table a workload, the best of the rounds; `python` is each client's interpreter."""
    for workload in WORKLOADS:
        best: dict[str, dict[str, float]] = {}
        failed: set[str] = set()
        print(f"\n{workload:<24}{'messages/s':>12}{'calls/s':>10}{'CPU ms/call':>13}")
        for name in CLIENTS * rounds:
            got = run(python[name], name, url, workload, seconds)
            if isinstance(got, str):
                if name not in failed:
                    print(f"  {name:<22}{got}")
                failed.add(name)
                continue
            so_far = best.setdefault(name, got)
            cpu = min(got["cpu_ms_per_call"], so_far["cpu_ms_per_call"])
            best[name] = max(got, so_far, key=lambda one: one["messages_per_second"])
            best[name]["cpu_ms_per_call"] = cpu
        for name, got in best.items():
            print(
                f"  {name:<22}{got['messages_per_second']:>12,}{got['calls_per_second']:>10,}"
                f"{got['cpu_ms_per_call']:>13}"
            )


def main() -> None:
    """Start the sink, run all clients against it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=2, help="the best of them counts")
    parser.add_argument("--latency", type=float, default=0.0, help="of the sink, in seconds")
    parser.add_argument("--aiobotocore-python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    python = dict.fromkeys(CLIENTS, sys.executable) | {"aiobotocore": options.aiobotocore_python}
    sink = [sys.executable, "-m", "support.sqs_stub", "--discard", "--queue", "q"]
    sink += ["--latency", str(options.latency)]
    with subprocess.Popen(sink, cwd=HERE.parent / "tests", stdout=subprocess.PIPE, text=True) as it:
        try:
            address = it.stdout.readline().strip() if it.stdout else ""
            url = f"{address}/000000000000/q"
            measure(url, python, options.seconds, options.rounds)
            print("\nuntil the first call is answered, CPU seconds of a new process (best of 5)")
            for name in READY:
                print(f"  {name:<22}{ready_seconds(name, url):>12.3f}")
        finally:
            it.kill()


if __name__ == "__main__":
    main()
