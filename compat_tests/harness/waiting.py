"""Waiting without sleeping blindly: every wait has a condition, a deadline and a word on what was missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE = threading.Event()  # never set: waiting on it is how a poll yields the processor


def _nothing() -> str:
    return ""


def until(
    condition: Callable[[], T],
    *,
    within_s: float,
    what: str,
    every_s: float = 0.05,
    beside: Callable[[], str] = _nothing,
) -> T:
    """Return the condition's first truthy result, or fail naming what never became true, and what is to be seen
    `beside` at that moment."""
    deadline = time.monotonic() + within_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {within_s:g} s still not: {what} (last: {result!r}){beside()}")
        _PAUSE.wait(every_s)
