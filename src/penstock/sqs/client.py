"""Make one signed call to SQS (Signature Version 4), and refresh the credentials.

No retry happens here or below: a blind resend after a timeout is a duplicate on a standard queue.
"""

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import botocore.exceptions

from penstock.errors import Halt
from penstock.http1 import Http1Client
from penstock.model import Keys
from penstock.sqs.endpoint import find

_CONTENT_TYPE: Final = "application/x-amz-json-1.0"
# How long credentials are used before botocore is asked again. It refreshes temporary ones from 15
# minutes before they expire (botocore.credentials.RefreshableCredentials).
_KEYS_SECONDS_MAX: Final = 60.0


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


class Signer:
    """Signs requests to one endpoint. `host` is the Host header, `path` the URL's path.

    botocore's signer can sign any request: 0.15 ms a call. Here the headers are known, and the
    derived key is kept for a day: 0.04 ms. A test compares both signatures. Source: "Create a
    signed AWS API request" in the AWS IAM user guide.
    """

    def __init__(self, *, region: str, host: str, path: str) -> None:
        self._region = region
        self._host = host
        self._path = path
        self._derived_for: tuple[str, str] = ("", "")
        self._derived = b""

    def headers(self, *, target: str, body: bytes, keys: Keys, now: datetime) -> dict[str, str]:
        """Return all headers of the request; `now` is in UTC, `target` the X-Amz-Target."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        headers = {"content-type": _CONTENT_TYPE, "host": self._host, "x-amz-date": stamp}
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        headers["x-amz-target"] = target
        # The names are in alphabetical order, as the canonical form requires.
        signed = ";".join(headers)
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        digest = hashlib.sha256(body).hexdigest()
        request = f"POST\n{self._path}\n\n{lines}\n{signed}\n{digest}"
        scope = f"{stamp[:8]}/{self._region}/sqs/aws4_request"
        request_digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{request_digest}"
        signature = _hmac(self._key(stamp[:8], keys.secret_key), text).hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return headers

    def _key(self, day: str, secret_key: str) -> bytes:
        """Return the signing key of a day; derived once per day and secret."""
        if self._derived_for != (day, secret_key):
            key = _hmac(b"AWS4" + secret_key.encode(), day)
            for part in (self._region, "sqs", "aws4_request"):
                key = _hmac(key, part)
            self._derived_for, self._derived = (day, secret_key), key
        return self._derived


class SqsReply(NamedTuple):
    """SQS's answer with any status; `query_error` is the x-amzn-query-error header."""

    status: int
    query_error: str
    body: bytes


class SqsClient:
    """The connections to one SQS endpoint.

    The endpoint is `endpoint_url`, else AWS's own setting, else the one in `queue_url`. The region
    is `region`, else the one in `queue_url`, else AWS's own setting. The credentials are `keys`,
    else AWS's own. `timeout_seconds` bounds one call.
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
        self._http: Http1Client | None = None
        self.date = ""
        """When the last reply was made, by its server's clock."""

    async def open(self) -> None:
        """Find endpoint, region and credentials without a call. Raises Halt if one is unusable."""
        # botocore reads files and may call the instance metadata service: keep it off the loop.
        endpoint = await asyncio.to_thread(
            find, self._queue_url, self._endpoint_url, self._region, self._given_keys
        )
        self._credentials = endpoint.credentials
        self._signer = Signer(
            region=endpoint.region, host=endpoint.host, path=endpoint.url.raw_path
        )
        self._http = Http1Client(
            endpoint.url,
            proxy=endpoint.proxy,
            tls=endpoint.tls,
            timeout_seconds=self._timeout_seconds,
            monotonic=self._monotonic,
        )

    async def refresh(self) -> None:
        """Ask botocore for the credentials once a minute, in one task at a time.

        Separate from `call`, because it may take seconds. Raises Halt if it fails.
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
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
            if not (keys.access_key + keys.token).isprintable() or " " in keys.access_key:
                raise Halt(
                    "the AWS credentials hold characters that no header can, such as a line end:"
                    " correct AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the AWS profile"
                )
            self._keys = keys
            self._keys_until = self._monotonic() + _KEYS_SECONDS_MAX

    async def call(self, target: str, body: bytes) -> SqsReply:
        """POST one request of SQS's action `target`. Raises NotSentError or NoReplyError."""
        if self._http is None or self._keys is None:
            raise RuntimeError("call before open and refresh")
        fields = self._signer.headers(
            target=f"AmazonSQS.{target}", body=body, keys=self._keys, now=self._utc_now()
        )
        reply = await self._http.post(fields, body)
        self.date = reply.headers.get("Date", "")
        return SqsReply(reply.status, reply.headers.get("X-Amzn-Query-Error", ""), reply.body)

    def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            self._http.close()
