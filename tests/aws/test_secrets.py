"""Where a function's secrets come from, and that what AWS says of them becomes one line."""

from typing import Any

import botocore.exceptions
import pytest

from penstock.aws import calls
from penstock.aws.secrets import with_password, with_secrets
from penstock.errors import Again, Halt, PenstockError
from penstock.settings.reading import load


class Aws:
    """What botocore would answer: values by the name that is asked for, or an error's code."""

    def __init__(self, values: dict[str, str], error: tuple[str, int] | None = None) -> None:
        self._values = values
        self._error = error

    def create_client(self, *_: object, **__: object) -> "Aws":
        """Return a client."""
        return self

    def get_secret_value(self, SecretId: str) -> dict[str, str]:  # noqa: N803  AWS's name
        """Answer as Secrets Manager."""
        self._fail("GetSecretValue")
        return {"SecretString": self._values[SecretId]}

    def get_parameter(self, Name: str, WithDecryption: bool) -> Any:  # noqa: N803, FBT001  AWS's
        """Answer as SSM."""
        assert WithDecryption
        self._fail("GetParameter")
        return {"Parameter": {"Value": self._values[Name]}}

    def _fail(self, operation: str) -> None:
        if self._error:
            code, status = self._error
            said: Any = {
                "Error": {"Code": code, "Message": "so it is"},
                "ResponseMetadata": {"HTTPStatusCode": status},
            }
            raise botocore.exceptions.ClientError(said, operation)


def answer(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> None:
    """Let botocore answer so."""

    def session() -> Aws:
        return aws

    monkeypatch.setattr(calls.botocore.session, "Session", session)


@pytest.mark.parametrize("kept", ["hush", '{"token": "hush", "password": "hush"}', " hush\n"])
async def test_secrets_are_put_where_they_belong(
    monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """As they are, or as a member of a JSON object: the token, and the password of Redis."""
    answer(monkeypatch, Aws({"t": kept, "p": kept}))
    known = await with_secrets(
        load(
            overrides={
                "ledger": {"url": "rediss://host:6379", "spool": "s"},
                "aws": {"token_secret": "t", "ledger_password_secret": "p"},
            }
        )
    )
    assert known.source.token.get_secret_value() == "hush"
    assert known.ledger.url == "rediss://:hush@host:6379"
    known = await with_secrets(load(overrides={"aws": {"token_parameter": "t"}}))
    assert known.source.token.get_secret_value() == "hush"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (("AccessDeniedException", 400), Halt),
        (("ResourceNotFoundException", 400), Halt),
        (("ThrottlingException", 400), Again),
        (("InternalServiceError", 500), Again),
    ],
)
async def test_a_secret_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, error: tuple[str, int], kind: type[PenstockError]
) -> None:
    """The setting, the secret's name and AWS's own words; what may pass is Again."""
    answer(monkeypatch, Aws({"t": "hush"}, error))
    with pytest.raises(kind, match=rf"^aws\.token_secret: t: .*{error[0]}.*so it is"):
        await with_secrets(load(overrides={"aws": {"token_secret": "t"}}))


@pytest.mark.parametrize("kept", ['{"Token": "hush", "user": "u"}', "", "  "])
async def test_a_secret_that_holds_something_else(
    monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Another secret's name: it is not sent to the file server, and not told in the error."""
    answer(monkeypatch, Aws({"t": kept}))
    for setting in ("token_secret", "token_parameter"):
        with pytest.raises(Halt, match=rf"^aws\.{setting}: t: .*\"token\"") as raised:
            await with_secrets(load(overrides={"aws": {setting: "t"}}))
        assert "hush" not in str(raised.value)


async def test_one_token_comes_from_one_place() -> None:
    """Two names for it would be a guess which."""
    given = {"token_secret": "t", "token_parameter": "/t"}
    with pytest.raises(Halt, match="both are given"):
        await with_secrets(load(overrides={"aws": given}))


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("rediss://host:6379", "rediss://:a%2Fb%40c@host:6379"),
        ("rediss://user@host:6379/1?db=1", "rediss://user:a%2Fb%40c@host:6379/1?db=1"),
        ("redis://user:old@host", "redis://user:a%2Fb%40c@host"),
    ],
)
def test_a_password_in_an_address(url: str, made: str) -> None:
    """Whatever it holds, it is read back as it was; a user that is named stays."""
    assert with_password(url, "a/b@c") == made
