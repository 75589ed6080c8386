"""A real SQS API on loopback that Penstock runs for itself, in STATE/sqs/: ministack.

Who has no key gets no answer (door.py): it lies in STATE/sqs/key, and in the environment of the
processes that use the server.
"""

import contextlib
import functools
import importlib.util
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import aiohttp

from penstock.embedded.process import EmbeddedProcess, is_answered, reserve
from penstock.errors import Again, Halt
from penstock.model import Keys
from penstock.settings.schema import QueueSettings
from penstock.settings.secrets import kept_secret

KEY_NAME = "AWS_SESSION_TOKEN"
"""The variable with the key, for all that use this server, and for its door."""

_DOOR = "penstock.embedded.door:app"
_KEY_HEADER = "X-Amz-Security-Token"


class EmbeddedSqs(EmbeddedProcess):
    """An SQS-compatible server (ministack) on a free port of the loopback interface.

    It keeps queues and messages in memory and writes them when it stops, and so when Penstock is
    killed; when it is itself killed with -9, what was in its queues is lost.
    """

    title = "embedded SQS"
    remedy = "install penstock-sqs[local] (README, Install)"
    region: ClassVar[str] = "us-east-1"

    def __init__(self, state_directory: Path, *, share: bool = False) -> None:
        super().__init__(state_directory.absolute() / "sqs", share=share)

    @functools.cached_property
    def keys(self) -> Keys:
        """The credentials; made at the first start. Raises Halt if they cannot be kept."""
        return Keys("embedded", "embedded", kept_secret(self.directory, "key", "queue.url"))

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process that uses this server is given instead of its AWS_… variables.

        Never set in our own environment, where a user's real credentials are.
        """
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

    @property
    def endpoint_url(self) -> str:
        """The address for `queue.endpoint_url`: http://127.0.0.1:PORT."""
        return self.address

    async def launch(self, previous: str, inherit: int) -> str:
        """Start ministack on its previous port if that is free. Raises Halt if there is none."""
        if importlib.util.find_spec("ministack") is None:
            raise Halt(f"{self.title}: ministack is not installed; {self.remedy}")
        with reserve(previous) as listener:
            port = int(listener.getsockname()[1])
            command = [
                sys.executable,
                "-m",
                "hypercorn",
                "penstock.embedded.door:app",
                "--workers",
                "0",
            ]
            command += ["--bind", f"fd://{listener.fileno()}", "--log-level", "WARNING"]
            command += ["--keep-alive", "75", "--graceful-timeout", "1"]
            self.spawn(command, self._settings(port), [inherit, listener.fileno()])
        return f"http://127.0.0.1:{port}"

    async def answers(self) -> bool:
        """Tell whether the server answers; wait up to two seconds for it."""
        return await is_answered(f"{self.address}/_ministack/health", headers=self._with_key)

    @property
    def _with_key(self) -> Mapping[str, str]:
        return {_KEY_HEADER: self.keys.token}

    def settings_of(self, queue: QueueSettings, url: str) -> QueueSettings:
        """Return the settings of a queue with those of one at this server instead, at `url`."""
        at = {"url": url, "endpoint_url": self.endpoint_url, "region": queue.region or self.region}
        return queue.model_copy(update=at)

    async def queue_url(self, name: str) -> str:
        """Return the URL of queue `name`. Raises Again or Halt, as `call`."""
        async with aiohttp.ClientSession() as session:
            answer = await self.call(session, "GetQueueUrl", {"QueueName": name})
        # A queue made in an earlier life has the port of that life in its URL.
        return self.address + urlsplit(str(answer["QueueUrl"])).path

    async def create_queue(self, name: str) -> str:
        """Return the URL of queue `name`, made if it is not there; `….fifo` makes a FIFO queue."""
        with contextlib.suppress(Halt):
            return await self.queue_url(name)
        attributes = {"MaximumMessageSize": "1048576"}
        attributes |= {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        async with aiohttp.ClientSession() as session:
            request = {"QueueName": name, "Attributes": attributes}
            await self.call(session, "CreateQueue", request)
        return await self.queue_url(name)

    async def call(
        self, session: aiohttp.ClientSession, action: str, request: Mapping[str, object]
    ) -> dict[str, Any]:
        """Return the answer to one call of the SQS API.

        Not signed: this server reads only account and region from the credentials. Raises Again if
        the server cannot be reached, Halt with its own words if it refuses.
        """
        key = f"{self.keys.access_key}/20260101/{self.region}/sqs/aws4_request"
        headers = {
            **self._with_key,
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host, Signature=0",
        }
        data = io.BytesIO(json.dumps(request).encode())  # aiohttp warns of 1 MiB of plain bytes
        try:
            async with session.post(f"{self.address}/", data=data, headers=headers) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            raise Again(f"{self.title}: {action}: {error}; see {self.log}") from error
        if not response.ok:
            raise Halt(f"{self.title}: {action}: HTTP {response.status}: {body[:300]!r}")
        return json.loads(body)

    def _settings(self, port: int) -> dict[str, str]:
        """Return ministack's whole environment: SQS only, nothing of the user's, no other port."""
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
            # It would look for containers of its own at the Docker that it finds.
            "DOCKER_HOST": f"unix://{self.directory}/no-docker",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
        }
