"""The demo's producer and consumer, each alone: what they write, and what they notice."""

import dataclasses
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jmespath
import pytest

from penstock.demo.consumer import Comparison
from penstock.demo.corpus import BROKEN_EVERY, ID_BASE, Corpus, broken_files, is_broken
from penstock.demo.producer import SpoolWriter, names, produce, seconds_of
from penstock.demo.result import Result, count_archived, count_rejected
from penstock.demo.tweets import SELECTION
from penstock.embedded.tether import tethered
from penstock.file_names import hour_of, is_safe

_FILES = 1_000

Json = dict[str, Any]


def _records(corpus: Corpus, file: int) -> list[Json]:
    """Read a file of the corpus as a person would: comments off by hand, then json."""
    text = corpus.file(file).decode("utf-8-sig")
    text = re.sub(r"\A(?:\s+|//[^\n]*\n|#[^\n]*\n|/\*.*?\*/)+", "", text, flags=re.DOTALL)
    records: list[Json] = []
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        value, position = decoder.raw_decode(text, position)
        records += value if isinstance(value, list) else [value]
        position += len(text[position:]) - len(text[position:].lstrip())
    return records


def _names(spool: Path) -> list[str]:
    return sorted(path.name for path in spool.glob("[!.]*"))


def _body(corpus: Corpus, *records: int) -> str:
    """Return the body of a message of records, as it should come out of the queue."""
    return json.dumps([corpus.expected(record) for record in records])


def _taken(corpus: Corpus, files: int) -> Comparison:
    """Return a comparison that has seen all records of the first `files` files."""
    comparison = Comparison(corpus, files * corpus.records_per_file)
    for file in range(files):
        if not is_broken(file):
            first = file * corpus.records_per_file
            comparison.take(_body(corpus, *range(first, first + corpus.records_per_file)))
    return comparison


@pytest.mark.parametrize("records_per_file", [1, 7])
def test_expected_is_what_jmespath_selects(records_per_file: int) -> None:
    """The consumer's own computation agrees with the reference on files read independently."""
    corpus, selection = Corpus(1, records_per_file), jmespath.compile(SELECTION)
    for file in range(200):
        records = _records(corpus, file)
        assert len(records) == records_per_file
        for number, record in enumerate(records, file * records_per_file):
            selected = selection.search(record)
            assert list(selected.items()) == list(corpus.expected(number).items())


def test_files_are_like_the_missions() -> None:
    """About 2.4 KB, some thirty fields, emoji, escapes, nulls, nesting, and many preambles."""
    corpus = Corpus(1, 1)
    files = [corpus.file(file) for file in range(300)]
    assert 2_200 < sum(map(len, files)) / len(files) < 2_800
    records = [_records(corpus, file)[0] for file in range(300)]
    assert {len(record) for record in records} == {29, 30}
    assert all(record["entities"]["user_mentions"][0]["id"] for record in records)
    whole = b"".join(files)
    for piece in ("🙂", "水門"):
        assert piece.encode() in whole
    for piece in (rb"\ud83d\ude42", rb"\/", rb"\n", b"null", b"\xef\xbb\xbf", b"\n//", b"\n#"):
        assert piece in whole
    heads = {
        data[: min(at for at in (data.find(b"{"), data.find(b"[")) if at >= 0)] for data in files
    }
    assert len(heads) >= 12


def test_one_file_in_a_thousand_is_broken_in_many_ways() -> None:
    """Each broken file is no JSON behind comments, and they take turns."""
    corpus = Corpus(1, 2)
    broken = broken_files(20 * BROKEN_EVERY)
    assert [is_broken(file) for file in range(_FILES)].count(True) == 1
    assert len(broken) == 20
    assert len({corpus.file(file)[:40] for file in broken}) >= 12
    for file in broken:
        with pytest.raises((ValueError, IndexError, AssertionError)):
            assert len(_records(corpus, file)) == 2
    assert corpus.records_expected(20 * BROKEN_EVERY) == 2 * (20 * BROKEN_EVERY - 20)
    assert corpus.records_expected(20_000) < corpus.records_written(20_000) < 2 * 20_000, (
        "some broken files hold records, some none"
    )


