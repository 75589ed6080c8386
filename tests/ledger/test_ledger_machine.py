"""The ledger against a small reference model: any verbs in any order, as hypothesis finds them."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from penstock.ledger import ledger as ledger_module
from penstock.model import Claim
from support.books import LEASE_SECONDS, START_MS, Books, files, settled
from support.campaign import scaled

T = TypeVar("T")
NAMES = files(6)
CAMPAIGN_EXAMPLES = 10_000
CAMPAIGN_PARTS = 10  # so that several processes can share them
_spools = itertools.count()


@dataclass
class Held:
    """A claim in the model; `until` is 0 when it was released or freed."""

    names: tuple[str, ...]
    token: str
    until: int
    attempt: int = 1
    released: bool = False
    journal: dict[int, str] = field(default_factory=dict[int, str])


class LedgerMachine(RuleBasedStateMachine):
    """Every verb on the real scripts and on the model, with claims current and stale."""

    url: ClassVar[str] = ""
    ids: ClassVar["itertools.count[int]"] = itertools.count(1)
    examples: ClassVar[int] = 0
    states: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        LedgerMachine.ids = itertools.count(1)
        LedgerMachine.examples += 1
        self.loop = asyncio.new_event_loop()
        self.books: Books = self.do(self._open())
        self.workers = itertools.count()
        self.state: dict[str, Any] = {}  # file: its state, or (retry, due)
        self.claims: dict[str, Held] = {}
        self.tokens: dict[str, Claim] = {}  # every claim that a worker ever had
        self.done: set[str] = set()  # tokens that committed
        self.trimmed: set[str] = set()  # tokens that trimmed a claim to nothing

    async def _open(self) -> Books:
        books = Books(self.url, f"machine-{next(_spools)}")
        await books.start()
        return books

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        """Run one verb."""
        return self.loop.run_until_complete(verb)

    def teardown(self) -> None:
        """Leave nothing in Redis."""
        self.do(self.books.forget_all())
        self.do(self.books.close())
        self.loop.close()

    @property
    def now(self) -> int:
        """The time, in ms."""
        return self.books.now_ms

    def ledger(self) -> Any:
        """Return the ledger as a worker of its own sees it: it holds no suspect."""
        return self.books.worker(f"w{next(self.workers)}", takeovers_max=100)

    def is_owner(self, claim: Claim) -> bool:
        """Tell whether the model lets this token act."""
        held = self.claims.get(claim.id)
        return held is not None and held.token == claim.token

    def _next(self, candidates: list[str], least: int) -> tuple[tuple[str, ...], int] | None:
        """Return names and attempt of what a claim must give now, and note it."""
        expired = sorted((c.until, i) for i, c in self.claims.items() if c.until <= self.now)
        if expired:
            held = self.claims[expired[0][1]]
            attempt = held.attempt + (not held.released)
            return held.names, attempt
        due = sorted(
            (s[1], n) for n, s in self.state.items() if s[0] == "retry" and s[1] <= self.now
        )
        names = [name for _, name in due[:3]]
        names += [name for name in candidates if name not in self.state][: 3 - len(names)]
        return (tuple(names), 1) if len(names) >= (1 if due else least) else None

    @rule(candidates=st.permutations(NAMES), count=st.integers(0, 6), least=st.integers(1, 3))
    def claim(self, candidates: list[str], count: int, least: int) -> None:
        """Claim: expired first, then due retries and what is waiting, if there is enough of it."""
        wanted = self._next(candidates[:count], least)
        answer = self.do(self.ledger().claim(candidates[:count], 3, least=least))
        got = answer.claim and (answer.claim.names, answer.claim.attempt)
        assert got == wanted
        if answer.tried:
            held = answer.claim.names if answer.claim else ()
            left = [n for n in candidates[:count] if n not in self.state and n not in held]
            if sum(self.state.get(n, ("",))[0] == "retry" for n in held) == 3:
                left = candidates[:count]  # the claim was full of files due: none was looked at
            untried = [*answer.waiting, *range(answer.looked_up, len(candidates[:count]))]
            assert [candidates[at] for at in untried] == left
        if answer.claim:
            claim: Claim = answer.claim
            before = self.claims.get(claim.id)
            journal = before.journal if before else {}
            assert dict(claim.journal) == journal
            self.claims[claim.id] = Held(
                claim.names, claim.token, self.now + int(LEASE_SECONDS * 1000), claim.attempt,
                journal=journal,
            )  # fmt: skip
            self.state |= dict.fromkeys(claim.names, ("processing",))
            self.tokens[claim.token] = claim

    def _pick(self, data: st.DataObject) -> Claim:
        return self.tokens[data.draw(st.sampled_from(list(self.tokens)))]

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Renew: for the owner only."""
        claim = self._pick(data)
        assert self.do(self.ledger().renew(claim)) == self.is_owner(claim)
        if self.is_owner(claim):
            self.claims[claim.id].until = self.now + int(LEASE_SECONDS * 1000)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), kept=st.integers(0, 3))
    def trim(self, data: st.DataObject, kept: int) -> None:
        """Trim: for the owner only, and before anything is journalled."""
        claim = self._pick(data)
        may = self.is_owner(claim) and not self.claims[claim.id].journal
        trimmed = self.do(self.ledger().trim(claim, kept))
        assert trimmed == may or claim.token in self.trimmed
        if may:
            held = self.claims[claim.id]
            for name in held.names[kept:]:
                self.state[name] = ("retry", self.now)
            held.names = held.names[:kept]
            self.tokens[claim.token] = claim.of_first(kept)
            if not kept:
                self.trimmed.add(claim.token)
                del self.claims[claim.id]

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), index=st.integers(0, 3), message_id=st.sampled_from(["a", "b"]))
    def journal(self, data: st.DataObject, index: int, message_id: str) -> None:
        """Journal: for the owner only."""
        claim = self._pick(data)
        noted = self.do(self.ledger().journal(claim, {index: f"{message_id} 0-0"}))
        assert noted == self.is_owner(claim)
        if noted:
            self.claims[claim.id].journal[index] = message_id

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), fates=st.lists(st.sampled_from("pvrw"), min_size=6, max_size=6))
    def commit(self, data: st.DataObject, fates: list[str]) -> None:
        """Commit: for the owner only, and once more for whoever did it."""
        claim = self._pick(data)
        fate = dict(zip(claim.names, fates, strict=False))
        said = settled(
            claim.names, vanished=[n for n, f in fate.items() if f == "v"],
            rejected={n: "{}" for n, f in fate.items() if f == "r"},
            retry_seconds={n: 30.0 for n, f in fate.items() if f == "w"},
        )  # fmt: skip
        committed = self.do(self.ledger().commit(claim, said))
        assert committed == (self.is_owner(claim) or claim.token in self.done)
        if self.is_owner(claim):
            del self.claims[claim.id]
            self.done.add(claim.token)
            for name, what in fate.items():
                if what == "v":
                    del self.state[name]
                elif what == "w":
                    self.state[name] = ("retry", self.now + 30_000)
                else:
                    self.state[name] = ("rejected" if what == "r" else "processed",)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Release: for the owner only."""
        claim = self._pick(data)
        released = self.do(self.ledger().release(claim))
        if self.is_owner(claim):
            assert released
            held = self.claims[claim.id]
            held.token, held.until, held.released = "", 0, True

    @rule()
    def expire(self) -> None:
        """Expire: exactly those whose lease is over and whom nobody freed before."""
        wanted = {i for i, c in self.claims.items() if 0 < c.until <= self.now}
        assert {e.claim for e in self.do(self.ledger().expire())} == wanted
        for claim in wanted:
            self.claims[claim].token, self.claims[claim].until = "", 0

    @rule(count=st.integers(1, 6))
    def archive(self, count: int) -> None:
        """Archive the oldest processed files, and whatever was rejected."""
        names = [n for n, s in self.state.items() if s[0] in {"processed", "rejected"}][:count]
        if names:
            self.do(self.ledger().upkeep.archived(names))
            self.state |= dict.fromkeys(names, ("archived", self.now))

    @rule()
    def forget(self) -> None:
        """Forget what has been out of the spool for a minute."""
        self.do(self.ledger().upkeep.forget())
        for name, state in list(self.state.items()):
            if state[0] == "archived" and state[1] <= self.now - 60_000:
                del self.state[name]

    @rule(seconds=st.sampled_from([1, 29, 30, 59, 60, 61]))
    def pass_seconds(self, seconds: int) -> None:
        """Let time pass."""
        self.do(self.books.pass_seconds(seconds))
        assert self.now >= START_MS

    @invariant()
    def both_agree(self) -> None:
        """Hold every file to be in the same state as the model does, and the laws to be kept."""
        ledger = self.ledger()
        wanted = [self.state.get(name, ("waiting",))[0] for name in NAMES]
        LedgerMachine.states += 1
        assert self.do(ledger.reads.states(NAMES)) == wanted
        assert self.do(ledger.reads.verify()) == []


def _token_hex(size: int) -> str:
    """Return numbers for ids and tokens: the same verbs then give the same claims in order."""
    return f"{next(LedgerMachine.ids):0{2 * size}x}"


def _run(url: str, examples: int, steps: int, number: int = 0) -> None:
    """Run the machine; another `number` finds other examples."""
    LedgerMachine.url, LedgerMachine.examples, LedgerMachine.states = url, 0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "secrets", SimpleNamespace(token_hex=_token_hex))
        run_machine(
            seed(number)(type("Machine", (LedgerMachine,), {})),
            settings=settings(
                max_examples=examples, stateful_step_count=steps, derandomize=True,
                suppress_health_check=[HealthCheck.too_slow], database=None,
            ),
        )  # fmt: skip
    assert LedgerMachine.examples >= examples


def test_the_ledger_is_its_model(redis_url: str) -> None:
    """Two hundred sequences of verbs give what the model says, step by step."""
    _run(redis_url, examples=200, steps=25)


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(1, 1 + CAMPAIGN_PARTS))
def test_the_ledger_is_its_model_for_long(
    part: int, redis_url: str, record_property: Callable[[str, object], None]
) -> None:
    """Ten thousand sequences, twice as long."""
    _run(redis_url, scaled(CAMPAIGN_EXAMPLES // CAMPAIGN_PARTS), steps=50, number=part)
    counts = [LedgerMachine.examples, LedgerMachine.states]
    record_property("examples", ["state machine of the ledger against its model", *counts])
