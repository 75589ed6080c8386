"""Settings to the parts of a spool behind HTTP: Penstock's file server, or plain nginx."""

from penstock import settings as settings_of
from penstock.ports import Source
from penstock.settings import Settings
from penstock.source.file_server import WAIT_SECONDS, ServerSource
from penstock.source.frames import PAGE_FILES_MAX
from penstock.source.http import CONNECTIONS, HttpSite
from penstock.source.nginx import NginxSource, place_of


def http_source(settings: Settings, wait_seconds: float | None = None) -> Source:
    """Return the way into the spool; `source.url` is one of HTTP. Raises Halt if it is wrong.

    A listing of the file server with nothing new is answered after `wait_seconds`.
    """
    if settings.source.url.startswith("nginx+"):
        return _nginx_source(settings)
    return ServerSource(
        _site(settings, settings.source.url),
        max_file_bytes=settings.decode.max_file_bytes,
        wait_seconds=WAIT_SECONDS if wait_seconds is None else wait_seconds,
    )


def _nginx_source(settings: Settings) -> NginxSource:
    """Return the spool behind plain nginx. Raises Halt if `source.url` names none."""
    above, spool = place_of(settings.source.url)
    return NginxSource(
        _site(settings, above, CONNECTIONS),
        spool=spool,
        pattern=settings.source.pattern,
        settle_seconds=settings.source.settle_seconds,
        max_file_bytes=settings.decode.max_file_bytes,
        archive_directory=settings.archive.directory,
        rejects_directory=settings.archive.rejected_directory,
        archive_action=settings.archive.action,
        page_files_max=PAGE_FILES_MAX,
    )


def _site(settings: Settings, url: str, connections: int = 16) -> HttpSite:
    """Return the server at `url` as settings.source says to speak with it. Raises Halt."""
    source = settings.source
    tokens = settings_of.tokens(source.token, source.token_file, "source.token")
    return HttpSite(
        url,
        token=tokens[0] if tokens else "",
        ca_file=source.ca_file,
        timeout_seconds=source.timeout_seconds,
        connections=connections,
    )