def test_names_are_unique_microseconds_in_order() -> None:
    """Two files in the same microsecond, or a clock set back, still get names in order."""
    clock = iter(
        [1_795_415_327_999_999_000] * 3 + [1_795_415_320_000_000_000, 1_795_415_329 * 10**9]
    )
    made = list(itertools.islice(names(lambda: next(clock)), 5))
    assert made[0] == "2026-11-23T06-28-47.999999Z.json"
    assert made == sorted(set(made))
    assert all(is_safe(name) and hour_of(name) == "2026/11/23/06" for name in made)
    assert seconds_of(made[0]) == pytest.approx(1_795_415_327.999999, abs=1e-6)


def test_the_producer_writes_what_the_corpus_says(tmp_path: Path) -> None:
    """Every file is there under its own name, whole, in order, and no hidden one is left."""
    corpus, reports = Corpus(1, 3), list[int]()
    produce(SpoolWriter(tmp_path), corpus, rate=5_000, files=500, report=reports.append)
    written = _names(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in written] == [
        corpus.file(file) for file in range(500)
    ]
    assert reports[0] == 0
    assert reports[-1] == 500


def test_the_producer_keeps_its_pace(tmp_path: Path) -> None:
    """The times in the names are spread as the rate says, not in one burst."""
    produce(SpoolWriter(tmp_path), Corpus(1, 1), rate=1_000, files=500, report=lambda _files: None)
    times = [seconds_of(name) for name in _names(tmp_path)]
    for file, moment in enumerate(times):
        assert moment - times[0] > file / 1_000 - 0.01, "never early"
    assert times[-1] - times[0] < 3, "nor late by more than a busy machine explains"


def test_sigterm_ends_the_producer_between_two_files(tmp_path: Path) -> None:
    """Its last word is the number of files that are there, and it exits 0."""
    arguments = ["--spool", str(tmp_path), "--rate", "500", "--seconds", "60"]
    arguments += ["--records-per-file", "1", "--seed", "1"]
    command = tethered(sys.executable, "-m", "penstock.demo.producer", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as producer:
        assert producer.stdout
        assert json.loads(producer.stdout.readline()) == {"files": 0}
        time.sleep(0.3)
        producer.send_signal(signal.SIGTERM)
        last = producer.stdout.read().splitlines()[-1]
    assert producer.returncode == 0
    assert json.loads(last) == {"files": len(_names(tmp_path))}
    assert not [name for name in _names(tmp_path) if name.startswith(".")]


def test_a_faultless_run_is_found_faultless() -> None:
    """All that is expected and nothing else: no loss, no duplicate, nothing unexpected."""
    corpus = Corpus(1, 3)
    comparison = _taken(corpus, _FILES)
    assert comparison.discrepancies(_FILES) == (0, 0, 0)
    assert comparison.distinct == comparison.received == corpus.records_expected(_FILES)


def test_planted_loss_is_found() -> None:
    """Records that never come are counted, and named."""
    corpus = Corpus(1, 1)
    comparison = Comparison(corpus, _FILES)
    for record in range(_FILES):
        if not is_broken(record) and record not in {7, 8, 999}:
            comparison.take(_body(corpus, record))
    assert comparison.discrepancies(_FILES)[0] == 3
    assert comparison.lost_ids(_FILES) == [ID_BASE + 7, ID_BASE + 8, ID_BASE + 999]


def test_a_planted_duplicate_is_found() -> None:
    """A record that comes three times is two duplicates, and hides no loss."""
    corpus = Corpus(1, 3)
    comparison = _taken(corpus, 10)
    comparison.take(_body(corpus, 4))
    comparison.take(json.dumps(corpus.expected(4)))
    assert comparison.discrepancies(10) == (0, 2, 0)
    assert comparison.discrepancies(11)[0] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"text": "changed"},
        {"reply_to": 0},
        {"id": str(ID_BASE + 5)},
        {"id": float(ID_BASE + 5)},
        {"id": True},
        {"id": ID_BASE - 1},
        {"id": ID_BASE + 10_000_000},
        {"extra": None},
    ],
)
def test_a_changed_record_is_unexpected_and_its_record_lost(change: Json) -> None:
    """A wrong value is not a little right: it is unexpected, and what it should be is lost."""
    corpus = Corpus(1, 1)
    comparison = Comparison(corpus, 10)
    for record in range(10):
        right = corpus.expected(record)
        comparison.take(json.dumps(right | change if record == 5 else right))
    assert comparison.discrepancies(10) == (1, 0, 1)
    assert len(comparison.unexpected_samples) == 1


