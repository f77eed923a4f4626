"""Where each partition of an application is processed, for interactive queries (KIP-1071).

Keeps: a partition is told of only if its topic has it, and only of members that named an endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.groups.modern.topics import TopicView
from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import EndpointParts, Task, TopicPart
from gateway.groups.streams.topology import Topology


def endpoints_of(members: Iterable[Member], topology: Topology, topics: TopicView) -> tuple[EndpointParts, ...]:
    """The partitions at each member's endpoint."""
    inputs, counts = _inputs(topology), _counts(topology, topics)
    found = []
    for member in members:
        endpoint = member.record.endpoint
        if endpoint is not None:
            assigned = member.current.assigned
            active, standby = _parts(assigned.active, inputs, counts), _parts(assigned.standby, inputs, counts)
            found.append(EndpointParts(endpoint, active, standby))
    return tuple(found)


def inputs_of(tasks: Iterable[Task], topology: Topology, topics: TopicView) -> tuple[TopicPart, ...]:
    """The partitions that tasks read."""
    return _parts(tasks, _inputs(topology), _counts(topology, topics))


def _inputs(topology: Topology) -> Mapping[str, tuple[str, ...]]:
    return {subtopology.id: subtopology.inputs for subtopology in topology.subtopologies}


def _counts(topology: Topology, topics: TopicView) -> Mapping[str, int]:
    names = {name for some in _inputs(topology).values() for name in some}
    return {name: topic.partition_count for name in names if (topic := topics.topic(name)) is not None}


def _parts(
    tasks: Iterable[Task], inputs: Mapping[str, tuple[str, ...]], counts: Mapping[str, int]
) -> tuple[TopicPart, ...]:
    partitions: dict[str, set[int]] = {}
    for task in tasks:
        for name in inputs.get(task.subtopology, ()):
            if task.partition < counts.get(name, 0):
                partitions.setdefault(name, set()).add(task.partition)
    return tuple(TopicPart(name, tuple(sorted(partitions[name]))) for name in sorted(partitions))
