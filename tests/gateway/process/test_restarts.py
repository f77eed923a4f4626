"""A worker that ended comes back: at once, unless it fails again and again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.process.restarts import HEALTHY_S, PAUSE_S_MAX, PAUSE_S_MIN, Restarts


def test_at_once_after_the_first_end() -> None:
    """A worker that served is missed by its clients: nothing is waited for."""
    restarts = Restarts()
    restarts.started(100.0)
    assert restarts.pause(100.1) == 0.0


def test_less_and_less_often() -> None:
    """A worker that ends right after each start is tried after 0, 0.5, 1, 2, 4, 8 and then every 10 s."""
    restarts = Restarts()
    pauses = []
    for now in range(8):
        restarts.started(float(now))
        pauses.append(restarts.pause(now + 0.1))
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert restarts.count == 8


def test_forgiven_after_a_healthy_life() -> None:
    """A life of HEALTHY_S makes the failures before it count no more."""
    restarts = Restarts()
    for now in (0.0, 1.0, 2.0):
        restarts.started(now)
        restarts.pause(now + 0.5)
    restarts.started(10.0)
    assert restarts.pause(10.0 + HEALTHY_S) == 0.0


@pytest.mark.parametrize("failures", [1000, 2000])
def test_thousands_of_failures(failures: int) -> None:
    """The pause stays a number however often a worker fails."""
    restarts = Restarts()
    for now in range(failures):
        restarts.started(float(now))
        last = restarts.pause(float(now))
    assert last == PAUSE_S_MAX


@given(st.lists(st.floats(0, 100), max_size=50))
def test_bounded(lives: list[float]) -> None:
    """Whatever the lives were: a pause is 0, or from PAUSE_S_MIN to PAUSE_S_MAX."""
    restarts, now = Restarts(), 0.0
    for life in lives:
        restarts.started(now)
        now += life
        pause = restarts.pause(now)
        assert pause == 0.0 or PAUSE_S_MIN <= pause <= PAUSE_S_MAX
        now += pause
