"""The leaders of a topic's partitions: the same for all that lie in one container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.cluster.nodes import NOBODY
from gateway.services import Services


class Leader(NamedTuple):
    """The node that leads, and its epoch; -1 for one that is not known."""

    node_id: int
    epoch: int

    @property
    def error(self) -> ErrorCode:
        return ErrorCode.leader_not_available if self.node_id == NOBODY else ErrorCode.none


def leaders_of(services: Services, stream: Stream) -> Mapping[int, Leader]:
    """The leader of each container that has some of a topic's partitions."""
    nodes, epochs = services.nodes, services.store.leader_epochs(stream)
    return {
        one: Leader(nodes.me, epochs[one]) if one in epochs else Leader(nodes.leader(one), nodes.epoch(one))
        for one in sorted(stream.state.containers)
    }
