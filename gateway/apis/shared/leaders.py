"""The leaders of a topic's partitions: the same for all that lie in one container."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.cluster.nodes import NOBODY, Listener
from gateway.services import Services
from gateway.wire.leader_hints import Hints
from gateway.wire.responses import TopicKey


class Leader(NamedTuple):
    """The node that leads, and its epoch; -1 for one that is not known."""

    node_id: int
    epoch: int

    @property
    def error(self) -> ErrorCode:
        return ErrorCode.leader_not_available if self.node_id == NOBODY else ErrorCode.none


def leaders_of(services: Services, stream: Stream) -> Mapping[int, Leader]:
    """The leader of each container that has some of a topic's partitions."""
    nodes, here = services.nodes, services.store.containers
    epochs = services.store.leader_epochs(stream)
    if not epochs.keys() >= stream.state.containers:  # an internal topic's containers may be here without any stream
        led = [one for one in stream.state.containers if one in here and not here[one].container.is_left]
        epochs |= {one: here[one].container.epoch for one in led}
    return {
        one: Leader(nodes.me, epochs[one]) if one in epochs else Leader(nodes.leader(one), nodes.epoch(one))
        for one in sorted(stream.state.containers)
    }


def hints_of(services: Services, listener: Listener, refused: Iterable[tuple[TopicKey, int]]) -> Hints | None:
    """The leaders of partitions that were asked of the wrong node; None if no other node leads any of them."""
    leaders: dict[tuple[TopicKey, int], tuple[int, int]] = {}
    nodes: dict[int, tuple[int, str, int]] = {}
    for topic, index in refused:
        stream = services.readable(topic)
        if stream is None or index >= stream.slot_count:
            continue
        container_id = stream.state.container_of_slot(index)
        leader = services.nodes.leader(container_id)
        address = services.nodes.address(leader, listener)
        if leader not in (NOBODY, services.nodes.me) and address is not None:
            leaders[topic, index] = leader, services.nodes.epoch(container_id)
            nodes[leader] = address
    return Hints(leaders, list(nodes.values())) if leaders else None
