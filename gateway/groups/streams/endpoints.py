"""Where each partition of an application is processed, for interactive queries (KIP-1071).

Keeps: a partition is told of only if its topic has it, and only of members that named an endpoint. What is told of the
members of one moment may be made later, in a thread: nothing that it is made of changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.groups.modern.topics import TopicView
from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import EndpointParts, Task, TopicPart
from gateway.groups.streams.topology import Topology


class Endpoints:
    """The endpoints of a group's members as they are now, and the tasks there. Made at first use, and then kept."""

    def __init__(self, members: Iterable[Member], topology: Topology, topics: TopicView) -> None:
        self._members = [
            (endpoint, member.current.assigned)
            for member in members
            if (endpoint := member.record.endpoint) is not None
        ]
        self._inputs, self._counts = _inputs(topology), _counts(topology, topics)
        self._parts: tuple[EndpointParts, ...] | None = None

    def __repr__(self) -> str:
        return f"<Endpoints of {len(self._members)} members>"

    @property
    def size(self) -> int:
        """Tasks that are gone through for it; none once it is made."""
        if self._parts is not None:
            return 0
        return sum(len(assigned.active) + len(assigned.standby) for _, assigned in self._members)

    def parts(self) -> tuple[EndpointParts, ...]:
        """The partitions at each endpoint."""
        if self._parts is None:
            self._parts = tuple(
                EndpointParts(endpoint, self._told(assigned.active), self._told(assigned.standby))
                for endpoint, assigned in self._members
            )
        return self._parts

    def _told(self, tasks: Iterable[Task]) -> tuple[TopicPart, ...]:
        return _parts(tasks, self._inputs, self._counts)


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
    numbers: dict[str, set[int]] = {}
    for subtopology, number in tasks:
        numbers.setdefault(subtopology, set()).add(number)
    partitions: dict[str, set[int]] = {}
    for subtopology, some in numbers.items():
        for name in inputs.get(subtopology, ()):
            partitions.setdefault(name, set()).update(some)
    found = ((name, sorted(n for n in partitions[name] if n < counts.get(name, 0))) for name in sorted(partitions))
    return tuple(TopicPart(name, tuple(some)) for name, some in found if some)
