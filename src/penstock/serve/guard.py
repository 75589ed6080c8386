"""Decide who may call: the one guard before every route of all our servers.

    a connection over loopback names this machine, or one of serve.hosts, as Host          else 403
    a browser calls from our own page, or follows a link to it                             else 403
    the caller has a token, a moving one for calls that change something              else 401, 403

A route says with `needs` what it needs; by default, a moving token. A browser has a token's halves
instead: a cookie that scripts cannot read, and one that our page sends in a header field.
"""

import functools
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import hdrs, web

from penstock.errors import Halt
from penstock.loopback import is_loopback
from penstock.settings.schema import ServeSettings
from penstock.settings.secrets import kept_secret, tokens

PAGE_HEADER = "Penstock-Page"
"""The header field with the page's half of a token."""

_TOKENS_MAX = 2  # the old and the new one, while callers change
_TOKEN_CHARACTERS_MIN = 16
_COOKIE_SECONDS = 30 * 86_400

H = TypeVar("H", bound=Callable[..., object])


class Refused(Exception):
    """A refused call: its HTTP status, and one line that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class May(IntEnum):
    """What a caller may do, and what a route needs."""

    NOTHING = 0
    READ = 1
    MOVE = 2


def needs(least: May) -> Callable[[H], H]:
    """Mark a handler with what its callers must be allowed to do."""

    def marked(handler: H) -> H:
        handler.__dict__["needs"] = least
        return handler

    return marked


def needed(request: web.Request) -> May:
    """Return what the route of a request needs."""
    return getattr(request.match_info.handler, "needs", May.MOVE)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a server: holders of its tokens, or without tokens, callers at its socket."""

    moving: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    made_in: Path | None = None

    def may(self, sent: bytes) -> May:
        """Return what a token, or its two halves, allow; the time taken reveals nothing."""
        tokens = [*self.moving, *self.reading]
        wanted = [*tokens, *(_half("cookie", token) + _half("page", token) for token in tokens)]
        # Compare all of them, whatever the first comparison says.
        matches = [hmac.compare_digest(sent, one.encode()) for one in wanted]
        kinds = 2 * [*[May.MOVE] * len(self.moving), *[May.READ] * len(self.reading)]
        found = [may for may, is_it in zip(kinds, matches, strict=True) if is_it]
        return max(found, default=May.NOTHING)

    def check(self, request: web.Request) -> None:
        """Let a request through, or raise Refused."""
        if not _is_at_socket(request) and not self._is_ours(request):
            raise Refused(403, "Host: not a name of this machine, and not in serve.hosts")
        least = needed(request)
        if _is_of_another_site(request) and not (least is May.NOTHING and _is_a_link(request)):
            raise Refused(403, "Origin: calls from other sites' pages are refused")
        if least is May.NOTHING:
            return
        if not (self.moving or self.reading) and _is_at_socket(request):
            return
        may = self.may(self._sent(request))
        if may is May.NOTHING:
            raise Refused(401, "send one of the server's tokens as `Authorization: Bearer …`")
        if may < least:
            raise Refused(403, "this is a reading token; the call needs a moving token")

    def _is_ours(self, request: web.Request) -> bool:
        """Tell whether a Host is ours: another site may point its own name to this machine."""
        given = request.headers.getall(hdrs.HOST, [])
        text = given[0].lower() if len(given) == 1 else ""
        host = text if text.endswith("]") or ":" not in text else text.rpartition(":")[0]
        here = request.transport and request.transport.get_extra_info("sockname")
        is_open = not self.hosts and bool(here) and not is_loopback(here[0])
        return is_open or is_loopback(host) or host in self.hosts

    def _sent(self, request: web.Request) -> bytes:
        """Return the token of a request, or its halves; empty if it has several."""
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not given:
            half = request.headers.get(PAGE_HEADER, "")
            return (request.cookies.get(self.cookie, "") + half).encode("utf-8", "surrogateescape")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        sent = token.strip().encode("utf-8", "surrogateescape")
        return sent if scheme.lower() == "bearer" else b""

    @property
    def cookie(self) -> str:
        """The cookie's name, different from those of other servers on this host."""
        return f"penstock-{_half('name', ' '.join((*self.moving, *self.reading)))[:8]}"

    def login(self, request: web.Request, token: str) -> web.Response:
        """Exchange a browser's token for its two halves. Raises Refused."""
        may = self.may(token.encode("utf-8", "surrogateescape"))
        if may is May.NOTHING:
            raise Refused(401, "this is not one of the server's tokens")
        response = web.json_response({"page": _half("page", token)})
        response.set_cookie(
            self.cookie, _half("cookie", token), max_age=_COOKIE_SECONDS, httponly=True,
            samesite="Strict", secure=request.secure,
        )  # fmt: skip
        return response

    def how_to_use(self) -> dict[str, Any]:
        """Return what to tell the operator about new tokens."""
        if not self.made_in:
            return {}
        moving = self.made_in / _MOVING
        return {
            "token_file": str(moving),
            "token_file_to_read": str(self.made_in / _READING),
            "use": f'a worker: source.token_file = "{moving}"; the console: paste its contents',
        }


@functools.cache
def _half(which: str, token: str) -> str:
    return hmac.digest(token.encode(), which.encode(), "sha256").hex()


def _is_at_socket(request: web.Request) -> bool:
    return bool(request.transport) and isinstance(
        request.transport.get_extra_info("sockname"), str | bytes
    )


def _is_of_another_site(request: web.Request) -> bool:
    """Tell whether a browser calls for another site (Fetch Metadata, W3C); others never do."""
    origin = request.headers.get(hdrs.ORIGIN, f"//{request.host}").partition("//")[2]
    fetched_by = request.headers.get("Sec-Fetch-Site", "none")
    return origin != request.host or fetched_by not in {"none", "same-origin"}


def _is_a_link(request: web.Request) -> bool:
    return request.method == hdrs.METH_GET and request.headers.get("Sec-Fetch-Mode") == "navigate"


_MOVING, _READING = "move.token", "read.token"


def access_of(serve: ServeSettings, state: Path) -> Access:
    """Return who may call a server; make missing tokens in `state`, once. Raises Halt."""
    moving = _tokens(serve, "token")
    reading = _tokens(serve, "read_token")
    hosts = frozenset(host.lower() for host in serve.hosts)
    if moving or reading or serve.unix_socket:
        return Access(moving, reading, hosts)
    made = [(kept_secret(state, name, "serve.token"),) for name in (_MOVING, _READING)]
    return Access(*made, hosts=hosts, made_in=state)


def _tokens(serve: ServeSettings, name: str) -> tuple[str, ...]:
    setting = f"serve.{name}"
    found = tokens(getattr(serve, name), getattr(serve, f"{name}_file"), setting)
    if len(found) > _TOKENS_MAX:
        raise Halt(f"{setting}: {len(found)} tokens; allowed: two, the old and the new one")
    if any(len(token) < _TOKEN_CHARACTERS_MIN for token in found):
        raise Halt(
            f"{setting}: shorter than {_TOKEN_CHARACTERS_MIN} characters; allowed: what"
            " `openssl rand -hex 32` makes"
        )
    return tuple(found)