def test_records_in_another_order_of_keys_or_without_one_are_unexpected() -> None:
    """JMESPath gives the keys in the order written, and a missing field as null."""
    corpus = Corpus(1, 1)
    comparison = Comparison(corpus, 2)
    comparison.take(json.dumps(dict(reversed(corpus.expected(0).items()))))
    comparison.take(json.dumps({k: v for k, v in corpus.expected(1).items() if k != "reply_to"}))
    assert comparison.discrepancies(2) == (2, 0, 2)


def test_a_swap_between_two_records_is_found() -> None:
    """A value that belongs to the neighbour is wrong, right as it looks."""
    corpus = Corpus(1, 1)
    comparison = Comparison(corpus, 2)
    first, second = corpus.expected(0), corpus.expected(1)
    comparison.take(json.dumps([first | {"text": second["text"]}, second]))
    assert comparison.discrepancies(2) == (1, 0, 1)


def test_records_of_broken_files_and_bodies_that_are_no_json_are_unexpected() -> None:
    """What can never be sent must not arrive, not even a part of it."""
    corpus = Corpus(1, 1)
    comparison = _taken(corpus, _FILES)
    comparison.take(_body(corpus, broken_files(_FILES)[0]))
    comparison.take("no json")
    comparison.take("[1]")
    assert comparison.discrepancies(_FILES) == (0, 0, 3)


def test_records_that_were_never_written_are_unexpected() -> None:
    """A run that ended early must not be given records of files that do not exist."""
    corpus = Corpus(1, 1)
    comparison = _taken(corpus, 20)
    assert comparison.discrepancies(15) == (0, 0, 5)


def test_files_are_counted_where_they_belong(tmp_path: Path) -> None:
    """Only ARCHIVE/YYYY/MM/DD/HH/ counts as archived, only with its reason as rejected."""
    hour = tmp_path / "archive/2026/11/23/06"
    hour.mkdir(parents=True)
    for path in (hour / "a.json", hour / "b.json", tmp_path / "archive/c.json"):
        path.touch()
    rejected = tmp_path / "rejected"
    rejected.mkdir()
    for name in ("d.json", "d.json.reason.json", "e.json"):
        (rejected / name).touch()
    assert count_archived(tmp_path / "archive") == 2
    assert count_rejected(rejected) == 1


_RIGHT = Result(
    files_written=10,
    records_written=10,
    records_expected=9,
    records_received=9,
    records_lost=0,
    records_duplicated=0,
    records_unexpected=0,
    files_archived=9,
    files_rejected=1,
    files_rejected_expected=1,
    files_left_in_spool=0,
    seconds=1.0,
    files_per_second=10.0,
    records_per_second=9.0,
    oldest_waiting_seconds_max=0.1,
    messages=1,
    messages_full=0.1,
    batches=1,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"records_lost": 1},
        {"records_duplicated": 1},
        {"records_unexpected": 1},
        {"files_left_in_spool": 1},
        {"files_rejected": 2},
        {"files_archived": 8},
    ],
)
def test_whatever_does_not_agree_is_said(wrong: dict[str, int]) -> None:
    """Each kind of fault alone makes the demo fail, with a line that says where to look."""
    assert _RIGHT.disagreements() == []
    said = Result(**{**dataclasses.asdict(_RIGHT), **wrong}).disagreements()  # pyright: ignore[reportArgumentType]
    assert said
    assert all("see " in line for line in said)
