"""The ledger's Redis: its keys, its scripts, and the meaning of its errors.

All keys of a spool have one hash tag. So they share a slot of a cluster, and one script may use
them together. docs/ledger.md describes each key.
"""

import contextlib
import functools
import inspect
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, ParamSpec, TypeVar, cast

import redis.asyncio as redis
from redis import exceptions as failed
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.commands.core import AsyncScript

from penstock import telemetry
from penstock.errors import Again, Halt, own_trouble, untrusted
from penstock.ledger.connect import Address, close

P = ParamSpec("P")
T = TypeVar("T")

REMEMBER_MS = 120_000
"""How long the answer to a token is remembered: redis-py repeats within 4 tries of 5 s each."""

_REPLICATED_MS = 1_000  # the longest wait for replicas
_VERSION_MIN = (6, 2)  # ZMSCORE
_SOURCES: Mapping[str, str] = {
    file.name.removesuffix(".lua"): file.read_text()
    for file in resources.files("penstock.ledger").joinpath("lua").iterdir()
}
"""Script text by verb. Read at import, so that an upgrade in place cannot mix versions."""

_TYPES: Mapping[str, str] = {
    "json_files_processing": "hash", "json_files_processed": "zset", "json_files_rejected": "hash",
    "out_of_spool": "zset", "retry": "zset", "leases": "zset", "counters": "hash",
    "epoch": "string", "frontier": "string", "workers": "zset", "workers_since": "hash",
    "claims_given": "hash", "suspects": "hash", "sweeper": "hash", "minutes": "hash",
    "put_back": "hash", "overlooked": "zset", "loaders": "zset", "loader_started": "string",
    "spool": "string", "spool_note": "string", "gone": "zset",
    "waited": "string", "troubles": "hash", "claims": "zset",
}  # fmt: skip

_CLUSTER = (failed.ClusterError, failed.AskError, failed.RedisClusterException)
_UNREACHABLE = (failed.ConnectionError, failed.TimeoutError, OSError)
_PASSING = (
    failed.OutOfMemoryError, failed.ReadOnlyError, failed.BusyLoadingError, failed.TryAgainError,
    failed.NoScriptError, *_CLUSTER,  # redis-py loads a missing script, but not into a new primary
)  # fmt: skip
UNWRITABLE = "Redis cannot write its data to disk, and accepts nothing new"
_ALL_BUSY = "No connection available."  # redis-py has no class for it


