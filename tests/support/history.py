"""What happened, and whether it was right: a checker that shares no code with the product.

It reads a recorded history, what the queue holds at the end and where each file lies, and returns
one sentence per invariant broken. The numbers are those of tests/README.md.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]


@dataclass
class History:
    """Events in the order in which they happened; each has `at` (seconds) and `what`."""

    events: list[Event] = field(default_factory=list[Event])

    def add(self, at: float, what: str, **fields: Any) -> None:
        """Note one event."""
        self.events.append({"at": at, "what": what, **fields})


@dataclass
class End:
    """How it ended: records in the queue, where each file lies, what Redis and the laws say."""

    queue: Sequence[str]
    fifo: bool
    spool: set[str]
    archived: Mapping[str, bytes]
    rejected: Mapping[str, bytes]
    reasons: Mapping[str, str]
    redis_keys: set[str]
    laws_broken: Sequence[str]
    said: Sequence[str] = ()  # every line of the log
    content: str = "\0"  # what every record has in it, and nothing else


def violations(history: History, end: End) -> list[str]:
    """Return every breach of I1 to I13 and of the conservation laws; none is as it must be."""
    check = _Check(history)
    for event in history.events:
        getattr(check, f"on_{event['what']}", check.ignore)(event)
    check.at_end(end)
    return check.broken


class _Check:
    def __init__(self, history: History) -> None:
        self.history = history
        self.broken: list[str] = []
        self.expected: dict[str, list[str]] = {}  # file: its records
        self.contents: dict[str, bytes] = {}
        self.bad: set[str] = set()
        self.poison: set[str] = set()
        self.file_of: dict[str, str] = {}
        self.accepted: set[str] = set()
        self.disturbed: Counter[str] = Counter()  # file: what may have repeated its messages
        self.reshaped: Counter[str] = Counter()  # file: what may have repeated them under other ids
        self.losses = 0
        self.tokens: set[str] = set()
        self.names: dict[str, list[str]] = {}  # claim: its files
        self.sent_of: set[str] = set()  # claims of which something was sent
        self.resumed: set[str] = set()  # claims that go on where another owner stopped
        self.owner: dict[str, tuple[str, float]] = {}  # claim: token, end of its lease
        self.rejected_names: Counter[str] = Counter()
        self.given_up: set[str] = set()  # files rejected because their workers died
        self.refused: set[str] = set()  # records that SQS said it would never take

    def fail(self, invariant: str, text: str) -> None:
        self.broken.append(f"{invariant}: {text}")

    def ignore(self, event: Event) -> None:
        assert event["what"] in {"fault", "reply", "try", "journal", "die"}, event

    def on_arrive(self, event: Event) -> None:
        name = event["name"]
        self.expected[name] = event["records"]
        self.contents[name] = event["data"]
        if event["bad"]:
            self.bad.add(name)
        if event["poison"]:
            self.poison.add(name)
        self.file_of |= dict.fromkeys(event["records"], name)

    # Claims: I5, and what may explain repeats.

    def on_claim(self, event: Event) -> None:
        claim, names, at = event["claim"], event["names"], event["at"]
        self.tokens.add(event["token"])
        holder = self.owner.get(claim)
        if holder and holder[1] > at and holder[0] != event["token"]:
            self.fail("I5", f"claim {claim} was taken from a live owner at {at}")
        if claim in self.names and self.names[claim] != names:
            self.fail("I5", f"claim {claim} is not frozen")
        if holder is None or claim not in self.names:
            live = {n for c, (_, end) in self.owner.items() if end > at for n in self.names[c]}
            if claim not in self.names and live & set(names):
                self.fail("I5", f"{sorted(live & set(names))} have two live owners at {at}")
        if claim in self.names and (holder is None or holder[0] != event["token"]):
            self.disturbed.update(names)  # it had an owner who did not finish
            if any(record in self.accepted for name in names for record in self.expected[name]):
                self.resumed.add(claim)
        self.names[claim] = names
        self.owner[claim] = (event["token"], event["until"])

    def _owned(self, event: Event) -> bool:
        holder = self.owner.get(event["claim"])
        return holder is not None and holder[0] == event["token"]

    def on_renew(self, event: Event) -> None:
        if not event["ok"]:
            self._refused(event)
            return
        if not self._owned(event):
            self.fail("I5", f"a stale token renewed claim {event['claim']}")
        self.owner[event["claim"]] = (event["token"], event["until"])

    def _refused(self, event: Event) -> None:
        if self._owned(event) and self.owner[event["claim"]][1] > event["at"]:
            self.fail(
                "I5", f"the live owner of claim {event['claim']} was refused a {event['what']}"
            )

    def on_trim(self, event: Event) -> None:
        """Files that nobody has sent anything of are free again."""
        claim = event["claim"]
        if not event["ok"]:
            self._refused(event)
        elif self._owned(event):
            if claim in self.sent_of:
                self.fail("I5", f"claim {claim} was trimmed after a message of it was sent")
            self.names[claim] = self.names[claim][: event["kept"]]
            if not event["kept"]:
                self.owner.pop(claim)
        elif claim in self.owner:
            self.fail("I5", f"a stale token trimmed claim {claim}")

    def on_release(self, event: Event) -> None:
        if not event["ok"]:
            self._refused(event)
        elif self._owned(event):
            self.owner[event["claim"]] = ("", 0.0)
            self._processed(event.get("processed", ()), event["at"])

    def on_expire(self, event: Event) -> None:
        """Judge by the token that each claim has afterwards, not by the answer.

        The answer is remembered for a repeated call, and a successor may have come in between.
        """
        for claim, left in event["tokens"].items():
            if left != "":
                continue  # it has an owner, or is no more
            token, until = self.owner.get(claim, ("", 0.0))
            if until > event["at"]:
                self.fail("I10", f"the checker freed claim {claim}, whose owner {token} lives")
            self.owner[claim] = ("", 0.0)

    def on_isolate(self, event: Event) -> None:
        claim = event["claim"]
        if claim not in self.owner:
            return  # the same act again
        names = self.names.get(claim, [])
        self.reshaped.update(names)
        self._processed(event["processed"], event["at"])
        for name in event["rejected"]:
            self.rejected_names[name] += 1
            self.given_up.add(name)
            if name not in self.poison:
                self.disturbed[name] += 1
        self.owner.pop(claim, None)

    def on_commit(self, event: Event) -> None:
        if not event["ok"]:
            self._refused(event)
            return
        claim = event["claim"]
        if claim in self.names and not self._owned(event):
            if claim in self.owner:
                self.fail("I5", f"a stale token committed claim {claim}")
            return  # the same commit again
        names = self.names[claim]
        other = {*event["vanished"], *event["rejected"], *event["retry"]}
        if not other <= set(names):
            self.fail("I3", f"claim {claim} committed files that are not its own")
        self._processed([name for name in names if name not in other], event["at"])
        self.rejected_names.update(event["rejected"])
        for name in event["rejected"]:
            if name not in self.bad and not self.refused & set(self.expected[name]):
                self.fail("I8", f"{name} was rejected and is good")
        self.owner.pop(claim)

    def _processed(self, names: Sequence[str], at: float) -> None:
        for name in names:
            missing = [r for r in self.expected[name] if r not in self.accepted]
            if missing:
                self.fail("I3", f"{name} is processed at {at} and SQS lacks {missing}")
            if name in self.bad:
                self.fail("I8", f"{name} is processed and is bad")

    # The queue: I2, I4, I6 and I7.

    def on_pack(self, event: Event) -> None:
        messages = event["messages"]
        self.sent_of.add(event["claim"])
        for (index, size, _), (next_index, _, first) in itertools.pairwise(messages):
            # A comma, the record, and a digit more in the attribute that counts the records.
            if next_index == index + 1 and first and size + 1 + first + 1 <= event["limit"]:
                self.fail("I7", f"message {index} of {size} bytes had room for {first} more")

    def on_accept(self, event: Event) -> None:
        self.accepted.update(event["records"])
        if event["entries"] > 10:
            self.fail("I6", f"a batch of {event['entries']} entries")
        if event["bytes"] > 1_048_576:
            self.fail("I6", f"a batch of {event['bytes']} bytes")

    def on_unknown(self, event: Event) -> None:
        self.disturbed.update({self.file_of[r] for r in event["records"] if r in self.file_of})

    def on_refuse(self, event: Event) -> None:
        self.refused.update(event["records"])

    def on_reread(self, event: Event) -> None:
        """Note that a file of a claim was not there, or not readable, when it was read."""
        claims = [names for names in self.names.values() if event["name"] in names]
        for names in claims:
            self.reshaped.update(names)

    def on_denied(self, event: Event) -> None:
        """Note that a file could not be read: only a first owner leaves it out of its messages."""
        for claim, names in self.names.items():
            if event["name"] in names and claim not in self.resumed:
                self.reshaped.update(names)

    def on_leases(self, event: Event) -> None:
        """Take over when leases end: Redis's clock, or a correction, has moved that."""
        for claim, (token, _) in self.owner.items():
            if token and claim in event["ends"]:
                self.owner[claim] = (token, event["ends"][claim])

    def on_noted(self, event: Event) -> None:
        """Judge what is noted as out of the spool: archived lies somewhere, gone does not."""
        wrong = set(event["lying"]) if event["gone"] else {*event["names"]} - set(event["lying"])
        if wrong:
            what = "gone, and lie there" if event["gone"] else "archived, and lie nowhere"
            self.fail("I13", f"{sorted(wrong)} are noted as {what}")

    def on_redis_lost(self, event: Event) -> None:
        self.losses += 1
        self.names = {claim: names for claim, (_, _, names) in event["claims"].items()}
        self.owner = {  # one that waits has no owner, whenever that ends
            claim: (token, end if token else 0.0)
            for claim, (token, end, _) in event["claims"].items()
        }

    def at_end(self, end: End) -> None:
        copies = Counter(end.queue)
        wanted = {
            record
            for name, records in self.expected.items()
            if name not in self.bad and name not in self.given_up
            for record in records
            if record not in self.refused
        }
        if lost := wanted - copies.keys():
            self.fail("I1", f"lost: {sorted(lost)}")
        if invented := copies.keys() - self.file_of.keys():
            self.fail("I2", f"invented: {sorted(invented)}")
        for record, count in copies.items():
            name = self.file_of.get(record, "")
            allowed = self.losses + self.reshaped[name] + (0 if end.fifo else self.disturbed[name])
            if count - 1 > allowed:
                self.fail("I4", f"{record} is there {count} times, explained: {allowed}")
        self._files_at_end(end)
        self._secrets_at_end(end)
        for law in end.laws_broken:
            self.fail("conservation", law)

    def _secrets_at_end(self, end: End) -> None:
        keys = {key for key in end.redis_keys if not key.startswith("call:")}  # made of a token
        told = "\n".join([*end.said, *keys, *end.reasons.values(), *end.laws_broken])
        if end.content in told:
            self.fail(
                "I12", f"a record's content is told: {told[told.index(end.content) - 99 :][:200]}"
            )
        if any(token in told for token in self.tokens):
            self.fail("I12", "a claim's token is told")

    def _files_at_end(self, end: End) -> None:
        places: defaultdict[str, list[str]] = defaultdict(list)
        for place, held in (
            ("spool", end.spool), ("archive", end.archived), ("rejected", end.rejected)
        ):  # fmt: skip
            for name in held:
                places[name].append(place)
        for name, data in self.contents.items():
            if name in self.bad or (name in self.rejected_names and name in self.poison):
                where = ["rejected"]
            elif name in self.rejected_names:
                where = places[name] if places[name] in (["rejected"], ["archive"]) else ["either"]
            else:
                where = ["archive"]
            if places[name] != where:
                self.fail("I9", f"{name} is in {places[name]}, not in {where}")
            self._contents_at_end(end, name, data)
        self._keys_at_end(end)

    def _contents_at_end(self, end: End, name: str, data: bytes) -> None:
        if {**end.archived, **end.rejected}.get(name, data) != data:
            self.fail("I9", f"the bytes of {name} changed")
        if name in end.rejected and not end.reasons.get(name):
            self.fail("I8", f"{name} was rejected without a reason")

    def _keys_at_end(self, end: End) -> None:
        if end.spool:
            self.fail("I10", f"still in the spool: {sorted(end.spool)}")
        kept = {
            "counters",
            "epoch",
            "frontier",
            "workers",
            "workers_since",
            "sweeper",
            "suspects",
            "claims_given",
            "overlooked",
            "minutes",
            "spool",
            "spool_note",
            "gone",
        }  # bounded, and pruned
        if left := {k for k in end.redis_keys if not k.startswith("call:")} - kept:
            self.fail("I11", f"Redis still holds {sorted(left)}")
        if not self.losses and any(n > 1 for n in self.rejected_names.values()):
            self.fail("I8", f"rejected more than once: {self.rejected_names}")
