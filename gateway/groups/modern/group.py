"""What groups whose members are reconciled one by one have in common: consumer groups (KIP-848), streams groups
(KIP-1071).

Such a group has an epoch, a target that is computed for an epoch, and members on their way to the target. It is rows of
a table, and notes which have changed.

Keeps: a target's epoch is never beyond the group's; two targets are an interval apart, and one is computed at a time; a
member that is silent, or does not give up in time, is removed.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from core.turns import at_once
from gateway.groups.classic.messages import Instant
from gateway.groups.deadlines import Deadline, Deadlines
from gateway.groups.modern.epochs import FIRST_EPOCH, next_epoch, unknown_member, waiting_interval_ms


class GroupAlarm(NamedTuple):
    """The action of a deadline: when it has passed, run `fire`, then see to the group."""

    group_id: str
    fire: Callable[[Instant], None]


class Intervals(Protocol):
    """Those of a group's settings that every kind has."""

    @property
    def session_timeout_ms(self) -> int: ...

    @property
    def heartbeat_interval_ms(self) -> int: ...

    @property
    def assignment_interval_ms(self) -> int: ...


class ModernMember(Protocol):
    """A member of such a group."""

    session: Deadline[GroupAlarm]
    rebalance: Deadline[GroupAlarm]

    @property
    def member_id(self) -> str: ...

    @property
    def is_giving_up(self) -> bool:
        """It must give something up before it goes on."""

    def is_reconciled_to(self, target_epoch: int) -> bool: ...


class Wanted(Protocol):
    """What a target is computed from; nothing in it changes, so that it may be computed in a thread."""

    def compute(self) -> Any:
        """What the group is told by `assigned`."""


MemberT = TypeVar("MemberT", bound=ModernMember)
TargetT = TypeVar("TargetT")
KeyT = TypeVar("KeyT")
WantedT = TypeVar("WantedT", bound=Wanted)


