"""Which hosts are this machine: tokens in clear text and missing names depend on it."""

import pytest

from penstock.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    """Its name, and all addresses of the loopback interface."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "::", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "127.1"],
)
def test_any_other(host: str) -> None:
    """A name is trusted only if it is `localhost`: others may be anybody's."""
    assert not is_loopback(host)
