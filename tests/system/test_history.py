"""The independent checker itself: it reports each breach, and nothing that is right."""

from typing import Any

import pytest

from support.history import End, History, violations


class Told:
    """A history told step by step: one file `a.json` with one record, one claim `c`, one worker."""

    def __init__(self, **fields: Any) -> None:
        self.history = History()
        self.at = 100.0
        self.queue: list[str] = []
        self.end: dict[str, Any] = {
            "fifo": False, "spool": set(), "archived": {"a.json": b"[]"}, "rejected": {},
            "reasons": {}, "redis_keys": {"counters"}, "laws_broken": (),
        }  # fmt: skip
        arrived = {"name": "a.json", "records": ["1"], "data": b"[]", "bad": False, "poison": False}
        self.add("arrive", **arrived | fields)

    def add(self, what: str, **fields: Any) -> "Told":
        """Note an event, a second after the one before."""
        self.at += 1
        self.history.add(self.at, what, **fields)
        return self

    def claim(self, by: str = "t1", claim: str = "c", *, until: float = 130.0) -> "Told":
        """Note that a worker got the claim."""
        return self.add("claim", claim=claim, names=["a.json"], token=by, until=until, kind="all")

    def accept(self, *records: str, entries: int = 1, size: int = 100) -> "Told":
        """Note what the queue took."""
        self.queue += records
        return self.add("accept", records=records, entries=entries, bytes=size)

    def commit(self, by: str = "t1", *, ok: bool = True, **fates: list[str]) -> "Told":
        """Note a commit."""
        fates = {"vanished": [], "rejected": [], "retry": []} | fates
        return self.add("commit", claim="c", token=by, ok=ok, **fates)

    def expire(self, token: str = "") -> "Told":
        """Note that the checker freed the claim; `token` is whose it is afterwards."""
        return self.add("expire", tokens={"c": token})

    def renew(self, by: str = "t1", *, ok: bool = True) -> "Told":
        """Note a heartbeat."""
        return self.add("renew", claim="c", token=by, ok=ok, until=self.at + 30)

    def release(self, by: str = "t1", *, ok: bool = True) -> "Told":
        """Note that a worker gives the claim back."""
        return self.add("release", claim="c", token=by, ok=ok)

    def broken(self, **end: Any) -> list[str]:
        """Return the invariants that the checker finds broken, each once."""
        found = violations(self.history, End(queue=self.queue, **self.end | end))
        return sorted({line.split(":")[0] for line in found})


def told(**fields: Any) -> Told:
    """Return the beginning of a history."""
    return Told(**fields)


RIGHT = {
    "all in order": told()
    .add("pack", claim="c", limit=1024, messages=[(0, 900, 90), (1, 500, 123)])
    .claim().accept("1").renew().commit(),
    "taken over after the lease": told()
    .claim(until=103).accept("1").claim("t2").accept("1").commit("t2"),
    "a late owner is refused": told()
    .claim(until=103).claim("t2").renew("t1", ok=False).commit("t1", ok=False)
    .accept("1").commit("t2"),
    "a commit whose reply was lost, sent again": told().claim().accept("1").commit().commit(),
    "given back, and finished by another": told()
    .claim().accept("1").release().claim("t2").accept("1").commit("t2"),
    "archived, and a file that somebody deleted": told().claim().accept("1").commit()
    .add("noted", names=["a.json"], lying=["a.json"], gone=False)
    .add("noted", names=["b.json"], lying=[], gone=True),
    # The checker frees a claim, a worker takes it over, and only then the checker's call comes
    # again because its reply was lost: it gets the answer of the first time, and frees nothing.
    "an expire sent again after a takeover": told()
    .claim(until=103).add("die", process="w", point="x").expire().claim("t2").expire("t2")
    .accept("1").commit("t2"),
    # Redis is wiped, and later restored from a snapshot of before: a claim that was forgotten in
    # between is back, and its owner, alive, finishes it.
    "a claim that two losses bring back": told()
    .claim().add("redis_lost", claims={})
    .add("redis_lost", claims={"c": ("t1", 130.0, ["a.json"])}).accept("1").commit(),
}  # fmt: skip


@pytest.mark.parametrize("story", RIGHT)
def test_what_is_right_is_not_reported(story: str) -> None:
    """A checker that cries wolf is switched off one day."""
    assert RIGHT[story].broken() == []


WRONG = {
    "I1": told().claim().accept("1"),
    "I2": told().claim().accept("1", "2").commit(),
    "I3": told().claim().commit().accept("1"),
    "I4": told().claim().accept("1").accept("1").commit(),
    "I5": told().claim().claim("t2").accept("1").commit("t2"),
    "I6": told().claim().accept("1", entries=11).commit(),
    "I7": told()
    .add("pack", claim="c", limit=1024, messages=[(0, 900, 90), (1, 500, 90)])
    .claim().accept("1").commit(),
    "I8": told().claim().accept("1").commit(rejected=["a.json"]),
    "I10": told().claim().accept("1").expire(),
}  # fmt: skip


@pytest.mark.parametrize("invariant", WRONG)
def test_each_breach_is_reported(invariant: str) -> None:
    """One small history for each invariant; only where the files end is not what it is about."""
    story = WRONG[invariant]
    if invariant == "I1":
        story.queue.clear()
    assert invariant in story.broken()


@pytest.mark.parametrize(
    ("story", "invariant"),
    [
        (told().claim(until=103).claim("t2").commit("t1"), "I5"),  # by a stale token
        (told().claim(until=103).claim("t2").renew("t1"), "I5"),
        (told().claim().renew(ok=False), "I5"),  # of a live owner
        (told().claim().release(ok=False), "I5"),
        (told().claim().accept("1").commit(ok=False), "I5"),
        (told().claim().claim("t2", claim="d"), "I5"),  # one file, two claims
        (told(bad=True).claim().accept("1").commit(), "I8"),
        (told().claim().accept("1", size=1_048_577).commit(), "I6"),
        (told().add("noted", names=["a.json"], lying=[], gone=False), "I13"),
        (told().add("noted", names=["a.json"], lying=["a.json"], gone=True), "I13"),
    ],
)
def test_other_forms_are_reported(story: Told, invariant: str) -> None:
    """Late acts that succeed, acts of a live owner that do not, and sizes."""
    assert invariant in story.broken()


@pytest.mark.parametrize(
    ("end", "invariant"),
    [
        ({"archived": {}}, "I9"),
        ({"archived": {"a.json": b"other"}}, "I9"),
        ({"rejected": {"a.json": b"[]"}}, "I9"),
        ({"spool": {"a.json"}, "archived": {}}, "I10"),
        ({"redis_keys": {"leases"}}, "I11"),
        ({"laws_broken": ["a law"]}, "conservation"),
        ({"said": ["file.denied cause=hush!"], "content": "hush"}, "I12"),
        ({"said": ["claim.lost claim=c token=t1"]}, "I12"),
    ],
)
def test_what_is_left_wrong_is_reported(end: dict[str, Any], invariant: str) -> None:
    """A file in another place, with other bytes, or twice; keys and laws at the end."""
    assert invariant in told().claim().accept("1").commit().broken(**end)


def test_fifo_excuses_no_crash() -> None:
    """What a standard queue may repeat after a takeover, a FIFO queue may not."""
    story = told().claim(until=103).accept("1").claim("t2").accept("1").commit("t2")
    assert story.broken() == []
    assert story.broken(fifo=True) == ["I4"]
