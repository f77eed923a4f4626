"""Copiers that come to the end of their source, or stand still before it."""

from __future__ import annotations

from compat_tests.histories.draining import Draining

A, B, EMPTY = ("source", 0), ("source", 1), ("source", 2)
ENDS = {A: 9, B: 4, EMPTY: -1}


def test_the_end() -> None:
    """What is committed is the offset behind the last one. Nobody waits for a partition without records."""
    draining = Draining(ENDS, 100.0, 40.0, 120.0)
    assert not draining.look(101.0, {})
    assert not draining.look(102.0, {A: 9, B: 5})
    assert not draining.why_given_up(102.0)
    assert draining.look(103.0, {A: 10, B: 5})


def test_whoever_goes_on_is_waited_for() -> None:
    """As long as any offset moves, but not for ever."""
    draining = Draining(ENDS, 0.0, 40.0, 120.0)
    for step in range(4):
        now_s = 30.0 * step
        assert not draining.look(now_s, {A: step, B: 5})
        assert not draining.why_given_up(now_s)
    assert not draining.look(120.0, {A: 8, B: 5})
    assert draining.why_given_up(120.0) == (
        "after 120 s they were still at work, and had committed {'source-0': '8 of 9'}"
    )


def test_whoever_stands_still_is_given_up() -> None:
    draining = Draining(ENDS, 0.0, 40.0, 120.0)
    draining.look(10.0, {A: 3, B: 2})
    draining.look(49.0, {A: 3, B: 2})
    assert not draining.why_given_up(49.0)
    assert draining.why_given_up(50.0) == (
        "after 50 s they stood still for 40 s, and had committed {'source-0': '3 of 9', 'source-1': '2 of 4'}"
    )
