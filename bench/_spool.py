"""Spools for `make bench`: a line of comment, then tweets of about 2.4 KB, in one file or many."""

import os
import random
from pathlib import Path

from penstock.demo.tweets import Template
from penstock.source import marker

COMMENT = b"// written by the container, do not edit\n"
_TEMPLATES = 50


def name(number: int) -> str:
    """Return the name of the file of that number."""
    return f"2026-11-23T06:15:{number // 1_000_000:02d}.{number % 1_000_000:06d}.json"


def write(spool: Path, files: int, records: int) -> None:
    """Make a spool of so many files; one record is an object, more are an array."""
    random_ = random.Random(3)
    # As Twitter's API writes them (escaped) and as other writers do (UTF-8), by turns.
    templates = [Template(random_, 4 * index + index % 2) for index in range(_TEMPLATES)]
    spool.mkdir(parents=True)
    directory = os.open(spool, os.O_RDONLY | os.O_DIRECTORY)
    number = 0
    for file in range(files):
        texts: list[bytes] = []
        for _ in range(records):
            template = templates[number % _TEMPLATES]
            tweet = template.encoded(10**18 + number, in_one_line=True)
            # U+FFFE and U+FFFF, which no tweet has, are work for Penstock alone: it escapes them.
            texts.append(tweet.replace(b"\xef\xbf\xbe", b"***").replace(b"\xef\xbf\xbf", b"***"))
            number += 1
        body = texts[0] if records == 1 else b"[" + b",".join(texts) + b"]"
        fd = os.open(name(file), os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=directory)
        os.write(fd, COMMENT + body)
        os.close(fd)
    marker.identity(directory, make=True)  # else the first loader changes the directory
    os.close(directory)
    os.sync()  # what is still being written to the disk would slow the first round


def put_back(archive: Path, spool: Path) -> None:
    """Move what was archived back into the spool."""
    for folder, _, names in os.walk(archive):
        for file in names:
            Path(folder, file).rename(spool / file)
