"""Segments in a bucket, over real S3 servers: uploaded once, verified, never over another object.

moto runs in this process. versitygw, in Go, is used where it is on PATH: it refuses a wrong
checksum.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from penstock.archive import bucket as buckets
from penstock.archive import pack, staging
from penstock.archive.bucket import bucket_at
from penstock.archive.store import Store
from penstock.errors import Again, Halt
from penstock.operate.archived import Archived
from penstock.operate.spool_files import SpoolFiles
from penstock.settings.reading import load
from support.staged import Place

URL = "s3://archive/a/spool/"
SERVERS = ("moto", "versitygw")


@contextlib.contextmanager
def moto() -> Generator[str]:
    """Run moto's server in a thread; yield its address."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    forget = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(forget)  # noqa: S310  ours, in this process
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def versitygw(root: Path) -> Generator[str]:
    """Run versitygw over a directory; yield its address."""
    program = shutil.which("versitygw")
    if program is None:
        pytest.skip(
            "missing: versitygw on PATH (go install github.com/versity/versitygw/cmd/versitygw)"
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root.mkdir()
    command = [program, "--access", "test", "--secret", "test", "--port", address, "posix", root]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield f"http://{address}"
        finally:
            server.terminate()


@pytest.fixture(params=SERVERS)
def s3(
    request: pytest.FixtureRequest, aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Any]:
    """Yield a client of a server with an empty bucket."""
    assert aws is None
    server = moto() if request.param == "moto" else versitygw(tmp_path / "s3")
    with server as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket_at.cache_clear()
        client = bucket_at(URL)._s3
        until = time.monotonic() + 20
        while True:
            try:
                client.create_bucket(Bucket="archive")
                break
            except Exception:  # it does not listen yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield client
    bucket_at.cache_clear()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a spool of sixty files of two hours."""
    place = Place(tmp_path / "place")
    place.bucket = URL
    return place


def keys(s3: Any) -> list[str]:
    """Return the keys in the bucket."""
    return [one["Key"] for one in s3.list_objects_v2(Bucket="archive").get("Contents", ())]


def test_segments_are_uploaded_and_read_from_there(s3: Any, place: Place) -> None:
    """Two objects, nothing left here; each file is found, given out and counted by range."""
    place.stage()
    tally = place.pack()
    assert (tally.segments, tally.stuck) == (2, 0)
    assert len(keys(s3)) == 2
    assert all(key.startswith("a/spool/2026/11/23/0") for key in keys(s3))
    assert not [*place.archive.rglob("2026")], "nor is a folder, whose age would be told"
    place.assert_all_packed()
    archived = Archived(SpoolFiles(place.spool, place.archive, place.archive, False, URL))  # noqa: FBT003
    (copy,) = archived.copies(place.names[7])
    assert copy.where.startswith("s3://archive/a/spool/2026/11/23/06/")
    assert archived.held([*place.names, "2026-11-23T06-15-00.no.json"]) == {*place.names}
    assert sorted(archived.names_between(0, 2e9)) == sorted(place.names)
    place.stage()  # none of them has vanished


def test_another_object_is_never_overwritten(s3: Any, place: Place) -> None:
    """The upload is stuck, the segment stays here, and the other object is as it was."""
    place.stage()
    place.bucket = ""
    place.pack()
    place.bucket = URL
    (segment,) = Store(place.archive).segments("2026/11/23/06")
    key = f"a/spool/{segment.path}"
    s3.put_object(Bucket="archive", Key=key, Body=b"another")
    assert place.pack().stuck == 1
    assert s3.get_object(Bucket="archive", Key=key)["Body"].read() == b"another"
    assert (place.archive / segment.path).exists()


def test_an_upload_that_was_cut_off_is_finished(
    s3: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploaded, and killed before it was deleted here: the bucket is asked, and nothing doubles."""
    place.stage()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _not_segments)
        assert place.pack().stuck == 1
    assert len(keys(s3)) == 1
    assert len([*place.archive.rglob("*.zst")]) == 2
    assert place.pack().stuck == 0
    assert len(keys(s3)) == 2
    place.assert_all_packed()


def _not_segments(name: str, dir_fd: int | None = None, unlink: Any = os.unlink) -> None:
    if name.endswith(".tar.zst"):
        _fail()
    unlink(name, dir_fd=dir_fd)


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_what_cannot_be_uploaded_is_kept(s3: Any, place: Place) -> None:
    """No such bucket: Halt's line, each file stays in a segment here, and goes when it can."""
    place.stage()
    s3.delete_bucket(Bucket="archive")
    assert place.pack().stuck == 1
    place.assert_all_packed_here()
    s3.create_bucket(Bucket="archive")
    assert place.pack().stuck == 0
    place.assert_all_packed()


def test_a_server_that_is_away_is_waited_for(
    aws: None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: what was packed is kept; whoever reads is told that it may work later."""
    assert aws is None
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket_at.cache_clear()
    place.stage()
    assert place.pack().stuck == 1
    place.assert_all_packed_here()
    with pytest.raises(Again, match="s3://archive/a/spool"):
        Store(place.archive, URL).hours()
    bucket_at.cache_clear()


def test_a_segment_is_uploaded_only_when_its_room_is_gone(
    s3: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever was killed would pack its files once more: nothing here told that they are."""
    place.stage()
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_let_go", _fail)
        place.pack()
    staged = staging.sealed_ids(place.fd)
    assert staged
    pack._upload(place.fd, place.archive, URL, lambda: False)
    assert keys(s3) == []
    place.pack()
    place.assert_all_packed()


def test_what_arrives_changed_is_refused(s3: Any, place: Place, request: Any) -> None:
    """The server is told the checksum, and keeps nothing that does not fit it."""
    if "moto" in request.node.name:
        pytest.skip("moto takes any checksum")
    place.stage()
    place.bucket = ""
    place.pack()
    (segment,) = Store(place.archive).segments("2026/11/23/06")
    wrong = buckets.zlib.crc32
    buckets.zlib.crc32 = lambda data, start=0: wrong(data, start) ^ 1  # type: ignore[assignment]
    try:
        with pytest.raises((Again, Halt)), (place.archive / segment.path).open("rb") as file:
            bucket_at(URL).upload(segment.path, file)
    finally:
        buckets.zlib.crc32 = wrong
    assert keys(s3) == []


@pytest.mark.parametrize("directory", ["s3://archive", "s3://A/x/", "s3://archive/x"])
def test_what_names_no_bucket_is_refused(directory: str) -> None:
    """An address ends in a slash; only what is packed is uploaded."""
    with pytest.raises(Halt, match="allowed: s3://BUCKET/PREFIX/"):
        bucket_at(directory)
    with pytest.raises(Halt, match=r"^archive\.action: a bucket takes only packed files"):
        load(overrides={"archive": {"directory": URL}})
