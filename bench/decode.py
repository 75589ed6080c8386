"""How fast is the middle of the path? Bytes of files to selected, encoded records, one core.

    python bench/decode.py [--files 20] [--records 100] [--repeat 20]

Tweets of about 2.4 KB and thirty fields, of which five are selected:

penstock       preamble, UTF-8 check, decode, select, encode: what the loader calls
msgspec typed  the bare decoder of a struct of the five fields, as str and int; decode only
msgspec raw    the same with msgspec.Raw; decode only
typed + utf-8  the bare typed decoder after bytes.decode(), as nothing else looks at skipped values
json + dict    json.loads, a dict display, json.dumps
orjson + dict  the same with orjson
jmespath       the same selection by the jmespath library between orjson's loads and dumps

`escaped` files are ASCII, as Twitter's API writes them; `utf-8` files are one twelfth emoji and
scripts of the world, as bytes, which takes Penstock a check that the bare decoders do not make.
The rivals are given the JSON without a preamble. Then what a preamble adds to a file of one record.

Prints records/s and MB/s, from each file's best time, and exits 1 below a bar: 3 times orjson +
dict; 0.75 times the bare typed decoder, for `utf-8` the one that checks; 2 µs a preamble.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jmespath
import msgspec
import orjson

from penstock.demo.tweets import Template
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection

FIELDS = ("id", "created_at", "text", "lang", "retweet_count")
SELECT = "{" + ", ".join(f"{name}: {name}" for name in FIELDS) + "}"
ORJSON_FACTOR = 3.0
MSGSPEC_FACTOR = 0.75
PREAMBLE_MICROSECONDS = 2.0
PREAMBLES = (
    ("none", "", ""),
    ("byte order mark", "\ufeff", ""),
    ("one line comment", "// written by the container, do not edit\n", ""),
    ("block comment", "/* written by\n   the container */\n", ""),
    ("six comments", "# a\r\n; b\n-- c\n<!-- d -->\n% e\n// f\n", ""),
    ("guard", ")]}',\n", ""),
    ("assignment", "window.YTD.tweet.part0 = ", ";"),
    ("call", "/**/callback(", ");"),
)

Encoded = Callable[[bytes], Sequence[object]]


class Typed(msgspec.Struct, gc=False):
    """The five fields as a program would declare them."""

    id: int
    created_at: str
    text: str
    lang: str | None
    retweet_count: int


class Raw(msgspec.Struct, gc=False):
    """The five fields as bytes."""

    id: msgspec.Raw
    created_at: msgspec.Raw
    text: msgspec.Raw
    lang: msgspec.Raw
    retweet_count: msgspec.Raw


class Rate(NamedTuple):
    """The best run of one way."""

    records: float
    megabytes: float


def penstock() -> Encoded:
    """Return the three lines of the loader."""
    preamble, selection = Preamble(), Selection(SELECT)
    decoder = Decoder(selection.record_type)
    return lambda data: selection.select(decoder.decode(preamble.strip(data))).records


def checked() -> Encoded:
    """Return the bare decoder with the check of skipped values that it leaves out."""
    decode = msgspec.json.Decoder(list[Typed]).decode

    def run(data: bytes) -> Sequence[object]:
        if not data.isascii():
            data.decode()
        return decode(data)

    return run


def by_dict(loads: Callable[[bytes], Any], dumps: Callable[[object], object]) -> Encoded:
    """Return what picks fields from dicts and writes each record again."""
    return lambda data: [
        dumps({
            "id": record["id"],
            "created_at": record["created_at"],
            "text": record["text"],
            "lang": record["lang"],
            "retweet_count": record["retweet_count"],
        })
        for record in loads(data)
    ]  # fmt: skip


def by_jmespath() -> Encoded:
    """Return the library's way between orjson's."""
    search = jmespath.compile(SELECT).search
    return lambda data: [orjson.dumps(search(record)) for record in orjson.loads(data)]


def ways() -> dict[str, Encoded]:
    """Return all that is compared, by name."""
    compact = json.JSONEncoder(separators=(",", ":")).encode
    return {
        "penstock": penstock(),
        "msgspec typed": msgspec.json.Decoder(list[Typed]).decode,
        "msgspec raw": msgspec.json.Decoder(list[Raw]).decode,
        "typed + utf-8": checked(),
        "json + dict": by_dict(json.loads, compact),
        "orjson + dict": by_dict(orjson.loads, orjson.dumps),
        "jmespath": by_jmespath(),
    }


def corpus(number: int, files: int, records: int) -> list[bytes]:
    """Return files that hold an array of tweets; `number` chooses how templates are spelled."""
    random_ = random.Random(3)
    templates = [Template(random_, number + 4 * index) for index in range(50)]
    tweets = (
        # U+FFFE and U+FFFF, which no tweet has, are work for Penstock alone: it escapes them.
        templates[index % 50]
        .encoded(10**18 + index, in_one_line=True)
        .replace("\ufffe".encode(), b"***")
        .replace("\uffff".encode(), b"***")
        for index in range(files * records)
    )
    return [b"[" + b",".join(next(tweets) for _ in range(records)) + b"]" for _ in range(files)]


def measured(
    names: dict[str, Encoded], files: Sequence[bytes], records: int, repeat: int
) -> dict[str, Rate]:
    """Time one way after another, and keep each file's best time.

    A file takes a fraction of a millisecond: its best time is one in which nothing else ran. The
    ways do not take turns, because each leaves its heap in pieces to the next.
    """
    best = {name: [float("inf")] * len(files) for name in names}
    for name, run in names.items():
        times = best[name]
        for _ in range(repeat):
            for number, data in enumerate(files):
                started = time.perf_counter()
                run(data)
                times[number] = min(times[number], time.perf_counter() - started)
    count, size = len(files) * records, sum(map(len, files))
    return {name: Rate(count / sum(took), size / sum(took) / 1e6) for name, took in best.items()}


def compare(title: str, files: Sequence[bytes], records: int, repeat: int, *, rival: str) -> bool:
    """Print a table; return whether the bars are passed."""
    rates = measured(ways(), files, records, repeat)
    mine = rates["penstock"].records
    size = sum(map(len, files)) / len(files) / records
    print(f"\n{title}: {len(files)} files of {records} records of {size:,.0f} bytes")
    for name, rate in rates.items():
        print(f"  {name:14} {rate.records:>10,.0f} records/s {rate.megabytes:>7,.0f} MB/s"
              f"   penstock is {mine / rate.records:.2f} x")  # fmt: skip
    return (
        mine >= ORJSON_FACTOR * rates["orjson + dict"].records
        and mine >= MSGSPEC_FACTOR * rates[rival].records
    )


def preambles(repeat: int) -> bool:
    """Print what each family of preamble costs a file; return whether all are below the bar."""
    strip = Preamble().strip
    tweet = corpus(1, 1, 1)[0].decode()
    passed = True
    print(f"\na preamble before one record of {len(tweet):,} bytes")
    for name, before, after in PREAMBLES:
        data = f"{before}{tweet}{after}".encode()
        best = float("inf")
        for _ in range(20 * repeat):
            started = time.perf_counter()
            for _ in range(200):
                strip(data)
            best = min(best, time.perf_counter() - started)
        microseconds = best / 200 * 1e6
        passed = passed and microseconds < PREAMBLE_MICROSECONDS
        print(f"  {name:18} {microseconds:.2f} µs")
    return passed


def main() -> int:
    """Measure both spellings and the preambles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    passed = [
        compare(
            title,
            corpus(number, given.files, given.records),
            given.records,
            given.repeat,
            rival=rival,
        )
        for title, number, rival in (
            ("escaped", 1, "msgspec typed"),
            ("utf-8", 0, "typed + utf-8"),
        )
    ]
    passed.append(preambles(given.repeat))
    print("\nall bars passed" if all(passed) else "\nBELOW A BAR")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
