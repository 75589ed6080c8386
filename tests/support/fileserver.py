"""The file server for tests: the real one, in the test's own loop or a thread's."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.serve import file_server, web
from penstock.serve.guard import Access
from penstock.settings.schema import ServeSettings
from penstock.source.directory import DirectorySource
from penstock.source.file_server import ServerSource
from penstock.source.http import HttpSite

TOKEN = "a-token-of-the-tests-0123456789"  # noqa: S105
READ_TOKEN = "a-token-that-may-only-read-012345"  # noqa: S105
NEW_TOKEN = "the-token-that-follows-it-98765"  # noqa: S105


@asynccontextmanager
async def served(root: Path, *, tokens: str = TOKEN, **given: object) -> AsyncGenerator[str]:
    """Serve `root`/spool while the context lasts; yields the address.

    `given` are keywords of DirectorySource.
    """
    (root / "spool").mkdir(exist_ok=True)
    settings: dict[str, object] = {
        "pattern": r".*\.json",
        "settle_seconds": 0.0,
        "max_file_bytes": 1000,
        "archive_directory": root / "archive",
        "rejects_directory": root / "rejected",
        "served": "inotify",
    }
    source = DirectorySource(root / "spool", **(settings | given))  # type: ignore[arg-type]
    app = file_server.new_app(source, Access(tuple(tokens.split()), (READ_TOKEN,)))
    async with web.serving(app, ServeSettings(listen="127.0.0.1:0")) as address:
        yield address


def source_at(address: str, token: str = TOKEN, **given: object) -> ServerSource:
    """Return a source as a worker has it that reads from `address`."""
    settings: dict[str, object] = {"max_file_bytes": 1000, "wait_seconds": 0.0}
    return ServerSource(HttpSite(address, token=token), **(settings | given))  # type: ignore[arg-type]
