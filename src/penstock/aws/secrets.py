"""The three calls that a function makes to AWS beside the queue: a secret, a parameter, a start.

By botocore's own clients, in a thread: each is called once in a while, none is on the path.
"""

import asyncio
import json
from typing import Any, cast
from urllib.parse import quote

import botocore.config
import botocore.exceptions
import botocore.session
from pydantic import BaseModel

from penstock.errors import Again, Halt, PenstockError
from penstock.settings.schema import Settings

_CONFIG = botocore.config.Config(
    connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3}
)
_ONCE = botocore.config.Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})


async def with_secrets(settings: Settings) -> Settings:
    """Return the settings with the secrets that `settings.aws` names.

    Raises Again if AWS cannot be asked, Halt if a secret is not there, or not for us.
    """
    aws = settings.aws
    if aws.token_secret and aws.token_parameter:
        raise Halt("aws.token_secret and aws.token_parameter: both name the token; allowed: one")
    overrides: dict[str, dict[str, Any]] = {}
    if aws.token_secret:
        token = await asyncio.to_thread(_secret, "aws.token_secret", aws.token_secret, "token")
        overrides["source"] = {"token": token}
    if aws.token_parameter:
        token = await asyncio.to_thread(_parameter, aws.token_parameter)
        overrides["source"] = {"token": token}
    if aws.ledger_password_secret:
        setting = "aws.ledger_password_secret"
        found = await asyncio.to_thread(_secret, setting, aws.ledger_password_secret, "password")
        overrides["ledger"] = {"url": with_password(settings.ledger.url, found)}
    return _overridden(settings, overrides)


def _overridden(settings: Settings, overrides: dict[str, dict[str, Any]]) -> Settings:
    for section, values in overrides.items():
        old = cast("BaseModel", getattr(settings, section))
        new = type(old).model_validate({**dict(old), **values})
        settings = settings.model_copy(update={section: new})
    return settings


async def start(function: str, name: str) -> None:
    """Start a function once more, without waiting for it; it is told its name in the ledger.

    Raises Again or Halt if it was not started.
    """
    await asyncio.to_thread(_invoke, function, name)


def _secret(setting: str, name: str, key: str) -> str:
    what = f"{setting}: {name}"
    answer = _call("secretsmanager", "get_secret_value", what, _CONFIG, SecretId=name)
    return _value(what, str(answer.get("SecretString", "")), key)


def _parameter(name: str) -> str:
    what = f"aws.token_parameter: {name}"
    answer = _call("ssm", "get_parameter", what, _CONFIG, Name=name, WithDecryption=True)
    return _value(what, str(answer["Parameter"]["Value"]), "token")


def _value(what: str, text: str, key: str) -> str:
    """Return a secret that is kept as it is, or as one member of a JSON object.

    Raises Halt if it is neither: an object of other things is some other secret.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        text = str(cast("dict[str, object]", found).get(key, ""))
    if not text.strip():
        raise Halt(f'{what}: holds nothing; allowed: text, or a JSON object with "{key}"')
    return text.strip()


def _invoke(function: str, name: str) -> None:
    payload = json.dumps({"loader": name}).encode()
    _call(
        "lambda", "invoke", f"start another {function}", _ONCE,
        FunctionName=function, InvocationType="Event", Payload=payload,
    )  # fmt: skip


def _call(service: str, operation: str, what: str, config: Any, **arguments: Any) -> Any:
    """Make one call; `what` is what an error says it was for. Raises Again or Halt."""
    try:
        session: Any = botocore.session.Session()
        client = session.create_client(service, config=config)
        return getattr(client, operation)(**arguments)
    except botocore.exceptions.ClientError as error:
        raise _kind(what, error) from None
    except botocore.exceptions.BotoCoreError as error:
        raise Again(f"{what}: {error}") from None


def _kind(what: str, error: Any) -> PenstockError:
    """Say whether what AWS answered may pass by itself; its texts name no secret's value."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passing = status >= 500 or status == 429 or "Throttl" in code or "TooMany" in code  # noqa: PLR2004  HTTP
    return (Again if passing else Halt)(f"{what}: {error}")


def with_password(url: str, password: str) -> str:
    """Return the address of a Redis with this password in it, and the user that it names."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    name = user.partition(":")[0] if at else ""
    return f"{scheme}://{name}:{quote(password, safe='')}@{host}"
