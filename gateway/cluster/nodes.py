"""The nodes of the cluster, and which of them leads what: the facts of Metadata, FindCoordinator and DescribeCluster.

Invariant: this node is always among them, at the address of the listener that the client came by. Every client gets the
addresses of the others for a listener of the same name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from core.cluster.coordination import Coordination, Stage

logger = logging.getLogger(__name__)

NOBODY: int = -1
"""In place of a node's id: no node leads that."""


class Address(NamedTuple):
    """A node as a client reaches it."""

    node_id: int
    host: str
    port: int


class Listener(Protocol):
    """The listener that a client came by."""

    @property
    def name(self) -> str: ...
    @property
    def advertised_host(self) -> str: ...
    @property
    def advertised_port(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, as it tells of itself. `inner`: where other nodes reach it, a socket file, or HOST:PORT in a cluster.
    `pulse`: where they notice its end (`gateway.cluster.pulse`). `http`: where they ask its REST API, HOST:PORT."""

    id: int
    listeners: Mapping[str, tuple[str, int]]  # advertised host and port, by the listener's name
    containers: Mapping[int, int]  # leader epoch, by container
    inner: str = ""
    pulse: tuple[str, int] | None = None
    http: str = ""

    def encode(self) -> dict[str, Any]:
        """The node as JSON's values."""
        return {
            "listeners": {name: list(address) for name, address in self.listeners.items()},
            "containers": {str(container_id): epoch for container_id, epoch in self.containers.items()},
            "inner": self.inner,
            "pulse": None if self.pulse is None else list(self.pulse),
            "http": self.http,
        }

    @classmethod
    def decode(cls, node_id: int, fields: Mapping[str, Any]) -> Node:
        """Raises KeyError, ValueError, TypeError, AttributeError."""
        return cls(
            id=node_id,
            listeners={name: (str(host), int(port)) for name, (host, port) in fields["listeners"].items()},
            containers={int(container_id): int(epoch) for container_id, epoch in fields["containers"].items()},
            inner=fields["inner"],
            http=str(fields.get("http", "")),
        )


@dataclass(slots=True, eq=False)
class Nodes:
    """See the module. `here` tells whether a container is open in this process."""

    me: int
    here: Callable[[int], bool]
    others: Mapping[int, Node] = field(default_factory=dict)  # by id, but those that are away; replaced as a whole
    version: int = 0
    """Rises when the others change: what was made of them before is stale."""
    _leaders: Mapping[int, Node] = field(default_factory=dict)
    _told: Mapping[int, Node] = field(default_factory=dict)  # all that have told of themselves
    _away: dict[int, Node] = field(default_factory=dict)  # what those told last that have ended since

    @property
    def is_alone(self) -> bool:
        return not self.others

    def replace(self, nodes: Iterable[Node]) -> None:
        """This is what the other nodes tell of themselves now."""
        self._told = {node.id: node for node in nodes if node.id != self.me}
        self._derive()

    def went(self, node_id: int) -> None:
        """A node has ended. It leads nothing until it tells of itself anew: its next life has later epochs, and a
        client that learned of the old ones would keep them, and be refused."""
        if node_id in self._told:
            self._away[node_id] = self._told[node_id]
            self._derive()

    def _derive(self) -> None:
        self._away = {node_id: node for node_id, node in self._away.items() if self._told.get(node_id) == node}
        self.others = {node_id: node for node_id, node in self._told.items() if node_id not in self._away}
        self._leaders = {container_id: node for node in self.others.values() for container_id in node.containers}
        self.version += 1

    def leader(self, container_id: int) -> int:
        """The id of the node that leads a container; NOBODY if none does."""
        if self.here(container_id):
            return self.me
        node = self._leaders.get(container_id)
        return NOBODY if node is None else node.id

    def epoch(self, container_id: int) -> int:
        """The leader epoch of a container of another node; -1 while it is unknown."""
        node = self._leaders.get(container_id)
        return -1 if node is None else node.containers[container_id]

    def node_of(self, container_id: int) -> Node | None:
        """The other node that has a container."""
        return self._leaders.get(container_id)

    def addresses(self, listener: Listener) -> list[Address]:
        """All nodes, for a client that came by this listener."""
        found = [self._mine(listener)]
        for node in self.others.values():
            if (address := node.listeners.get(listener.name)) is not None:
                found.append(Address(node.id, *address))
        return sorted(found)

    def address(self, node_id: int, listener: Listener) -> Address | None:
        """One node, for such a client."""
        if node_id == self.me:
            return self._mine(listener)
        node = self.others.get(node_id)
        address = None if node is None else node.listeners.get(listener.name)
        return None if address is None else Address(node_id, *address)

    def _mine(self, listener: Listener) -> Address:
        return Address(self.me, listener.advertised_host, listener.advertised_port)


def _readable(told: Mapping[int, Mapping[str, Any]]) -> list[Node]:
    """What can be read of what nodes tell: one of another release must not hide the others."""
    nodes: list[Node] = []
    for node_id, fields in told.items():
        try:
            if fields:
                nodes.append(Node.decode(node_id, fields))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            logger.error(
                "what a node tells of itself cannot be read", extra={"node": node_id, "reason": repr(error)[:99]}
            )
    return nodes


def owners_of(told: Mapping[int, Mapping[str, Any]], coordination: Coordination) -> list[Node]:
    """The nodes that live, as they tell of themselves, with the containers that the coordinator lets them serve."""
    lives, served = coordination.lives(), coordination.owners()
    nodes = _readable(told)
    return [
        replace(
            node,
            containers={
                container_id: owner.leader_epoch
                for container_id, owner in served.items()
                if owner.node == node.id and owner.stage is Stage.SERVING
            },
        )
        for node in nodes
        if node.id in lives
    ]