class ModernGroup(abc.ABC, Generic[MemberT, TargetT, KeyT, WantedT]):
    """One group, with the invariants of the module's docstring."""

    def __init__(
        self, group_id: str, intervals: Callable[[str], Intervals], deadlines: Deadlines[GroupAlarm], now: Instant
    ) -> None:
        self.group_id = group_id
        self.epoch = FIRST_EPOCH
        self.target_epoch = 0
        self.state_since_ms = now.wall_ms
        self.members: dict[str, MemberT] = {}
        self.targets: dict[str, TargetT] = {}
        #: Rows to be stored, those that changed last at the end: what a member gives up is stored before it is taken.
        self.changed: dict[KeyT, None] = {}
        #: A target for the caller to compute; it tells the result by `assigned`.
        self.wanted: WantedT | None = None
        self.deadlines = deadlines
        self._intervals = intervals
        self._assigned_s: float | None = None
        self._is_assigning = False
        self._assignment_due = self.alarm(self.assign_if_due)

    # Facts

    @property
    @abc.abstractmethod
    def protocol_type(self) -> str:
        """The name of the kind."""

    @property
    def is_empty(self) -> bool:
        return not self.members

    @property
    def is_idle(self) -> bool:
        """The group has no member, and no member id that waits to be used."""
        return not self.members

    @property
    def is_new(self) -> bool:
        """It has never had a member."""
        return not self.members and self.epoch == FIRST_EPOCH

    @property
    def member_count(self) -> int:
        return len(self.members)

    @property
    def expiry_since_ms(self) -> int:
        """An offset of a topic that nobody reads expires by the time of its commit."""
        return 0

    def member(self, member_id: str) -> MemberT:
        """Raises Refusal with UNKNOWN_MEMBER_ID."""
        member = self.members.get(member_id)
        if member is None:
            raise unknown_member(member_id, self.group_id)
        return member

    def _all_are_reconciled(self) -> bool:
        return all(member.is_reconciled_to(self.target_epoch) for member in self.members.values())

    def _interval_ms(self, *, waits: bool) -> int:
        """The time to a member's next heartbeat; a member that waits comes back sooner."""
        usual_ms = self._intervals(self.group_id).heartbeat_interval_ms
        return waiting_interval_ms(usual_ms, len(self.members)) if waits else usual_ms

    # Members that come and go

    @abc.abstractmethod
    def remove(self, member: MemberT, now: Instant) -> None:
        """The member is gone; what it had is free at once."""

    def die(self) -> None:
        """The group is deleted, unloaded or of another kind now: no deadline and no memory is left of it."""
        at_once(self.dying())

    def dying(self) -> Generator[None, None, None]:
        """The same, in steps of a member. Nobody may know the group any more."""
        for member in list(self.members.values()):
            yield
            if self.members.get(member.member_id) is member:  # its session may have ended meanwhile
                self._forget(member)
        self._forget_all()

    @abc.abstractmethod
    def _forget(self, member: MemberT) -> None:
        """No deadline and no memory is left of a member."""

    @abc.abstractmethod
    def _forget_all(self) -> None:
        """The members are gone: no deadline and no memory is left of what the group has beside them."""

    def _watch(self, member: MemberT) -> None:
        """Give a new member its deadlines, which are not set yet."""
        member.session = self.alarm(partial(self._expired, member))
        member.rebalance = self.alarm(partial(self._rebalance_expired, member))

    def _unwatch(self, member: MemberT) -> None:
        self.deadlines.cancel(member.session)
        self.deadlines.cancel(member.rebalance)

    def _expired(self, member: MemberT, now: Instant) -> None:
        if self.members.get(member.member_id) is member:
            self.remove(member, now)

    def _rebalance_expired(self, member: MemberT, now: Instant) -> None:
        """It has not given up in time what it must: it is fenced, and must join again."""
        if member.is_giving_up:
            self._expired(member, now)

    def _session_lasts(self, member: MemberT, timeout_ms: int, now: Instant) -> None:
        self.deadlines.set(member.session, now.after(timeout_ms))

    def alarm(self, fire: Callable[[Instant], None]) -> Deadline[GroupAlarm]:
        return Deadline(GroupAlarm(self.group_id, fire))

    # Epochs and targets

    @property
    @abc.abstractmethod
    def head_key(self) -> KeyT:
        """The row of the group itself."""

    @abc.abstractmethod
    def _assign(self, now: Instant) -> None:
        """Compute the target of the group's epoch, or have it computed."""

    def bump(self) -> None:
        """A new epoch of the group: the target must be computed anew."""
        self.epoch = next_epoch(self.epoch)
        self.note(self.head_key)

    @abc.abstractmethod
    def assigned(self, computed: Any, now: Instant) -> None:
        """The wanted target of an epoch is computed."""

    @property
    def is_assigning(self) -> bool:
        """A target is being computed elsewhere."""
        return self._is_assigning

    def _can_assign(self) -> bool:
        """Is there nothing to wait for, but for the interval?"""
        return True

    def assign_if_due(self, now: Instant) -> None:
        """Compute a target for the group's epoch, unless it is too early, or the last one is too young."""
        if self.epoch <= self.target_epoch or self._is_assigning or not self.members or not self._can_assign():
            return
        if self.target_epoch and self._assigned_s is not None:
            due_s = self._assigned_s + self._intervals(self.group_id).assignment_interval_ms / 1_000
            if now.monotonic_s < due_s:
                self.deadlines.set(self._assignment_due, due_s)
                return
        self.deadlines.cancel(self._assignment_due)
        self._assign(now)

    def _target_taken(self, epoch: int, now: Instant) -> None:
        self.target_epoch = epoch
        self._assigned_s = now.monotonic_s
        self.note(self.head_key)

    def _restore_epochs(self, epoch: int, target_epoch: int) -> None:
        """Take over the stored epochs. A target epoch below 0: the end came in the middle of storing a target."""
        self.epoch, self.target_epoch = epoch, target_epoch
        if target_epoch < 0:
            self.target_epoch = epoch
            self.bump()

    # Stored rows

    def note(self, key: KeyT) -> None:
        """A row must be stored; it moves to the end of those that wait."""
        self.changed.pop(key, None)
        self.changed[key] = None
