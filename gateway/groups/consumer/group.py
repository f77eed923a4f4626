"""One consumer group (KIP-848): a state machine of Kafka's rules, free of I/O, tasks and clocks.

Keeps: no partition has two owners; a member's epoch is never beyond the target's, which is never beyond the group's;
a change of members, subscriptions or topics makes a new epoch of the group, and the next target is for that epoch.
Every change is noted in `changed`, so that the caller can store it before it answers.

Behaviour follows Kafka 4.3 (GroupMetadataManager). Members of the classic protocol in such a group are another module:
`classic_members.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

from gateway.groups.classic.messages import Instant
from gateway.groups.consumer.agreement import Agreement
from gateway.groups.consumer.checks import check_epoch, check_holds_instance, check_released
from gateway.groups.consumer.holders import Holders
from gateway.groups.consumer.member import Member, size_of, updated
from gateway.groups.consumer.messages import (
    LEAVING_FOR_A_WHILE_EPOCH,
    NO_PARTITIONS,
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
from gateway.groups.consumer.reconciliation import Bearings
from gateway.groups.consumer.restoring import without_doubles
from gateway.groups.consumer.rules import ConsumerRules
from gateway.groups.consumer.targets import Computed, Draft, MemberDraft
from gateway.groups.deadlines import Deadlines
from gateway.groups.modern.allowing import check_size
from gateway.groups.modern.epochs import JOINING_EPOCH, full
from gateway.groups.modern.group import GroupAlarm, ModernGroup
from gateway.groups.modern.subscriptions import Subscriptions

AT_ONCE_MAX: Final = 1_000
"""Members and partitions of a group whose target is computed at once, in some milliseconds; others are `wanted`."""
PARTITION_BYTES: Final = 100
"""Bytes that a partition costs in a group's targets and holdings, for the allowance of all groups."""


