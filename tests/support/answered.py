"""Whether a server of the tests answers."""

import contextlib
from collections.abc import Mapping

import aiohttp

_PROBE_SECONDS = 2.0


async def is_answered(
    url: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> bool:
    """Tell whether a server answers a GET of `url` with `status`; wait up to two seconds for it."""
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers) as response,
        ):
            return response.status == status
    return False
