"""The averages of the bytes and events that come to a slot: their windows, and the arrays that keep them. Pure.

`core.scaling.rates` takes them; a slot only carries them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MINUTE_S: Final = 60.0
WINDOWS_S: Final = (10.0, 2 * MINUTE_S, 5 * MINUTE_S, 10 * MINUTE_S, 20 * MINUTE_S)
"""The first is for people to watch, the others are the scaler's."""
WATCHED, TWO, FIVE, TEN, TWENTY = range(len(WINDOWS_S))

FADED: Final = 12 * WINDOWS_S[TWENTY]
"""After this long without an entry a slot's averages are below 1/100,000 of their former value, and are dropped."""

Averages = tuple[float, ...]
"""One rate per second for each window."""
NOTHING: Final[Averages] = (0.0,) * len(WINDOWS_S)


class Rate(NamedTuple):
    """The present rate."""

    bytes_s: float
    events_s: float


class SlotRate:
    """One slot's averages, as of `at`."""

    __slots__ = ("at", "bytes", "events")

    def __init__(self, at: float) -> None:
        self.at = at
        self.bytes = list(NOTHING)
        self.events = list(NOTHING)
