"""The deadlines of a coordinator's groups of one kind, and the timer that fires them.

Keeps: one timer, set for the earliest of all deadlines; after those that have passed, each group that had one is seen
to once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from core.clock import Clock
from gateway.groups.classic.messages import Instant
from gateway.groups.deadlines import Deadlines


class Alarm(Protocol):
    """The owner of a deadline."""

    @property
    def group_id(self) -> str: ...

    @property
    def fire(self) -> Callable[[Instant], None]: ...


AlarmT = TypeVar("AlarmT", bound=Alarm)


class Alarms(Generic[AlarmT]):
    """See the module. `see_to` hears of each group of which a deadline has passed."""

    def __init__(self, clock: Clock, now: Callable[[], Instant], see_to: Callable[[str], None]) -> None:
        self.deadlines: Deadlines[AlarmT] = Deadlines()
        self._clock = clock
        self._now = now
        self._see_to = see_to
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._is_active = False

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
        """Fire every deadline that has passed; the timer calls this."""
        now = self._now()
        touched: dict[str, None] = {}
        while (deadline := self.deadlines.pop_due(now.monotonic_s)) is not None:
            deadline.owner.fire(now)
            touched[deadline.owner.group_id] = None
        for group_id in touched:
            self._see_to(group_id)

    def _on_timer(self) -> None:
        self._timer, self._timer_s = None, math.inf
        self.expire_due()
        self.set_timer()
