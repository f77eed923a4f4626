"""Buckets of tokens: Kafka's figures, and what holds for any client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas.buckets import BURST_S, Bucket

TAKEN = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 10_000)), min_size=1, max_size=60)


def test_eleven_seconds_at_once() -> None:
    """A client that begins may take what eleven seconds bring, and owes nothing then."""
    bucket = Bucket()
    bucket.take(22, 2.0, 100.0)
    assert bucket.pause_ms(2.0, 100.0) == 0
    bucket.take(5, 2.0, 100.0)
    assert bucket.pause_ms(2.0, 100.0) == 2_500
    assert bucket.pause_ms(2.0, 101.0) == 1_500
    assert bucket.tokens(2.0, 103.0) == 1.0


def test_a_lower_rate_holds_at_once() -> None:
    """What was saved at a higher rate does not count beyond the lower one's burst."""
    bucket = Bucket()
    bucket.take(0, 100.0, 0.0)
    assert bucket.tokens(1.0, 0.0) == BURST_S


def test_full_again() -> None:
    """A bucket may be forgotten once it is full again; before that it, or a debt, counts."""
    paid, owing = Bucket(), Bucket()
    assert paid.is_idle(0.0)
    paid.take(1, 1.0, 0.0)
    owing.take(1_000, 1.0, 0.0)
    assert [paid.is_idle(now_s) for now_s in (0.9, 1.0)] == [False, True]
    assert [owing.is_idle(now_s) for now_s in (100.0, 999.9, 1_000.0)] == [False, False, True]


@given(TAKEN, st.integers(1, 1_000))
def test_the_rate_holds(steps: list[tuple[float, int]], rate: int) -> None:
    """Whoever waits until nothing is owed never gets more than the burst, the rate, and one last request."""
    bucket, now_s, taken, last = Bucket(), 0.0, 0, 0
    for wait_s, amount in steps:
        now_s += wait_s
        now_s += bucket.pause_ms(rate, now_s) / 1000
        bucket.take(amount, rate, now_s)
        taken, last = taken + amount, max(last, amount)
        assert taken <= rate * (BURST_S + now_s) + last + rate * 0.001 * len(steps)
