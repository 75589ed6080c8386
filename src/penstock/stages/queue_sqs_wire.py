"""One HTTP call to SQS, signed, over connections that are kept for a few seconds.

No retry happens here or below: a blind resend after a timeout is a duplicate on a standard queue.
(aiohttp resends only idempotent methods by itself; a POST is not one.)
"""

import asyncio
import io
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import aiohttp
import botocore.exceptions

from penstock import __version__
from penstock.errors import Halt
from penstock.stages.queue_sqs_place import find
from penstock.stages.queue_sqs_sign import Keys, Signer

_CONNECT_SECONDS_MAX: Final = 3.0
_BYTES_MAX: Final = 1_048_576
# SQS and what stands before it may close an idle connection after some seconds; a call sent on one
# that is just being closed is reset with its outcome unknown. A new connection costs 2 round trips.
_IDLE_SECONDS_MAX: Final = 3.0
# How long credentials are used without asking botocore again. It refreshes temporary ones from 15
# minutes before they expire (botocore.credentials.RefreshableCredentials).
_KEYS_SECONDS_MAX: Final = 60.0


class Reply(NamedTuple):
    """What came back, whatever the status; `query_error` is the x-amzn-query-error header."""

    status: int
    query_error: str
    body: bytes


class NotSentError(Exception):
    """The server was not reached: SQS has nothing of this call."""


class NoReplyError(Exception):
    """The call was sent, perhaps, and no reply came: SQS may have taken it."""


class Wire:
    """The connections to one SQS endpoint.

    `queue_url` names the endpoint unless `endpoint_url`, or AWS's own settings for one, do; the
    region is `region`, or stands in the queue's URL or in AWS's own settings. `connections` and
    `timeout_seconds` bound the calls in flight and one call.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        connections: int,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._queue_url = queue_url
        self._endpoint_url = endpoint_url
        self._region = region
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(_CONNECT_SECONDS_MAX, timeout_seconds)
        )
        self._monotonic = monotonic
        self._utc_now = utc_now
        self._keys: Keys | None = None
        self._keys_until = -math.inf
        self._keys_lock = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Find endpoint, region and credentials; no call is made yet.

        Raises Halt if there are none, or none that can work.
        """
        # botocore reads files and may ask the instance metadata service: not on the event loop.
        place = await asyncio.to_thread(find, self._queue_url, self._endpoint_url, self._region)
        self._place = place
        self._signer = Signer(region=place.region, host=place.host, path=place.url.raw_path)
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=_IDLE_SECONDS_MAX, ssl=place.tls
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"penstock/{__version__} {aiohttp.http.SERVER_SOFTWARE}"},
        )

    async def refresh(self) -> None:
        """Ask botocore for the credentials once a minute, by one task at a time.

        Apart from `call` because it may take seconds. Raises Halt if they cannot be refreshed.
        """
        if self._monotonic() < self._keys_until:
            return
        async with self._keys_lock:
            if self._monotonic() < self._keys_until:
                return
            try:
                frozen = await asyncio.to_thread(self._place.credentials.get_frozen_credentials)
            except botocore.exceptions.BotoCoreError as error:
                raise Halt(f"cannot refresh the AWS credentials: {error}") from error
            self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
            self._keys_until = self._monotonic() + _KEYS_SECONDS_MAX

    async def call(self, target: str, body: bytes) -> Reply:
        """POST one request and read its whole reply; `target` is the SQS action's name.

        Raises NotSentError or NoReplyError.
        """
        if self._http is None or self._keys is None:
            raise RuntimeError("call before open and refresh")
        headers = self._signer.headers(
            target=f"AmazonSQS.{target}", body=body, keys=self._keys, now=self._utc_now()
        )
        try:
            async with self._http.post(
                self._place.url,
                # aiohttp wants what is over 1 MiB as a file, which it sends in pieces.
                data=body if len(body) <= _BYTES_MAX else io.BytesIO(body),
                headers=headers,
                timeout=self._timeout,
                proxy=self._place.proxy,
                allow_redirects=False,
            ) as response:
                reply = await response.read()
                query_error = response.headers.get("x-amzn-query-error", "")
                return Reply(response.status, query_error, reply)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            cause = str(error).replace(" ssl:default", "")  # aiohttp says so of plain HTTP, too
            raise NotSentError(f"cannot connect to {self._place.url}: {cause}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoReplyError(f"no reply from {self._place.url}: {error!r}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()
