"""Signature Version 4 for one kind of request: POST of AWS JSON, always the same few headers.

botocore's signer canonicalises any request: 0.15 ms a call. Here the headers are known and the
derived key is kept for its day: 0.04 ms. A test signs with both and compares. Source of the
procedure: "Create a signed AWS API request" in the AWS IAM user guide.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final, NamedTuple

CONTENT_TYPE: Final = "application/x-amz-json-1.0"


class Keys(NamedTuple):
    """Credentials as they are now; `token` is empty where they are not temporary."""

    access_key: str
    secret_key: str
    token: str

    def __repr__(self) -> str:
        """Show nothing: secrets never reach a log."""
        return "Keys(…)"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


class Signer:
    """Signs requests to one endpoint. `host` is the Host header, `path` the URL's path."""

    def __init__(self, *, region: str, host: str, path: str) -> None:
        self._region = region
        self._host = host
        self._path = path
        self._derived_for: tuple[str, str] = ("", "")
        self._derived = b""

    def headers(self, *, target: str, body: bytes, keys: Keys, now: datetime) -> dict[str, str]:
        """Return all headers of the request; `now` is in UTC, `target` the X-Amz-Target."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        headers = {"content-type": CONTENT_TYPE, "host": self._host, "x-amz-date": stamp}
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        headers["x-amz-target"] = target
        # The names are in alphabetical order already, as the canonical form wants them.
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
        """Return the key derived for a day, made once per day and secret."""
        if self._derived_for != (day, secret_key):
            key = _hmac(b"AWS4" + secret_key.encode(), day)
            for part in (self._region, "sqs", "aws4_request"):
                key = _hmac(key, part)
            self._derived_for, self._derived = (day, secret_key), key
        return self._derived
