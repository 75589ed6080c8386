"""An AWS on loopback that Penstock runs for itself, in STATE/cloud/: what the template needs of it.

ministack again, as for the embedded SQS, with more of its services: it deploys stacks, fires their
schedules, and runs their functions as processes, on the interpreter that runs it.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session

from penstock.embedded.sqs import EmbeddedSqs
from penstock.errors import Halt

_SERVICES = (
    "cloudformation", "events", "iam", "lambda", "logs", "monitoring", "s3", "scheduler",
    "secretsmanager", "sns", "sqs", "ssm", "sts",
)  # fmt: skip


class EmbeddedCloud(EmbeddedSqs):
    """ministack on a free port of the loopback interface; nothing of it outlives the process."""

    folder = "cloud"
    title = "local cloud"

    def __init__(self, state_directory: Path) -> None:
        super().__init__(state_directory)
        self._clients: dict[str, Any] = {}

    async def api(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """Call one operation of AWS, named as botocore does. Raises Halt with its words."""
        return await asyncio.to_thread(self._api, service, operation, arguments)

    def _api(self, service: str, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return getattr(self._client(service), operation)(**arguments)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise Halt(f"{self.title}: {service} {operation}: {error}; see {self.log}") from None

    def _client(self, service: str) -> Any:
        """Return a client, made at its first call: that takes a quarter of a second."""
        if service not in self._clients:
            session: Any = botocore.session.Session()
            self._clients[service] = session.create_client(
                service,
                region_name=self.region,
                endpoint_url=self.address,
                aws_access_key_id=self.keys.access_key,
                aws_secret_access_key=self.keys.secret_key,
                aws_session_token=self.keys.token,
                config=botocore.config.Config(
                    connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}, proxies={}
                ),
            )
        return self._clients[service]

    def _settings(self, port: int) -> dict[str, str]:
        """Return ministack's environment: as for SQS alone, with the other services."""
        return super()._settings(port) | {
            "SERVICES": ",".join(_SERVICES),
            "PERSIST_STATE": "0",
            "MINISTACK_WORKER_THREADS": "8",
            "LAMBDA_EXECUTOR": "local",
        }
