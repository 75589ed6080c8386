"""What settings hold and nobody may see: tokens, and passwords in addresses."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from penstock.errors import Halt

_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")  # what an Authorization header can carry


def _tokens(secret: SecretStr) -> SecretStr:
    words = secret.get_secret_value().split()
    if not all(_TOKEN.fullmatch(word) for word in words):
        msg = "printable ASCII characters, as `openssl rand -hex 32` makes them"
        raise ValueError(msg)
    return secret


Tokens = Annotated[SecretStr, AfterValidator(_tokens)]
"""One token or more, with white space between."""


def tokens(token: SecretStr, token_file: str, setting: str) -> list[str]:
    """Return the tokens that a setting or the file beside it holds; [] if neither is given.

    `setting` names the first in errors. Raises Halt if both are given, or the file cannot be used.
    """
    if not token_file:
        return token.get_secret_value().split()
    if token.get_secret_value():
        raise Halt(f"{setting} and {setting}_file: both are given; allowed: one of them")
    try:
        found = _tokens(SecretStr(Path(token_file).read_text(encoding="ascii")))
    except OSError as error:
        raise Halt(f"{setting}_file: {token_file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Halt(
            f"{setting}_file: {token_file} holds no token; allowed: printable ASCII characters,"
            " as `openssl rand -hex 32` makes them"
        ) from None
    words = found.get_secret_value().split()
    if not words:
        raise Halt(f"{setting}_file: {token_file} is empty; allowed: a token")
    return words


def without_password(url: str) -> str:
    """Return an address with its password left out, for logs and people.

    A password may hold any character, unquoted too: up to the last `@` all is taken for one.
    """
    url = re.sub(r"(?<=[?&]password=)[^&]*", "…", url)
    return re.sub(r"(?<=://)([^/:]*):.*@", r"\1:…@", url)
