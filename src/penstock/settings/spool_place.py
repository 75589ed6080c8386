"""Parse `source.url`, the place of the spool; nothing else parses it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from penstock.errors import Halt
from penstock.settings.schema import ArchiveSettings, Settings
from penstock.settings.secrets import without_password

_FILE = re.compile(r"file://(?:localhost)?(/[^?#]+)")
_SERVER = ("http://", "https://", "http+unix://")
_NGINX = re.compile(r"nginx\+(https?://[^?#]*/)([A-Za-z0-9_][A-Za-z0-9_.-]*)/?")


@dataclass(frozen=True, slots=True)
class Directory:
    """The spool is a directory of this machine."""

    path: Path

    def archive_directory(self, archive: ArchiveSettings) -> Path:
        """Return where processed files go. Raises Halt if that is on another file system."""
        directory = "archive" if archive.bucket else archive.directory
        return self._beside(directory, "archive.directory")

    def rejects_directory(self, archive: ArchiveSettings) -> Path:
        """Return where rejected files go. Raises Halt if that is on another file system."""
        return self._beside(archive.rejected_directory, "archive.rejected_directory")

    def _beside(self, directory: str, setting: str) -> Path:
        """Return a directory to move files to; a relative path lies beside the spool.

        Raises Halt if a relative path leads to another file system than the spool's: it may be a
        container's own layer beside a mounted volume.
        """
        if Path(directory).is_absolute():
            return Path(directory)
        above = self.path.absolute().parent
        if self.path.is_dir() and self.path.stat().st_dev != above.stat().st_dev:
            raise Halt(
                f"{setting}: {above / directory} is on another file system than the spool"
                f" {self.path}; give an absolute path, if possible on the spool's file system"
            )
        return above / directory


@dataclass(frozen=True, slots=True)
class FileServer:
    """The spool is behind Penstock's file server, at `url`."""

    url: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """The spool is the folder `spool` below `url`, behind plain nginx."""

    url: str
    spool: str


SpoolPlace = Directory | FileServer | Nginx


def spool_place(url: str) -> SpoolPlace:
    """Return the spool of `source.url`. Raises Halt if it is not a spool's address."""
    if not url:
        raise Halt(
            "source.url: missing; set it to the directory that the files are written into"
            " (`penstock init DIR` writes a penstock.toml; --config names another one)"
        )
    if is_path(url):
        return Directory(Path(url))
    if match := _FILE.fullmatch(url):
        return Directory(Path(unquote(match[1])))
    if url.startswith(_SERVER):
        return FileServer(url)
    if (match := _NGINX.fullmatch(url)) and _host(match[1]):
        return Nginx(match[1], match[2])
    if url.startswith("nginx+"):
        raise Halt(
            "source.url: not the address of an nginx listing; allowed:"
            " nginx+http://host:port/spool/ or nginx+https://host:port/spool/"
        )
    raise Halt(
        f"source.url: {without_password(url)!r} is not a spool's address; allowed: /path,"
        " file:///path, http://host:port, https://host:port, http+unix:///socket or"
        " nginx+http://host/path/"
    )


def is_path(url: str) -> bool:
    """Tell whether `source.url` is a path, not an address."""
    return bool(url) and "://" not in url


def spool_directory(url: str, what: str) -> Directory:
    """Return the directory in `source.url`; `what` needs one. Raises Halt if it is not one."""
    place = spool_place(url)
    if isinstance(place, Directory):
        return place
    raise Halt(
        f"{what}: works only on the directory itself, and source.url is"
        f" {url.partition('://')[0]}://; run it on the file server's machine, with source.url set"
        " to the directory"
    )


def spool_name(settings: Settings) -> str:
    """Return the spool's name in Redis; by default made from the whole path or address."""
    if settings.ledger.spool:
        return settings.ledger.spool
    url = settings.source.url
    place = spool_place(url)
    if isinstance(place, Directory):
        whole, name = str(place.path.resolve()), place.path.name
    else:
        whole, name = url, _host(url) or "spool"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[:40]}-{digest}"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # such as an extra bracket
        return ""
