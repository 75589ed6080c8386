"""Run a local server with SQS's API, ministack, in STATE/sqs/.

It answers only callers with its key (door.py). The key is in STATE/sqs/key, and in the environment
of the processes that use the server.
"""

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, ClassVar
from urllib.parse import urlsplit

from penstock.embedded.process import EmbeddedProcess, reserve
from penstock.errors import Again, Halt
from penstock.model import Keys
from penstock.settings.schema import QueueSettings
from penstock.settings.secrets import kept_secret

KEY_NAME = "AWS_SESSION_TOKEN"
"""The variable with the key, for users of this server and for its door."""

_PROBE_SECONDS = 2.0
_CALL_SECONDS = 60.0


class EmbeddedSqs(EmbeddedProcess):
    """ministack on a free loopback port. It saves its queues when it stops; kill -9 loses them.

    Its `address` is for `queue.endpoint_url`: http://127.0.0.1:PORT.
    """

    folder = "sqs"
    title = "embedded SQS"
    remedy = "install penstock-sqs[local] (README, Install)"
    region: ClassVar[str] = "us-east-1"

    @functools.cached_property
    def keys(self) -> Keys:
        """The credentials, made at the first start. Raises Halt if they cannot be stored."""
        return Keys("embedded", "embedded", kept_secret(self.directory, "key", "queue.url"))

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment for this server's users. Ours keeps the real credentials."""
        return {
            "AWS_ACCESS_KEY_ID": self.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_key,
            KEY_NAME: self.keys.token,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    async def launch(self, previous: str, inherit: int) -> str:
        """Start ministack on its previous port if that is free. Raises Halt if it is missing."""
        if importlib.util.find_spec("ministack") is None:
            raise Halt(f"{self.title}: ministack is not installed; {self.remedy}")
        with reserve(previous) as listener:
            port = int(listener.getsockname()[1])
            command = [sys.executable, "-m", "hypercorn", "penstock.embedded.door:app"]
            command += ["--workers", "0", "--bind", f"fd://{listener.fileno()}"]
            command += ["--log-level", "WARNING", "--keep-alive", "75", "--graceful-timeout", "1"]
            self.spawn(command, self._settings(port), [inherit, listener.fileno()])
        return f"http://127.0.0.1:{port}"

    async def answers(self) -> bool:
        """Tell whether the server answers; wait up to two seconds for it."""
        with contextlib.suppress(OSError, HTTPException):
            health = f"{self.address}/_ministack/health"
            status, _ = await _exchange("GET", health, self._with_key, b"", _PROBE_SECONDS)
            return status == HTTPStatus.OK
        return False

    @property
    def _with_key(self) -> Mapping[str, str]:
        return {"X-Amz-Security-Token": self.keys.token}

    def settings_of(self, queue: QueueSettings, url: str) -> QueueSettings:
        """Return a queue's settings, pointed to the queue at `url` of this server."""
        at = {"url": url, "endpoint_url": self.address, "region": queue.region or self.region}
        return queue.model_copy(update=at)

    async def queue_url(self, name: str) -> str:
        """Return the URL of queue `name`. Raises Again or Halt, as `call`."""
        answer = await self.call("GetQueueUrl", {"QueueName": name})
        # A queue from an earlier run has that run's port in its URL.
        return self.address + urlsplit(str(answer["QueueUrl"])).path

    async def create_queue(self, name: str) -> str:
        """Return the URL of queue `name`, made if it is missing; `….fifo` makes a FIFO queue."""
        with contextlib.suppress(Halt):
            return await self.queue_url(name)
        attributes = {"MaximumMessageSize": "1048576"}
        attributes |= {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        await self.call("CreateQueue", {"QueueName": name, "Attributes": attributes})
        return await self.queue_url(name)

    async def call(self, action: str, request: Mapping[str, object]) -> dict[str, Any]:
        """Make one call of the SQS API. Raises Again if the server is away, Halt if it refuses."""
        # Without a signature: this server only reads account and region.
        key = f"{self.keys.access_key}/20260101/{self.region}/sqs/aws4_request"
        headers = {
            **self._with_key,
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host, Signature=0",
        }
        data = json.dumps(request).encode()
        try:
            status, body = await _exchange("POST", self.address, headers, data, _CALL_SECONDS)
        except (OSError, HTTPException) as error:
            raise Again(f"{self.title}: {action}: {error}; see {self.log}") from error
        if status != HTTPStatus.OK:
            answer = body[:300].decode(errors="replace")
            lost = "; `penstock load` makes it again" if "QueueDoesNotExist" in answer else ""
            raise Halt(f"{self.title}: {action}: HTTP {status}: {answer}{lost}")
        return json.loads(body)

    def _settings(self, port: int) -> dict[str, str]:
        """Return ministack's whole environment: SQS only, none of the user's, no other port."""
        inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "PYTHONPATH", "LANG"}}
        return inherited | {
            KEY_NAME: self.keys.token,
            "SERVICES": "sqs",
            "GATEWAY_PORT": str(port),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": self.region,
            "MINISTACK_WORKER_THREADS": "2",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.directory / "state"),
            "LOG_LEVEL": "WARNING",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            # Keep it from looking for its containers in the user's Docker.
            "DOCKER_HOST": f"unix://{self.directory}/no-docker",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
        }


async def _exchange(
    method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
) -> tuple[int, bytes]:
    """Call a server on this machine (aiohttp imports for 0.15 s). Raises OSError, HTTPException."""

    def exchange() -> tuple[int, bytes]:
        place = urlsplit(url)
        connection = HTTPConnection(place.hostname or "", place.port, timeout=timeout_seconds)
        with contextlib.closing(connection):
            connection.request(method, place.path or "/", body, dict(headers))
            reply = connection.getresponse()
            return reply.status, reply.read()

    return await asyncio.to_thread(exchange)
