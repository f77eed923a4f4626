"""The meaning of an S3 server's refusals, on which the caller's next step depends."""

from __future__ import annotations

import pytest

from tier2.s3_errors import WORDS_CHARS_MAX, foreign_answer, storage_error
from tier2.storage import ErrorKind


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "XMinioAdminBucketQuotaExceeded"),
        (403, "QuotaExceeded"),
        (507, "XMinioStorageFull"),
        (507, "InsufficientStorage"),
        (507, ""),
        (503, "InsufficientCapacity"),
    ],
)
def test_no_room(status: int, code: str) -> None:
    """A quota and a full disk are neither a wrong configuration nor a reason to ask the same again soon."""
    error = storage_error("the bucket", "key", status, code, "")

    assert error.kind is ErrorKind.FULL
    assert "the bucket" in str(error)


def test_no_room_says_a_proxy() -> None:
    """Without S3's XML the status is enough."""
    assert foreign_answer("the bucket", 507, "Insufficient Storage").kind is ErrorKind.FULL


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", ErrorKind.RETRY),
        (500, "", ErrorKind.RETRY),
        (403, "AccessDenied", ErrorKind.DENIED),
        (403, "InvalidAccessKeyId", ErrorKind.DENIED),
        (400, "ExpiredToken", ErrorKind.DENIED),
        (403, "InvalidTokenId", ErrorKind.DENIED),
        (404, "NoSuchBucket", ErrorKind.CONFIG),
        (404, "NoSuchKey", ErrorKind.NOT_FOUND),
        (501, "NotImplemented", ErrorKind.CONFIG),
    ],
)
def test_the_others(status: int, code: str, kind: ErrorKind) -> None:
    """An unreachable server is asked again; a refusal is the operator's to solve."""
    assert storage_error("the bucket", "key", status, code, "").kind is kind


@pytest.mark.parametrize("field", ["code", "message", "body"])
def test_the_servers_own_words_are_clipped(field: str) -> None:
    """Whoever answers there: an operator reads one line of it."""
    words = "no\r\nsuch place " * 10_000
    known = {
        "code": lambda: storage_error("the bucket", "key", 400, words, ""),
        "message": lambda: storage_error("the bucket", "key", 400, "Unheard", words),
        "body": lambda: foreign_answer("the bucket", 400, words),
    }[field]()

    assert "no such place" in str(known)
    assert "\r" not in str(known)
    assert len(str(known)) < 2 * WORDS_CHARS_MAX
