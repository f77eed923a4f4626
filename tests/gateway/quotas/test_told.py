"""Pauses that clients were told of end when they were told."""

from __future__ import annotations

import pytest

from core.clock import ManualClock
from gateway.quotas import told
from gateway.quotas.told import ToldPauses

WHO = "producer_byte_rate", "alice"


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(100.3)
    return clock


@pytest.mark.parametrize("pause_ms", [1, 999, 1_000, 1_001, 49_900])
def test_whoever_comes_when_it_was_told_is_let_in(clock: ManualClock, pause_ms: int) -> None:
    """The seconds that are told are those that are enforced: no less than the pause, not a second more."""
    pauses = ToldPauses(clock)
    seconds = pauses.begin(WHO, pause_ms)
    assert pause_ms <= seconds * 1000 < pause_ms + 1_000
    assert pauses.left_s(WHO) == seconds
    clock.advance(seconds - 1)
    assert pauses.left_s(WHO) == 1
    clock.advance(1)
    assert pauses.left_s(WHO) == 0
    assert pauses.left_s(WHO) is None, "it is let in once, then its rate counts again"


def test_a_pause_is_not_shortened(clock: ManualClock) -> None:
    """A request that ends within a pause may lengthen it."""
    pauses = ToldPauses(clock)
    assert (pauses.begin(WHO, 10_000), pauses.begin(WHO, 3_000), pauses.begin(WHO, 20_000)) == (10, 10, 20)


def test_others_do_not_pause(clock: ManualClock) -> None:
    pauses = ToldPauses(clock)
    pauses.begin(WHO, 10_000)
    assert pauses.left_s(("consumer_byte_rate", "alice")) is None
    assert pauses.left_s(("producer_byte_rate", "bob")) is None


def test_changed_limits_end_all_pauses(clock: ManualClock) -> None:
    pauses = ToldPauses(clock)
    pauses.begin(WHO, 10_000)
    pauses.forget()
    assert pauses.left_s(WHO) is None


def test_no_more_than_a_bound_are_kept(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are over go first."""
    monkeypatch.setattr(told, "TOLD_MAX", 4)
    pauses = ToldPauses(clock)
    for number in range(4):
        pauses.begin(("quota", f"short-{number}"), 1_000)
    clock.advance(2)
    pauses.begin(WHO, 9_000)
    assert "of 1 clients" in repr(pauses)
    for number in range(10):
        pauses.begin(("quota", f"long-{number}"), 9_000)
    assert pauses.left_s(("quota", "long-9"))
    assert int(repr(pauses).split()[2]) <= 4
