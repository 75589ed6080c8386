"""What settings hold and nobody may see: tokens, and passwords in addresses."""

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from penstock import beneath
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


def kept_secret(directory: Path, name: str, setting: str) -> str:
    """Return the secret in a file of this user's alone; made at random where there is none.

    `setting` is what it stands in for. Raises Halt if it is not this user's alone, or cannot be
    made.
    """
    try:
        fd = beneath.open_root(directory, make=True)
        try:
            return _read_own(fd, name) or _made(fd, name)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Halt(
            f"{setting}: none is set, and {directory / name} cannot be used: {why}; allowed: a"
            " run.state_directory of this user's own, with that file of mode 0600, or not there"
        ) from None


def _read_own(fd: int, name: str) -> str:
    """Return what a file of this user's alone holds; nothing if it is not there."""
    try:
        opened = beneath.open_file(fd, name)
    except FileNotFoundError:
        return ""
    with os.fdopen(opened, encoding="ascii") as file:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "another user may read it, or made it")
        if not (text := file.read(1_000).strip()):
            raise ValueError("it is empty")
        return text


def _made(fd: int, name: str) -> str:
    """Make a secret; who is second at that takes the first one's."""
    draft_fd, draft = beneath.create_draft(fd, 0o600)
    try:
        with os.fdopen(draft_fd, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, name, src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        os.unlink(draft, dir_fd=fd)
    return _read_own(fd, name)


def without_password(url: str) -> str:
    """Return an address with its password left out, for logs and people.

    A password may hold any character, unquoted too: up to the last `@` all is taken for one.
    """
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&]*", r"\1…", url)
    return re.sub(r"(?<=://)([^/:]*):.*@", r"\1:…@", url)
