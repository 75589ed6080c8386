"""The ledger's Redis: its keys, its scripts, and what its errors mean.

Every key of a spool stands under one hash tag, so that all of them share a slot of a cluster and a
script may touch them together. docs/ledger.md says what each holds.
"""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, ParamSpec, TypeVar

import redis.asyncio as redis
from redis import exceptions as failed
from redis.commands.core import AsyncScript

from penstock.errors import Again, Halt, own_trouble

P = ParamSpec("P")
T = TypeVar("T")

REMEMBER_MS = 120_000
"""How long the answer to a token is remembered: redis-py re-sends within 4 tries of 5 s each."""

_VERSION_MIN = (6, 2)  # ZMSCORE
_SOURCES: Mapping[str, str] = {
    file.name.removesuffix(".lua"): file.read_text()
    for file in resources.files("penstock.ledger").joinpath("lua").iterdir()
}
"""Each script's text, by verb. Read at import, so that an upgrade in place cannot mix versions."""

_TYPES: Mapping[str, str] = {
    "json_files_processing": "hash", "json_files_processed": "zset", "json_files_rejected": "hash",
    "out_of_spool": "zset", "retry": "zset", "leases": "zset", "counters": "hash",
    "epoch": "string", "frontier": "string", "workers": "zset", "workers_since": "hash",
    "suspects": "hash", "sweeper": "hash", "minutes": "hash", "put_back": "hash",
    "overlooked": "zset", "loaders": "zset", "loader_started": "string",
    "spool": "string", "gone": "zset",
}  # fmt: skip

_ALL_BUSY = "No connection available."  # all that tells it: redis-py has no class for it


def translate_redis_errors(operation: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Turn redis-py's errors into ours: what may pass is Again, what a person must mend is Halt.

    None of them is ever taken for "nothing to claim".
    """

    @functools.wraps(operation)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        verb = f"ledger.{operation.__name__.lstrip('_')}"
        try:
            return await operation(*args, **kwargs)
        except (failed.AuthenticationError, failed.NoPermissionError) as error:
            raise Halt(f"{verb}: Redis refuses us: {error}; see ledger.url") from None
        except failed.OutOfMemoryError as error:
            raise Again(f"{verb}: Redis is full: {error}; give it memory (maxmemory)") from None
        except (failed.ReadOnlyError, failed.BusyLoadingError, failed.TryAgainError) as error:
            raise Again(f"{verb}: Redis is not ready: {error}") from None
        except (failed.ConnectionError, failed.TimeoutError, OSError) as error:
            raise Again(f"{verb}: {_why_unreachable(error)}") from None
        except failed.RedisError as error:
            if _is_passing(str(error)):
                raise Again(f"{verb}: Redis is not ready: {error}") from None
            odd = await _odd_keys(args) if "WRONGTYPE" in str(error) else ""
            raise Halt(f"{verb}: {odd or f'Redis answers with an error: {error}'}") from None

    return wrapped


def _why_unreachable(error: Exception) -> str:
    """Return why a call never reached Redis, or its answer never us.

    redis-py wraps the operating system's error in one of its own. One of this machine, such as too
    many open files, says nothing about Redis.
    """
    if str(error) == _ALL_BUSY:
        return (
            "every connection to Redis was busy for as long as a call may take: it is slower than"
            " we ask; see its load, or lower worker.lanes"
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
    """Return which key of the ledger of `args[0]`, a part of it, is not of its type; else nothing.

    Redis does not tell which it was.
    """
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
                    f" look at it, then let go of it: DEL {key}"
                )
    return ""


def _is_passing(text: str) -> bool:
    """Tell whether an error that redis-py has no class for may pass.

    Inside a script the code of an error is not always the first word. Redis 7 says `OOM …` and
    `READONLY …` there, Redis 6.2 wraps both as `ERR … -OOM …`. MISCONF: it cannot write its
    snapshots; MASTERDOWN: a replica has lost its primary; NOREPLICAS: too few of them.
    """
    codes = ("OOM ", "READONLY ", "BUSY ", "MISCONF ", "MASTERDOWN ", "NOREPLICAS ", "CLUSTERDOWN ")
    return any(text.startswith(code) or f"-{code}" in text for code in codes)


class Scripts:
    """One spool's keys and scripts at one Redis. `clock` replaces lua/clock.lua in a test."""

    def __init__(self, client: "redis.Redis", spool: str, *, clock: str | None = None) -> None:
        self.client = client
        self._prefix = f"penstock:{{{spool}}}:"
        self._clock = clock or _SOURCES["clock"]
        self._scripts: dict[str, AsyncScript] = {}

    def key(self, name: str) -> str:
        """Return the key of this spool that is called `name` in docs/ledger.md."""
        return self._prefix + name

    async def run(self, verb: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run lua/VERB.lua; its header names KEYS and ARGV.

        By its hash; with its text where Redis has not seen it yet, or has forgotten it.
        """
        script = self._scripts.get(verb)
        if script is None:
            text = f"{self._clock}\n{_SOURCES['common']}\n{_SOURCES[verb]}"
            script = self._scripts[verb] = self.client.register_script(text)
        return await script(keys=[self._prefix + key for key in keys], args=args)  # type: ignore[arg-type]

    async def check(self, *, may_evict: bool = False) -> None:
        """Raise Halt if this Redis cannot hold a ledger.

        An eviction policy other than noeviction would let Redis forget files under memory pressure;
        with `may_evict` somebody else says so.
        """
        info = await self.client.info()
        policy = str(info.get("maxmemory_policy", "noeviction"))
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
    """Some of the verbs of a ledger, over its scripts."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
