"""Call AWS services other than the queue, with botocore's own client: rarely, never on the path."""

from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session

from penstock.errors import Again, Halt, PenstockError
from penstock.settings.secrets import without_password


def call(service: str, operation: str, what: str, *, tries: int = 3, **arguments: Any) -> Any:
    """Make one blocking call. `what` names its purpose in errors. Raises Again or Halt."""
    config: Any = botocore.config.Config(
        connect_timeout=3,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": tries},
    )
    try:
        session: Any = botocore.session.Session()
        client = session.create_client(service, config=config)
        return getattr(client, operation)(**arguments)
    except botocore.exceptions.ClientError as error:
        raise _kind(what, error) from None
    except botocore.exceptions.BotoCoreError as error:
        raise Again(f"{what}: {without_password(str(error))}") from None  # may hold the address


def _kind(what: str, error: Any) -> PenstockError:
    """Return Again if a retry may help, else Halt; AWS's error texts hold no secret."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passing = status >= 500 or status == 429 or "Throttl" in code or "TooMany" in code  # noqa: PLR2004  HTTP
    return (Again if passing else Halt)(f"{what}: {error}")
