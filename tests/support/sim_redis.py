"""The Redis of the simulated fleet: a real one behind a client on which everything can go wrong."""

import contextlib
import json
import random
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

from redis import exceptions as failed

from support.history import History
from support.scripted_source import Spool
from support.sim_process import KilledError, Process

_VERB = re.compile(r"^-- (claim|trim|renew|journal|commit|release|expire|isolate|archived|forget|"
                   r"sweep|swept|prune|age|hold|put_back|now|orphans|"
                   r"correct|spool|adopt):", re.MULTILINE)  # fmt: skip
_BEGAN_SECONDS = 1_000_000_000  # what Redis's clock says when virtual time begins
_NAMES = 12  # the argument of `claim` that holds the candidates


class Store:
    """The real Redis, what it is wiped to or restored from, and the record of what it did."""

    def __init__(
        self, client: Any, spool: str, history: History, now: Callable[[], float], places: Spool
    ) -> None:
        self.client = client  # a synchronous one: every call is one moment of virtual time
        self.prefix = f"penstock:{{{spool}}}:"
        self.now_key = f"sim:now:{spool}"
        self.clock = (
            f"local function now_ms() return tonumber(redis.call('GET', '{self.now_key}')) end"
        )
        self.history = history
        self.now = now
        self.ahead_seconds = 0.0  # of Redis's clock, before the right time
        self.places = places
        self.names: dict[str, list[str]] = {}
        self.hidden: dict[bytes, bytes] = {}

    def run(self, script: Any, keys: list[str], args: list[str | int]) -> Any:
        """Run a script, at the time that it is, by its hash or else with its text.

        On the bare connection, in one round trip: this is what a simulation spends its time on.
        """
        wire = self.client.connection
        now = ("SET", self.now_key, self._now_ms())
        call = ("EVALSHA", script.sha, len(keys), *keys, *args)
        wire.send_packed_command(wire.pack_commands([now, call]))
        wire.read_response()
        try:
            return wire.read_response()
        except failed.NoScriptError:
            self.client.script_load(script.script)
            return self.run(script, keys, args)

    def held(self) -> list[str]:
        """Return this spool's keys."""
        return sorted(self.client.scan_iter(self.prefix.replace("[", "\\[") + "*", count=10_000))

    def snapshot(self) -> dict[str, bytes]:
        """Return all that Redis holds."""
        dump = self.client.execute_command
        return {key: dump("DUMP", key, NEVER_DECODE=True) for key in self.held()}

    def set_clock(self, ahead_seconds: float) -> None:
        """Put Redis's clock ahead of the right time, behind it, or right: leases end then."""
        self.ahead_seconds = ahead_seconds
        self._note_leases()

    def _now_ms(self) -> int:
        return int((_BEGAN_SECONDS + self.now() + self.ahead_seconds) * 1000)

    def _until(self, score: float | None) -> float:
        """Return when a lease ends, in the right time."""
        return score / 1000 - self.ahead_seconds - _BEGAN_SECONDS if score else 0.0

    def _note_leases(self) -> None:
        """Record when leases end now: a clock, or a correction, has moved that."""
        claims = self.client.zrange(f"{self.prefix}leases", 0, -1, withscores=True)
        ends = {claim: self._until(score) for claim, score in claims}
        self.history.add(self.now(), "leases", ends=ends)

    def delete_one(self, dice: random.Random) -> None:
        """Lose one key of the ledger, but none that says who owns what, or which spool it is."""
        kept = ("leases", "json_files_processing", "spool")
        keys = [key for key in self.held() if key.removeprefix(self.prefix) not in kept]
        if keys:
            self.client.delete(dice.choice(keys))
            self.note_loss()

    def lose(self, snapshot: dict[str, bytes]) -> None:
        """Forget everything since a snapshot; everything at all, if it is empty."""
        for key in self.held():
            self.client.delete(key)
        for key, data in snapshot.items():
            self.client.restore(key, 0, data)
        self.note_loss()

    def note_loss(self) -> None:
        """Record that something was lost, and who holds what in what is left."""
        claims = self.client.zrange(f"{self.prefix}leases", 0, -1, withscores=True)
        held: dict[str, tuple[str, float, list[str]]] = {}
        for claim, until in claims:
            token, names = self.client.hmget(f"{self.prefix}claim:{claim}", "token", "names")
            if names:
                held[claim] = (token, self._until(until), names.split("/"))
        self.history.add(self.now(), "redis_lost", claims=held)

    def clear(self) -> None:
        """Leave nothing of this run."""
        for key in self.held():
            self.client.delete(key)
        self.client.delete(self.now_key)

    def note(self, verb: str, keys: list[str], args: list[str], answer: Any) -> None:
        """Record what a script did, from what it was given and what it answered."""
        recorder = getattr(self, f"_note_{verb}", None)
        if recorder:
            recorder(keys, args, answer)

    def _note_claim(self, keys: list[str], args: list[str], answer: Any) -> None:
        kind = answer[0]
        if kind in {"none", "late", "moved", "worn"}:
            return
        if kind == "made":
            claim, candidates = args[1], args[_NAMES].split("/")
            _, taken, due = answer[4:7]
            names: list[str] = due.split("/") if due else []
            if isinstance(taken, int):
                names += candidates[:taken]
            else:
                names += [candidates[int(i) - 1] for i in taken.split(",") if i]
        else:
            claim, names = answer[4], answer[7].split("/")
        self.names[claim] = names
        until = self._until(self.client.zscore(keys[0], claim))
        self.history.add(
            self.now(), "claim", claim=claim, names=names, token=args[2], until=until, kind=kind
        )

    def _note_renew(self, keys: list[str], args: list[str], answer: Any) -> None:
        until = self._until(self.client.zscore(keys[0], args[0]))
        self.history.add(
            self.now(), "renew", claim=args[0], token=args[1], ok=bool(answer), until=until
        )

    def _note_trim(self, keys: list[str], args: list[str], answer: Any) -> None:
        assert keys
        kept = int(args[2])
        if answer and args[0] in self.names:
            self.names[args[0]] = self.names[args[0]][:kept]
        self.history.add(
            self.now(), "trim", claim=args[0], token=args[1], ok=bool(answer), kept=kept
        )

    def _note_release(self, keys: list[str], args: list[str], answer: Any) -> None:
        names = self.names.get(args[0], [])
        spans = [part.split("-") for part in args[6].split(",") if part]
        ready = [n for first, last in spans for n in names[int(first) : int(last) + 1]]
        self.history.add(
            self.now(), "release", claim=args[0], token=args[1], ok=bool(answer),
            processed=[n for n in ready if self.client.zscore(keys[5], n) is not None],
        )  # fmt: skip

    def _note_commit(self, keys: list[str], args: list[str], answer: Any) -> None:
        assert keys
        at, fates = 3, []
        for width in (1, 2, 2):
            count = int(args[at])
            fates.append(args[at + 1 : at + 1 + count * width : width])
            at += 1 + count * width
        self.history.add(
            self.now(), "commit", claim=args[0], token=args[1], ok=bool(answer),
            vanished=fates[0], rejected=fates[1], retry=fates[2],
        )  # fmt: skip

    def _note_correct(self, keys: list[str], args: list[str], answer: Any) -> None:
        assert keys
        assert args
        if int(answer):
            self._note_leases()

    def _note_archived(self, keys: list[str], args: list[str], answer: Any) -> None:
        assert keys
        assert answer is not None
        places = (self.places.files, self.places.archived, self.places.rejected)
        lying = [name for name in args[0].split("/") if any(name in place for place in places)]
        self.history.add(
            self.now(), "noted", names=args[0].split("/"), lying=lying, gone=args[1] != "0"
        )

    def _note_expire(self, keys: list[str], args: list[str], answer: Any) -> None:
        assert keys
        freed = [row[0] for row in json.loads(answer)]
        tokens = {claim: self.client.hget(f"{args[0]}{claim}", "token") for claim in freed}
        self.history.add(self.now(), "expire", tokens=tokens)

    def _note_isolate(self, keys: list[str], args: list[str], answer: Any) -> None:
        if not any(json.loads(answer)):
            return
        names = self.names.get(args[0], [])
        self.history.add(
            self.now(), "isolate", claim=args[0],
            processed=[n for n in names if self.client.zscore(keys[2], n) is not None],
            rejected=[n for n in names if self.client.hexists(keys[3], n)],
        )  # fmt: skip


