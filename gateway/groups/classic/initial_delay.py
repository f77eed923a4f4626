"""The delay of an empty group's first rebalance; each newcomer extends it.

Keeps: the delay in total never exceeds the members' rebalance time-out.
"""

from __future__ import annotations


class InitialDelay:
    """Begins with the first member's join; inactive in all later rebalances."""

    def __init__(self) -> None:
        self.is_active = False
        self._step_ms = 0
        self._delay_ms = 0
        self._remaining_ms = 0
        self._has_newcomers = False

    def begin(self, step_ms: int, rebalance_timeout_ms: int) -> int:
        """Return the first wait."""
        self.is_active = True
        self._step_ms = self._delay_ms = step_ms
        self._remaining_ms = max(rebalance_timeout_ms - step_ms, 0)
        self._has_newcomers = False
        return step_ms

    def end(self) -> None:
        self.is_active = False

    def note_newcomer(self) -> None:
        self._has_newcomers = True

    def extend(self) -> int | None:
        """Return the further wait once a wait is over; None when the whole delay is over."""
        if not self.is_active or not self._has_newcomers or not self._remaining_ms:
            return None
        self._has_newcomers = False
        next_ms = min(self._step_ms, self._remaining_ms)
        self._remaining_ms = max(self._remaining_ms - self._delay_ms, 0)
        self._delay_ms = next_ms
        return next_ms
