"""Read a function's secrets from Secrets Manager or the Parameter Store."""

import asyncio
import json
from typing import Any, cast
from urllib.parse import quote

from pydantic import BaseModel

from penstock.aws.calls import call
from penstock.errors import Halt
from penstock.settings.schema import Settings


async def with_secrets(settings: Settings) -> Settings:
    """Return the settings with the secrets that `settings.aws` names. Raises Again or Halt."""
    aws = settings.aws
    if aws.token_secret and aws.token_parameter:
        raise Halt("aws.token_secret and aws.token_parameter: both are given; allowed: one")
    found: dict[str, dict[str, Any]] = {}
    if aws.token_secret:
        token = await asyncio.to_thread(_secret, "aws.token_secret", aws.token_secret, "token")
        found["source"] = {"token": token}
    if aws.token_parameter:
        found["source"] = {"token": await asyncio.to_thread(_parameter, aws.token_parameter)}
    if name := aws.ledger_password_secret:
        password = await asyncio.to_thread(_secret, "aws.ledger_password_secret", name, "password")
        found["ledger"] = {"url": with_password(settings.ledger.url, password)}
    for section, values in found.items():
        old: BaseModel = getattr(settings, section)
        new = type(old).model_validate({**dict(old), **values})
        settings = settings.model_copy(update={section: new})
    return settings


def _secret(setting: str, name: str, key: str) -> str:
    what = f"{setting}: {name}"
    answer = call("secretsmanager", "get_secret_value", what, SecretId=name)
    return _value(what, str(answer.get("SecretString", "")), key)


def _parameter(name: str) -> str:
    what = f"aws.token_parameter: {name}"
    answer = call("ssm", "get_parameter", what, Name=name, WithDecryption=True)
    return _value(what, str(answer["Parameter"]["Value"]), "token")


def _value(what: str, text: str, key: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        text = str(cast("dict[str, object]", found).get(key, ""))
    if not text.strip():
        raise Halt(f'{what}: is empty; allowed: text, or a JSON object with "{key}"')
    return text.strip()


def with_password(url: str, password: str) -> str:
    """Return a Redis address with this password, keeping its user."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    name = user.partition(":")[0] if at else ""
    return f"{scheme}://{name}:{quote(password, safe='')}@{host}"