class Client:
    """What one process has of Redis: redis-py's asynchronous interface, as far as it is used."""

    def __init__(self, store: Store, process: Process) -> None:
        self._store = store
        self._process = process

    async def _call(self, what: str, act: Callable[[], Any]) -> Any:
        process, chaos, store = self._process, self._process.chaos, self._store
        await process.step(f"{what}.before")
        if chaos.strikes("redis cut before"):
            raise failed.ConnectionError("cut before the command")
        if not await process.wire():
            raise KilledError(process.name)
        if chaos.strikes("redis out of memory"):
            raise failed.OutOfMemoryError("command not allowed when used memory > 'maxmemory'")
        if chaos.strikes("script cache flushed"):
            store.client.script_flush()
        answer = act()
        if chaos.strikes("redis reply lost, sent again"):
            await process.wire()
            process.living()
            answer = act()
        if chaos.strikes("redis cut after"):
            raise failed.ConnectionError("cut before the reply")
        await process.wire()
        await process.step(f"{what}.after")
        return answer

    def register_script(self, text: str) -> Any:
        """Return the script as an asynchronous function."""
        found = _VERB.search(text)
        assert found, text[:200]
        verb, script = found[1], self._store.client.register_script(text)

        async def call(keys: list[str], args: list[str | int]) -> Any:
            def act() -> Any:
                answer = self._store.run(script, keys, args)
                self._store.note(verb, keys, [str(arg) for arg in args], answer)
                return answer

            return await self._call(verb, act)

        return call

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(
                name, lambda: getattr(self._store.client, name)(*args, **kwargs)
            )

        return call

    async def scan_iter(self, **given: Any) -> AsyncGenerator[str]:
        """Yield keys, a call a page."""
        cursor: int | None = None
        while cursor != 0:
            cursor, keys = await self.scan(cursor or 0, **given)
            for key in keys:
                yield key

    @contextlib.asynccontextmanager
    async def pipeline(self, *, transaction: bool) -> AsyncGenerator[Any]:
        """Collect commands, and run them in one moment."""
        pipe = self._store.client.pipeline(transaction=transaction)

        class Pipe:
            def __getattr__(self, name: str) -> Any:
                return getattr(pipe, name)

        made: Any = Pipe()

        def execute() -> Any:
            commands = list(pipe.command_stack)
            answer = pipe.execute()
            pipe.command_stack = commands  # it may be sent again
            return answer

        made.execute = lambda: self._call("pipeline", execute)
        yield made

    async def aclose(self) -> None:
        """Nothing is open."""
