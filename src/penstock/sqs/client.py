"""One call to SQS, signed: as whom and where, and when the credentials are asked for anew.

No retry happens here or below: a blind resend after a timeout is a duplicate on a standard queue.
"""

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import botocore.exceptions

from penstock.errors import Halt
from penstock.sqs.endpoint import find
from penstock.sqs.http import Posts, Reply
from penstock.sqs.sign import Keys, Signer

# How long credentials are used without asking botocore again. It refreshes temporary ones from 15
# minutes before they expire (botocore.credentials.RefreshableCredentials).
_KEYS_SECONDS_MAX: Final = 60.0


class SqsClient:
    """The connections to one SQS endpoint.

    `queue_url` names the endpoint unless `endpoint_url`, or AWS's own settings for one, do; the
    region is `region`, or stands in the queue's URL or in AWS's own settings; so are `keys`, or the
    credentials in those. `timeout_seconds` bounds one call.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        timeout_seconds: float,
        keys: Keys | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._queue_url = queue_url
        self._endpoint_url = endpoint_url
        self._region = region
        self._given_keys = keys
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._utc_now = utc_now
        self._keys: Keys | None = None
        self._keys_until = -math.inf
        self._keys_lock = asyncio.Lock()
        self._posts: Posts | None = None

    async def open(self) -> None:
        """Find endpoint, region and credentials; no call is made yet.

        Raises Halt if there are none, or none that can work.
        """
        # botocore reads files and may ask the instance metadata service: not on the event loop.
        place = await asyncio.to_thread(
            find, self._queue_url, self._endpoint_url, self._region, self._given_keys
        )
        self._place = place
        self._signer = Signer(region=place.region, host=place.host, path=place.url.raw_path)
        self._posts = Posts(
            place.url,
            proxy=place.proxy,
            tls=place.tls,
            timeout_seconds=self._timeout_seconds,
            monotonic=self._monotonic,
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
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
            if not (keys.access_key + keys.token).isprintable() or " " in keys.access_key:
                raise Halt(
                    "the AWS credentials hold what no header can, such as a line end: see where "
                    "AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the profile's, come from"
                )
            self._keys = keys
            self._keys_until = self._monotonic() + _KEYS_SECONDS_MAX

    async def call(self, target: str, body: bytes) -> Reply:
        """POST one request and read its whole reply; `target` is the SQS action's name.

        Raises NotSentError or NoReplyError.
        """
        if self._posts is None or self._keys is None:
            raise RuntimeError("call before open and refresh")
        fields = self._signer.headers(
            target=f"AmazonSQS.{target}", body=body, keys=self._keys, now=self._utc_now()
        )
        return await self._posts.post(fields, body)

    def close(self) -> None:
        """Close all connections."""
        if self._posts is not None:
            self._posts.close()
