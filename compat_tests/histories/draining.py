"""Whether consumers come to the end of what they read: they may take long, but must not stand still. Pure.

**Invariant**: consumers that go on are given up after `at_most_s`, those that stand still after `patience_s`; the
reason says which of the two, and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compat_tests.histories.history import Place


@dataclass
class Draining:
    """The way of a group to `ends`: the last offset of each partition, -1 for one that is empty."""

    ends: Mapping[Place, int]
    began_s: float
    patience_s: float
    at_most_s: float
    _positions: Mapping[Place, int] = field(default_factory=dict)
    _moved_s: float = 0.0

    def __post_init__(self) -> None:
        self._moved_s = self.began_s

    def look(self, now_s: float, positions: Mapping[Place, int]) -> bool:
        """Whether the group has come to all ends; `positions` are the offsets that it has committed."""
        if positions != self._positions:
            self._positions, self._moved_s = dict(positions), now_s
        return not self._behind()

    def why_given_up(self, now_s: float) -> str:
        """Empty while it is worth waiting."""
        stood_s, took_s = now_s - self._moved_s, now_s - self.began_s
        if stood_s < self.patience_s and took_s < self.at_most_s:
            return ""
        how = f"they stood still for {stood_s:.0f} s" if stood_s >= self.patience_s else "they were still at work"
        return f"after {took_s:.0f} s {how}, and had committed {self._behind()}"

    def _behind(self) -> Mapping[str, str]:
        """By partition: the offset that was committed, and the last one that there is."""
        return {
            f"{topic}-{partition}": f"{self._positions.get((topic, partition), -1)} of {last}"
            for (topic, partition), last in self.ends.items()
            if last >= 0 and self._positions.get((topic, partition), -1) <= last
        }
