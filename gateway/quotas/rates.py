"""A rate over the last seconds, and how long its owner must pause to come back to a limit (KIP-13, KIP-219). Pure.

Keeps: what was counted is Kafka's `Rate` over `quota.window.num` samples of `quota.window.size.seconds`: a client that
begins is judged over a window of which all but one sample have passed, so a short burst is not taken for a rate.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLES: Final = 11
SAMPLE_S: Final = 1.0
"""Kafka's defaults of `quota.window.num` and `quota.window.size.seconds`."""


class Rate:
    """Amounts by time, in samples. Times are seconds of a clock that does not go back."""

    __slots__ = ("_samples", "total")

    def __init__(self) -> None:
        self._samples: deque[list[float]] = deque()  # start and amount, oldest first
        self.total = 0.0

    def add(self, amount: float, now_s: float) -> None:
        """Count an amount."""
        self._forget(now_s)
        if not self._samples or now_s - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append([now_s, 0.0])
        self._samples[-1][1] += amount
        self.total += amount

    def take_back(self, amount: float) -> None:
        """The amount counted last was not used after all."""
        self._samples[-1][1] -= amount
        self.total -= amount

    def window_s(self, now_s: float) -> float:
        """The time that the amounts are spread over."""
        if not self._samples:
            return (SAMPLES - 1) * SAMPLE_S
        elapsed_s = now_s - self._samples[0][0]
        full = int(elapsed_s / SAMPLE_S)
        return elapsed_s + max(0, SAMPLES - 1 - full) * SAMPLE_S

    def pause_ms(self, limit: float, now_s: float, more: float = 0.0) -> int:
        """How long to pause so that the amounts and `more`, spread over window and pause, are at the limit a second."""
        self._forget(now_s)
        window_s = self.window_s(now_s)
        over = (self.total + more) / window_s - limit
        return 0 if over <= 0 else round(over / limit * window_s * 1000)

    def is_idle(self, now_s: float) -> bool:
        """Is there nothing left that counts?"""
        self._forget(now_s)
        return not self._samples

    def _forget(self, now_s: float) -> None:
        while self._samples and now_s - self._samples[0][0] >= SAMPLES * SAMPLE_S:
            self.total -= self._samples.popleft()[1]
        if not self._samples:
            self.total = 0.0
