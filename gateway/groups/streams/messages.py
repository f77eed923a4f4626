"""The inputs and outputs of a streams group (KIP-1071): heartbeats, answers, records, all immutable.

Keeps: the state machine knows neither sockets nor tasks nor the clock. An assignment is never changed in place: who
holds one may keep it, in another thread too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple, Protocol, TypeAlias

from gateway.groups.modern import rows
from gateway.groups.modern.epochs import JOINING_EPOCH
from gateway.groups.streams.held import Held
from gateway.groups.streams.statuses import Status
from gateway.groups.streams.topology import InternalTopic, Topology


class Task(NamedTuple):
    """A part of the application's work: one partition of the topics that a subtopology reads."""

    subtopology: str
    partition: int


class Tasks(NamedTuple):
    """Tasks by role: a standby keeps a copy of an active task's state, on another process."""

    active: frozenset[Task] = frozenset()
    standby: frozenset[Task] = frozenset()


class Holdings(NamedTuple):
    """The tasks that a member has, the active ones each with the member epoch at which it got them."""

    active: Held[Task] = Held()
    standby: frozenset[Task] = frozenset()

    def tasks(self) -> Tasks:
        return Tasks(self.active.all(), self.standby)


NO_TASKS: Final = Tasks()
NO_HOLDINGS: Final = Holdings()


def by_subtopology(tasks: Iterable[Task]) -> dict[str, list[int]]:
    """The numbers of each subtopology's tasks, all in order. Tasks themselves are not sorted: a sort keeps all other
    threads from the interpreter until it is done, which takes a tenth of a second for 100,000 tasks, 10 ms for their
    numbers."""
    found: dict[str, list[int]] = {}
    for name, number in tasks:
        found.setdefault(name, []).append(number)
    return {name: sorted(found[name]) for name in sorted(found)}


Extents: TypeAlias = Mapping[str, tuple[int, int]]
"""The lowest and the highest task of each subtopology."""


def extents_of(tasks: Tasks) -> Extents:
    found: dict[str, tuple[int, int]] = {}
    for name, number in chain(tasks.active, tasks.standby):
        low, high = found.get(name, (number, number))
        found[name] = min(low, number), max(high, number)
    return found


class Endpoint(NamedTuple):
    """Where others reach a member for interactive queries."""

    host: str
    port: int


class MemberState(enum.IntEnum):
    """How far a member is on its way to the target; the numbers are stored."""

    STABLE = 1
    UNREVOKED_TASKS = 2  # it must first give tasks up
    UNRELEASED_TASKS = 3  # it waits for tasks that others have not given up yet


class StreamsState(enum.StrEnum):
    """A group's state, named as Kafka's tools show it."""

    EMPTY = "Empty"
    NOT_READY = "NotReady"  # topics are missing, or do not fit together
    ASSIGNING = "Assigning"  # the target is older than the group
    RECONCILING = "Reconciling"  # a member has not reached the target
    STABLE = "Stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One StreamsGroupHeartbeat. None: as in the heartbeat before."""

    member_id: str
    epoch: int
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topology: Topology | None = None
    owned: Tasks | None = None
    extents: Extents | None = None
    """Those of the owned tasks; None if nobody has looked for them."""
    process_id: str | None = None
    endpoint: Endpoint | None = None
    tags: Mapping[str, str] | None = None
    shuts_down: bool = False
    """The member asks for the end of the whole application."""
    endpoint_epoch: int = -1
    """What the member knows of the endpoints of others."""
    client_id: str = ""
    client_host: str = ""

    @property
    def is_full(self) -> bool:
        """The member sent everything, so it may have missed an answer."""
        return self.rebalance_timeout_ms != -1 and self.owned is not None


class TopicPart(NamedTuple):
    """Partitions of a topic that are processed at an endpoint."""

    topic: str
    partitions: tuple[int, ...]


class EndpointParts(NamedTuple):
    """What is processed at an endpoint, by active tasks and by standbys."""

    endpoint: Endpoint
    active: tuple[TopicPart, ...]
    standby: tuple[TopicPart, ...]


class Told(Protocol):
    """What a member is told of endpoints; to be made in a thread, if it is of many tasks."""

    @property
    def size(self) -> int:
        """Tasks that are gone through for it."""

    def parts(self) -> tuple[EndpointParts, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    """`assigned` and `endpoints` are None when the member has them already; `missing` are topics to be made."""

    member_id: str
    epoch: int
    interval_ms: int = 0
    statuses: tuple[Status, ...] = ()
    assigned: Holdings | None = None
    endpoint_epoch: int = 0
    endpoints: Told | None = None
    missing: tuple[InternalTopic, ...] = ()

    @property
    def tasks(self) -> Tasks | None:
        """The tasks that the member has now."""
        return None if self.assigned is None else self.assigned.tasks()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """A member as it is stored."""

    member_id: str
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    topology_epoch: int
    process_id: str
    endpoint: Endpoint | None
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRecord:
    """How far a member is, as it is stored."""

    epoch: int
    previous_epoch: int
    state: MemberState
    assigned: Holdings
    revoking: Holdings


NOTHING_YET: Final = CurrentRecord(
    epoch=JOINING_EPOCH,
    previous_epoch=JOINING_EPOCH,
    state=MemberState.STABLE,
    assigned=NO_HOLDINGS,
    revoking=NO_HOLDINGS,
)
"""A member that has just come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """A group as it is stored, without its members. A target epoch of -1: the stored target is a mixture."""

    epoch: int
    target_epoch: int
    validated_epoch: int
    signature: int
    standbys: int
    state_since_ms: int
    shutdown_by: str


class RowKind(enum.IntEnum):
    """What a stored row of a group is about; the numbers are stored."""

    HEAD = 0
    MEMBER = 1
    CURRENT = 2
    TARGET = 3
    TOPOLOGY = 4


RowKey: TypeAlias = rows.RowKey[RowKind]


class StreamsSettings(NamedTuple):
    """One group's settings, as they are now."""

    session_timeout_ms: int
    heartbeat_interval_ms: int
    assignment_interval_ms: int
    initial_delay_ms: int
    standbys: int
