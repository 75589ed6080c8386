"""The secrets in settings: tokens, and passwords in addresses."""

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
    if not all(_TOKEN.fullmatch(word) for word in secret.get_secret_value().split()):
        raise ValueError("printable ASCII characters, as `openssl rand -hex 32` makes them")
    return secret


Tokens = Annotated[SecretStr, AfterValidator(_tokens)]
"""One or more tokens, separated by white space."""


def tokens(token: SecretStr, token_file: str, setting: str) -> list[str]:
    """Return the tokens of a setting, or of its file. Raises Halt if one is unusable."""
    if not token_file:
        return token.get_secret_value().split()
    if token.get_secret_value():
        raise Halt(f"{setting} and {setting}_file: both are given; allowed: one of them")
    try:
        found = _tokens(SecretStr(Path(token_file).read_text(encoding="ascii")))
    except OSError as error:
        raise Halt(f"{setting}_file: {token_file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Halt(f"{setting}_file: {token_file} does not hold ASCII; allowed: a token") from None
    except ValueError as error:
        raise Halt(f"{setting}_file: {token_file}: not a token; allowed: {error}") from None
    if words := found.get_secret_value().split():
        return words
    raise Halt(f"{setting}_file: {token_file} is empty; allowed: a token")


def kept_secret(directory: Path, name: str, setting: str) -> str:
    """Return the secret in this user's own file; make it if missing. Raises Halt."""
    try:
        with beneath.folder(directory, make=True) as fd:
            return _read_own(fd, name) or _made(fd, name)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Halt(
            f"{setting}: none is set, and {directory / name} cannot be used: {why}; make"
            " run.state_directory this user's own, and the file of mode 0600, or delete it"
        ) from None


def _read_own(fd: int, name: str) -> str:
    """Return the contents of a file that only this user can read; "" if it does not exist."""
    try:
        opened = beneath.open_file(fd, name)
    except FileNotFoundError:
        return ""
    with os.fdopen(opened, encoding="ascii") as file:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "another user can read it, or owns it")
        if not (text := file.read(1_000).strip()):
            raise ValueError("it is empty")
        return text


def _made(fd: int, name: str) -> str:
    """Make a secret; if another process was faster, return its secret."""
    with beneath.draft(fd, 0o600) as (file, draft):
        file.write(f"{secrets.token_hex(32)}\n".encode())
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(draft, name, src_dir_fd=fd, dst_dir_fd=fd)
    return _read_own(fd, name)


def without_password(url: str) -> str:
    """Return an address without its password, which may hold any character up to the last `@`."""
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&]*", r"\1…", url)
    return re.sub(r"(?<=://)([^/:]*):.*@", r"\1:…@", url)
