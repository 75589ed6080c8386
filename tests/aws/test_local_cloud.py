"""The template on ministack: its schedules fire, its functions drain a spool over HTTP."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import redis.asyncio as redis
from typer.testing import CliRunner

from examples.local_cloud.__main__ import app
from examples.local_cloud.stack import STACK, FunctionRun, LocalCloud, stack_parameters
from support.bundled import built
from support.require import require_ministack, require_redis

NOW, NEVER = "at(2026-01-01T00:00:00)", "at(2099-01-01T00:00:00)"
CONFIG = "[select]\nfields = '{id: id}'\n[worker]\nclaim_files_max = 100\n"
ALL_NEVER = {"LoaderSchedule": NEVER, "ArchiverSchedule": NEVER, "CheckerSchedule": NEVER}


def local(
    directory: Path, parameters: Mapping[str, str] | None = None, config: str = CONFIG
) -> LocalCloud:
    """Return a local cloud whose schedules do nothing, but for what `parameters` say."""
    require_ministack()
    require_redis()
    given = ALL_NEVER | {**(parameters or {})}
    return LocalCloud(directory, Path(built().path), config=config, parameters=given)


def write(cloud: LocalCloud, first: int, count: int) -> None:
    """Write files of one record each, complete at once."""
    draft = cloud.directory / "draft"
    for i in range(first, first + count):
        draft.write_text(f'// file {i}\n[{{"id": {i}, "text": "x"}}]')
        draft.rename(cloud.spool / f"2026-11-23T06-15-{i // 10**6:02d}.{i % 10**6:06d}Z.json")


async def received(cloud: LocalCloud) -> Counter[int]:
    """Receive what is in the stack's queue, and count each id; what was received is deleted."""
    found: Counter[int] = Counter()
    request = {"QueueUrl": cloud.queue_url, "MaxNumberOfMessages": 10}
    while messages := (await cloud.cloud.call("ReceiveMessage", request)).get("Messages"):
        for message in messages:
            body: Any = json.loads(message["Body"])
            records = cast("list[Any]", body if isinstance(body, list) else [body])
            found.update([record["id"] for record in records])
        entries = [
            {"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]}
            for at, message in enumerate(messages)
        ]
        done = {"QueueUrl": cloud.queue_url, "Entries": entries}
        await cloud.cloud.call("DeleteMessageBatch", done)
    return found


async def ran(
    cloud: LocalCloud, enough: Callable[[Sequence[FunctionRun]], bool], seconds: float = 100
) -> list[FunctionRun]:
    """Wait until what the functions have logged is enough."""
    runs: list[FunctionRun] = []
    until = time.monotonic() + seconds
    while not enough(runs):
        assert time.monotonic() < until, f"{runs}\n{cloud.cloud.log.read_text()[-2000:]}"
        runs += await cloud.runs()
        await asyncio.sleep(0.3)
    return runs


def by(function: str, runs: Sequence[FunctionRun]) -> list[FunctionRun]:
    """Return the runs of one function."""
    return [run for run in runs if run.function == function]


async def knock(cloud: LocalCloud) -> None:
    """S3: without the key, nobody else runs code here through Lambda's API, or reads a secret."""
    async with aiohttp.ClientSession() as session:
        for path in ("/2015-03-31/functions", "/?Action=ListQueues", "/_ministack/health", "/"):
            for headers in (None, {"Origin": "http://evil.example"}):
                async with session.post(f"{cloud.cloud.address}{path}", headers=headers) as reply:
                    assert reply.status == 403
                    assert "Access-Control-Allow-Origin" not in reply.headers


async def invoke(cloud: LocalCloud, count: int) -> None:
    """Start so many loaders, as Lambda does for a schedule: without waiting for them."""
    for _ in range(count):
        await cloud.cloud.api(
            "lambda", "invoke", FunctionName=f"{STACK}-sqs_loader", InvocationType="Event"
        )


async def crowd(cloud: LocalCloud) -> None:
    """Fill the loader's log with more lines of earlier times than one answer holds."""
    group = {"logGroupName": f"/aws/lambda/{STACK}-sqs_loader", "logStreamName": "earlier"}
    await cloud.cloud.api("logs", "create_log_stream", **group)
    before_ms = int(time.time() * 1000) - 60_000
    for _ in range(2):
        lines = [{"timestamp": before_ms, "message": '{"step":"claim.committed"}'}] * 6000
        await cloud.cloud.api("logs", "put_log_events", **group, logEvents=lines)


async def update(cloud: LocalCloud, parameters: Mapping[str, str]) -> None:
    """Update the stack with other parameters."""
    described = await cloud.cloud.api("cloudformation", "describe_stacks", StackName=STACK)
    known = {p["ParameterKey"]: p["ParameterValue"] for p in described["Stacks"][0]["Parameters"]}
    await cloud.cloud.api(
        "cloudformation",
        "update_stack",
        StackName=STACK,
        UsePreviousTemplate=True,
        Parameters=stack_parameters(known | dict(parameters)),
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    await cloud._until_stable()


async def count(cloud: LocalCloud, name: str) -> int:
    """Return one counter of the ledger."""
    client: Any = redis.from_url(cloud.redis.address, decode_responses=True)
    async with client:
        return int(await client.hget(f"penstock:{{{cloud.spool_name}}}:counters", name) or 0)


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_the_template_drains_a_spool_by_its_own_schedules(tmp_path: Path) -> None:
    """Each function runs because its schedule says so; nothing is lost, nothing doubled.

    The token of the file server comes from Secrets Manager, the code from the bundle.
    """
    async with local(tmp_path, {"LoaderSchedule": NOW}) as cloud:
        await knock(cloud)
        await crowd(cloud)
        write(cloud, 0, 300)
        loaded = await ran(cloud, lambda runs: len(runs) == 1)
        assert [run.function for run in loaded] == ["sqs_loader"]
        assert loaded[0].error == ""
        assert loaded[0].tally["files_processed"] == 300
        await update(cloud, {"ArchiverSchedule": NOW, "CheckerSchedule": NOW})
        rest = await ran(cloud, lambda runs: len(runs) == 2)
        (archived,) = by("json_files_processed_archiver", rest)
        (checked,) = by("json_files_processing_checker", rest)
        assert archived.tally["files_archived"] == 300
        assert (checked.error, checked.tally["laws_broken"]) == ("", 0)
        assert await received(cloud) == Counter(range(300))
    assert list((tmp_path / "spool").glob("[!.]*")) == []
    assert len(list((tmp_path / "archive").glob("*/*/*/*/*.json"))) == 300


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_a_loader_killed_in_mid_run_is_followed_by_the_next_tick(tmp_path: Path) -> None:
    """Its process is killed with -9 while it sends; the schedule's next run finishes its claims."""
    queue = "[queue]\nrecords_per_message = 1\nconnections = 16\n"
    config = f"{CONFIG}{queue}[ledger]\nlease_seconds = 5\n"
    async with local(tmp_path, {"LoaderSchedule": "rate(1 minute)"}, config) as cloud:
        write(cloud, 0, 20_000)
        while await count(cloud, "messages_submitted") < 500:
            await asyncio.sleep(0.02)
        killed = await kill_loaders(cloud)
        processed = await count(cloud, "files_processed")
        assert processed < 20_000
        assert killed == 1
        runs = await ran(cloud, lambda runs: any(not run.error for run in runs), 200)
        (recovered,) = [run for run in runs if not run.error]
        assert recovered.tally["claims_taken_over"] > 0
        assert recovered.tally["files_processed"] == 20_000 - processed
        found = await received(cloud)
        assert len(found) == 20_000
        repeated = sum(found.values()) - 20_000
        assert repeated <= 16 * 10  # sixteen connections, ten entries each: what was in flight
        print(f"killed after {processed} files; lost 0, repeated {repeated}")  # noqa: T201  seen with -s


async def kill_loaders(cloud: LocalCloud) -> int:
    """Kill the processes in which the loader of this stack runs; return how many."""
    killed = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if str(cloud.directory) in command and f"{STACK}-sqs_loader" in command:
            os.kill(int(directory.name), signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_five_loaders_share_a_spool(tmp_path: Path) -> None:
    """Five overlapping invocations over one spool at full speed: each file once."""
    async with local(tmp_path) as cloud:
        await invoke(cloud, 5)  # five warm processes
        await ran(cloud, lambda runs: len(runs) == 5, 200)
        write(cloud, 0, 30_000)
        await asyncio.sleep(1)  # source.settle_seconds
        await invoke(cloud, 5)
        runs = await ran(cloud, lambda runs: len(runs) == 5, 200)
        shares = [run.tally["files_processed"] for run in runs]
        assert sum(shares) == 30_000
        assert sum(share > 0 for share in shares) >= 2
        assert sum(run.tally["claims_taken_over"] for run in runs) == 0
        assert await received(cloud) == Counter(range(30_000))
        print(f"files of each: {shares}")  # noqa: T201  seen with -s


async def outrun(cloud: LocalCloud, starts: int, seconds: float) -> int:
    """Write faster than the loaders read, until they have started so many; return how many files.

    By what they have done: half as much again comes in the time in which they do it, so each file
    waits longer than the one before, whatever this machine's speed.
    """
    written, until = 0, time.monotonic() + seconds
    while until > time.monotonic():
        due = 20_000 + await count(cloud, "files_processed") * 3 // 2
        await asyncio.to_thread(write, cloud, written, due - written)
        written = due
        if await count(cloud, "loaders_started") == starts:
            until = min(until, time.monotonic() + 15)  # the last one shall find something
            starts = -1
        await asyncio.sleep(0.2)
    return written


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_a_growing_backlog_starts_loaders_up_to_the_most(tmp_path: Path) -> None:
    """One is started by its schedule, two by loaders, through AWS's own Invoke; each file once."""
    parameters = {"LoaderSchedule": NOW, "MaxLoaders": "3"}
    config = CONFIG.replace("100", "20") + "lanes = 1\n"  # so that there is not too much to receive
    async with local(tmp_path, parameters, config) as cloud:
        files = await outrun(cloud, 2, 300)
        runs = await ran(cloud, lambda runs: len(runs) == 3, 400)
        assert [run.error for run in runs] == ["", "", ""]
        assert sum(bool(run.loader) for run in runs) == await count(cloud, "loaders_started") == 2
        shares = [run.tally["files_processed"] for run in runs]
        assert sum(shares) == files
        assert all(shares)
        assert sum(run.tally["claims_taken_over"] for run in runs) == 0
        found = await received(cloud)
        assert (len(found), sum(found.values())) == (files, files)
        print(f"{files} files, of each loader: {shares}")  # noqa: T201  seen with -s


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("queue", ["standard", "fifo"])
def test_the_command_accounts_for_every_record(queue: str) -> None:
    """`make demo-aws` ends with 0: all three schedules have done their work."""
    require_ministack()
    options = ["--rate", "100", "--seconds", "30", "--queue", queue, "--json"]
    result = CliRunner().invoke(app, options)
    assert result.exception is None, result.stderr
    account = json.loads(result.stdout.splitlines()[-1])
    assert (account["records_lost"], account["records_duplicated"]) == (0, 0)
    assert account["runs_failed"] == account["loaders_started"] == 0
    assert min(account["loader_runs"], account["archiver_runs"], account["checker_runs"]) > 0
    for function in ("sqs_loader", "json_files_processed_archiver"):
        assert f"{function} ran by its schedule" in result.stderr
