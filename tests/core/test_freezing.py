"""When a slot that moves is frozen: never for longer than is said, and not before that is likely to be enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.freezing import (
    FREEZE_S,
    LEFT_BYTES_MAX,
    LEFT_ENTRIES_MAX,
    LENGTHS_MAX,
    PASSES_MAX,
    PASSES_OF_ONE_LENGTH,
    SHARE,
    SHARE_AT_ONCE,
    Freezes,
    Left,
)

NOTHING = Left(0, 0)
MUCH = Left(LEFT_BYTES_MAX + 1, 1)
MANY = Left(1, LEFT_ENTRIES_MAX + 1)


@dataclass
class Mover:
    """A mover in a time of its own. `takes_s`: how long the store takes for the next pass, or for the next freeze."""

    takes_s: list[float]
    left: Left = NOTHING
    passes: int = 0
    frozen: list[float] = field(default_factory=list)  # how long each freeze was
    passed_s: list[float] = field(default_factory=list)  # the pass before each of them
    why_not: str | None = None
    share: float = SHARE

    def move(self) -> bool:
        freezes = Freezes(self.share)
        while True:
            pass_s = self._next_s()
            self.passes += 1
            limit_s = freezes.limit_s(self.left, pass_s)
            if limit_s is not None:
                freeze_s = self._next_s()
                self.frozen.append(min(freeze_s, limit_s))
                self.passed_s.append(pass_s)
                if freeze_s <= limit_s:
                    return True
            self.why_not = freezes.why_not
            if self.why_not is not None:
                return False

    def _next_s(self) -> float:
        return self.takes_s.pop(0) if len(self.takes_s) > 1 else self.takes_s[0]


latencies = st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200)
SHARES = (SHARE, SHARE_AT_ONCE)


@given(latencies)
def test_freezes_are_bounded_whatever_the_store_does(takes_s: list[float]) -> None:
    mover = Mover(takes_s)
    mover.move()
    assert mover.passes <= PASSES_MAX
    assert all(frozen_s <= LENGTHS_MAX * FREEZE_S for frozen_s in mover.frozen)
    early = mover.frozen if mover.passes <= PASSES_OF_ONE_LENGTH else []
    assert all(frozen_s <= FREEZE_S for frozen_s in early)


@given(latencies, st.sampled_from(SHARES))
def test_no_freeze_begins_that_is_not_likely_to_be_in_time(takes_s: list[float], share: float) -> None:
    mover = Mover(takes_s, share=share)
    mover.move()
    assert all(share * pass_s <= LENGTHS_MAX * FREEZE_S for pass_s in mover.passed_s)


@given(st.lists(st.floats(FREEZE_S, 5.0), max_size=PASSES_OF_ONE_LENGTH - 1), st.floats(0.0, FREEZE_S / SHARE))
def test_a_store_that_was_slow_for_a_while(slow: list[float], fast_s: float) -> None:
    """Nothing is refused until it is fast again, and then once, for as long as that takes."""
    mover = Mover([*slow, fast_s])
    assert mover.move()
    assert mover.frozen == [fast_s]


@pytest.mark.parametrize("share", SHARES)
def test_a_store_that_is_slow_for_all(share: float) -> None:
    """Slots move in it, too: freezes become as long as they have to."""
    slow_s = LENGTHS_MAX * FREEZE_S / share
    mover = Mover([slow_s], share=share)
    assert mover.move()
    assert mover.frozen == [slow_s]
    assert mover.passes > PASSES_OF_ONE_LENGTH


def test_appends_that_come_faster_than_they_are_copied() -> None:
    """Nothing is refused at all, and the reason says what was missing in the end."""
    for left in (MUCH, MANY):
        mover = Mover([0.01], left)
        assert not mover.move()
        assert mover.frozen == []
        assert mover.passes == PASSES_MAX
        assert mover.why_not is not None
        assert f"{left.bytes} bytes in {left.entries} entries are missing" in mover.why_not


def test_a_store_that_is_slow_only_while_a_slot_is_frozen() -> None:
    """The move is given up, and says how often it was tried."""
    mover = Mover([part for _ in range(PASSES_MAX) for part in (0.01, 5.0)])
    assert not mover.move()
    assert len(mover.frozen) == PASSES_MAX
    assert mover.why_not == f"it was frozen {PASSES_MAX} times, after {PASSES_MAX} passes, and never settled in time"


def test_pauses() -> None:
    """Nobody waits while much is left: the copying goes on at once."""
    freezes = Freezes()
    freezes.limit_s(MUCH, 0.0)
    assert freezes.pause_s == 0.0
    freezes.limit_s(NOTHING, 9.0)
    assert freezes.pause_s > 0.0
