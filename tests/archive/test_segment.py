"""The format of a segment: what was put in comes out, here and with the system's own programs."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.archive.segment import FRAME_BYTES, Member, Owned, Segment, Writer
from penstock.errors import Halt
from support.require import require

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:+,=@~ -]{0,239}", fullmatch=True)
TIMES_NS = st.integers(-(10**18), 2 * 10**18)
FILES = st.dictionaries(NAMES, st.tuples(st.binary(max_size=1200), TIMES_NS), max_size=20)
IDS = st.sampled_from([0, 1000, 0o7777777, 0o7777777 + 1, 3_000_000_000])


def segment(files: dict[str, tuple[bytes, int]], owned: Owned = (0o640, 1000, 5)) -> bytes:
    """Return the bytes of a segment of some files: content and time of change."""
    parts: list[bytes] = []
    writer = Writer()
    for name in sorted(files):
        data, modified_ns = files[name]
        parts.append(writer.add(name, owned, modified_ns, data))
    return b"".join([*parts, writer.end()])


def opened(data: bytes) -> Segment:
    """Open a segment for reading."""
    return Segment("it", len(data), lambda at, size: data[at : at + size])


def many(count: int = 3000) -> dict[str, tuple[bytes, int]]:
    """Return files of several frames: small ones, and one that is larger than a frame."""
    chance = random.Random(1)
    files = {
        f"2026-11-23T06-15-{n % 60:02d}.{n:06d}.json": (
            chance.randbytes(chance.choice([0, 1, 511, 512, 513, 1500])),
            1_795_000_000_000_000_000 + n,
        )
        for n in range(count)
    }
    return files | {"2026-11-23T06-15-00.large.json": (chance.randbytes(3 * FRAME_BYTES), 5)}


@given(FILES, st.tuples(IDS, IDS))
def test_what_goes_in_comes_out(files: dict[str, tuple[bytes, int]], ids: tuple[int, int]) -> None:
    """Name, bytes and time to the nanosecond, whatever they are; by name, too."""
    found = opened(segment(files, (0o640, *ids)))
    assert [*found.names()] == sorted(files)
    assert [*found.members()] == [Member(n, 0o640, files[n][1], files[n][0]) for n in sorted(files)]
    for name, (data, _) in files.items():
        member = found.get(name)
        assert member is not None
        assert member.data == data
    assert found.get("another.json") is None


def test_one_file_is_read_without_the_others() -> None:
    """The tail once, then one frame: what a segment in a bucket costs."""
    files = many()
    data, read = segment(files), list[int]()

    def read_at(at: int, size: int) -> bytes:
        read.append(size)
        return data[at : at + size]

    found = Segment("it", len(data), read_at)
    name = sorted(files)[2000]
    assert found.get(name) is not None
    assert len(read) == 2
    assert read[1] <= 2 * FRAME_BYTES
    wanted = sorted(files)[100:102]
    assert [one.name for one in found.members(wanted.__contains__)] == wanted
    assert len(read) <= 4


@pytest.mark.parametrize("places", [1, 2, 3])
def test_damage_is_told(places: int) -> None:
    """A byte that changed anywhere is never taken for content; a segment that is cut is none."""
    files, chance = many(300), random.Random(places)
    data = segment(files)
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(places):
            broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            found = {m.name: (m.data, m.modified_ns) for m in opened(bytes(broken)).members()}
        except Halt:
            continue
        assert found.items() <= files.items()
    for length in (0, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(Halt, match="damaged"):
            opened(data[:length])


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", ".hidden.json"])
def test_a_name_that_leads_elsewhere_is_damage(name: str) -> None:
    """Whoever could write segments could have files written anywhere, when they are extracted."""
    found = opened(segment({name: (b"{}", 1)}))
    with pytest.raises(Halt, match="damaged"):
        list(found._members(0))


def test_other_programs_read_it(tmp_path: Path) -> None:
    """`zstd -t` checks it, `tar --zstd` lists and unpacks it: bytes, times to the last digit."""
    require(
        present=bool(shutil.which("zstd") and shutil.which("tar")),
        what="zstd and tar on PATH (Debian: zstd)",
    )
    files = many() | {"x" * 235 + ".json": (b"{}", 1_700_000_000_123_456_789)}
    path = tmp_path / "segment.tar.zst"
    path.write_bytes(segment(files, (0o640, 3_000_000_000, 5)))
    subprocess.run(["zstd", "-t", "-q", path], check=True)
    listed = subprocess.run(
        ["tar", "--zstd", "--numeric-owner", "-tvf", path],
        check=True,
        capture_output=True,
        text=True,
    )
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == sorted(files)
    assert all("3000000000/5" in line for line in listed.stdout.splitlines())
    command = ["tar", "--no-same-owner", "-C", tmp_path, "--zstd", "--warning=none", "-xf", path]
    subprocess.run(command, check=True)
    for name, (data, modified_ns) in files.items():
        assert (tmp_path / name).read_bytes() == data
        assert (tmp_path / name).stat().st_mtime_ns == modified_ns