class ConsumerGroup(ModernGroup[Member, Partitions, RowKey, Draft]):
    """One group, with the invariants of the module's docstring."""

    protocol_type: Final = "consumer"
    head_key: Final = RowKey(RowKind.HEAD)

    def __init__(self, group_id: str, rules: ConsumerRules, deadlines: Deadlines[GroupAlarm], now: Instant) -> None:
        super().__init__(group_id, rules.settings, deadlines, now)
        self.subscriptions = Subscriptions(rules.topics)
        #: The only members left are of the classic protocol, since one of the other has gone.
        self.may_be_classic = False
        self.rules = rules
        self.agreement = Agreement()
        self._static: dict[str, str] = {}
        self._holders = Holders(deadlines, self.note)
        self._signature = 0
        self._may_be_stale = False
        self._must_assign_again = False
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
        return ConsumerState.STABLE if self._all_are_reconciled() else ConsumerState.RECONCILING

    @property
    def has_only_classic_members(self) -> bool:
        return self.agreement.members == len(self.members)

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
        return self._holders.owner(topic_id, partition)

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
        self.look(now)
        member = self._enter(known, taken_over, record, now)
        had = member.assigned
        if record.regex and request.may_see is not None:
            self.subscriptions.sights[record.regex] = request.may_see
        changed = self.take_record(member, record, before, resolved, now)
        self.assign_if_due(now)
        is_partial = self.reconcile(member, request.owned, changed, now)
        self.extend_session(member, now)
        is_news = member.assigned is not had and member.assigned != had
        must_tell = request.epoch == JOINING_EPOCH or request.is_full or is_news
        return self._answer(member, must_tell, is_partial)

    def answer_again(self, member_id: str, owned: Partitions | None, now: Instant) -> HeartbeatAnswer:
        """The answer to a member that has waited for the group's target, or goes on towards it. Raises Refusal."""
        member = self.member(member_id)
        return self._answer(member, True, self.reconcile(member, owned, False, now))

    def _answer(self, member: Member, must_tell: bool, is_partial: bool) -> HeartbeatAnswer:
        waits = member.state is MemberState.UNRELEASED_PARTITIONS or self.epoch != self.target_epoch
        return HeartbeatAnswer(
            member_id=member.member_id,
            epoch=member.epoch,
            interval_ms=self._interval_ms(waits=waits),
            assigned=member.assigned if must_tell else None,
            is_partial=is_partial,
        )

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
            raise full("consumer", self.rules.max_size)

    def check_record(self, record: MemberRecord, before: MemberRecord | None) -> frozenset[str] | None:
        """May a member be so? Returns the topics of its regular expression if it is a new one. Raises Refusal."""
        if record == before:
            return None
        check_size(self.rules.allowance, size_of(record), size_of(before) if before is not None else 0)
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
        self,
        member: Member,
        record: MemberRecord,
        before: MemberRecord | None,
        resolved: frozenset[str] | None,
        now: Instant,
    ) -> bool:
        """Make a member so; tell whether its subscription changed."""
        names, regex = member.names, member.regex
        if record != member.record() or before is None:
            self.note(RowKey(RowKind.MEMBER, member.member_id))
            if (names, regex) != (record.names, record.regex):
                self.subscriptions.add(record.names, record.regex)
                if self.subscriptions.remove(names, regex):
                    self.note(RowKey(RowKind.REGEX, regex))
            self.rules.allowance.used -= member.size_bytes
            self.agreement.leave(member.classic)
            member.update(record)
            self.agreement.join(member.classic)
            self.rules.allowance.used += member.size_bytes
        must_bump = names != record.names
        if regex != record.regex:
            if resolved is not None:
                may_see = self.subscriptions.sights.get(record.regex)
                topics = resolved if may_see is None else frozenset(filter(may_see, resolved))
                self.subscriptions.resolve(record.regex, topics)
                self.note(RowKey(RowKind.REGEX, record.regex))
            # Unresolved, it changes nothing yet: `resolved` makes the epoch.
            must_bump = must_bump or not record.regex or record.regex in self.subscriptions.resolved
        if must_bump:
            self.bump()
            self.look(now)
        return names != record.names or regex != record.regex

    def replace_static(self, former: Member, member_id: str) -> Member:
        """Give a static member's place, with all that it has, to another member id."""
        old_id = former.member_id
        if old_id != member_id:
            for key in rows_of_member(old_id):
                self.note(key)
            self.members[member_id] = self.members.pop(old_id)
            if old_id in self.targets:
                self.targets[member_id] = self.targets.pop(old_id)
            self.note(RowKey(RowKind.TARGET, member_id))
            self._must_assign_again = self._is_assigning
        assert former.instance_id is not None, "only a static member is replaced"
        self._static[former.instance_id] = member_id
        self.note(RowKey(RowKind.MEMBER, member_id))
        self._holders.hand_over(former, member_id)
        return former

    def _leave(self, request: Heartbeat, now: Instant) -> HeartbeatAnswer:
        if request.instance_id is None:
            member = self.member(request.member_id)
        else:
            holder = self.static_member(request.instance_id)
            member = check_holds_instance(holder, request.member_id, request.instance_id)
        if request.epoch == LEAVING_FOR_A_WHILE_EPOCH:
            self._holders.leaves_for_a_while(member, now)
        else:
            self.remove(member, now)
        return HeartbeatAnswer(member_id=request.member_id, epoch=request.epoch)

    # Members that come and go

    def add(self, record: MemberRecord) -> Member:
        member = Member(record)
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self._static[member.instance_id] = member.member_id
        self._watch(member)
        member.joins = self.alarm(partial(self._expired, member))
        member.syncs = self.alarm(partial(self._expired, member))
        self.subscriptions.add(member.names, member.regex)
        self.agreement.join(member.classic)
        self.rules.allowance.used += member.size_bytes
        self.note(RowKey(RowKind.MEMBER, member.member_id))
        self.note(RowKey(RowKind.CURRENT, member.member_id))
        return member

    def remove(self, member: Member, now: Instant) -> None:
        """The member is gone; its partitions are free at once."""
        self._forget(member)
        for key in rows_of_member(member.member_id):
            self.note(key)
        if self.subscriptions.remove(member.names, member.regex):
            self.note(RowKey(RowKind.REGEX, member.regex))
        self.targets.pop(member.member_id, None)
        self.bump()
        if not self.members:
            self.state_since_ms = now.wall_ms
        if member.classic is None and self.members:
            self.may_be_classic = self.has_only_classic_members

    def _forget(self, member: Member) -> None:
        self._holders.leaves(member)
        del self.members[member.member_id]
        if member.instance_id is not None:
            del self._static[member.instance_id]
        self.agreement.leave(member.classic)
        self.rules.allowance.used -= member.size_bytes
        self._unwatch(member)
        self.deadlines.cancel(member.joins)
        self.deadlines.cancel(member.syncs)

    def _forget_all(self) -> None:
        self.deadlines.cancel(self._assignment_due)
        self._charge(0)
        self.changed.clear()

    def extend_session(self, member: Member, now: Instant) -> None:
        timeout_ms = self.rules.settings(self.group_id).session_timeout_ms
        if member.classic is not None:
            timeout_ms = member.classic.session_timeout_ms
        self._session_lasts(member, timeout_ms, now)

    # Topics

    def topics_changed(self, now: Instant, names: Iterable[str] | None = None) -> None:
        """These topics came, went or grew, or any did; if the members want any of them, the target must change."""
        self.subscriptions.topics_changed(names)
        self._may_be_stale = True
        self.look(now)

    def look(self, now: Instant) -> None:
        """Look at topics that are newly wanted, or have changed; as long as some are left, the target waits."""
        self.subscriptions.look()
        if not self._may_be_stale or not self.subscriptions.is_seen:
            return
        self._may_be_stale = False
        if self.members and self.subscriptions.signature != self._signature:
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
            self.look(now)
            self.assign_if_due(now)

    # Targets

    def _can_assign(self) -> bool:
        return self.subscriptions.is_seen

    def _assign(self, now: Instant) -> None:
        subscriptions = self.subscriptions
        self._signature, self._may_be_stale = subscriptions.signature, False
        draft = Draft(
            self.epoch,
            self.assignor,
            tuple(
                MemberDraft(m.member_id, m.instance_id, subscriptions.names_of(m.names, m.regex), self.target_of(name))
                for name, m in self.members.items()
            ),
            dict(subscriptions.topics),
        )
        if len(self.members) + len(draft.topics) + subscriptions.partition_count > AT_ONCE_MAX:
            self._is_assigning = True
            self.wanted = draft
        else:
            self._take_target(draft.compute(), now)

    def assigned(self, computed: Computed, now: Instant) -> None:
        """The wanted target of an epoch is computed."""
        self._is_assigning = False
        if self._must_assign_again:  # a static member has another id since
            self._must_assign_again = False
        else:
            self._take_target(computed, now)
        self.assign_if_due(now)

    def _take_target(self, computed: Computed, now: Instant) -> None:
        for member_id, (before, target, takes, adds) in computed.changes.items():
            member = self.members.get(member_id)
            if member is None:
                continue
            if self.target_of(member_id) is before:
                member.surplus |= takes
                member.lacking |= adds
            else:  # it left, and came again with the same id, while the target was computed
                member.must_compare(target)
            self.targets[member_id] = target
            self.note(RowKey(RowKind.TARGET, member_id))
        self._charge(computed.partition_count)
        self._target_taken(computed.epoch, now)

    def _charge(self, partitions: int) -> None:
        self.rules.allowance.used += (partitions - self._charged_partitions) * PARTITION_BYTES
        self._charged_partitions = partitions

    # Reconciliation

    def reconcile(self, member: Member, owned: Partitions | None, changed: bool, now: Instant) -> bool:
        """Move a member towards the target, as far as what it owns allows; tell whether more could be done at once.
        `changed`: its subscription has."""
        target = self.target_of(member.member_id)
        if changed:
            member.must_compare(target)
        if not self.subscriptions.is_seen or (not changed and member.is_reconciled_to(self.target_epoch)):
            return False
        bearings = Bearings(
            self.target_epoch,
            target,
            self.subscriptions.is_wanted(member.names, member.regex),
            owned,
            partial(self._holders.free_for, member.member_id),
        )
        return self._holders.reconcile(member, bearings, now, subscription_changed=changed)

    def can_get_more(self, member: Member) -> bool:
        """Has a partition become free that the member waits for?"""
        return self._holders.can_get_more(member, self.target_of(member.member_id))

    # Stored rows

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
        self.state_since_ms, self._signature = head.state_since_ms, head.signature
        self._restore_epochs(head.epoch, head.target_epoch)
        kept = yield from without_doubles(current, self.members)
        for member_id, had in kept.items():
            yield
            member = self.members[member_id]
            self._holders.restore(member, had, now)
            member.must_compare(self.target_of(member_id))
            if had == current[member_id]:
                self.changed.pop(RowKey(RowKind.CURRENT, member_id), None)
        for member in self.members.values():
            yield
            self.extend_session(member, now)
        self._charge(sum(len(partitions) for target in self.targets.values() for partitions in target.values()))


def rows_of_member(member_id: str) -> tuple[RowKey, ...]:
    """The rows that a member has or may have."""
    return tuple(RowKey(kind, member_id) for kind in (RowKind.MEMBER, RowKind.CURRENT, RowKind.TARGET))
