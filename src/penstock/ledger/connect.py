"""Connect to the ledger's Redis: one server, the primary that Sentinels name, or a cluster.

The address tells the first two apart. A server itself says whether it is in a cluster.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

import redis.asyncio as redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from penstock.errors import Halt

_PLAIN = re.compile(r"((rediss?|valkeys?)://([^/?#@]*@)?[^/?#@]+(/\d*)?|unix://[^?#]+)(\?[^#]*)?")
_SENTINELS = re.compile(
    r"(?P<scheme>rediss?|valkeys?)\+sentinel://(?P<user>[^/?#@]*@)?(?P<hosts>[^/?#@]+)"
    r"/(?P<primary>[^/?#]+)(?P<query>\?[^#]*)?"
)
_SENTINEL = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:]+)(:(?P<port>\d{1,5}))?")

_ASK_SECONDS = 2.0  # between two questions to the Sentinels


class Address:
    """An address of Redis, `ledger.url`. Raises Halt if it is not one; does not connect.

    A client makes up to `connections` connections. It waits `timeout_seconds` for a free one, and
    for each answer.
    """

    def __init__(self, url: str, *, timeout_seconds: float, connections: int) -> None:
        self._connections = connections
        self._common: Mapping[str, Any] = {
            "decode_responses": True,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "health_check_interval": 30,
        }
        self._sentinels = _SENTINELS.fullmatch(url)
        # redis-py guesses at other addresses, but refuses an empty one.
        self._url = re.sub("^valkey", "redis", url) if _PLAIN.fullmatch(url) else ""
        try:
            self.client().connection_pool.make_connection()  # parses the address's query
        except (ValueError, TypeError, redis.RedisError):  # its text may contain a password
            raise Halt(
                "ledger.url: not an address of Redis; allowed: 'embedded', redis://host:port,"
                " rediss://host:port, unix:///path, redis+sentinel://host:port,host:port/PRIMARY,"
                " or valkey in place of redis; percent-encode a password"
            ) from None

    def client(self, host: str = "", port: int = 0) -> "redis.Redis":
        """Return a client of a server, `host` and `port` if given, or of the Sentinels' primary."""
        if self._sentinels:
            return self._by_sentinels(self._sentinels)
        pool = redis.BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._connections,
            timeout=self._common["socket_timeout"],
            **self._common,
        )
        if host:
            pool.connection_kwargs.update(host=host, port=port)
        return redis.Redis.from_pool(pool)

    def cluster(self) -> "RedisCluster":
        """Return a client of the whole cluster that the server is a node of."""
        options: dict[str, Any] = {**self._common, **parse_url(self._url)}
        options.pop("db", None)  # 0
        tls = options.pop("connection_class", None) is redis.SSLConnection
        return RedisCluster(ssl=tls, require_full_coverage=False, **options)

    def _by_sentinels(self, found: re.Match[str]) -> "redis.Redis":
        """Return a client that asks the Sentinels for the primary at each connection."""
        scheme = found["scheme"].replace("valkey", "redis")
        options: dict[str, Any] = {
            **parse_url(f"{scheme}://{found['user'] or ''}primary{found['query'] or ''}")
        }
        tls = options.pop("connection_class", None) is redis.SSLConnection
        of_sentinel = {
            name: options.pop(f"sentinel_{name}")
            for name in ("username", "password")
            if f"sentinel_{name}" in options
        }
        options = {name: value for name, value in options.items() if name != "host"} | {"ssl": tls}
        shared = {name: value for name, value in options.items() if name.startswith("ssl")}
        asked = Sentinel(
            [_sentinel(text) for text in found["hosts"].split(",")],
            sentinel_kwargs={**self._common, **shared, **of_sentinel},
            **self._common,
            **options,
        )
        return asked.master_for(unquote(found["primary"]), connection_pool_class=_PrimaryPool)


class _PrimaryPool(SentinelConnectionPool):
    """Connections to the primary that the Sentinels name now.

    A server that was replaced may still answer, and what it takes is lost. So the Sentinels are
    asked every few seconds, and a connection to another server than they name is not used again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked_at_seconds = time.monotonic()
        self._asking: asyncio.Task[None] | None = None

    async def ensure_connection(self, connection: Any) -> None:
        """See `ConnectionPool.ensure_connection`. Does not wait for the Sentinels' answer."""
        now = time.monotonic()
        if now - self._asked_at_seconds > _ASK_SECONDS and not self._is_asking():
            self._asked_at_seconds = now
            self._asking = asyncio.create_task(self._ask())
        if self.master_address not in {None, (connection.host, connection.port)}:
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the Sentinels. redis-py also closes idle connections, which others may take now."""
        asked = cast("Any", self)
        self.master_address = await asked.sentinel_manager.discover_master(asked.service_name)
        return self.master_address

    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    async def _ask(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):  # none answers: go on as before
            await self.get_master_address()

    async def close_sentinels(self) -> None:
        """Close the connections to the Sentinels."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        for sentinel in cast("Any", self).sentinel_manager.sentinels:
            await sentinel.aclose()


async def close(client: "redis.Redis | RedisCluster") -> None:
    """Close a client, and its connections to Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, _PrimaryPool):
        await pool.close_sentinels()


def _sentinel(text: str) -> tuple[str, int]:
    found = _SENTINEL.fullmatch(text)
    if found is None:
        raise ValueError
    return found["host"].strip("[]"), int(found["port"] or 26_379)
