"""The topology of a Kafka Streams application, and what it asks of the topics that exist (KIP-1071).

A subtopology reads source topics and repartition topics, and keeps its state in changelog topics; one task processes
one partition number of all that it reads. Repartition and changelog topics are internal: they are made for it.

Keeps: a shape follows from a topology and from the topics alone. A topology that no topics could satisfy is refused;
one that the topics of today do not satisfy has a problem, and no tasks. (Kafka: InternalTopicManager.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from gateway.groups.modern.topics import Topic
from gateway.groups.streams.statuses import Status, StatusCode
from gateway.refusals import Refusal

NAMES_SHOWN_MAX: Final = 10
"""Topics that a message names; of the others it says how many there are."""


class TopicInfo(NamedTuple):
    """An internal topic as the application asks for it; 0 partitions: as many as the topics beside it."""

    name: str
    partitions: int
    replication_factor: int
    configs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtopology:
    """A connected part of the topology. Topics of a `copartitioned` group must have one number of partitions."""

    id: str
    sources: tuple[str, ...]
    repartition_sources: tuple[TopicInfo, ...]
    repartition_sinks: tuple[str, ...]
    changelogs: tuple[TopicInfo, ...]
    copartitioned: tuple[frozenset[str], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All topics that it reads."""
        return (*self.sources, *(topic.name for topic in self.repartition_sources))


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """An application's topology; a later one has a greater epoch. Equal ones are told in any order."""

    epoch: int
    subtopologies: tuple[Subtopology, ...]
    required: frozenset[str] = field(init=False, repr=False, compare=False)
    """The topics that must exist before there are tasks. Every group is asked of each topic that comes or goes."""

    def __post_init__(self) -> None:
        internal = (topic.name for topic in self.internal)
        required = frozenset(internal).union(*(subtopology.sources for subtopology in self.subtopologies))
        object.__setattr__(self, "required", required)

    @property
    def internal(self) -> Iterable[TopicInfo]:
        for subtopology in self.subtopologies:
            yield from subtopology.repartition_sources
            yield from subtopology.changelogs

    def readers_of(self, topic: str) -> list[str]:
        """The subtopologies that read a topic."""
        return [subtopology.id for subtopology in self.subtopologies if topic in subtopology.inputs]


TOPIC_BYTES: Final = 200
"""Bytes that a topic costs beside its texts, for the allowance of all groups."""


def size_of_topology(topology: Topology) -> int:
    """Bytes that a topology holds of its client's texts, and the cost of its parts."""
    size = 0
    for subtopology in topology.subtopologies:
        names = [subtopology.id, *subtopology.inputs, *subtopology.repartition_sinks]
        names += (topic.name for topic in subtopology.changelogs)
        names += (name for topics in subtopology.copartitioned for name in topics)
        size += sum(len(name) + TOPIC_BYTES for name in names)
    configs = (config for topic in topology.internal for config in topic.configs)
    return size + sum(len(name) + len(value) + TOPIC_BYTES for name, value in configs)


