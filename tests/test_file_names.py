"""Which names are safe, and what time they tell."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock import file_names

ALPHABET = string.ascii_letters + string.digits + "_.:+,=@~ -"


@pytest.mark.parametrize(
    "name",
    [
        "2026-11-23T06:15:00.123456.json",
        "2026-11-23 06:15:00.123456+00:00.json",
        "1763882100.123456.json",
        "20261123T061500Z_host-7~2.json",
        "a" * 240,
    ],
)
def test_names_as_producers_write_them_are_safe(name: str) -> None:
    """Time stamps in their usual spellings pass."""
    assert file_names.is_safe(name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden.json", "a/b.json", "../a.json", "/etc/passwd", "a\0.json",
        "a\n.json", "a.json\n", "a\\b.json", "a.json.tmp", "-rf.json", " a.json", "\u00e9.json",
        "a\u2044b.json", "a\udcff.json", "\uff0e\uff0e.json", "a%2fb.json", "a" * 241,
    ],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_not(name: str) -> None:
    """Separators, hidden names, control and look-alike characters, endless names do not."""
    assert not file_names.is_safe(name)


@given(st.text(max_size=260))
def test_a_safe_name_stays_in_its_directory(name: str) -> None:
    """Whatever the name: safe means plain ASCII of the alphabet, one path component."""
    if file_names.is_safe(name):
        assert set(name) <= set(ALPHABET)
        assert name not in {".", ".."}
        assert not name.startswith((".", "-", " "))


@pytest.mark.parametrize(
    ("name", "hour"),
    [
        ("2026-11-23T06:15:00.123456.json", "2026/11/23/06"),
        ("2026-11-23 23-59-59.json", "2026/11/23/23"),
        ("20261123T061500.json", "2026/11/23/06"),
        ("2026112306.json", "2026/11/23/06"),
        ("tweets_2026_11_23.json", "2026/11/23/00"),
        ("1763882100.json", "2025/11/23/07"),
        ("1763882100123.json", "2025/11/23/07"),
        ("1763882100123456.json", "2025/11/23/07"),
        ("1763882100123456789.json", "2025/11/23/07"),
        ("m-1763882100.5.json", "2025/11/23/07"),
        ("message-7.json", None),
        ("2026-13-45.json", None),
    ],
)
def test_the_hour_is_the_names_own(name: str, hour: str | None) -> None:
    """A date as it is written, else the seconds since 1970 in UTC, else nothing."""
    assert file_names.hour_of(name) == hour


@given(st.text(alphabet=ALPHABET, max_size=40))
def test_any_name_gives_a_folder_or_nothing(name: str) -> None:
    """No name makes it fail, or gives a folder outside the archive."""
    hour = file_names.hour_of(name)
    assert hour is None or [len(part) for part in hour.split("/")] == [4, 2, 2, 2]


# Names that begin alike, with what could be a date, an hour or seconds since 1970, or nearly.
NEARLY_DATED = st.lists(
    st.sampled_from(
        ["2026", "1999", "17638821", "11", "23", "06", "2", "9", "-", "_", "T", " ", ".", ":", "x"]
    ),
    max_size=9,
).map("".join)


@given(st.lists(NEARLY_DATED, max_size=6), st.lists(NEARLY_DATED, max_size=3))
@example(["2026-11-23.json", "2026-11-23T06:15:00.json"], [])
def test_runs_of_an_hour_are_those_of_each_name(ends: list[str], beginnings: list[str]) -> None:
    """However names begin alike: each is in its order, in a run of the hour that it tells alone."""
    wanted = [begin + end for begin in ["", *beginnings] for end in ends]
    told = [(hour, name) for hour, run in file_names.by_hour(wanted) for name in run]
    assert told == [(file_names.hour_of(name), name) for name in wanted]


@given(
    NEARLY_DATED, st.text("0123456789.,:_-xZ", max_size=24), st.text("0123456789.x", max_size=20)
)
@example("", "2026-11-23T06:15:00.123456.json", "999999.json")
@example("", "20261123T061545x", "1234567890")
@example("", "20261123T061545", "1234567890")
def test_names_that_begin_alike_to_the_second_are_of_it(begin: str, end: str, other: str) -> None:
    """However they go on; where that could not be said, there is no such beginning."""
    for name in (begin + end, f"{begin}2026-11-23T06:15:{end}", f"20261123T061545{end}"):
        at, beginning = file_names.time_of(name), file_names.beginning_of_second(name)
        if beginning:
            assert name.startswith(beginning)
            another = file_names.time_of(beginning + other)
            # None: there is no such day.
            assert (another is None) if at is None else (int(another or 0) == int(at))


def test_a_day_that_does_not_exist_is_no_time() -> None:
    """Like a name without one."""
    assert file_names.time_of("2026-02-30T10-00-00.json") is None
    assert file_names.time_of("2028-02-29T10-00-00.json") == 1_835_431_200


def test_a_beginning_ends_behind_the_second() -> None:
    """As most names are written there is one; with more digits behind the second there is none."""
    begins = file_names.beginning_of_second("2026-11-23T06:15:00.123456.json")
    assert begins == "2026-11-23T06:15:00."
    assert file_names.beginning_of_second("20261123T061545123456.json") == ""
    assert file_names.beginning_of_second("1763882100.5.json") == ""


def test_names_of_one_hour_are_one_run() -> None:
    """What a producer writes in an hour is not cut apart; the next hour is."""
    one = [f"2026-11-23T06:{i:02}:00.json" for i in range(60)]
    two = [f"2026-11-23T07:{i:02}:00.json" for i in range(60)]
    assert [*file_names.by_hour([*one, *two])] == [("2026/11/23/06", one), ("2026/11/23/07", two)]
    seconds = [f"{1_800_000_000 + n}.json" for n in range(3)]  # since 1970
    assert [*file_names.by_hour(seconds)] == [("2027/01/15/08", seconds)]
    assert [*file_names.by_hour([])] == []
