"""What a driver of S3 may be told."""

from __future__ import annotations

import pytest

from tier2.s3_settings import S3Settings
from tier2.storage import Misconfigured

SECRET = "s3cret"


@pytest.mark.parametrize("prefix", ["a b", "a//b", "../a", ".a", "ä", "x" * 201, "y/" * 300])
def test_refused_prefixes(prefix: str) -> None:
    """The refusal of a prefix names the allowed ones."""
    with pytest.raises(Misconfigured, match=r"letters, digits and \. _ = - in parts between slashes"):
        S3Settings(endpoint="http://localhost:1", bucket="bucket", prefix=prefix)


@pytest.mark.parametrize(
    "name", ["", "AB", "ab", "a_b", "x" * 64, "-ab", "ab-", "a..b", "a.-b", "a-.b", "10.0.0.1", "abc\n", "äbc"]
)
def test_refused_buckets(name: str) -> None:
    """Likewise for the bucket."""
    with pytest.raises(Misconfigured, match="Allowed are 3 to 63 lower-case letters"):
        S3Settings(endpoint="http://localhost:1", bucket=name)


@pytest.mark.parametrize("name", ["abc", "a-b.c", "1bucket", "10.0.0", "10.0.0.1a", "x" * 63])
def test_buckets(name: str) -> None:
    """What S3 allows is allowed."""
    assert S3Settings(endpoint="http://localhost:1", bucket=name).bucket == name


def test_small_parts() -> None:
    """Parts that S3 would refuse are refused."""
    with pytest.raises(Misconfigured, match="parts must have at least 5242880 bytes"):
        S3Settings(endpoint="http://localhost:1", bucket="bucket", part_bytes=1)


def test_no_secret_is_shown() -> None:
    """Keys are in no repr."""
    settings = S3Settings(
        endpoint="http://localhost:1", bucket="bucket", access_key=SECRET, secret_key=SECRET, session_token=SECRET
    )
    assert SECRET not in repr(settings)
