"""Pauses that clients were told of, who have no connection that could be muted: over HTTP.

A client that is told to come again in five seconds is let in after five seconds, as one that was muted for five: a rate
that is looked at again would shut it out anew, for what it had been told of before.

Keeps: a pause ends when the client was told that it would; no more than `TOLD_MAX` are kept, those that are over go
first, then all.
"""

from __future__ import annotations

import math
from typing import Final

from core.clock import Clock

TOLD_MAX: Final = 20_000

Who = tuple[str, str]
"""The quota, and the user."""


class ToldPauses:
    """See the module. Seconds are whole ones, as `Retry-After` has no others (RFC 9110, section 10.2.3)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[Who, float] = {}

    def __repr__(self) -> str:
        return f"<ToldPauses of {len(self._until_s)} clients>"

    def begin(self, who: Who, pause_ms: int) -> int:
        """A client must pause; one that is in a longer pause goes on with that. Returns the seconds that are left."""
        now_s = self._clock.monotonic_s()
        if who not in self._until_s and len(self._until_s) >= TOLD_MAX:
            self._make_room(now_s)
        until_s = now_s + math.ceil(pause_ms / 1000)
        until_s = self._until_s[who] = max(until_s, self._until_s.get(who, until_s))
        return _seconds(until_s - now_s)

    def left_s(self, who: Who) -> int | None:
        """The seconds that are left of a client's pause; 0 once, when it is over, and None if there is none."""
        until_s = self._until_s.get(who)
        if until_s is None:
            return None
        left_s = _seconds(until_s - self._clock.monotonic_s())
        if not left_s:
            del self._until_s[who]
        return left_s

    def forget(self) -> None:
        """The limits have changed: whoever must pause is found out anew."""
        self._until_s.clear()

    def _make_room(self, now_s: float) -> None:
        self._until_s = {who: until_s for who, until_s in self._until_s.items() if until_s > now_s}
        if len(self._until_s) >= TOLD_MAX:
            self._until_s.clear()


def _seconds(left_s: float) -> int:
    """Whole ones; what is below a millisecond is arithmetic's."""
    return max(0, math.ceil(round(left_s, 3)))
