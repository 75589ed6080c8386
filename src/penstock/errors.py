"""The three kinds of error. The kind alone decides what happens, in one place per kind."""

import errno

_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class PenstockError(Exception):
    """An error that Penstock handles; its text says operation, subject, cause, remedy."""

    possible_repeats = 0


class Again(PenstockError):
    """It may work later: this worker or the next one retries after a pause."""


class Reject(PenstockError):
    """This file or record can never be sent; `truncated`: its bytes end too early."""

    def __init__(self, reason: str, *, truncated: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.truncated = truncated


class Halt(PenstockError):
    """The system around Penstock is wrong: claims are released, no file is marked."""


class Missing(Halt):
    """The spool does not exist. This becomes Again if the ledger has files from it."""


def own_trouble(error: BaseException | None) -> str:
    """Say what this process lacks, if that caused an error; else return ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OWN:
            return (
                f"{error.strerror or error}: this process is at its limit; raise the limit"
                " (`ulimit -n`, LimitNOFILE=) or lower queue.connections and worker.lanes"
            )
        error = error.__cause__ or error.__context__
    return ""


def untrusted(error: BaseException, what: str = "its certificate") -> str:
    """Say why a certificate is not trusted, and what to do if it lacks what Python 3.13 requires.

    Since 3.13, Python enforces RFC 5280; many private authorities do not follow it.
    """
    lacks = ("Key Identifier", "key usage", "Basic Constraints", "marked critical")
    if not any(word.lower() in str(error).lower() for word in lacks):
        return f"{what} is not trusted: {error}"
    return (
        f"{what} is not trusted: {error}; Python 3.13 and newer require an authority with"
        " subjectKeyIdentifier, basicConstraints=critical,CA:TRUE, keyUsage=critical,keyCertSign,"
        " and authorityKeyIdentifier in its certificates: make both again with these extensions"
    )
