"""The inputs and outputs of a consumer group (KIP-848): heartbeats, answers, records, all immutable.

Keeps: the state machine knows neither sockets nor tasks nor the clock. An assignment is never changed in place: who
holds one may keep it, in another thread too.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from gateway.groups.classic.messages import Protocol as ClassicProtocol
from gateway.groups.modern import rows

LEAVING_FOR_A_WHILE_EPOCH: Final = -2
"""The epoch with which a static member says that it will be back (KIP-848)."""

Partitions: TypeAlias = Mapping[UUID, frozenset[int]]
"""Partitions by topic id."""
Holdings: TypeAlias = Mapping[UUID, Mapping[int, int]]
"""Partitions by topic id, each with the member epoch at which its member got it."""

NO_PARTITIONS: Final[Partitions] = {}
NO_HOLDINGS: Final[Holdings] = {}


class MemberState(enum.IntEnum):
    """How far a member is on its way to the target; the numbers are stored."""

    STABLE = 1
    UNREVOKED_PARTITIONS = 2  # it must first give partitions up
    UNRELEASED_PARTITIONS = 3  # it waits for partitions that others have not given up yet


class ConsumerState(enum.StrEnum):
    """A group's state, named as Kafka's tools show it."""

    EMPTY = "Empty"
    ASSIGNING = "Assigning"  # the target is older than the group
    RECONCILING = "Reconciling"  # a member has not reached the target
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One ConsumerGroupHeartbeat. None: as in the heartbeat before."""

    member_id: str
    epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    names: frozenset[str] | None = None
    regex: str | None = None
    assignor: str | None = None
    owned: Partitions | None = None
    client_id: str = ""
    client_host: str = ""
    may_see: Callable[[str], bool] | None = None
    """Whether the member may see a topic; None if it may see all."""

    @property
    def is_full(self) -> bool:
        """The member sent everything, so it may have missed an answer."""
        has_subscription = self.names is not None or self.regex is not None
        return self.rebalance_timeout_ms != -1 and has_subscription and self.owned is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    """`assigned` is None when the member has it already. `is_partial`: the member could get more at once."""

    member_id: str
    epoch: int
    interval_ms: int = 0
    assigned: Holdings | None = None
    is_partial: bool = False

    @property
    def assignment(self) -> Partitions | None:
        return None if self.assigned is None else {topic: frozenset(held) for topic, held in self.assigned.items()}


class ClassicFacts(NamedTuple):
    """What a member of the classic protocol said about itself when it joined."""

    session_timeout_ms: int
    protocols: tuple[ClassicProtocol, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """A member as it is stored, and as another member takes it over."""

    member_id: str
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    names: frozenset[str]
    regex: str
    assignor: str | None
    classic: ClassicFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRecord:
    """How far a member is, as it is stored."""

    epoch: int
    previous_epoch: int
    state: MemberState
    assigned: Holdings
    revoking: Holdings


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """A group as it is stored, without its members. A target epoch of -1: the stored target is a mixture."""

    epoch: int
    target_epoch: int
    signature: int
    state_since_ms: int


class RowKind(enum.IntEnum):
    """What a stored row of a group is about; the numbers are stored."""

    HEAD = 0
    MEMBER = 1
    CURRENT = 2
    TARGET = 3
    REGEX = 4


RowKey: TypeAlias = rows.RowKey[RowKind]
