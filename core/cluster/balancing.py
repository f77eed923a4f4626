"""Which container should change its node, so that no node has much more to do than the others.

No I/O and no clock. `next_move` is the rule for one look: if the busiest node has more than `BUSY` times the mean, the
move of one of its containers to the node with the least, if that lowers the higher of the two by `GAIN` at least.
`filling` is the rule for a node that has joined: containers of busier ones, up to the mean and not beyond. A node whose
load is one container's can give nothing, and both rules hold for the rest without it.
`Balancer` adds what several looks need: one move at a time, `APART_S` between two.

**Invariants**

- Each move lowers the sum of the squares of the nodes' loads. So with the same loads no move is ever undone, no
  distribution comes again, and moves come to an end.
- While a container is nobody's, is being opened, or has to move, or slots are to move, no other one is moved.
- After any change of an owner `APART_S` pass before the next move that fills no new node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.loads import IDLE

BUSY: Final = 1.25
"""A node with this many times the mean load has too much."""
GAIN: Final = 0.05
"""The least part of the higher load by which a move has to lower it."""
APART_S: Final = 60.0
"""Between two moves: the averages have to show what the last one has done."""
FILL_APART_S: Final = 1.0
"""Between two moves to a node that has joined: their sum is known before."""
WISH_S: Final = 60.0
"""A move that has not begun after this long holds up no other one."""


@dataclass(frozen=True, slots=True)
class Move:
    """A container is to go from a node to another one. `reason` is for people."""

    container: int
    source: int
    target: int
    reason: str


Nodes = Mapping[int, Mapping[int, float]]
"""The weights of the containers that each node has."""


def next_move(nodes: Nodes, fixed: Collection[int] = ()) -> Move | None:
    """The move that evens out most, if one is due. Containers in `fixed` stay.

    The busiest node of all may have nothing to give, as its load is one container's. Then the others are evened out
    among themselves.
    """
    rest = dict(nodes)
    while len(rest) > 1:
        loads = loads_of(rest)
        mean = sum(loads.values()) / len(loads)
        source = max(loads, key=lambda node: (loads[node], -node))
        if loads[source] <= BUSY * mean:
            return None
        target = min(loads, key=lambda node: (loads[node], node))
        best = _evens_out(rest[source], loads[source], loads[target], fixed)
        if best is not None:
            return Move(best, source, target, f"node {source} has {loads[source] / mean:.2f} times the mean load")
        del rest[source]
    return None


def _evens_out(containers: Mapping[int, float], most: float, least: float, fixed: Collection[int]) -> int | None:
    """The container that lowers the higher of the two loads furthest, if by `GAIN` at least."""

    def after(container: int) -> float:
        return max(most - containers[container], least + containers[container])

    best = min((one for one in containers if one not in fixed), key=lambda one: (after(one), -one), default=None)
    return None if best is None or after(best) > (1 - GAIN) * most else best


def filling(nodes: Nodes, joined: int, fixed: Collection[int] = ()) -> Move | None:
    """The next container for a node that has joined: the largest that fits of the busiest node that has one.

    It is filled up to the mean. If no node above the mean has anything that fits, the mean is that of the others.
    """
    rest = dict(nodes)
    while len(rest) > 1:
        loads = loads_of(rest)
        mean = sum(loads.values()) / len(loads)
        sources = sorted((node for node in loads if loads[node] > mean), key=lambda node: (-loads[node], node))
        if not sources or loads[joined] >= mean:
            return None
        for source in sources:
            spare = min(mean, loads[source]) - loads[joined]
            fits = [one for one, weight in rest[source].items() if weight <= spare and one not in fixed]
            if fits:
                best = max(fits, key=lambda one: (rest[source][one], one))
                return Move(best, source, joined, f"node {joined} has joined, and has less than the mean load")
        del rest[sources[0]]
    return None


def loads_of(nodes: Nodes) -> dict[int, float]:
    """The load of each node."""
    return {node: sum(containers.values()) for node, containers in nodes.items()}


def distribution(
    owners: Mapping[int, Owner], lives: Mapping[int, Life], weights: Mapping[int, float]
) -> dict[int, dict[int, float]]:
    """The containers of each node that takes some, with their weights."""
    nodes: dict[int, dict[int, float]] = {life.node: {} for life in lives.values() if life.takes}
    for container, owner in owners.items():
        if owner.node in nodes:
            nodes[owner.node][container] = weights.get(container, IDLE.weight)
    return nodes


@dataclass(frozen=True, slots=True)
class Scene:
    """What the coordinator's mirror shows. `weights`: of containers that were measured; `has_travels`: a container is
    on a trip for slots that move (`core.cluster.wanted_moves`), and goes home by itself."""

    containers: Collection[int]
    owners: Mapping[int, Owner]
    lives: Mapping[int, Life]
    wishes: Mapping[int, Wish]
    weights: Mapping[int, float]
    has_travels: bool = False


class Balancer:
    """See the module. Each node has one, so the next node to decide knows the moves of before. Times are seconds
    that never go back."""

    def __init__(self) -> None:
        self._weights: dict[int, float] = {}  # the last known, also while a container is on its way
        self._owners: dict[int, int] | None = None  # nodes by container, at the last look
        self._filled: set[str] = set()  # lives that have got what they can get
        self._wishes: dict[int, tuple[Wish, float]] = {}  # with the time when they were first seen
        self._changed_s = 0.0

    def __repr__(self) -> str:
        return f"<Balancer of {len(self._weights)} containers, last change at {self._changed_s:.0f} s>"

    @property
    def weights(self) -> Mapping[int, float]:
        """The last known weights."""
        return self._weights

    def look(self, scene: Scene, now_s: float) -> Move | None:
        """The move that is due now. Ask for it, or do not: the next look goes by what has become of it."""
        self._notice(scene, now_s)
        nodes = distribution(scene.owners, scene.lives, self._weights)
        if not self._is_at_rest(scene, now_s):
            return None
        if now_s >= self._changed_s + FILL_APART_S:
            for life in sorted(scene.lives.values(), key=lambda one: one.node):
                if life.node in nodes and life.life not in self._filled:
                    move = filling(nodes, life.node, scene.wishes)
                    if move is not None:
                        return move
                    self._filled.add(life.life)
        return next_move(nodes, scene.wishes) if now_s >= self._changed_s + APART_S else None

    def _notice(self, scene: Scene, now_s: float) -> None:
        self._weights |= {one: weight for one, weight in scene.weights.items() if one in scene.containers}
        owners = {container: owner.node for container, owner in scene.owners.items()}
        if owners != self._owners:
            self._owners, self._changed_s = owners, now_s
        self._filled &= {life.life for life in scene.lives.values()}
        self._wishes = {
            container: seen if (seen := self._wishes.get(container)) is not None and seen[0] == wish else (wish, now_s)
            for container, wish in scene.wishes.items()
        }

    def _is_at_rest(self, scene: Scene, now_s: float) -> bool:
        if scene.has_travels:
            return False
        for container in scene.containers:
            owner = scene.owners.get(container)
            if owner is None or owner.stage is not Stage.SERVING:
                return False
        return all(now_s >= since_s + WISH_S for _, since_s in self._wishes.values())
