"""The entries that retention removes, by time, by bytes, and by the groups that have consumed them...."""

from __future__ import annotations

import pytest

from core.retention import Limits
from core.streams.policy import StreamPolicy

NOW_MS = 1_000_000


@pytest.mark.parametrize(
    ("policy", "consumed", "allowed"),
    [
        (StreamPolicy(), 0, False),
        (StreamPolicy(retention_ms=100), 0, True),
        (StreamPolicy(retention_ms=101), 0, False),
        (StreamPolicy(retention_bytes=500), 0, True),
        (StreamPolicy(retention_bytes=501), 0, False),
        (StreamPolicy(), 10, True),
        (StreamPolicy(), 9, False),
        (StreamPolicy(keep_ms=100), 10, True),
        (StreamPolicy(keep_ms=101), 10, False),
        (StreamPolicy(keep_bytes=500), 10, True),
        (StreamPolicy(keep_bytes=501), 10, False),
        (StreamPolicy(keep_bytes=501, retention_ms=100), 10, True),
        (StreamPolicy(keep_ms=10_000, retention_bytes=400), 0, True),
    ],
)
def test_allow(policy: StreamPolicy, consumed: int, allowed: bool) -> None:
    """An entry of 101 ms ago that ends at 10, with 500 bytes behind it."""
    assert Limits(policy, NOW_MS, 10, consumed).allow(NOW_MS - 101, 10, 500) is allowed


def test_no_timestamp() -> None:
    """An entry without a time has no age: time neither removes it nor stops keeping it."""
    assert not Limits(StreamPolicy(retention_ms=0), NOW_MS, 10).allow(-1, 10, 500)
    assert not Limits(StreamPolicy(keep_ms=1), NOW_MS, 10, 10).allow(-1, 10, 500)
    assert Limits(StreamPolicy(), NOW_MS, 10, 10).allow(-1, 10, 500)
