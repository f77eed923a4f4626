"""`tier2.sse`: where it has a meaning, and what the driver is told."""

from __future__ import annotations

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load


@pytest.mark.parametrize(
    ("assignments", "why"),
    [
        (["tier2.sse=s3"], "an S3 store encrypts"),
        (["tier2=off", "tier2.sse=kms"], "an S3 store encrypts"),
        (["tier2=s3://b/p", "tier2.sse=s3", "tier2.sse.kms.key.id=k"], "with tier2.sse = kms only"),
        (["tier2=s3://b/p", "tier2.sse=aes"], "tier2.sse = 'aes'"),
    ],
)
def test_contradictions(assignments: list[str], why: str) -> None:
    """Encryption that would not happen ends the start."""
    with pytest.raises(ConfigError, match=why):
        load(environ={}, assignments=assignments)


def test_a_key() -> None:
    """A bucket with a key's id is taken."""
    config = load(environ={}, assignments=["tier2=s3://b/p", "tier2.sse=kms", "tier2.sse.kms.key.id=k"])
    assert (config.tier2_sse, config.tier2_sse_kms_key_id) == ("kms", "k")
