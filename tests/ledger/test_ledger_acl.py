"""What the ledger asks of a Redis that others run: its commands, its policy, its certificate."""

import asyncio
import contextlib
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.errors import Halt
from penstock.ledger.ledger import Ledger
from penstock.operate import requeue, spool_view
from penstock.operate.observer import Observer
from penstock.operate.spool_files import spool_files
from penstock.operate.verify import verify
from support.box import Box
from support.redis_fleet import Server, require_fleet, wait

DOCS = Path(__file__).parents[2] / "docs/ledger.md"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what has just left the spool."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)


def rules() -> list[str]:
    """Return the rules that docs/ledger.md says are enough."""
    found = re.search(r"^user penstock on (.*?)$", DOCS.read_text(), re.MULTILINE)
    assert found is not None
    return [rule for rule in found[1].split() if not rule.startswith(">")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Yield a redis-server that lets the user penstock do what the docs say, and no more."""
    require_fleet()
    with ExitStack() as stack:
        server = Server(tmp_path / "redis")
        stack.callback(server.kill)
        server.client.execute_command("ACL", "SETUSER", "penstock", "on", ">secret", *rules())
        yield server


def url(server: Server) -> str:
    """Return its address for the user penstock."""
    return f"redis://penstock:secret@{server.address}"


async def _everything(box: Box) -> None:
    """Do all that Penstock does with a ledger."""
    box.write_many(20)
    box.write("20261123T070000.000000.json", "no json")
    await box.load()
    await box.archive()
    await box.check()
    observer = Observer(box.settings)
    try:
        snapshot = await observer.snapshot()
        assert snapshot.unreachable == {}
        ledger = await observer.ledger()
        await ledger.overview.story("20261123T070000.000000.json")
        assert await ledger.reads.verify() == []
        await _repair(box, ledger)
        await _count_loaders(ledger)
    finally:
        await observer.aclose()


async def _repair(box: Box, ledger: Ledger) -> None:
    """Do what an operator can: look for files, retry, discard, accept the spool."""
    dirs, pattern = spool_files(box.settings, "verify"), box.settings.source.pattern
    assert (await verify(ledger, dirs, pattern, archive=True)).unaccounted == {}
    this = (box.settings, ledger, dirs)
    for is_kept in (True, False):
        chosen = [*dirs.rejected()]
        if is_kept:
            report = await requeue.retried(*this, chosen, asyncio.Event(), patience_seconds=0.0)
        else:
            report = await requeue.discarded(*this, chosen)
        assert (len(report.done), report.refused) == (1, {})
        await box.load()
        await box.archive()
    async with contextlib.AsyncExitStack() as stack:
        source = await spool_view.view(box.settings, stack)
        await ledger.spool.accept(await source.identity())


async def _count_loaders(ledger: Ledger) -> None:
    """Do what only loaders in AWS Lambda do."""
    assert await ledger.loaders.reserve("one", 2)
    assert await ledger.loaders.enlist("one", 60) == 1
    await ledger.loaders.leave("one")


async def test_the_rules_in_the_docs_are_enough(box: Box, server: Server) -> None:
    """A user who may do nothing else drains, archives, checks and looks."""
    box.set("ledger", url=url(server), wait_replicas=0)
    await _everything(box)
    assert box.received_ids() == dict.fromkeys(range(20), 1)
    denied = {entry["object"] for entry in server.client.acl_log()}
    assert denied <= {"client|setinfo", "client"}  # redis-py says what it is, if it may


@pytest.mark.parametrize("command", ["evalsha", "hset", "zadd"])
async def test_a_refusal_names_the_command(box: Box, server: Server, command: str) -> None:
    """It is a Halt. In a script Redis 7.0 does not tell which: then the whole list is named."""
    server.client.execute_command("ACL", "SETUSER", "penstock", f"-{command}")
    box.set("ledger", url=url(server))
    box.write_many(1)
    with pytest.raises(Halt, match=f"(?i)Redis refuses us:.*({command}|script.*docs/ledger.md)"):
        await box.load()


async def test_no_rule_in_the_docs_is_idle(box: Box, server: Server) -> None:
    """Each command in the rules is used, or the test says why it is not seen here."""
    box.set("ledger", url=url(server))
    await _everything(box)
    used = {
        name.removeprefix("cmdstat_").split("|")[0] for name in server.client.info("commandstats")
    }
    named = {rule[1:].split("|")[0] for rule in rules() if rule.startswith("+")}
    rare = {
        "cluster", "wait",  # in a cluster, with wait_replicas
        "eval", "script",  # where Redis has not seen a script
        "ping", "client", "hello", "select", "auth", "readonly", "asking",  # redis-py's own
        "config",  # where the policy is volatile-…
        "hexists", "rename", "hkeys", "zremrangebyrank", "zremrangebyscore", "type", "exists",
        "hdel", "zrem", "zmscore", "scan", "pexpire", "pttl",
    }  # fmt: skip
    assert named - used - rare == set()


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl"])
async def test_a_policy_that_cannot_be_changed_and_spares_our_keys_is_accepted(
    box: Box, server: Server, policy: str
) -> None:
    """As at ElastiCache Serverless; where it can be changed, it is to be changed."""
    server.client.config_set("maxmemory-policy", policy)
    box.set("ledger", url=f"redis://{server.address}")
    box.write_many(1)
    with pytest.raises(Halt, match="CONFIG SET maxmemory-policy noeviction"):
        await box.load()
    box.set("ledger", url=url(server))
    assert (await box.load()).files_processed == 1
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Halt, match="CONFIG SET maxmemory-policy noeviction"):
        await box.load()


async def test_a_certificate_that_is_not_trusted_is_a_halt(
    box: Box, tmp_path: Path, certificate: Path
) -> None:
    """No later try can help; with its CA named it is trusted."""
    require_fleet()
    with ExitStack() as stack:
        port = Server.free_port()
        command = ["redis-server", "--port", "0", "--tls-port", str(port), "--save", ""]
        command += ["--tls-cert-file", str(certificate), "--tls-key-file", f"{certificate}.key"]
        command += ["--tls-auth-clients", "no", "--dir", str(tmp_path), "--bind", "127.0.0.1"]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        stack.callback(process.kill)
        plain: Any = redis.Redis(port=port, ssl=True, ssl_cert_reqs=ssl.CERT_NONE)
        wait(plain.ping)
        plain.close()
        box.set("ledger", url=f"rediss://127.0.0.1:{port}")
        box.write_many(1)
        with pytest.raises(Halt, match=r"certificate of Redis is not trusted.*ssl_ca_certs="):
            await box.load()
        box.set("ledger", url=f"valkeys://127.0.0.1:{port}?ssl_ca_certs={certificate}")
        assert (await box.load()).files_processed == 1
