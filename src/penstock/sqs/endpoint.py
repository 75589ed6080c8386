"""Find a queue's endpoint and credentials with botocore, as every AWS tool does.

Blocking: botocore reads files, and may ask the instance metadata service for credentials.
"""

import re
import ssl
from typing import Any, Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

import botocore.configprovider
import botocore.credentials
import botocore.exceptions
import botocore.session
from yarl import URL

from penstock.errors import Halt
from penstock.loopback import is_loopback
from penstock.model import Keys

# sqs.eu-west-1.amazonaws.com, vpce-1.sqs.eu-west-1.vpce.amazonaws.com, sqs.eu-west-1.api.aws, and
# the older eu-west-1.queue.amazonaws.com.
_REGION_IN_HOST: Final = re.compile(
    r"(?:^|\.)(?:sqs(?:-fips)?\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.(?:vpce\.)?(?:amazonaws|api)\."
)

_PARTS: Final = 3  # of a path at AWS: /, account, name


class Endpoint(NamedTuple):
    """What a connection needs.

    `host` is the Host header. `tls` is None if neither endpoint nor proxy uses TLS. `credentials`
    are botocore's; their `get_frozen_credentials()` may block.
    """

    url: URL
    host: str
    region: str
    proxy: URL | None
    tls: ssl.SSLContext | None
    credentials: Any


def find(
    queue_url: str, endpoint_url: str | None, region: str | None, keys: Keys | None = None
) -> Endpoint:
    """Return a queue's endpoint; the arguments win over AWS's own settings. Raises Halt."""
    queue, endpoint = addresses(queue_url, endpoint_url, region)
    try:
        aws: Any = botocore.session.Session()
        if endpoint is None and (configured := _configured_endpoint(aws)):
            endpoint = _endpoint("AWS_ENDPOINT_URL", configured)
        endpoint = endpoint or queue.origin()
        proxy = _proxy(endpoint)
        is_tls = "https" in (endpoint.scheme, proxy.scheme if proxy else "")
        found = Endpoint(
            url=endpoint,
            host=endpoint.host_port_subcomponent or "",
            region=_region(queue, region, aws, local=is_loopback(str(endpoint.host))),
            proxy=proxy,
            tls=_tls(aws.get_config_variable("ca_bundle")) if is_tls else None,
            credentials=(
                botocore.credentials.Credentials(*keys) if keys else aws.get_credentials()
            ),
        )
    except botocore.exceptions.BotoCoreError as error:
        raise Halt(f"the AWS settings of this machine cannot be used: {error}") from error
    if found.credentials is None:
        raise Halt(
            "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this "
            "machine or function a role"
        )
    return found


def addresses(
    queue_url: str, endpoint_url: str | None, region: str | None = None
) -> tuple[URL, URL | None]:
    """Return a queue's two addresses. Raises Halt, without quoting a password. Pure."""
    queue = _http(queue_url)
    of_url = _region_in(queue) if queue else None
    if queue is None or "" in (queue.name, queue.host) or (of_url and len(queue.parts) < _PARTS):
        shown = "…" if "@" in queue_url else repr(queue_url)
        raise Halt(
            f"queue.url is {shown}: it must be the queue's URL, without a user or password, such as"
            " https://sqs.us-east-1.amazonaws.com/123456789012/NAME"
        )
    if of_url and region and of_url != region:
        raise Halt(
            f"queue.region is {region}, but {queue} is in {of_url}: leave queue.region empty"
        )
    return queue, _endpoint("queue.endpoint_url", endpoint_url) if endpoint_url else None


def _endpoint(setting: str, text: str) -> URL:
    if (endpoint := _http(text)) is None:
        shown = "…" if "@" in text else repr(text)
        raise Halt(
            f"{setting} is {shown}: it must be the server's address, without a user or password,"
            " such as http://127.0.0.1:4566"
        )
    return endpoint


def _http(text: str, *, with_user: bool = False) -> URL | None:
    """Return an http address as a URL; None if it is not one, or has a user and must not."""
    try:
        url = URL(text)
    except ValueError:  # yarl's text may contain part of a password
        return None
    plain = with_user or "@" not in url.raw_authority
    return url if url.scheme in ("http", "https") and url.host and plain else None


def _region_in(queue: URL) -> str | None:
    found = _REGION_IN_HOST.search(queue.host or "")
    return (found[1] or found[2]) if found else None


def _region(queue: URL, region: str | None, aws: Any, *, local: bool) -> str:
    found = region or _region_in(queue) or aws.get_config_variable("region")
    if not found and local:
        return "us-east-1"  # any name will do, but signing needs one
    if not found:
        raise Halt(f"no AWS region: {queue} names none; set queue.region or AWS_DEFAULT_REGION")
    return str(found)


def _configured_endpoint(aws: Any) -> str | None:
    """Return AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, or the same of the AWS configuration file."""
    if aws.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = botocore.configprovider.ConfiguredEndpointProvider(
        full_config=aws.full_config, scoped_config=aws.get_scoped_config(), client_name="sqs"
    )
    return provider.provide()


def _proxy(endpoint: URL) -> URL | None:
    """Return the environment's proxy, None on loopback. It may hold a password: never quote it."""
    host = str(endpoint.host)
    if is_loopback(host) or proxy_bypass(host):
        return None
    text = getproxies().get(endpoint.scheme)
    if not text:
        return None
    proxy = _http(text if "://" in text else f"http://{text}", with_user=True)
    if proxy is None:
        raise Halt(
            f"{endpoint.scheme.upper()}_PROXY is not a usable proxy: it must be like"
            f" http://proxy.example:3128; or name {host} in NO_PROXY"
        )
    return proxy


def _tls(bundle: str | None) -> ssl.SSLContext:
    """Return how to check certificates: by AWS_CA_BUNDLE, else as this machine does."""
    try:
        tls = ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        raise Halt(f"AWS_CA_BUNDLE is {bundle}, which cannot be used: {error}") from None
    tls.set_alpn_protocols(["http/1.1"])
    return tls
