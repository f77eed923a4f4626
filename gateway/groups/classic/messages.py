"""The inputs and outputs of a group: requests, results and effects, all immutable.

Keeps: the state machine knows neither sockets nor tasks. A caller that waits is an opaque `Waiter`,
answered by an `Answer`; a `Store` holds a record that must be durable before the group goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from kio.schema.errors import ErrorCode

from gateway.groups.classic.states import GroupState

NO_GENERATION: Final = -1
NO_MEMBER_ID: Final = ""
NO_LEADER: Final = ""
NO_ASSIGNMENT: Final = b""

OwnerT = TypeVar("OwnerT")

#: The caller that waits for an answer; the machine hands it back and never looks inside.
Waiter: TypeAlias = object


class Instant(NamedTuple):
    """Now, on both clocks: time-outs run on the first, only stored timestamps use the second."""

    monotonic_s: float
    wall_ms: int

    def after(self, milliseconds: int) -> float:
        """The point in monotonic time so much later."""
        return self.monotonic_s + milliseconds / 1_000


class Protocol(NamedTuple):
    """One assignment strategy that a member can take part in, with the member's data for it."""

    name: str
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    protocol_type: str
    protocols: tuple[Protocol, ...]  # in the member's order of preference
    session_timeout_ms: int
    rebalance_timeout_ms: int
    reason: str | None
    requires_known_member_id: bool  # KIP-394: the first join only hands out an id
    supports_skip_assignment: bool  # KIP-814: a returning static leader learns that it leads


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol_name: str | None
    assignments: tuple[tuple[str, bytes], ...]


class LeavingMember(NamedTuple):
    """A member that leaves, named by id, by instance id, or by both."""

    member_id: str
    instance_id: str | None
    reason: str | None


class JoinedMember(NamedTuple):
    """A member as its leader sees it."""

    member_id: str
    instance_id: str | None
    metadata: bytes


class JoinResult(NamedTuple):
    """The answer to a join. A tuple, as all that is made for each member of a group in one turn of the loop."""

    error: ErrorCode = ErrorCode.none
    member_id: str = NO_MEMBER_ID
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = NO_LEADER
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


class SyncResult(NamedTuple):
    error: ErrorCode = ErrorCode.none
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = NO_ASSIGNMENT


class MemberRecord(NamedTuple):
    """A member as it is stored."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[Protocol, ...]
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """A group as it is stored: one generation that became stable, or became empty."""

    generation: int
    state_since_ms: int
    protocol_type: str | None
    protocol_name: str | None
    leader: str | None
    members: tuple[MemberRecord, ...]


class Answer(NamedTuple):
    """Effect: give `result` to the waiter."""

    waiter: Waiter
    result: JoinResult | SyncResult


@dataclass(frozen=True, slots=True)
class Store:
    """Effect: make `record` durable, then report the outcome to the group and carry out its effects."""

    record: GroupRecord
    stored: Callable[[ErrorCode, Instant], list[Effect]]


@dataclass(frozen=True, slots=True)
class Read:
    """Effect: read the topics of these subscriptions, in turns if they are long, and tell the group what they are."""

    subscriptions: tuple[bytes, ...]
    told: Callable[[frozenset[str] | None], None]  # None: they cannot be read


@dataclass(frozen=True, slots=True)
class Transitioned:
    """Effect, for logs and metrics: the group changed its state."""

    before: GroupState
    after: GroupState
    generation: int
    member_count: int
    reason: str


Effect: TypeAlias = "Answer | Store | Read | Transitioned"


class Alarm(NamedTuple, Generic[OwnerT]):
    """The action of a deadline: when it has passed, run `fire`, then carry out its effects for the owner."""

    owner: OwnerT
    fire: Callable[[Instant], list[Effect]]
