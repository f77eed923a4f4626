"""One consumer group (KIP-848): a state machine of Kafka's rules, free of I/O, tasks and clocks.

Keeps: no partition has two owners; a member's epoch is never beyond the target's, which is never beyond the group's;
a change of members, subscriptions or topics makes a new epoch of the group, and the next target is for that epoch.
Every change is noted in `changed`, so that the caller can store it before it answers.

Behaviour follows Kafka 4.3 (GroupMetadataManager). Members of the classic protocol in such a group are another module:
`classic_members.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.groups.classic.messages import Instant
from gateway.groups.consumer.assignors import ASSIGNORS
from gateway.groups.consumer.assignors.spec import GroupSpec, MemberSpec
from gateway.groups.consumer.checks import check_epoch, check_holds_instance, check_released
from gateway.groups.consumer.member import Member, size_of, updated
from gateway.groups.consumer.messages import (
    JOINING_EPOCH,
    LEAVING_FOR_A_WHILE_EPOCH,
    NO_HOLDINGS,
    NO_PARTITIONS,
    ConsumerAlarm,
    ConsumerState,
    CurrentRecord,
    HeadRecord,
    Heartbeat,
    HeartbeatAnswer,
    MemberRecord,
    MemberState,
    Partitions,
    RowKey,
    RowKind,
)
from gateway.groups.consumer.owners import Owners
from gateway.groups.consumer.reconciliation import next_step
from gateway.groups.consumer.restoring import without_doubles
from gateway.groups.consumer.rules import ConsumerRules
from gateway.groups.consumer.subscriptions import Subscriptions
from gateway.groups.deadlines import Deadline, Deadlines
from gateway.refusals import Refusal

AT_ONCE_MAX: Final = 1_000
"""Members and partitions of a group whose target is computed at once, in some milliseconds; others are `wanted`."""
PARTITION_BYTES: Final = 100
"""Bytes that a partition costs in a group's targets and holdings, for the allowance of all groups."""
WAITING_INTERVAL_MS: Final = 1_000
"""Time between two heartbeats of a member that waits for others, or for a target, if the usual one is not shorter."""
WAITING_INTERVAL_MS_PER_MEMBER: Final = 2
"""With many members it is longer: together they send 500 heartbeats a second at most, a tenth of a core."""
FIRST_EPOCH: Final = 1
"""A new group's epoch; the first target is for it or a later one."""
EPOCH_MAX: Final = 2**31 - 1


class Wanted(NamedTuple):
    """A target to compute elsewhere."""

    epoch: int
    assignor: str
    spec: GroupSpec


