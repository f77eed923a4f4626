"""Pauses between tries: each name has its own."""

from __future__ import annotations

import random

import pytest

from gateway.transactions.retries import RETRY_S, RETRY_S_MAX, Retries


def longest(low: float, high: float) -> float:
    return high


def tries_of(retries: Retries, name: str, until_s: float) -> list[float]:
    """When a name is due, by looks whenever anything is."""
    found, now_s = [], 0.0
    while now_s < until_s:
        now_s += retries.wait_s(now_s)
        if name in retries.due(now_s):
            found.append(now_s)
    return found


def test_pauses_double() -> None:
    """Up to their bound."""
    retries = Retries(longest)
    assert retries.failed("a", 0.0)
    times = tries_of(retries, "a", 20.0)
    pauses = [round(after - before, 6) for before, after in zip([0.0, *times], times, strict=False)]
    assert pauses[:5] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S, 16 * RETRY_S]
    assert set(pauses[5:]) == {RETRY_S_MAX}


def test_a_new_one_does_not_wait_for_old_ones() -> None:
    """What fails while others have failed for long is tried as soon as if it were alone."""
    retries = Retries(longest)
    retries.failed("old", 0.0)
    for second in range(100):
        retries.due(float(second))
    assert retries.failed("new", 99.5)
    assert retries.wait_s(99.5) == pytest.approx(RETRY_S)
    assert retries.due(99.5 + RETRY_S) == ["new"]


def test_it_fails_again_while_it_is_tried() -> None:
    """That is no news, and changes no pause."""
    retries = Retries(longest)
    retries.failed("a", 0.0)
    assert retries.due(RETRY_S) == ["a"]
    assert not retries.failed("a", RETRY_S)
    assert retries.due(RETRY_S) == []
    assert retries.due(3 * RETRY_S) == ["a"]


def test_what_is_over_is_forgotten() -> None:
    """It is not due, and fails for the first time when it does so again."""
    retries = Retries(longest)
    retries.failed("a", 0.0)
    retries.over("a")
    retries.over("never")
    assert not retries
    assert retries.due(100.0) == []
    assert retries.failed("a", 100.0)


def test_pauses_differ() -> None:
    """Many that fail in one moment are tried at many, none before half of its pause, none after all of it."""
    retries = Retries(random.Random(7).uniform)
    for number in range(100):
        retries.failed(str(number), 0.0)
    assert retries.due(RETRY_S / 2) == []
    counts = []
    for tenth in range(5, 11):
        counts.append(len(retries.due(tenth * RETRY_S / 10)))
    assert sum(counts) == 100
    assert max(counts) < 50


def test_nothing_is_waited_for_twice() -> None:
    """What is overdue, and nothing at all, need no wait."""
    retries = Retries(longest)
    assert retries.wait_s(0.0) == 0.0
    retries.failed("a", 0.0)
    assert retries.wait_s(1_000.0) == 0.0
