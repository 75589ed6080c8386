"""What SQS's error codes mean for a sender: the one table, code to kind.

    AGAIN      not accepted, may work later        THROTTLED  the same, and SQS wants fewer calls
    UNKNOWN    maybe accepted: may be repeated     SPLIT      too much at once: send it in halves
    REJECT     this message, never                 HALT       nothing will work: a person must act

Codes arrive in up to three spellings: the shape (`QueueDoesNotExist`), the legacy Query code
(`AWS.SimpleQueueService.NonExistentQueue`, `KMS.DisabledException`) and with a namespace
(`com.amazonaws.sqs#QueueDoesNotExist`). Sources: botocore's model of SendMessageBatch and its
retries/standard.py; the common errors page of the SQS API reference; tests/data/sqs_cases.json.
"""

from enum import Enum
from typing import Final


class Kind(Enum):
    """What to do about a call or an entry that failed."""

    AGAIN = "again"
    THROTTLED = "throttled"
    UNKNOWN = "unknown"
    SPLIT = "split"
    REJECT = "reject"
    HALT = "halt"


_KINDS: Final = {
    Kind.THROTTLED: (
        "EC2ThrottledException LimitExceededException OverLimit RequestLimitExceeded"
        " RequestThrottled RequestThrottledException SlowDown Throttling ThrottledException"
        " ThrottlingException TooManyRequestsException"
        " KmsThrottled KMS.ThrottlingException"
    ),
    Kind.AGAIN: "RequestTimeout RequestTimeoutException",
    Kind.UNKNOWN: "InternalError InternalFailure InternalServerError ServiceUnavailable",
    Kind.SPLIT: "BatchRequestTooLong",
    Kind.REJECT: "InvalidMessageContents InvalidParameterValue MessageTooLong",
}
# What halts, and the remedy.
_REMEDIES: Final = {
    "create the queue, or correct queue.url": (
        "QueueDoesNotExist NonExistentQueue QueueDeletedRecently InvalidAddress"
    ),
    "allow these credentials sqs:SendMessage and sqs:GetQueueAttributes on it": (
        "AccessDenied AccessDeniedException AuthFailure NotAuthorized OptInRequired"
    ),
    "renew the credentials": "ExpiredToken ExpiredTokenException RequestExpired",
    "check the credentials, queue.region and this machine's clock": (
        "IncompleteSignature InvalidAccessKeyId InvalidClientTokenId InvalidSignatureException"
        " MissingAuthenticationToken SignatureDoesNotMatch UnrecognizedClientException"
    ),
    "use https: the queue requires it": "InvalidSecurity",
    "enable the queue's KMS key, and allow kms:GenerateDataKey and kms:Decrypt": (
        "KmsAccessDenied KmsDisabled KmsInvalidKeyUsage KmsInvalidState KmsNotFound"
        " KmsOptInRequired KMS.AccessDeniedException KMS.DisabledException"
        " KMS.InvalidKeyUsageException KMS.InvalidStateException KMS.NotFoundException"
        " KMS.OptInRequired"
    ),
    "report it: Penstock must never make such a request": (
        "BatchEntryIdsNotDistinct EmptyBatchRequest InvalidBatchEntryId MissingParameter"
        " TooManyEntriesInBatchRequest UnsupportedOperation"
    ),
}
_KIND_OF: Final = {code: kind for kind, codes in _KINDS.items() for code in codes.split()} | {
    code: Kind.HALT for codes in _REMEDIES.values() for code in codes.split()
}
_REMEDY_OF: Final = {code: remedy for remedy, codes in _REMEDIES.items() for code in codes.split()}


def short_code(code: str) -> str:
    """Return a code without namespace and legacy prefix."""
    return code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")


def remedy_of(code: str) -> str:
    """Return what to do about a code that halts."""
    return _REMEDY_OF.get(short_code(code), "see the errors of SQS's SendMessageBatch for it")


def kind_of_call(code: str, status: int) -> Kind:
    """Return what a whole failed call means; `status` is the HTTP status.

    An unknown code halts, so that a person learns of it; no file is marked processed. A 5xx without
    a known code is UNKNOWN, because a server or proxy may fail after it accepted the messages.
    """
    known = _KIND_OF.get(short_code(code))
    if known is not None:
        return known
    if status >= 500:  # noqa: PLR2004 - HTTP's own bound
        return Kind.UNKNOWN
    return Kind.THROTTLED if status == 429 else Kind.HALT  # noqa: PLR2004 - Too Many Requests


def kind_of_entry(code: str, *, sender_fault: bool) -> Kind:
    """Return what an entry in `Failed` means; SenderFault decides if its code does not."""
    known = _KIND_OF.get(short_code(code))
    if known in (Kind.HALT, Kind.THROTTLED):
        return known
    return Kind.REJECT if sender_fault else Kind.AGAIN
