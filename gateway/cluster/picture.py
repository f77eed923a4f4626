"""What this node sees of its cluster: who lives, who has which container, who has gone lately. For people.

Keeps: it is made of what is in memory, and asks nobody. `GONE_MAX` nodes that have gone are remembered, for `GONE_S`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from core.cluster.coordination import Life, Owner, Stage, Wish
from gateway.cluster.nodes import NOBODY, Node, Nodes

Seen = Literal["serving", "opening", "nobody"]
GONE_S: Final = 3_600.0
GONE_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node. `gone_s`: how long ago it ended; None while it lives."""

    id: int
    is_draining: bool = False
    gone_s: float | None = None


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """A container. `node` is -1 if it is nobody's; `stage` is serving, opening or nobody; `going_to` -1 if it stays."""

    id: int
    node: int
    epoch: int
    stage: Seen
    going_to: int = NOBODY


class Cluster(Protocol):
    """What is needed of the coordinator."""

    @property
    def containers(self) -> Sequence[int]: ...

    def owners(self) -> Mapping[int, Owner]: ...

    def lives(self) -> Mapping[int, Life]: ...

    def wishes(self) -> Mapping[int, Wish]: ...

    def is_fresh(self) -> bool: ...

    def on_changed(self, told: Callable[[], None]) -> None: ...


class Picture:
    """See the module. `cluster` is None for processes of one machine, which see one another by their registry."""

    def __init__(
        self,
        nodes: Nodes,
        here: Callable[[], Mapping[int, int]],
        cluster: Cluster | None,
        clock_s: Callable[[], float],
    ) -> None:
        """`here`: the epochs of the containers of this process, by their ids."""
        self._nodes = nodes
        self._here = here
        self._cluster = cluster
        self._clock_s = clock_s
        self._lived: set[int] = set()
        self._gone: dict[int, float] = {}  # when we heard of it
        if cluster is not None:
            cluster.on_changed(self._look)
            self._look()

    def __repr__(self) -> str:
        return f"<Picture of {len(self.nodes())} nodes>"

    @property
    def is_certain(self) -> bool:
        """Whether what is seen is what the coordinator has: this node's lease is fresh."""
        return self._cluster is None or self._cluster.is_fresh()

    def _look(self) -> None:
        assert self._cluster is not None
        lives, now_s = set(self._cluster.lives()), self._clock_s()
        self._gone |= dict.fromkeys(self._lived - lives, now_s)
        self._lived = lives
        recent = {node: at_s for node, at_s in self._gone.items() if node not in lives and at_s > now_s - GONE_S}
        self._gone = dict(sorted(recent.items(), key=lambda one: -one[1])[:GONE_MAX])

    def nodes(self) -> Sequence[NodeSeen]:
        """All nodes, this one too, by their ids."""
        if self._cluster is None:
            return [NodeSeen(one) for one in sorted({self._nodes.me, *self._nodes.others})]
        now_s = self._clock_s()
        living = [NodeSeen(one.node, one.is_draining) for one in self._cluster.lives().values()]
        gone = [NodeSeen(node, gone_s=now_s - at_s) for node, at_s in self._gone.items() if at_s > now_s - GONE_S]
        return sorted([*living, *gone], key=lambda one: one.id)

    def containers(self) -> Sequence[ContainerSeen]:
        """All containers, by their ids."""
        if self._cluster is None:
            return self._of_processes()
        owners, wishes = self._cluster.owners(), self._cluster.wishes()
        return [
            ContainerSeen(
                one,
                NOBODY if (owner := owners.get(one)) is None else owner.node,
                -1 if owner is None else owner.leader_epoch,
                "nobody" if owner is None else "serving" if owner.stage is Stage.SERVING else "opening",
                wishes[one].node if one in wishes else NOBODY,
            )
            for one in self._cluster.containers
        ]

    def _of_processes(self) -> Sequence[ContainerSeen]:
        here = {one: ContainerSeen(one, self._nodes.me, epoch, "serving") for one, epoch in self._here().items()}
        there = {
            one: ContainerSeen(one, node.id, epoch, "serving")
            for node in self._nodes.others.values()
            for one, epoch in node.containers.items()
        }
        return [one for _, one in sorted((there | here).items())]

    def doors(self) -> Mapping[int, Node]:
        """The other nodes that live, as they tell of themselves."""
        return self._nodes.others
