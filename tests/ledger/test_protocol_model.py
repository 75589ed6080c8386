"""The claim protocol, small and searched exhaustively: every interleaving of three workers.

Two files in one claim, at most one crash and two leases that run out. The model is of the protocol
alone; that the scripts keep to it is what the other tests of the ledger show.

    take ──▶ send 0 ──▶ journal 0 ──▶ send 1 ──▶ journal 1 ──▶ commit
      └─ crash, or the lease runs out, anywhere; the late owner goes on unknowing
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

pytestmark = pytest.mark.both

WORKERS = 3
MESSAGES = 2
CRASHES = 1
EXPIRIES = 2


@dataclass(frozen=True)
class Worker:
    """What one worker knows: its token (0: it holds nothing), what is confirmed, what flies."""

    token: int = 0
    confirmed: frozenset[int] = frozenset()
    flying: int = -1
    is_dead: bool = False


@dataclass(frozen=True)
class World:
    """One state of everything; `owner` 0 is nobody's, `copies` counts what SQS holds."""

    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    owner: int = 0
    tokens: int = 0
    journal: frozenset[int] = frozenset()
    is_processed: bool = False
    copies: tuple[int, ...] = (0,) * MESSAGES
    disturbed: tuple[int, ...] = (0,) * MESSAGES  # was in flight when something went wrong
    crashes: int = CRASHES
    expiries: int = EXPIRIES


def steps(world: World, bug: str) -> Iterator[World]:
    """Yield every state that one act leads to."""
    if world.owner and world.expiries:
        yield _free(replace(world, expiries=world.expiries - 1))
    for at, worker in enumerate(world.workers):
        if worker.is_dead:
            continue
        if world.crashes and worker.token:
            yield _crash(world, at)
        if not worker.token:
            if not world.owner and not world.is_processed:
                yield _take(world, at, bug)
        elif worker.flying >= 0:
            yield _journal(world, at)
        else:
            yield from _go_on(world, at, bug)


def _with(world: World, at: int, worker: Worker) -> World:
    return replace(world, workers=(*world.workers[:at], worker, *world.workers[at + 1 :]))


def _plus(counts: tuple[int, ...], message: int) -> tuple[int, ...]:
    return tuple(count + (index == message) for index, count in enumerate(counts))


def _free(world: World) -> World:
    """Let the owner's lease run out: what it has in flight, or sends late, may be repeated."""
    disturbed = world.disturbed
    for worker in world.workers:
        if worker.token == world.owner and not worker.is_dead:
            late = worker.flying if worker.flying >= 0 else _next(worker)
            disturbed = _plus(disturbed, late)
    return replace(world, owner=0, disturbed=disturbed)


def _next(worker: Worker) -> int:
    return next((m for m in range(MESSAGES) if m not in worker.confirmed), -1)


def _crash(world: World, at: int) -> World:
    worker = world.workers[at]
    disturbed = _plus(world.disturbed, worker.flying)
    world = replace(world, crashes=world.crashes - 1, disturbed=disturbed)
    owner = 0 if world.owner == worker.token else world.owner  # its lease runs out by itself
    return replace(_with(world, at, Worker(is_dead=True)), owner=owner)


def _take(world: World, at: int, bug: str) -> World:
    token = world.tokens + 1
    known = frozenset[int]() if bug == "takeover loses the journal" else world.journal
    return replace(_with(world, at, Worker(token, known)), owner=token, tokens=token)


def _journal(world: World, at: int) -> World:
    worker = world.workers[at]
    if world.owner != worker.token:
        return _with(world, at, Worker())  # refused: it lets go
    known = worker.confirmed | {worker.flying}
    world = replace(world, journal=world.journal | {worker.flying})
    return _with(world, at, replace(worker, confirmed=known, flying=-1))


def _go_on(world: World, at: int, bug: str) -> Iterator[World]:
    worker = world.workers[at]
    message = _next(worker)
    if message >= 0 and not world.is_processed:
        sent = _with(world, at, replace(worker, flying=message))
        yield replace(sent, copies=_plus(world.copies, message))
    if message < 0 or bug == "commit before send":
        if world.owner == worker.token:
            yield replace(_with(world, at, Worker()), owner=0, is_processed=True)
        else:
            yield _with(world, at, Worker())
    elif world.is_processed:
        yield _with(world, at, Worker())  # it would send late: its margin forbids that


def search(bug: str = "") -> tuple[int, list[str]]:
    """Visit every state that can be reached; return how many, and what is wrong with any."""
    seen, todo, wrong = {World()}, [World()], set[str]()
    while todo:
        world = todo.pop()
        if world.is_processed and not all(world.copies):
            wrong.add("I3: processed, and SQS lacks a message")
        if any(c - 1 > d for c, d in zip(world.copies, world.disturbed, strict=True)):
            wrong.add("I4: a repeat that nothing explains")
        following = list(steps(world, bug))
        if not following and not world.is_processed:
            wrong.add("I10: nobody can go on, and it is not processed")
        for state in following:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return len(seen), sorted(wrong)


def test_no_interleaving_breaks_the_protocol() -> None:
    """Nothing is lost, no repeat is unexplained, and somebody can always finish."""
    states, wrong = search()
    assert wrong == []
    assert states > 1_000


@pytest.mark.parametrize("bug", ["commit before send", "takeover loses the journal"])
def test_the_search_finds_what_is_wrong(bug: str) -> None:
    """A protocol with a hole in it is found out: the search is no empty one."""
    assert search(bug)[1] != []
