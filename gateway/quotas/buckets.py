"""A bucket of tokens that fills at a rate: Kafka's `TokenBucket` (KIP-599). Pure.

Keeps: work is taken whole while nothing is owed, and may leave a debt: a request that needs more than the bucket can
hold is served once, then its client waits until the debt is paid.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 11.0
"""Seconds that a bucket fills for: Kafka's defaults of `controller.quota.window.num` and `.size.seconds`."""


class Bucket:
    """Tokens at a time, in seconds of a clock that does not go back. The rate is in tokens a second, and may change."""

    __slots__ = ("_filled_s", "_full_s", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._filled_s: float | None = None  # None: it is full
        self._full_s = 0.0  # when it is full again

    def take(self, amount: float, rate: float, now_s: float) -> None:
        """Take tokens, more than there are if need be."""
        self._tokens = self.tokens(rate, now_s) - amount
        self._filled_s = now_s
        self._full_s = now_s + (rate * BURST_S - self._tokens) / rate

    def tokens(self, rate: float, now_s: float) -> float:
        """What is in it; below 0: what is owed."""
        full = rate * BURST_S
        if self._filled_s is None:
            return full
        return min(full, self._tokens + rate * (now_s - self._filled_s))

    def pause_ms(self, rate: float, now_s: float) -> int:
        """The time until nothing is owed."""
        owed = -self.tokens(rate, now_s)
        return 0 if owed <= 0 else max(1, round(owed / rate * 1000))

    def is_idle(self, now_s: float) -> bool:
        """Is it full again, at the rate of the last taking? Then a new bucket is the same."""
        return self._filled_s is None or now_s >= self._full_s
