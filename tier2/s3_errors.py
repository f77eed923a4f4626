"""From answers of S3 servers to errors that say what to do.

Takes codes, states and texts, and knows no client library. No message contains credentials: an answer's text is the
server's own, and requests are never quoted.
"""

from __future__ import annotations

from typing import Final

from tier2.storage import (
    AlreadyExists,
    BucketNotFound,
    Corrupt,
    Denied,
    Misconfigured,
    NoRoom,
    ObjectNotFound,
    StorageError,
    Unavailable,
)

WORDS_CHARS_MAX: Final = 120
"""Of what a server says itself: it may be another service's page."""
_RETRY_CODES: Final = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",  # another call has aborted it: the put begins again
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "XMinioServerNotInitialized",
    }
)
_FULL_CODES: Final = frozenset(
    {
        "InsufficientCapacity",
        "InsufficientStorage",
        "QuotaExceeded",
        "QuotaExceededException",
        "ServiceQuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    }
)
_FULL_STATE: Final = 507
_RETRY_STATES: Final = frozenset({408, 425, 429})

_ADVICE: Final = {
    "XMinioAdminBucketQuotaExceeded": "the bucket's quota is used up",
    "QuotaExceeded": "a quota is used up",
    "XMinioStorageFull": "the server's disk is full",
    "AccessDenied": "the credentials may not do this",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "InvalidTokenId": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much",
    "AuthorizationHeaderMalformed": "the region is not the bucket's",
    "PermanentRedirect": "the bucket is at another endpoint or in another region",
    "InvalidRegion": "the region is not the bucket's",
    "InvalidBucketName": "the bucket's name is not valid",
    "MethodNotAllowed": "the endpoint does not offer this",
    "NotImplemented": "the endpoint does not offer this",
}
_DENIED_CODES: Final = frozenset({"InvalidTokenId", "ExpiredToken", "RequestTimeTooSkewed"})


def storage_error(place: str, key: str, status: int, code: str, message: str) -> StorageError:
    """The error for an answer with an S3 code; `place` names bucket and endpoint."""
    if code == "NoSuchKey":
        return ObjectNotFound(key)
    if code == "NoSuchBucket":
        return BucketNotFound(f"{place}: the bucket does not exist")
    if code in ("PreconditionFailed", "BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        return AlreadyExists(key)
    if code == "InvalidRange":
        return Corrupt(key, 0, "ends before the bytes that were asked for begin")
    why = _ADVICE.get(code, _clipped(message) or "refused")
    text = f"{place}: {why} ({_clipped(code) or 'no code'}, HTTP {status})"
    if code in _FULL_CODES or status == _FULL_STATE:
        return NoRoom(text)
    if code in _RETRY_CODES or status in _RETRY_STATES or (status >= 500 and status != 501):
        return Unavailable(text)
    if status in (401, 403) or code in _DENIED_CODES:
        return Denied(text)
    return Misconfigured(text)


def foreign_answer(place: str, status: int, body: str) -> StorageError:
    """The error for an answer that is not S3's: a proxy's, or another service's altogether."""
    text = f"{place}: answered HTTP {status} without S3's XML: {_clipped(body)!r}"
    if status == _FULL_STATE:
        return NoRoom(text)
    if status in _RETRY_STATES or (status >= 500 and status != 501):
        return Unavailable(text)
    if status in (401, 403):
        return Denied(text)
    return Misconfigured(f"{text}; is the endpoint right?")


def _clipped(told: str) -> str:
    """A server's own words in one line."""
    return " ".join(told[: 4 * WORDS_CHARS_MAX].split())[:WORDS_CHARS_MAX]
