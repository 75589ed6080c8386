"""Segments in an S3 bucket: uploaded whole, never overwritten, read in ranges."""

import base64
import contextlib
import re
import zlib
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any, BinaryIO

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from penstock.errors import Again, Halt

URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9_.=-]+/)*)")
_THERE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED = frozenset({"AccessDenied", "403", "NoSuchBucket", "InvalidAccessKeyId"})
_BLOCK_BYTES = 1 << 20


@lru_cache(maxsize=4)
def bucket_at(url: str) -> "Bucket":
    """Return the bucket at `s3://BUCKET/PREFIX/`. Raises Halt if that is not such an address."""
    match = URL.fullmatch(url)
    if match is None:
        raise Halt(f"archive.directory: {url!r} is not a bucket; allowed: s3://BUCKET/PREFIX/")
    return Bucket(*match.groups())


def _code(error: ClientError) -> str:
    response: Any = error.response
    return str(response.get("Error", {}).get("Code", ""))


class Bucket:
    """A shelf of `Store`, as `Folder`. Raises Again if S3 is away, Halt if it refuses."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._prefix = bucket, prefix
        config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard"})
        with self._told("open"):
            self._s3: Any = Session().create_client("s3", config=config)

    @contextlib.contextmanager
    def _told(self, act: str) -> Generator[None]:
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise FileNotFoundError(f"{self.place}: {error}") from None
            told = f"archive: {act} {self.place}: {error}"
            if code in _REFUSED:
                raise Halt(f"{told}; check archive.directory and the rights on it") from None
            raise Again(told) from None
        except BotoCoreError as error:
            raise Again(f"archive: {act} {self.place}: {error}") from None

    def _keys(self, prefix: str) -> list[str]:
        with self._told("list"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return [key.removeprefix(self._prefix) for key in found]

    def hours(self) -> list[str]:
        """See `Folder.hours`."""
        return sorted({key.rpartition("/")[0] for key in self._keys("")})

    def names(self, hour: str) -> list[str]:
        """See `Folder.names`."""
        return [key.rpartition("/")[2] for key in self._keys(f"{hour}/")]

    def open(self, hour: str, name: str, stack: object) -> tuple[int, Callable[[int, int], bytes]]:
        """See `Folder.open`."""
        del stack  # nothing stays open
        key = {"Bucket": self._bucket, "Key": f"{self._prefix}{hour}/{name}"}

        def read_at(at: int, size: int) -> bytes:
            with self._told("read"):
                found = self._s3.get_object(**key, Range=f"bytes={at}-{at + size - 1}")
                return bytes(found["Body"].read())

        with self._told("read"):
            return int(self._s3.head_object(**key)["ContentLength"]), read_at

    def upload(self, path: str, file: BinaryIO) -> None:
        """Upload and verify a segment; safe to repeat. Raises Halt rather than overwrite."""
        checksum, size = 0, 0
        while block := file.read(_BLOCK_BYTES):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
        crc = base64.b64encode(checksum.to_bytes(4, "big")).decode()
        key = {"Bucket": self._bucket, "Key": f"{self._prefix}{path}"}
        told = {"ChecksumAlgorithm": "CRC32", "ChecksumCRC32": crc, "IfNoneMatch": "*"}
        file.seek(0)
        with self._told(f"upload {path} to"):
            try:
                self._s3.put_object(**key, Body=file, **told)
            except ClientError as error:
                if _code(error) not in _THERE:
                    raise
            there = self._s3.head_object(**key, ChecksumMode="ENABLED")
        if (there["ContentLength"], there.get("ChecksumCRC32")) != (size, crc):
            raise Halt(f"archive: upload {path}: {self.place} has another object there; move it")