class ConsumerGroup:
    """One group, with the invariants of the module's docstring."""

    protocol_type: Final = "consumer"

    def __init__(self, group_id: str, rules: ConsumerRules, deadlines: Deadlines[ConsumerAlarm], now: Instant) -> None:
        self.group_id = group_id
        self.epoch = FIRST_EPOCH
        self.target_epoch = 0
        self.state_since_ms = now.wall_ms
        self.members: dict[str, Member] = {}
        self.targets: dict[str, Partitions] = {}
        self.subscriptions = Subscriptions(rules.topics)
        #: Rows to be stored, those that changed last at the end: a partition is released before it is taken.
        self.changed: dict[RowKey, None] = {}
        #: A target for the caller to compute; it tells the result by `assigned`.
        self.wanted: Wanted | None = None
        #: The only members left are of the classic protocol, since one of the other has gone.
        self.may_be_classic = False
        self.rules = rules
        self.deadlines = deadlines
        self._static: dict[str, str] = {}
        self._owners = Owners()
        self._signature = 0
        self._assigned_s: float | None = None
        self._is_assigning = False
        self._must_assign_again = False
        self._assignment_due = self.alarm(self.assign_if_due)
        self._charged_partitions = 0

    def __repr__(self) -> str:
        return (
            f"ConsumerGroup({self.group_id!r}, {self.state}, epoch {self.epoch}, target {self.target_epoch}, "
            f"{len(self.members)} members)"
        )

    # Facts

    @property
    def state(self) -> ConsumerState:
        if not self.members:
            return ConsumerState.EMPTY
        if self.epoch > self.target_epoch:
            return ConsumerState.ASSIGNING
        if all(member.is_reconciled_to(self.target_epoch) for member in self.members.values()):
            return ConsumerState.STABLE
        return ConsumerState.RECONCILING

    @property
    def is_empty(self) -> bool:
        return not self.members

    is_idle = is_empty

    @property
    def is_new(self) -> bool:
        """It has never had a member."""
        return not self.members and self.epoch == FIRST_EPOCH

    @property
    def member_count(self) -> int:
        return len(self.members)

    @property
    def expiry_since_ms(self) -> int:
        """An offset of a topic that nobody subscribes to expires by the time of its commit."""
        return 0

    def is_subscribed_to(self, topic: str) -> bool:
        return self.subscriptions.wants(topic)

    @property
    def assignor(self) -> str:
        """The assignor that most members ask for."""
        votes = Counter(member.assignor for member in self.members.values() if member.assignor is not None)
        known = [(count, name) for name, count in votes.items() if name in self.rules.assignors]
        return max(known)[1] if known else self.rules.assignors[0]

    def static_member(self, instance_id: str) -> Member | None:
        member_id = self._static.get(instance_id)
        return None if member_id is None else self.members[member_id]

    def target_of(self, member_id: str) -> Partitions:
        return self.targets.get(member_id, NO_PARTITIONS)

    def owner(self, topic_id: UUID, partition: int) -> str | None:
        return self._owners.of(topic_id, partition)

    def member(self, member_id: str) -> Member:
        """Raises Refusal with UNKNOWN_MEMBER_ID."""
        member = self.members.get(member_id)
        if member is None:
            why = f"Member {member_id} is not a member of group {self.group_id}."
            raise Refusal(ErrorCode.unknown_member_id, why)
        return member

    # Heartbeats

    def heartbeat(self, request: Heartbeat, now: Instant) -> HeartbeatAnswer:
        """A member joins, is alive, or leaves. Raises Refusal; then nothing has changed."""
        if request.epoch < JOINING_EPOCH:
            return self._leave(request, now)
        member_id = request.member_id or self.rules.new_id()
        self.check_room(member_id)
        known, taken_over = self._find(request, member_id)
        base = known or taken_over
        before = base.record() if base is not None else None
        record = updated(before, request, member_id)
        resolved = self.check_record(record, before)
        member = self._enter(known, taken_over, record, now)
        had = member.assigned
        if record.regex and request.may_see is not None:
            self.subscriptions.sights[record.regex] = request.may_see
        changed = self.take_record(member, record, before, resolved)
        self.assign_if_due(now)
        self.reconcile(member, request.owned, changed, now)
        self.extend_session(member, now)
        must_tell = request.epoch == JOINING_EPOCH or request.is_full or member.assigned != had
        return self._answer(member, must_tell)

    def answer_again(self, member_id: str, now: Instant) -> HeartbeatAnswer:
        """The answer to a member that has waited for the group's target. Raises Refusal."""
        member = self.member(member_id)
        self.reconcile(member, NO_PARTITIONS if member.epoch == JOINING_EPOCH else None, False, now)
        return self._answer(member, must_tell=True)

    def _answer(self, member: Member, must_tell: bool) -> HeartbeatAnswer:
        return HeartbeatAnswer(
            member_id=member.member_id,
            epoch=member.epoch,
            interval_ms=self._interval_ms(member),
            assignment=member.partitions() if must_tell else None,
        )

    def _interval_ms(self, member: Member) -> int:
        """The time to the member's next heartbeat: a member that waits for partitions comes back sooner."""
        interval_ms = self.rules.settings(self.group_id).heartbeat_interval_ms
        if member.state is not MemberState.UNRELEASED_PARTITIONS and self.epoch == self.target_epoch:
            return interval_ms
        return min(interval_ms, max(WAITING_INTERVAL_MS, WAITING_INTERVAL_MS_PER_MEMBER * len(self.members)))

    def _find(self, request: Heartbeat, member_id: str) -> tuple[Member | None, Member | None]:
        """The member itself, or else the static member whose place it takes."""
        joins = request.epoch == JOINING_EPOCH
        if request.instance_id is None:
            member = self.members.get(member_id) if joins else self.member(member_id)
            if member is not None:
                check_epoch(member, request.epoch, request.owned)
            return member, None
        holder = self.static_member(request.instance_id)
        if not joins:
            member = check_holds_instance(holder, member_id, request.instance_id)
            check_epoch(member, request.epoch, request.owned)
            return member, None
        if holder is not None and holder.classic is None:
            check_released(holder, member_id)
        return None, holder

    def check_room(self, member_id: str) -> None:
        if len(self.members) >= self.rules.max_size and member_id not in self.members:
            why = f"The consumer group has reached its maximum capacity of {self.rules.max_size} members."
            raise Refusal(ErrorCode.group_max_size_reached, why)

    def check_record(self, record: MemberRecord, before: MemberRecord | None) -> frozenset[str] | None:
        """May a member be so? Returns the topics of its regular expression if it is a new one. Raises Refusal."""
        if record == before:
            return None
        size = size_of(record) - (size_of(before) if before is not None else 0)
        allowance = self.rules.allowance
        if size_of(record) > allowance.member_max_bytes or (
            size > 0 and allowance.used + size > allowance.all_max_bytes
        ):
            why = "The members of all groups hold as much as groups.metadata.max.bytes allows."
            raise Refusal(ErrorCode.group_max_size_reached, why)
        if record.regex and not self.subscriptions.regexes[record.regex]:
            return self.rules.resolve(record.regex)
        return None

    def _enter(self, known: Member | None, taken_over: Member | None, record: MemberRecord, now: Instant) -> Member:
        """The member of a request, made if need be."""
        if known is not None:
            return known
        if taken_over is not None:
            return self.replace_static(taken_over, record.member_id)
        member = self.add(replace(record, names=frozenset(), regex=""))
        if len(self.members) == 1:
            self.state_since_ms = now.wall_ms
        return member

    def take_record(
        self, member: Member, record: MemberRecord, before: MemberRecord | None, resolved: frozenset[str] | None
    ) -> bool:
        """Make a member so; tell whether its subscription changed."""
        names, regex = member.names, member.regex
        if record != member.record() or before is None:
            self.note(RowKey(RowKind.MEMBER, member.member_id))
            subscriptions = self.subscriptions
            subscriptions.add(record.names, record.regex)
            if subscriptions.remove(names, regex):
                self.note(RowKey(RowKind.REGEX, regex))
            self.rules.allowance.used -= member.size_bytes
            member.update(record)
            self.rules.allowance.used += member.size_bytes
        must_bump = names != record.names
        if regex != record.regex:
            if resolved is not None:
                self.subscriptions.resolve(record.regex, self.subscriptions.visible(record.regex, resolved))
                self.note(RowKey(RowKind.REGEX, record.regex))
            # Unresolved, it changes nothing yet: `resolved` makes the epoch.
            must_bump = must_bump or not record.regex or record.regex in self.subscriptions.resolved
        if must_bump:
            self.bump()
        return names != record.names or regex != record.regex

    def replace_static(self, former: Member, member_id: str) -> Member:
        """Give a static member's place, with all that it has, to another member id."""
        old_id = former.member_id
        if old_id != member_id:
            for kind in (RowKind.MEMBER, RowKind.CURRENT, RowKind.TARGET):
                self.note(RowKey(kind, old_id))
            self.members[member_id] = self.members.pop(old_id)
            if old_id in self.targets:
                self.targets[member_id] = self.targets.pop(old_id)
            self._owners.rename(former.assigned, member_id)
            self.note(RowKey(RowKind.TARGET, member_id))
            self._must_assign_again = self._is_assigning
        self._owners.let_go(former.revoking)
        former.revoking = NO_HOLDINGS
        former.member_id = member_id
        former.epoch = former.previous_epoch = JOINING_EPOCH
        former.state = MemberState.STABLE
        assert former.instance_id is not None, "only a static member is replaced"
        self._static[former.instance_id] = member_id
        self.note(RowKey(RowKind.MEMBER, member_id))
        self.note(RowKey(RowKind.CURRENT, member_id))
        return former

    def _leave(self, request: Heartbeat, now: Instant) -> HeartbeatAnswer:
        if request.instance_id is None:
            member = self.member(request.member_id)
        else:
            holder = self.static_member(request.instance_id)
            member = check_holds_instance(holder, request.member_id, request.instance_id)
        if request.epoch == LEAVING_FOR_A_WHILE_EPOCH:
            away = replace(member.current(), epoch=LEAVING_FOR_A_WHILE_EPOCH, revoking=NO_HOLDINGS)
            self._move(member, away, now)
        else:
            self.remove(member, now)
        return HeartbeatAnswer(member_id=request.member_id, epoch=request.epoch)

    # Members that come and go

    def add(self, record: MemberRecord) -> Member:
        member = Member(record)
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self._static[member.instance_id] = member.member_id
        member.session = self.alarm(partial(self._expired, member))
        member.rebalance = self.alarm(partial(self._rebalance_expired, member))
        member.joins = self.alarm(partial(self._expired, member))
        member.syncs = self.alarm(partial(self._expired, member))
        self.subscriptions.add(member.names, member.regex)
        self.rules.allowance.used += member.size_bytes
        self.note(RowKey(RowKind.MEMBER, member.member_id))
        self.note(RowKey(RowKind.CURRENT, member.member_id))
        return member

    def remove(self, member: Member, now: Instant) -> None:
        """The member is gone; its partitions are free at once."""
        self._forget(member)
        for kind in (RowKind.MEMBER, RowKind.CURRENT, RowKind.TARGET):
            self.note(RowKey(kind, member.member_id))
        if self.subscriptions.remove(member.names, member.regex):
            self.note(RowKey(RowKind.REGEX, member.regex))
        self.targets.pop(member.member_id, None)
        self.bump()
        if not self.members:
            self.state_since_ms = now.wall_ms
        if member.classic is None and self.members:
            self.may_be_classic = all(other.classic is not None for other in self.members.values())

    def _forget(self, member: Member) -> None:
        self._owners.let_go(member.assigned)
        self._owners.let_go(member.revoking)
        del self.members[member.member_id]
        if member.instance_id is not None:
            del self._static[member.instance_id]
        self.rules.allowance.used -= member.size_bytes
        for deadline in (member.session, member.rebalance, member.joins, member.syncs):
            self.deadlines.cancel(deadline)

    def die(self) -> None:
        """The group is deleted, unloaded or of another kind now: no deadline and no memory is left of it."""
        for member in list(self.members.values()):
            self._forget(member)
        self.deadlines.cancel(self._assignment_due)
        self._charge(0)
        self.changed.clear()

    def _expired(self, member: Member, now: Instant) -> None:
        if self.members.get(member.member_id) is member:
            self.remove(member, now)

    def _rebalance_expired(self, member: Member, now: Instant) -> None:
        """It has not given up its partitions in time: it is fenced, and must join again."""
        if member.state is MemberState.UNREVOKED_PARTITIONS:
            self._expired(member, now)

    def extend_session(self, member: Member, now: Instant) -> None:
        timeout_ms = self.rules.settings(self.group_id).session_timeout_ms
        if member.classic is not None:
            timeout_ms = member.classic.session_timeout_ms
        self.deadlines.set(member.session, after(now, timeout_ms))

    # Epochs and targets

    def bump(self) -> None:
        """A new epoch of the group: the target must be computed anew."""
        self.epoch = self.epoch % EPOCH_MAX + 1
        self.note(RowKey(RowKind.HEAD))

    def topics_changed(self, now: Instant) -> None:
        """Topics came, went or grew; if the members want any of them, the target must change."""
        self.subscriptions.topics_changed()
        if self.members and self.subscriptions.signature() != self._signature:
            self.bump()
            self.assign_if_due(now)

    def resolved(self, regexes: Mapping[str, frozenset[str]], now: Instant) -> None:
        """The topics of regular expressions are known."""
        must_bump = False
        for regex, topics in regexes.items():
            if self.subscriptions.regexes[regex]:
                is_new = regex not in self.subscriptions.resolved
                if self.subscriptions.resolve(regex, topics) or is_new:
                    self.note(RowKey(RowKind.REGEX, regex))
                    must_bump = True
        if must_bump:
            self.bump()
            self.assign_if_due(now)

    def assign_if_due(self, now: Instant) -> None:
        """Compute a target for the group's epoch, unless the last one is too young."""
        if self.epoch <= self.target_epoch or self._is_assigning or not self.members:
            return
        interval_ms = self.rules.settings(self.group_id).assignment_interval_ms
        if self.target_epoch and self._assigned_s is not None:
            due_s = self._assigned_s + interval_ms / 1_000
            if now.monotonic_s < due_s:
                self.deadlines.set(self._assignment_due, due_s)
                return
        self.deadlines.cancel(self._assignment_due)
        spec = self._spec()
        self._signature = self.subscriptions.signature()
        if len(spec.members) + sum(spec.partition_counts.values()) > AT_ONCE_MAX:
            self._is_assigning = True
            self.wanted = Wanted(self.epoch, self.assignor, spec)
        else:
            self._take_target(self.epoch, ASSIGNORS[self.assignor](spec), now)

    def _spec(self) -> GroupSpec:
        topics = self.subscriptions.topic_ids
        members = tuple(
            MemberSpec(m.member_id, m.instance_id, topics(m.names, m.regex), self.target_of(m.member_id))
            for m in self.members.values()
        )
        return GroupSpec(members, self.subscriptions.partition_counts())

    @property
    def is_assigning(self) -> bool:
        """A target is being computed elsewhere."""
        return self._is_assigning

    def assigned(self, epoch: int, targets: Mapping[str, Partitions], now: Instant) -> None:
        """The wanted target of an epoch is computed."""
        self._is_assigning = False
        if self._must_assign_again:  # a static member has another id since
            self._must_assign_again = False
            self.assign_if_due(now)
            return
        self._take_target(epoch, targets, now)
        self.assign_if_due(now)

    def _take_target(self, epoch: int, targets: Mapping[str, Partitions], now: Instant) -> None:
        for member_id in self.members:
            target = targets.get(member_id, NO_PARTITIONS)
            if target != self.target_of(member_id):
                self.targets[member_id] = target
                self.note(RowKey(RowKind.TARGET, member_id))
        self._charge(sum(len(partitions) for target in self.targets.values() for partitions in target.values()))
        self.target_epoch = epoch
        self._assigned_s = now.monotonic_s
        self.note(RowKey(RowKind.HEAD))

    def _charge(self, partitions: int) -> None:
        self.rules.allowance.used += (partitions - self._charged_partitions) * PARTITION_BYTES
        self._charged_partitions = partitions

    # Reconciliation

    def reconcile(self, member: Member, owned: Partitions | None, changed: bool, now: Instant) -> None:
        """Move a member towards the target, as far as what it owns allows."""
        if not changed and member.is_reconciled_to(self.target_epoch):
            return
        step = next_step(
            member,
            self.target_epoch,
            self.target_of(member.member_id),
            self.subscriptions.topic_ids(member.names, member.regex),
            owned,
            partial(self._owners.is_taken, member.member_id),
            subscription_changed=changed,
        )
        if step != member.current():
            self._move(member, step, now)

    def can_get_more(self, member: Member) -> bool:
        """Has a partition become free that the member waits for?"""
        for topic, partitions in self.target_of(member.member_id).items():
            has = member.assigned.get(topic, {})
            if any(p not in has and not self._owners.is_taken(member.member_id, topic, p) for p in partitions):
                return True
        return False

    def _move(self, member: Member, step: CurrentRecord, now: Instant) -> None:
        self._owners.let_go(member.assigned)
        self._owners.let_go(member.revoking)
        self._owners.take(member.member_id, step.assigned)
        self._owners.take(member.member_id, step.revoking)
        member.epoch, member.previous_epoch, member.state = step.epoch, step.previous_epoch, step.state
        member.assigned, member.revoking = step.assigned, step.revoking
        self.note(RowKey(RowKind.CURRENT, member.member_id))
        if member.classic is not None:
            return  # it has time-outs of its own
        if member.state is MemberState.UNREVOKED_PARTITIONS:
            self.deadlines.set(member.rebalance, after(now, member.rebalance_timeout_ms))
        else:
            self.deadlines.cancel(member.rebalance)

    # Stored rows

    def note(self, key: RowKey) -> None:
        """A row must be stored; it moves to the end of those that wait."""
        self.changed.pop(key, None)
        self.changed[key] = None

    def head(self) -> HeadRecord:
        return HeadRecord(
            epoch=self.epoch,
            target_epoch=self.target_epoch,
            signature=self._signature,
            state_since_ms=self.state_since_ms,
        )

    def restore(
        self,
        head: HeadRecord,
        members: Iterable[MemberRecord],
        current: Mapping[str, CurrentRecord],
        targets: Mapping[str, Partitions],
        regexes: Mapping[str, frozenset[str]],
        now: Instant,
    ) -> Generator[None, None, None]:
        """Take over the stored state, in steps of a member. Members go on as if the server had never been away."""
        assert not self.members, "only a new group is restored"
        for record in members:
            yield
            self.add(record)
            if record.member_id in targets:
                self.targets[record.member_id] = targets[record.member_id]
        for regex, topics in regexes.items():
            if self.subscriptions.regexes[regex]:
                self.subscriptions.resolve(regex, topics)
            else:
                self.note(RowKey(RowKind.REGEX, regex))
        self.changed.clear()
        self.epoch, self.target_epoch = head.epoch, head.target_epoch
        self.state_since_ms, self._signature = head.state_since_ms, head.signature
        if self.target_epoch < 0:  # the end came in the middle of storing a target
            self.target_epoch = self.epoch
            self.bump()
        kept = yield from without_doubles(current, self.members)
        for member_id, step in kept.items():
            yield
            self._move(self.members[member_id], step, now)
            if step == current[member_id]:
                self.changed.pop(RowKey(RowKind.CURRENT, member_id), None)
        for member in self.members.values():
            self.extend_session(member, now)
        self._charge(sum(len(partitions) for target in self.targets.values() for partitions in target.values()))

    def alarm(self, fire: Callable[[Instant], None]) -> Deadline[ConsumerAlarm]:
        return Deadline(ConsumerAlarm(self.group_id, fire))


def after(now: Instant, milliseconds: int) -> float:
    return now.monotonic_s + milliseconds / 1_000
