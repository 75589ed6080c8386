"""One HTTP call to SQS: botocore finds credentials, region and endpoint, aiohttp carries it.

No retry happens here or below: a blind resend after a timeout is a duplicate on a standard queue.
(aiohttp resends only idempotent methods by itself; a POST is not one.)
"""

import asyncio
import io
import math
import re
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import botocore.configprovider
import botocore.exceptions
import botocore.session
from yarl import URL

from penstock.errors import Halt
from penstock.stages.queue_sqs_sign import Keys, Signer

_CONNECT_SECONDS_MAX: Final = 3.0
_BYTES_MAX: Final = 1_048_576
# SQS and what stands before it may close an idle connection after some seconds; a call sent on one
# that is just being closed is reset with its outcome unknown. A new connection costs 2 round trips.
_IDLE_SECONDS_MAX: Final = 3.0
# How long credentials are used without asking botocore again. It refreshes temporary ones from 15
# minutes before they expire (botocore.credentials.RefreshableCredentials).
_KEYS_SECONDS_MAX: Final = 60.0
# sqs.eu-west-1.amazonaws.com, vpce-1.sqs.eu-west-1.vpce.amazonaws.com, sqs.eu-west-1.api.aws, and
# the older eu-west-1.queue.amazonaws.com.
_REGION_IN_HOST: Final = re.compile(
    r"(?:^|\.)(?:sqs(?:-fips)?\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.(?:vpce\.)?(?:amazonaws|api)\."
)


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
        self._credentials: Any = None
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Find credentials, region and endpoint; no call is made yet.

        Raises Halt if there are no credentials, or no region.
        """
        # botocore reads files and may ask the instance metadata service: not on the event loop.
        aws: Any = await asyncio.to_thread(botocore.session.Session)
        self._credentials = await asyncio.to_thread(aws.get_credentials)
        if self._credentials is None:
            raise Halt(
                "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this "
                "machine or function a role"
            )
        queue = URL(self._queue_url)
        if "" in (queue.host or "", queue.name) or queue.scheme not in ("http", "https"):
            raise Halt(
                f"queue.url is {self._queue_url!r}: it must be the queue's URL, such as "
                "https://sqs.us-east-1.amazonaws.com/123456789012/NAME"
            )
        endpoint = URL(self._endpoint_url or _configured_endpoint(aws) or self._queue_url)
        # The queue's own path is not the endpoint's; a path given by endpoint_url is kept.
        path = endpoint.raw_path if self._endpoint_url else "/"
        self._url = endpoint.origin().with_path(path, encoded=True)
        default_port = endpoint.is_default_port()
        host = str(endpoint.host) if default_port else f"{endpoint.host}:{endpoint.port}"
        self._signer = Signer(region=self._find_region(aws), host=host, path=path)
        self._proxy = _proxy_for(endpoint)
        bundle: str | None = aws.get_config_variable("ca_bundle")
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            keepalive_timeout=_IDLE_SECONDS_MAX,
            ssl=ssl.create_default_context(cafile=bundle) if bundle else True,
        )
        self._http = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

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
                frozen = await asyncio.to_thread(self._credentials.get_frozen_credentials)
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
                self._url,
                # aiohttp wants what is over 1 MiB as a file, which it sends in pieces.
                data=body if len(body) <= _BYTES_MAX else io.BytesIO(body),
                headers=headers,
                timeout=self._timeout,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                reply = await response.read()
                query_error = response.headers.get("x-amzn-query-error", "")
                return Reply(response.status, query_error, reply)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"cannot connect to {self._url}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoReplyError(f"no reply from {self._url}: {error!r}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()

    def _find_region(self, aws: Any) -> str:
        """Return the region to sign for; raise Halt if there is none, or two."""
        in_host = _REGION_IN_HOST.search(urlsplit(self._queue_url).hostname or "")
        of_url = (in_host[1] or in_host[2]) if in_host else None
        if of_url and self._region and of_url != self._region:
            raise Halt(
                f"queue.region is {self._region}, but {self._queue_url} is in {of_url}: leave "
                "queue.region empty"
            )
        region = self._region or of_url or aws.get_config_variable("region")
        if not region:
            raise Halt(
                f"no AWS region: {self._queue_url} names none; set queue.region or "
                "AWS_DEFAULT_REGION"
            )
        return str(region)


def _configured_endpoint(aws: Any) -> str | None:
    """Return AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, or the same of the AWS configuration file."""
    if aws.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = botocore.configprovider.ConfiguredEndpointProvider(
        full_config=aws.full_config, scoped_config=aws.get_scoped_config(), client_name="sqs"
    )
    return provider.provide()


def _proxy_for(endpoint: URL) -> str | None:
    """Return the proxy that the environment names for this endpoint, as botocore would."""
    if proxy_bypass(str(endpoint.host)):
        return None
    return getproxies().get(endpoint.scheme)
