"""nginx for tests: the real one, with deploy/nginx.conf as it is shipped."""

from pathlib import Path

from penstock.settings.spool_place import Nginx, spool_place
from penstock.source.http import CONNECTIONS, HttpSite
from penstock.source.nginx import NginxSource
from support.embedded_nginx import EmbeddedNginx


def nginx_over(root: Path) -> EmbeddedNginx:
    """Return an nginx, not started, in front of `root`: its spool, archive and rejected."""
    (root / "spool").mkdir(exist_ok=True)
    return EmbeddedNginx(root / "state", root=root)


def source_at(
    url: str, token: str, *, timeout_seconds: float = 10.0, ca_file: str = "", **given: object
) -> NginxSource:
    """Return a source as a worker has it that reads from `url`."""
    place = spool_place(url)
    assert isinstance(place, Nginx)
    settings: dict[str, object] = {
        "pattern": r".*\.json",
        "settle_seconds": 0.0,
        "max_file_bytes": 1000,
    }
    site = HttpSite(
        place.url,
        token=token,
        ca_file=ca_file,
        timeout_seconds=timeout_seconds,
        connections=CONNECTIONS,
    )
    return NginxSource(site, spool=place.spool, **(settings | given))  # type: ignore[arg-type]
