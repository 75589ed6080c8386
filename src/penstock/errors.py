"""The three kinds of error. What is done about one is decided from its kind, in one place each."""


class PenstockError(Exception):
    """Something Penstock has a plan for; its text says operation, subject, cause and remedy."""


class Again(PenstockError):
    """It may work later: tried again after a pause, by this worker or the next."""


class Reject(PenstockError):
    """This file or record can never be sent; it is kept, with this text as its reason.

    `truncated` is true where the bytes end too early: the writer of a young file may not be done.
    """

    def __init__(self, reason: str, *, truncated: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.truncated = truncated


class Halt(PenstockError):
    """The system around Penstock is wrong: claims are released, nothing is marked."""
