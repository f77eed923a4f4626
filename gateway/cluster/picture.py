"""What this node sees of its cluster: who lives, who has which container, who has gone. For people.

Keeps: it is made of what is in memory, and asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.members import Member
from gateway.cluster.nodes import NOBODY, Node, Nodes

Seen = Literal["serving", "opening", "nobody"]
End = Literal["gone", "stopped"]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node. `end`: None while it lives; else whether it was stopped on purpose. `ended_s`: how long ago others heard
    of that, None if nobody did; `served`: the containers that it had then; `listeners`: where clients reached it."""

    id: int
    is_draining: bool = False
    end: End | None = None
    ended_s: float | None = None
    served: tuple[int, ...] = ()
    listeners: Mapping[str, tuple[str, int]] = field(default_factory=dict)


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

    def members(self) -> Mapping[int, Member]: ...

    def is_fresh(self) -> bool: ...


class Picture:
    """See the module. `cluster` is None for processes of one machine, which see one another by their registry."""

    def __init__(
        self,
        nodes: Nodes,
        here: Callable[[], Mapping[int, int]],
        cluster: Cluster | None,
        wall_ms: Callable[[], int],
    ) -> None:
        """`here`: the epochs of the containers of this process, by their ids."""
        self._nodes = nodes
        self._here = here
        self._cluster = cluster
        self._wall_ms = wall_ms

    def __repr__(self) -> str:
        return f"<Picture of {len(self.nodes())} nodes>"

    @property
    def is_certain(self) -> bool:
        """Whether what is seen is what the coordinator has: this node's lease is fresh."""
        return self._cluster is None or self._cluster.is_fresh()

    def nodes(self) -> Sequence[NodeSeen]:
        """All nodes, and those that live no more, by their ids. This one, which answers, has not ended, although it may
        have no life while it has lost its lease."""
        if self._cluster is None:
            return [NodeSeen(one) for one in sorted({self._nodes.me, *self._nodes.others})]
        me = self._nodes.me
        seen = {node: self._ended(one) for node, one in self._cluster.members().items()}
        seen |= {me: NodeSeen(me)} | {
            one.node: NodeSeen(one.node, one.is_draining) for one in self._cluster.lives().values()
        }
        return [one for _, one in sorted(seen.items())]

    def _ended(self, member: Member) -> NodeSeen:
        ended_ms = member.ended_ms
        return NodeSeen(
            member.node,
            end="stopped" if member.has_left else "gone",
            ended_s=None if ended_ms is None else max(0, self._wall_ms() - ended_ms) / 1000,
            served=tuple(sorted(member.served)),
            listeners=_listeners(member),
        )

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


def _listeners(member: Member) -> Mapping[str, tuple[str, int]]:
    """Where clients reached a node, if what it told can be read."""
    try:
        return Node.decode(member.node, member.told).listeners
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
