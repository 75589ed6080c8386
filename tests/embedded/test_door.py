"""The embedded SQS lets in who has its key: no other user, no page in a browser."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from penstock.embedded.sqs import EmbeddedSqs
from support.require import require, require_ministack

CLIENT = """
import boto3, sys
sqs = boto3.client("sqs", endpoint_url=sys.argv[1])
url = sqs.create_queue(QueueName="mine")["QueueUrl"]
sqs.send_message(QueueUrl=url, MessageBody="hello")
print(sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"])
"""


@pytest.fixture
async def sqs(tmp_path: Path) -> AsyncIterator[EmbeddedSqs]:
    """Yield a running one."""
    require_ministack()
    async with EmbeddedSqs(tmp_path) as running:
        yield running


async def test_without_the_key_nobody_gets_in(sqs: EmbeddedSqs) -> None:
    """S3: on no path, with no method; nor with the key from a page, or by another name."""
    key = {"X-Amz-Security-Token": sqs.keys.token}
    strangers = [
        {},
        {"X-Amz-Security-Token": "0" * 64},
        {"Authorization": f"AWS4-HMAC-SHA256 Credential={sqs.keys.token}/20260101/us-east-1/sqs/a"},
        key | {"Origin": "http://evil.example"},
        key | {"Origin": "null"},
        key | {"Host": "evil.example"},
        key | {"Host": "127.0.0.1.evil.example:80"},
    ]
    paths = ["/", "/_ministack/health", "/_ministack/reset", "/_localstack/health", "/health",
             "/000000000000/q", "/2015-03-31/functions", "/?Action=ListQueues",
             "/_aws/sqs/messages", "/?X-Amz-Security-Token=wrong", "/_ministack/state"]  # fmt: skip
    async with aiohttp.ClientSession() as session:
        for path in paths:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
                for headers in strangers:
                    url = f"{sqs.address}{path}"
                    async with session.request(method, url, headers=headers) as reply:
                        assert reply.status == 403, (method, path, headers)
                        assert "Access-Control-Allow-Origin" not in reply.headers
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(sqs.address)
        async with session.get(f"{sqs.address}/_ministack/health", headers=key) as reply:
            assert reply.status == 200
        presigned = f"{sqs.address}/_ministack/health?X-Amz-Security-Token={sqs.keys.token}"
        async with session.get(presigned) as reply:
            assert reply.status == 200


async def test_the_key_is_this_users_alone(sqs: EmbeddedSqs) -> None:
    """Its file is; it is in no command line, which all users see; the next start has it too."""
    path = sqs.directory / "key"
    assert path.stat().st_mode & 0o077 == 0
    assert sqs.directory.stat().st_mode & 0o077 == 0
    assert sqs.keys.token == path.read_text().strip()
    assert sqs.keys.token not in repr(sqs.keys)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text()
        except OSError:
            continue
        assert sqs.keys.token not in line
    assert EmbeddedSqs(sqs.directory.parent).keys == sqs.keys


async def test_boto3_works_with_the_environment(sqs: EmbeddedSqs) -> None:
    """As a process that Penstock starts has it; and with the user's own credentials it does not."""
    command = [sys.executable, "-c", CLIENT, sqs.address]
    ours = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    done = subprocess.run(
        command, env=ours | dict(sqs.environment), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    other = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    done = subprocess.run(command, env=ours | other, capture_output=True, text=True, check=False)
    assert "403" in done.stderr


async def test_another_user_cannot_purge_the_queue(sqs: EmbeddedSqs) -> None:
    """Knowing all but the key, and unable to read that: a real other user."""
    require(present=os.geteuid() == 0, what="root, to be another user as well")
    url = await sqs.create_queue("q")
    purge = (
        "import sys, urllib.request as r\n"
        "try: print(r.urlopen(sys.argv[1], b'x').status)\n"
        "except r.HTTPError as error: print(error.code)"
    )
    script = 'cat "$1"; exec /usr/bin/python3 -I -c "$2" "$3"'
    other = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    given = [f"{sqs.directory}/key", purge, f"{url}?Action=PurgeQueue"]
    command = [*other, "sh", "-c", script, "sh", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "403\n"
    assert "Permission denied" in done.stderr
