"""ministack's door: it lets in only callers with the key that was made for it.

ministack listens on loopback, so every user of the machine, and every page in their browsers, can
call it. The key is the session token of the credentials. SDKs send it with each call, signed or
presigned, and ministack passes it to the functions that it runs. Run as `hypercorn …door:app`.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from ministack.app import app as _inside  # pyright: ignore[reportUnknownVariableType]

from penstock.loopback import is_loopback

_key = os.environ["AWS_SESSION_TOKEN"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Let a call in, or answer 403 (ASGI)."""
    if scope["type"] == "lifespan" or _may_enter(scope):
        await _inside(scope, receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        body = b"refused: call from this machine, with the key in AWS_SESSION_TOKEN"
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": body})


def _may_enter(scope: Mapping[str, Any]) -> bool:
    """Tell whether a call has the key, is addressed to this machine, and is not from a web page."""
    fields: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    given = fields.get("x-amz-security-token", []) + query.get("X-Amz-Security-Token", [])
    hosts = fields.get("host", [])
    return (
        len(given) == len(hosts) == 1
        and hmac.compare_digest(given[0].encode(), _key.encode())
        and is_loopback(hosts[0].rpartition(":")[0] or hosts[0])
        and "origin" not in fields
    )
