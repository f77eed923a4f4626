"""Which slot should go to another node's container, where no container's move would help; and which goes back.

A container that has most of its node's load makes the other node as busy as its own, wherever it goes
(`core.cluster.balancing`). Then some of its slots go, the largest that even out: to the coldest container of the node
with the least. When a stream that scales by itself has become cold, a slot that lies alone between segments of other
containers goes back beside a neighbour, where the scaler can merge them.

No I/O and no clock. Only the busiest node has slots go, and it alone knows their rates; all see who that is.

**Invariants**

- A slot that goes lowers the higher of the two nodes' loads by `GAIN`. So with the same loads none goes to and fro.
- A slot that goes back lowers the number of places at which a stream's neighbouring segments lie in different
  containers. So slots that are cold come to rest.
- In an hour `MOVES_AN_HOUR` slots at most move by themselves, with `BYTES_AN_HOUR` of history, one at a time, and only
  after `HOT_S` in which nothing else would have helped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from core.cluster.balancing import BUSY, GAIN, Nodes, loads_of, next_move
from core.cluster.loads import BASE_WEIGHT
from core.cluster.wanted_moves import Place

HOT_S: Final = 120.0
"""How long a node has to be too busy before slots go: the averages are over a minute."""
APART_S: Final = 60.0
HOUR_S: Final = 3_600.0
MOVES_AN_HOUR: Final = 12
BYTES_AN_HOUR: Final = 8 << 30
SLOT_BYTES_MAX: Final = 2 << 30
"""A slot with a longer history stays: copying it costs more than it helps."""


@dataclass(frozen=True, slots=True)
class Hot:
    """A container whose slots should go, and the one that should have some. `most`, `least`: the loads of their
    nodes."""

    container: int
    weight: float
    target: int
    most: float
    least: float


@dataclass(frozen=True, slots=True)
class SlotLoad:
    """A slot of a container: its share in what is appended there, 0 to 1, and the bytes that it keeps."""

    place: Place
    share: float
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class ColdSlot:
    """A slot that alone is a cold segment. `left`, `right`: the containers of its neighbours; None at the end."""

    place: Place
    container: int
    left: int | None
    right: int | None
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class SlotMove:
    """A slot is to go to a container. `reason` is for people."""

    place: Place
    target: int
    stored_bytes: int
    reason: str


def hottest(nodes: Nodes, node: int) -> Hot | None:
    """The container of this node whose slots should go, if it is the busiest and no container's move would help."""
    if len(nodes) < 2 or not nodes.get(node):
        return None
    loads = loads_of(nodes)
    mean = sum(loads.values()) / len(loads)
    source = max(loads, key=lambda one: (loads[one], -one))
    target = min(loads, key=lambda one: (loads[one], one))
    if source != node or loads[source] <= BUSY * mean or not nodes[target] or next_move(nodes) is not None:
        return None
    weights = nodes[node]
    container = max(weights, key=lambda one: (weights[one], -one))
    coldest = min(nodes[target], key=lambda one: (nodes[target][one], one))
    return Hot(container, weights[container], coldest, loads[source], loads[target])


def best_to_go(hot: Hot, slots: Iterable[SlotLoad]) -> tuple[SlotLoad, float] | None:
    """The slot that evens out most, and the higher load afterwards; None if none lowers it enough."""

    def after(slot: SlotLoad) -> float:
        weight = max(0.0, hot.weight - BASE_WEIGHT) * slot.share
        return max(hot.most - weight, hot.least + weight)

    small = [one for one in slots if one.stored_bytes <= SLOT_BYTES_MAX]
    best = min(small, key=lambda one: (after(one), one.stored_bytes, one.place), default=None)
    if best is None or after(best) > (1 - GAIN) * hot.most:
        return None
    return best, after(best)


def goes_back_to(slot: ColdSlot) -> int | None:
    """The container beside whose segment a cold slot belongs; None if it stays."""
    neighbours = [one for one in (slot.left, slot.right) if one is not None]
    if not neighbours or slot.container in neighbours:
        return None
    return neighbours[0]


class Spreader:
    """See the module. Times are seconds that never go back."""

    def __init__(self) -> None:
        self._hot_since_s: float | None = None
        self._moves: deque[tuple[float, int]] = deque(maxlen=MOVES_AN_HOUR)  # when, and the bytes

    def __repr__(self) -> str:
        return f"<Spreader: {len(self._moves)} moves lately, hot since {self._hot_since_s}>"

    def look(self, nodes: Nodes, node: int, now_s: float, *, is_at_rest: bool) -> Hot | None:
        """The container that should be left by some slot now; `go` follows, with its slots. `is_at_rest`: each
        container is served, and none is to go anywhere."""
        hot = hottest(nodes, node) if is_at_rest else None
        if hot is None:
            self._hot_since_s = None
            return None
        if self._hot_since_s is None:
            self._hot_since_s = now_s
        return hot if now_s >= self._hot_since_s + HOT_S and self._may(now_s, 0) else None

    def go(self, hot: Hot, slots: Iterable[SlotLoad], now_s: float) -> SlotMove | None:
        """The slot that goes, if one helps."""
        best = best_to_go(hot, slots)
        if best is None or not self._may(now_s, best[0].stored_bytes):
            return None
        slot, after = best
        reason = (
            f"its node has a load of {hot.most:.2f}, of which {slot.share * hot.weight:.2f} are this slot's, and the "
            f"other one {hot.least:.2f}: {after:.2f} at most afterwards"
        )
        return self._noted(SlotMove(slot.place, hot.target, slot.stored_bytes, reason), now_s)

    def back(self, slots: Sequence[ColdSlot], now_s: float) -> SlotMove | None:
        """The cold slot that goes back now, if any."""
        for slot in slots:
            target = goes_back_to(slot)
            if target is not None and slot.stored_bytes <= SLOT_BYTES_MAX and self._may(now_s, slot.stored_bytes):
                reason = f"it is cold, and lies alone between segments of other containers, as of container {target}"
                return self._noted(SlotMove(slot.place, target, slot.stored_bytes, reason), now_s)
        return None

    def _may(self, now_s: float, more: int) -> bool:
        lately = [(at_s, size) for at_s, size in self._moves if now_s < at_s + HOUR_S]
        if lately and now_s < lately[-1][0] + APART_S:
            return False
        return len(lately) < MOVES_AN_HOUR and sum(size for _, size in lately) + more <= BYTES_AN_HOUR

    def _noted(self, move: SlotMove, now_s: float) -> SlotMove:
        self._moves.append((now_s, move.stored_bytes))
        return move