class InternalTopic(NamedTuple):
    """An internal topic that is missing, with its number of partitions decided."""

    name: str
    partitions: int
    replication_factor: int
    configs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A topology over the topics that exist: for each subtopology its tasks, or else the problem."""

    tasks: Mapping[str, int] = field(default_factory=dict)
    partitions: Mapping[str, int] = field(default_factory=dict)
    """Of internal topics, as decided."""
    missing: tuple[InternalTopic, ...] = ()
    problem: Status | None = None

    @property
    def is_ready(self) -> bool:
        return self.problem is None


def signature_of(topology: Topology, topic_of: Callable[[str], Topic | None]) -> int:
    """A number that differs when a topic that the topology needs came, went, grew, or was made anew."""
    digest = hashlib.sha256()
    for name in sorted(topology.required):
        topic = topic_of(name)
        if topic is not None:
            digest.update(f"{name}\0{topic.id}\0{topic.partition_count}\n".encode())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


class _Mismatch(Exception):
    """Topics exist whose numbers of partitions do not fit together."""


def shape_of(topology: Topology, partitions_of: Callable[[str], int | None]) -> Shape:
    """The shape of a topology; `partitions_of` tells of a topic that exists. Raises Refusal."""
    sources = {name for subtopology in topology.subtopologies for name in subtopology.sources}
    if absent := sorted(name for name in sources if partitions_of(name) is None):
        return Shape(problem=Status(StatusCode.MISSING_SOURCE_TOPICS, f"Source topics {_some(absent)} are missing."))
    try:
        decided = _Decisions(topology, partitions_of).decide()
        missing = _missing(topology, decided, partitions_of)
    except _Mismatch as mismatch:
        return Shape(problem=Status(StatusCode.INCORRECTLY_PARTITIONED_TOPICS, str(mismatch)))
    names = sorted(topic.name for topic in missing)
    problem = (
        Status(StatusCode.MISSING_INTERNAL_TOPICS, f"Internal topics are missing: {_some(names)}") if names else None
    )
    tasks = {subtopology.id: _most(subtopology, decided, partitions_of) for subtopology in topology.subtopologies}
    return Shape(tasks=tasks, partitions=decided, missing=missing, problem=problem)


class _Decisions:
    """The numbers of partitions of the internal topics."""

    def __init__(self, topology: Topology, partitions_of: Callable[[str], int | None]) -> None:
        self._topology = topology
        self._existing = partitions_of
        self._decided: dict[str, int] = {}

    def decide(self) -> Mapping[str, int]:
        self._decide_repartition()
        repartition = {t.name: t for s in self._topology.subtopologies for t in s.repartition_sources}
        for subtopology in self._topology.subtopologies:
            for topics in subtopology.copartitioned:
                if topics:
                    self._enforce(topics, repartition)
        for subtopology in self._topology.subtopologies:
            most = _most(subtopology, self._decided, self._existing)
            inputs = set(subtopology.inputs)
            self._decided |= {topic.name: most for topic in subtopology.changelogs if topic.name not in inputs}
        return self._decided

    def _decide_repartition(self) -> None:
        """A repartition topic that leaves it open has as many partitions as the largest topic before it."""
        subtopologies = self._topology.subtopologies
        decided = self._decided
        for subtopology in subtopologies:
            decided |= {t.name: t.partitions for t in subtopology.repartition_sources if t.partitions}
        open_sinks = [(sink, s) for s in subtopologies for sink in s.repartition_sinks if sink not in decided]
        while open_sinks:
            undecided = []
            for sink, subtopology in open_sinks:
                known = self._known_inputs(subtopology)
                if known:
                    decided.setdefault(sink, max(known))
                else:
                    undecided.append((sink, subtopology))
            if len(undecided) == len(open_sinks):
                raise _invalid(
                    "Failed to compute number of partitions for all repartition topics. There may be loops in the "
                    "topology that cannot be resolved."
                )
            open_sinks = undecided
        if any(topic.name not in decided for s in subtopologies for topic in s.repartition_sources):
            raise _invalid(
                "Failed to compute number of partitions for all repartition topics, because a repartition source "
                "topic is never used as a sink topic."
            )

    def _known_inputs(self, subtopology: Subtopology) -> list[int]:
        given = [self._existing(name) for name in subtopology.sources]
        decided = [self._decided.get(topic.name) for topic in subtopology.repartition_sources]
        return [count for count in (*given, *decided) if count is not None]

    def _enforce(self, topics: frozenset[str], repartition: Mapping[str, TopicInfo]) -> None:
        """Topics that are read together must have one number of partitions."""
        counts = {name: self._count(name, repartition) for name in topics}
        given = {name for name in topics if name not in repartition}
        fixed = {name for name in topics if name in repartition and repartition[name].partitions}
        leading = given or fixed or topics
        if (given or fixed) and len({counts[name] for name in leading}) > 1:
            shown = ", ".join(f"{name}={counts[name]}" for name in sorted(leading)[:NAMES_SHOWN_MAX])
            raise _Mismatch(f"Following topics do not have the same number of partitions: [{{{shown}}}]")
        wanted = max(counts[name] for name in leading)
        for name in sorted(fixed):
            if counts[name] != wanted:
                raise _Mismatch(
                    f"Number of partitions [{counts[name]}] of repartition topic [{name}] doesn't match number of "
                    f"partitions [{wanted}] of the source topic."
                )
        self._decided |= dict.fromkeys((name for name in topics if name in repartition), wanted)

    def _count(self, name: str, repartition: Mapping[str, TopicInfo]) -> int:
        count = self._decided.get(name) if name in repartition else self._existing(name)
        if count is None:
            raise _invalid(f"Number of partitions is not set for topic: {name}")
        return count


def _missing(
    topology: Topology, decided: Mapping[str, int], partitions_of: Callable[[str], int | None]
) -> tuple[InternalTopic, ...]:
    missing: dict[str, InternalTopic] = {}
    for topic in topology.internal:
        wanted = decided.get(topic.name)
        if wanted is None:
            continue  # a changelog that is a source at the same time
        exists = partitions_of(topic.name)
        if exists is None:
            missing[topic.name] = InternalTopic(topic.name, wanted, topic.replication_factor, topic.configs)
        elif exists != wanted:
            raise _Mismatch(
                f"Existing topic {topic.name} has different number of partitions: expected {wanted}, found {exists}"
            )
    return tuple(missing.values())


def _most(subtopology: Subtopology, decided: Mapping[str, int], partitions_of: Callable[[str], int | None]) -> int:
    """The number of partitions of the largest topic that a subtopology reads."""
    counts = [decided.get(name) or partitions_of(name) or 0 for name in subtopology.inputs]
    if not counts:
        raise _invalid(f"No source topics found for subtopology {subtopology.id}")
    return max(counts)


def _invalid(why: str) -> Refusal:
    return Refusal(ErrorCode.streams_invalid_topology, why)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    rest = len(names) - NAMES_SHOWN_MAX
    return f"{shown}, and {rest} more" if rest > 0 else shown