def translate_redis_errors(operation: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Raise redis-py's errors as ours: Again if they may pass, Halt if a person must fix them.

    No error may look like "nothing to claim".
    """

    @functools.wraps(operation)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        verb = f"ledger.{operation.__name__.lstrip('_')}"
        try:
            return await operation(*args, **kwargs)
        except (failed.RedisError, failed.RedisClusterException, OSError) as error:
            text = _why_it_halts(error)
            if text is None:
                raise Again(f"{verb}: {_why_it_may_pass(error)}") from None
            odd = await _odd_keys(args) if "WRONGTYPE" in str(error) else ""
            raise Halt(f"{verb}: {odd or text}") from None

    return wrapped


def _why_it_halts(error: Exception) -> str | None:
    """Return what a person must fix; None if the error may pass."""
    if isinstance(error, failed.AuthenticationError):
        return f"Redis refuses us: {error}; see ledger.url"
    # Redis 7.0 says only this about a forbidden command in a script.
    if isinstance(error, failed.NoPermissionError) or "executing the script can't" in str(error):
        return f"Redis refuses us: {error}; grant the user the rights in docs/ledger.md"
    if _is_untrusted(error):
        return (
            f"{untrusted(error, 'the certificate of Redis')}; name the CA that signed it:"
            " ledger.url = rediss://…?ssl_ca_certs=/path/ca.pem"
        )
    if "SELECT is not allowed in cluster mode" in str(error):
        return (
            "ledger.url: names a database other than 0, but this Redis is a node of a cluster,"
            " which has no other; remove the number from ledger.url"
        )
    if isinstance(error, (*_PASSING, *_UNREACHABLE)) or _is_passing(str(error)):
        return None
    return f"Redis answers with an error: {error}"


def _why_it_may_pass(error: Exception) -> str:
    if isinstance(error, failed.OutOfMemoryError) or "OOM " in str(error):
        return "Redis is full: it has reached its maxmemory; run the archiver, or raise maxmemory"
    if "MISCONF" in str(error):  # answered even to a PING
        return f"{UNWRITABLE}: {str(error).partition('MISCONF ')[2]}"
    if isinstance(error, _UNREACHABLE) and not isinstance(error, failed.BusyLoadingError):
        return _why_unreachable(error)
    if isinstance(error, _CLUSTER):
        return f"the cluster of Redis is incomplete: {error}"
    return f"Redis is not ready: {error}"


def _is_untrusted(error: BaseException) -> bool:
    """Tell whether the server's certificate caused the error: then no retry can help."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _why_unreachable(error: Exception) -> str:
    """Return why a call did not reach Redis, or its answer did not reach us.

    redis-py wraps the operating system's error in its own. A local one, such as too many open
    files, says nothing about Redis.
    """
    if str(error) == _ALL_BUSY:
        return (
            "every connection to Redis was busy for as long as a call may take: Redis is"
            " overloaded; reduce its load, or lower worker.lanes"
        )
    if own := own_trouble(error):
        return own
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.filename is not None:
            return f"{cause.filename}: {cause.strerror}; restart this process"
        cause = cause.__cause__ or cause.__context__
    return f"Redis cannot be reached: {str(error).rstrip('.')}; see ledger.url"


async def _odd_keys(args: Sequence[object]) -> str:
    """Return which key of `args[0]`, a part of a ledger, has the wrong type: Redis does not say."""
    scripts = getattr(args[0], "_scripts", None) if args else None
    if not isinstance(scripts, Scripts):
        return ""
    with contextlib.suppress(failed.RedisError, OSError):
        for name, wanted in _TYPES.items():
            key = scripts.key(name)
            found = await scripts.client.type(key)
            if found not in {wanted, "none"}:
                return (
                    f"{key} in Redis is a {found}, not a {wanted}: something else has written it;"
                    f" look at it, then delete it: DEL {key}"
                )
    return ""


def _is_passing(text: str) -> bool:
    """Tell whether an error that redis-py has no class for may pass.

    In a script the code is not always the first word. Redis 7 says `OOM …` and `READONLY …`; Redis
    6.2 says `ERR … -OOM …`. MISCONF: Redis cannot write its snapshots; MASTERDOWN: a replica has
    lost its primary; NOREPLICAS: there are too few.
    """
    codes = ("OOM ", "READONLY ", "BUSY ", "MISCONF ", "MASTERDOWN ", "NOREPLICAS ", "CLUSTERDOWN ")
    return any(text.startswith(code) or f"-{code}" in text for code in codes)


class Scripts:
    """One spool's keys and scripts in one Redis.

    `address` makes the client of the whole cluster if the server is a node of one. `replicas` is
    how many must confirm what must not be lost; see `replicated`. `clock` replaces lua/clock.lua
    in a test.
    """

    def __init__(
        self,
        client: "redis.Redis",
        spool: str,
        *,
        address: Address | None = None,
        replicas: int = 0,
        clock: str | None = None,
    ) -> None:
        self.client: redis.Redis = client
        self._address = address
        self._replicas = replicas
        self._is_confirmed = True
        self._node: redis.Redis | None = None  # the cluster's node with our keys, for WAIT
        self._prefix = f"penstock:{{{spool}}}:"
        self._clock = clock or _SOURCES["clock"]
        self._scripts: dict[str, AsyncScript] = {}

    def key(self, name: str) -> str:
        """Return this spool's key that docs/ledger.md calls `name`."""
        return self._prefix + name

    async def run(self, verb: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run lua/VERB.lua; its header names KEYS and ARGV. Sends the text only if needed."""
        script = self._scripts.get(verb)
        if script is None:
            text = f"{self._clock}\n{_SOURCES['common']}\n{_SOURCES[verb]}"
            script = self._scripts[verb] = self.client.register_script(text)
        return await script(keys=[self._prefix + key for key in keys], args=args)  # type: ignore[arg-type]

    async def ask(self, fill: Callable[[Any], object]) -> list[Any]:
        """Return the answers to `fill`'s pipeline, of one moment; from a full Redis one by one."""
        for is_one_moment in (True, False):
            async with self.client.pipeline(transaction=is_one_moment) as pipe:
                fill(pipe)
                try:
                    return await pipe.execute()
                except failed.OutOfMemoryError:
                    if not is_one_moment:
                        raise
        raise AssertionError  # unreachable

    async def info(self) -> Mapping[str, Any]:
        """Return INFO of the server that holds this spool's keys."""
        return cast("Mapping[str, Any]", await cast("Any", self.client).info(**await self._here()))

    async def policy(self, info: Mapping[str, Any]) -> str:
        """Return what this Redis does when it is full, from `info`; noeviction if that is safe.

        volatile-… is safe if nobody can change it, as on ElastiCache Serverless. It evicts only
        keys with an expiry: of ours, only answers that are remembered for two minutes.
        """
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy.startswith("volatile-"):
            try:
                await cast("Any", self.client).execute_command(
                    "CONFIG GET", "maxmemory-policy", **await self._here()
                )
            except failed.ResponseError:  # or this user may not ask
                return "noeviction"
        return policy

    async def _here(self) -> Mapping[str, ClusterNode]:
        """Return the option that makes redis-py ask our keys' node, if there are several."""
        is_cluster = isinstance(self.client, RedisCluster)
        return {"target_nodes": await self._owner()} if is_cluster else {}

    async def replicated(self, claim: str = "", token: str = "") -> bool:
        """Wait up to a second; tell whether enough replicas have all writes. True if none must.

        False if the primary lacks `claim` with this `token`: another server may be primary by now.
        """
        if not self._replicas:
            return True
        client = self.client
        if isinstance(client, RedisCluster):
            client = await self._of(await self._owner())
        async with client.pipeline(transaction=False) as pipe:
            # WAIT covers what its own connection wrote; replicas apply everything in one order.
            pipe.set(self.key("waited"), "")
            pipe.wait(self._replicas, _REPLICATED_MS)
            if claim:
                pipe.hget(self.key(f"claim:{claim}"), "token")
            _, confirmed, *held = await pipe.execute()
        if held not in ([], [token]):
            return False
        was_confirmed, self._is_confirmed = self._is_confirmed, confirmed >= self._replicas
        if self._is_confirmed:
            return True
        if was_confirmed:  # warn once until they have caught up
            telemetry.warn("ledger.unconfirmed", replicas=confirmed, wanted=self._replicas,
                           remedy="see the replicas of Redis, or ledger.wait_replicas")  # fmt: skip
        await cast("Any", self.client).hincrby(self.key("counters"), "writes_unconfirmed", 1)
        if not isinstance(self.client, RedisCluster):  # the primary may have changed
            await self.client.connection_pool.disconnect(inuse_connections=False)
        return False

    async def _owner(self) -> ClusterNode:
        cluster = cast("RedisCluster", self.client)
        await cluster.initialize()
        return cast("ClusterNode", cluster.get_node_from_key(self.key("waited")))

    async def _of(self, node: ClusterNode) -> "redis.Redis":
        options = self._node.connection_pool.connection_kwargs if self._node else {}
        if self._node is None or (options["host"], options["port"]) != (node.host, node.port):
            if self._node is not None:
                await self._node.aclose()
            self._node = cast("Address", self._address).client(node.host, int(node.port))
        return self._node

    async def close(self) -> None:
        """Close the connections."""
        await close(self.client)
        if self._node is not None:
            await self._node.aclose()

    async def check(self, *, may_evict: bool = False) -> None:
        """Raise Halt if this Redis cannot hold a ledger.

        With an eviction policy other than noeviction, a full Redis would forget files; `may_evict`
        accepts that.
        """
        info = await self.info()
        is_one = not isinstance(self.client, RedisCluster)
        if is_one and int(info.get("cluster_enabled", 0)) and self._address:
            await self.client.aclose()
            self.client = cast("redis.Redis", self._address.cluster())
            self._scripts.clear()  # they are bound to the old client
            info = await self.info()
        if info.get("redis_mode") == "sentinel":
            raise Halt(
                "ledger.url: this is a Sentinel; allowed: redis+sentinel://host:port/PRIMARY, where"
                " PRIMARY is the name that it gives the primary"
            )
        policy = await self.policy(info)
        if policy != "noeviction" and not may_evict:
            raise Halt(
                f"ledger.url: this Redis has maxmemory-policy {policy} and would forget files when"
                " it is full; allowed: CONFIG SET maxmemory-policy noeviction"
            )
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < _VERSION_MIN:
            raise Halt(
                f"ledger.url: this Redis is {info['redis_version']}; allowed: 6.2 or newer, or"
                " Valkey (the scripts use ZMSCORE)"
            )
        if info.get("role") == "slave":
            raise Again(
                "ledger.url: this Redis is a replica and cannot be written to; name the primary"
            )


class Part:
    """Base class: some verbs of a ledger. Each public one raises redis-py's errors as ours."""

    def __init_subclass__(cls) -> None:
        for name, verb in [*vars(cls).items()]:
            if inspect.iscoroutinefunction(verb) and not name.startswith("_"):
                setattr(cls, name, translate_redis_errors(verb))

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
