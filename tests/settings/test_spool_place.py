"""`source.url`: which of the three forms of a spool it names, and what follows from it."""

import re
from pathlib import Path

import pytest

from penstock.errors import Halt
from penstock.settings.reading import load
from penstock.settings.spool_place import (
    Directory,
    FileServer,
    Nginx,
    SpoolPlace,
    spool_directory,
    spool_name,
    spool_place,
)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/srv/spool", Directory(Path("/srv/spool"))),
        ("spool", Directory(Path("spool"))),
        ("file:///var/spool/my%20tweets", Directory(Path("/var/spool/my tweets"))),
        ("file://localhost/spool", Directory(Path("/spool"))),
        ("http://h:1", FileServer("http://h:1")),
        ("https://h/spool", FileServer("https://h/spool")),
        ("http+unix:///run/s.sock", FileServer("http+unix:///run/s.sock")),
        ("nginx+http://h:80/spool/", Nginx("http://h:80/", "spool")),
        ("nginx+https://h/x/tweets", Nginx("https://h/x/", "tweets")),
    ],
)
def test_a_spool_is_one_of_three(url: str, place: SpoolPlace) -> None:
    """A path or a file:// address, its escapes undone; a server; nginx, split above the spool."""
    assert spool_place(url) == place


@pytest.mark.parametrize(
    "url", ["", "file://spool", "file://", "file:///", "file:///a?b", "file://[", "ftp://h/d"]
)
def test_an_address_that_names_no_spool_is_refused(url: str) -> None:
    """`file://spool` has a host and no path: the current directory must not be drained for it."""
    with pytest.raises(Halt, match=r"source\.url: (missing|.* is not a spool's address); "):
        spool_place(url)


@pytest.mark.parametrize(
    "url",
    ["nginx+http://host", "nginx+http://host:8080/", "nginx+ftp://host/spool/", "nginx+http:///x/",
     "nginx+http://host/spool/?token=x", "nginx+http://host/../", "nginx+http://host/.spool/",
     "nginx+http://[x/spool/"],
)  # fmt: skip
def test_an_address_that_names_no_listing_is_refused(url: str) -> None:
    """One line names the setting and what is allowed."""
    with pytest.raises(Halt, match=r"source\.url: .*nginx\+http://host:port/spool/"):
        spool_place(url)


def test_what_needs_the_directory_says_where_to_run_it() -> None:
    """The scheme tells which machine that is; no password is repeated."""
    assert spool_directory("/spool", "replay") == Directory(Path("/spool"))
    with pytest.raises(Halt, match=r"replay: works only .* source\.url is nginx\+http://;"):
        spool_directory("nginx+http://u:secret@h/spool/", "replay")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/nowhere/my tweets", "my-tweets"),
        ("https://files.example:1/", "files.example"),
        ("http+unix:///run/s.sock", "spool"),
        ("nginx+http://h/spool/", "h"),
    ],
)
def test_a_spool_without_a_name_is_called_after_its_place(url: str, name: str) -> None:
    """And after a digest of all of it, so that no two go by one name; upgrades must find it."""
    given = load(overrides={"source": {"url": url}})
    assert re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", spool_name(given))
    assert spool_name(load(overrides={"ledger": {"spool": "tweets"}})) == "tweets"


def test_a_spools_name_stays_as_it_is() -> None:
    """Workers of two versions must find the same ledger."""
    given = load(overrides={"source": {"url": "nginx+http://h:80/spool/"}})
    assert spool_name(given) == "h-71f5d27b"


def test_relative_folders_lie_beside_the_spool(tmp_path: Path) -> None:
    """An absolute path is taken as it is; another file system is entered only by one."""
    archive = load(overrides={"archive": {"directory": "/a"}}).archive
    spool = Directory(tmp_path / "spool")
    assert spool.archive_directory(archive) == Path("/a")
    assert spool.rejects_directory(archive) == tmp_path / "rejected"
    if Path("/proc").is_mount():
        with pytest.raises(Halt, match=r"archive\.rejected_directory: /rejected is on another"):
            Directory(Path("/proc")).rejects_directory(archive)
