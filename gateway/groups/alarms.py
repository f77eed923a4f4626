"""The deadlines of a coordinator's groups of one kind, and the timer that fires them.

Keeps: one timer, set for the earliest of all deadlines. Very many that pass at a time are fired in turns of the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.clock import Clock
from core.turns import Turn
from gateway.groups.classic.messages import Instant
from gateway.groups.deadlines import Deadlines

OwnerT = TypeVar("OwnerT")


class Alarms(Generic[OwnerT]):
    """See the module. `fire` gets the owners of the deadlines that have passed, each when its turn has come: until then
    it may yet be cancelled by another."""

    def __init__(
        self, clock: Clock, now: Callable[[], Instant], fire: Callable[[Iterator[OwnerT], Instant], None]
    ) -> None:
        self.deadlines: Deadlines[OwnerT] = Deadlines()
        self._clock = clock
        self._now = now
        self._fire = fire
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._is_active = False

    def __repr__(self) -> str:
        return f"<Alarms {len(self.deadlines)} deadlines>"

    def start(self) -> None:
        self._is_active = True
        self.set_timer()

    def stop(self) -> None:
        self._is_active = False
        if self._timer is not None:
            self._timer.cancel()

    def set_timer(self) -> None:
        """Ensure that the timer fires no later than the earliest deadline."""
        next_s = self.deadlines.next_s()
        if next_s is None or next_s >= self._timer_s or not self._is_active:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = next_s
        delay_s = max(next_s - self._clock.monotonic_s(), 0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def expire_due(self) -> None:
        """Fire every deadline that has passed, however many there are."""
        now = self._now()
        self._fire(self._due(now, None), now)

    def _due(self, now: Instant, turn: Turn | None) -> Iterator[OwnerT]:
        while (deadline := self.deadlines.pop_due(now.monotonic_s)) is not None:
            yield deadline.owner
            if turn is not None and turn.is_over:
                return

    def _on_timer(self) -> None:
        """Fire what has passed, in this turn and, if that is over before, in the next ones."""
        self._timer, self._timer_s = None, math.inf
        now = self._now()
        self._fire(self._due(now, Turn()), now)
        self.set_timer()
