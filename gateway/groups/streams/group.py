"""One streams group (KIP-1071): a state machine of Kafka's rules, free of I/O, tasks and clocks.

Keeps: no task is active with two members, and no process has a task both active and as a standby; a member's epoch is
never beyond the target's, which is never beyond the group's; a change of members, of the topology's topics or of the
number of standbys makes a new epoch of the group, and the next target is for that epoch. As long as topics are missing,
or do not fit together, the target is empty. Every change is noted in `changed`, so that the caller can store it before
it answers.

Behaviour follows Kafka 4.3 (GroupMetadataManager).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.groups.classic.messages import Instant
from gateway.groups.deadlines import Deadlines
from gateway.groups.modern.epochs import FIRST_EPOCH, JOINING_EPOCH, LEAVING_EPOCH, full
from gateway.groups.modern.group import GroupAlarm, ModernGroup
from gateway.groups.streams.assignor import Computed, GroupSpec, MemberSpec, Wanted
from gateway.groups.streams.checks import check_epoch, check_owned, check_size
from gateway.groups.streams.endpoints import Endpoints
from gateway.groups.streams.held import Held, joined
from gateway.groups.streams.member import Member, size_of, updated
from gateway.groups.streams.messages import (
    NO_TASKS,
    CurrentRecord,
    HeadRecord,
    Heartbeat,
    HeartbeatAnswer,
    Holdings,
    MemberRecord,
    MemberState,
    RowKey,
    RowKind,
    StreamsState,
    Task,
    Tasks,
    extents_of,
)
from gateway.groups.streams.owners import Owners
from gateway.groups.streams.reconciliation import Step, next_step
from gateway.groups.streams.rules import StreamsRules
from gateway.groups.streams.statuses import Status, StatusCode
from gateway.groups.streams.topology import Shape, Topology, shape_of, signature_of, size_of_topology
from gateway.refusals import invalid_request

AT_ONCE_MAX: Final = 1_000
"""Members and tasks of a group whose target is computed at once, in some milliseconds; others are `wanted`."""
TASK_BYTES: Final = 200
"""Bytes that a task costs in a group's targets and holdings, for the allowance of all groups."""
NOT_VALIDATED: Final = -1
ENDPOINT_EPOCHS: Final = 2**30
"""The epoch of endpoints begins at the clock's seconds, below this: after a restart it is one that no member has."""


class StreamsGroup(ModernGroup[Member, Tasks, RowKey, Wanted]):
    """One group, with the invariants of the module's docstring."""

    protocol_type: Final = "streams"
    head_key: Final = RowKey(RowKind.HEAD)

    def __init__(self, group_id: str, rules: StreamsRules, deadlines: Deadlines[GroupAlarm], now: Instant) -> None:
        super().__init__(group_id, rules.settings, deadlines, now)
        self.validated_epoch = NOT_VALIDATED
        self.standbys = rules.settings(group_id).standbys
        self.shutdown_by = ""
        self.topology: Topology | None = None
        self.shape = Shape()
        self.rules = rules
        self._owners = Owners(self.members)
        self._signature = 0
        self._must_look = True
        self._endpoint_epoch = now.wall_ms // 1_000 % ENDPOINT_EPOCHS
        self._endpoints: Endpoints | None = None
        self._initial_delay = self.alarm(self.assign_if_due)
        self._charged = 0

    def __repr__(self) -> str:
        return (
            f"StreamsGroup({self.group_id!r}, {self.state}, epoch {self.epoch}, target {self.target_epoch}, "
            f"{len(self.members)} members)"
        )

    # Facts

    @property
    def state(self) -> StreamsState:
        if not self.members:
            return StreamsState.EMPTY
        if self.topology is None or self.validated_epoch != self.topology.epoch:
            return StreamsState.NOT_READY
        if self.epoch > self.target_epoch:
            return StreamsState.ASSIGNING
        return StreamsState.STABLE if self._all_are_reconciled() else StreamsState.RECONCILING

    def is_subscribed_to(self, topic: str) -> bool:
        return bool(self.members) and self.topology is not None and bool(self.topology.readers_of(topic))

    def target_of(self, member_id: str) -> Tasks:
        return self.targets.get(member_id, NO_TASKS)

    def owner(self, task: Task) -> str | None:
        """The member with which a task is active."""
        return self._owners.active(task)

    # Heartbeats

    def heartbeat(self, request: Heartbeat, now: Instant) -> HeartbeatAnswer:
        """A member joins, is alive, or leaves. Raises Refusal; then nothing has changed."""
        if request.epoch == LEAVING_EPOCH:
            return self._leave(request, now)
        known = self._find(request)
        before = known.record if known is not None else None
        record = updated(before, request)
        topology = self._topology_of(request.topology)
        check_size(record, before, topology if self.topology is None else None, self.rules.allowance)
        shape, signature = self._look(topology)
        if shape.is_ready and request.owned is not None:
            check_owned(extents_of(request.owned) if request.extents is None else request.extents, shape.tasks)
        changed = [
            self._enter(known, record, now),
            self._take_topology(topology, shape, signature),
            self._take_standbys(),
        ]
        if any(changed):
            self.bump()
        member = self.members[request.member_id]
        if request.shuts_down and not self.shutdown_by:
            self.shutdown_by = member.member_id
            self.note(RowKey(RowKind.HEAD))
        had = member.current.assigned
        self.assign_if_due(now)
        self._reconcile(member, request.owned, now)
        self._extend_session(member, now)
        must_tell = member.epoch != request.epoch or request.is_full or member.current.assigned != had
        return self._answer(member, topology, must_tell, request.endpoint_epoch)

    def _find(self, request: Heartbeat) -> Member | None:
        member = self.members.get(request.member_id)
        if member is None and request.epoch == JOINING_EPOCH:
            if len(self.members) >= self.rules.max_size:
                raise full("streams", self.rules.max_size)
            return None
        member = self.member(request.member_id)
        check_epoch(member, request.epoch, request.owned)
        return member

    def _topology_of(self, told: Topology | None) -> Topology:
        """The group's topology when a member has told this one. Raises Refusal."""
        known = self.topology
        if told is None:
            assert known is not None, "a group with members has a topology"
            return known
        if known is None:
            return told
        if told.epoch >= known.epoch and told != known:
            raise invalid_request("Topology updates are not supported yet.")
        return known

    def _look(self, topology: Topology) -> tuple[Shape, int]:
        """The shape of a topology over the topics of now, with the signature of these. Raises Refusal."""
        if topology is self.topology and not self._must_look:
            return self.shape, self._signature
        return shape_of(topology, self._partitions_of), signature_of(topology, self.rules.topics.topic)

    def _partitions_of(self, name: str) -> int | None:
        topic = self.rules.topics.topic(name)
        return None if topic is None else topic.partition_count

    def _enter(self, known: Member | None, record: MemberRecord, now: Instant) -> bool:
        """Make a member so; tell whether it was not."""
        if known is not None and known.record == record:
            return False
        if known is None:
            if not self.members:
                self._begin(now)
            self._add(record)
        else:
            if known.record.endpoint != record.endpoint:
                self._endpoints_changed()
            self.rules.allowance.used += size_of(record) - known.size_bytes
            known.record = record
        self.note(RowKey(RowKind.MEMBER, record.member_id))
        return True

    def _begin(self, now: Instant) -> None:
        """The first member comes: others may come soon, so that the first target waits a little for them."""
        self.state_since_ms = now.wall_ms
        delay_ms = self.rules.settings(self.group_id).initial_delay_ms
        if delay_ms:
            self.deadlines.set(self._initial_delay, now.after(delay_ms))

    def _take_topology(self, topology: Topology, shape: Shape, signature: int) -> bool:
        """Know the topics of now; tell whether they are others than before, or fit now, or no longer."""
        if self.topology is None:
            self.topology = topology
            self.note(RowKey(RowKind.TOPOLOGY))
            self._charge()
        validated = topology.epoch if shape.is_ready else NOT_VALIDATED
        self.shape = shape
        self._must_look = False
        if (signature, validated) == (self._signature, self.validated_epoch):
            return False
        self._signature, self.validated_epoch = signature, validated
        self._endpoints_changed()
        return True

    def _take_standbys(self) -> bool:
        before, self.standbys = self.standbys, self.rules.settings(self.group_id).standbys
        return self.standbys != before

    def _leave(self, request: Heartbeat, now: Instant) -> HeartbeatAnswer:
        member = self.member(request.member_id)
        if request.shuts_down and not self.shutdown_by:
            self.shutdown_by = member.member_id
        self.remove(member, now)
        return HeartbeatAnswer(member_id=request.member_id, epoch=LEAVING_EPOCH)

    # Answers

    def _answer(self, member: Member, topology: Topology, must_tell: bool, endpoint_epoch: int) -> HeartbeatAnswer:
        return HeartbeatAnswer(
            member_id=member.member_id,
            epoch=member.epoch,
            interval_ms=self._interval_ms(waits=self._waits(member)),
            statuses=tuple(self._statuses(member, topology)),
            assigned=member.current.assigned if must_tell else None,
            endpoint_epoch=self._endpoint_epoch,
            endpoints=self._endpoints_now(topology) if endpoint_epoch != self._endpoint_epoch else None,
            missing=self.shape.missing,
        )

    def _statuses(self, member: Member, topology: Topology) -> Iterable[Status]:
        known = member.record.topology_epoch
        if known < topology.epoch:
            why = f"The member's topology epoch {known} is behind the group's topology epoch {topology.epoch}."
            yield Status(StatusCode.STALE_TOPOLOGY, why)
        if self.epoch > self.target_epoch and not self._is_assigning:
            waits_for = "initial rebalance delay" if self._is_beginning else "assignment interval"
            yield Status(StatusCode.ASSIGNMENT_DELAYED, f"Assignment delayed due to the configured {waits_for}.")
        if self.shape.problem is not None:
            yield self.shape.problem
        if self.shutdown_by:
            why = (
                f"Streams group member {self.shutdown_by} encountered a fatal error and requested a shutdown for the "
                "entire application."
            )
            yield Status(StatusCode.SHUTDOWN_APPLICATION, why)

    def _waits(self, member: Member) -> bool:
        """Does a member wait for tasks or topics?"""
        waits_for_tasks = member.current.state is MemberState.UNRELEASED_TASKS or self.epoch != self.target_epoch
        return waits_for_tasks or not self.shape.is_ready

    def _endpoints_now(self, topology: Topology) -> Endpoints:
        if self._endpoints is None:
            self._endpoints = Endpoints(self.members.values(), topology, self.rules.topics)
        return self._endpoints

    def _endpoints_changed(self) -> None:
        self._endpoint_epoch = (self._endpoint_epoch + 1) % ENDPOINT_EPOCHS
        self._endpoints = None

    # Members that come and go

    def _add(self, record: MemberRecord) -> Member:
        member = self.members[record.member_id] = Member(record)
        self._watch(member)
        self.rules.allowance.used += member.size_bytes
        self.note(RowKey(RowKind.CURRENT, member.member_id))
        if record.endpoint is not None:
            self._endpoints_changed()
        return member

    def remove(self, member: Member, now: Instant) -> None:
        """The member is gone; its tasks are free at once."""
        self._forget(member)
        for key in rows_of_member(member.member_id):
            self.note(key)
        self.targets.pop(member.member_id, None)
        if member.record.endpoint is not None:
            self._endpoints_changed()
        self.bump()
        if not self.members:
            self.state_since_ms = now.wall_ms
            self.shutdown_by = ""
            self.deadlines.cancel(self._initial_delay)
            self.deadlines.cancel(self._assignment_due)

    def _forget(self, member: Member) -> None:
        self._owners.move(member, gained=NO_TASKS, released=own_tasks(member.current))
        del self.members[member.member_id]
        self.rules.allowance.used -= member.size_bytes
        self._unwatch(member)

    def _forget_all(self) -> None:
        self.deadlines.cancel(self._assignment_due)
        self.deadlines.cancel(self._initial_delay)
        self.topology = None
        self.targets.clear()
        self._charge()
        self.changed.clear()

    def _extend_session(self, member: Member, now: Instant) -> None:
        timeout_ms = self.rules.settings(self.group_id).session_timeout_ms
        self._session_lasts(member, timeout_ms, now)

    # Epochs and targets

    def topics_changed(self) -> None:
        """Topics came, went or grew: the next heartbeat looks at them."""
        self._must_look = True

    def needs(self, topic: str) -> bool:
        return self.topology is not None and topic in self.topology.required

    @property
    def _is_beginning(self) -> bool:
        return self._initial_delay.at_s is not None

    def _can_assign(self) -> bool:
        return not self._is_beginning

    def _assign(self, now: Instant) -> None:
        wanted = Wanted(self.epoch, self._spec())
        if wanted.spec.size > AT_ONCE_MAX:
            self._is_assigning = True
            self.wanted = wanted
        else:
            self._take_target(wanted.compute(), now)

    def _spec(self) -> GroupSpec:
        members = tuple(
            MemberSpec(member.member_id, member.process_id, self.target_of(member.member_id))
            for member in self.members.values()
        )
        subtopologies = self.topology.subtopologies if self.topology is not None else ()
        stateful = frozenset(subtopology.id for subtopology in subtopologies if subtopology.changelogs)
        return GroupSpec(members, self.shape.tasks if self.shape.is_ready else {}, stateful, self.standbys)

    def assigned(self, computed: Computed, now: Instant) -> None:
        """The wanted target of an epoch is computed."""
        self._is_assigning = False
        self._take_target(computed, now)
        self.assign_if_due(now)

    def _take_target(self, computed: Computed, now: Instant) -> None:
        for member_id, target in computed.changes.items():
            if member_id in self.members:
                self.targets[member_id] = target
                self.note(RowKey(RowKind.TARGET, member_id))
        self._charge()
        self._target_taken(computed.epoch, now)

    def _charge(self) -> None:
        tasks = sum(len(target.active) + len(target.standby) for target in self.targets.values())
        size = TASK_BYTES * tasks + (size_of_topology(self.topology) if self.topology is not None else 0)
        self.rules.allowance.used += size - self._charged
        self._charged = size

    # Reconciliation

    def _reconcile(self, member: Member, owned: Tasks | None, now: Instant) -> None:
        """Move a member towards the target, as far as what it owns allows."""
        target_epoch = max(FIRST_EPOCH, self.target_epoch)
        target = self.target_of(member.member_id)
        taken = partial(self._owners.taken, member)
        step = next_step(member.current, target_epoch, target, owned, taken)
        if step.current != member.current:
            self._move(member, step, now)

    def _move(self, member: Member, step: Step, now: Instant) -> None:
        before, after = member.current, step.current
        if after.assigned != before.assigned and member.record.endpoint is not None:
            self._endpoints_changed()
        self._owners.move(member, step.gained, step.released)
        member.current = after
        self.note(RowKey(RowKind.CURRENT, member.member_id))
        if after.state is not MemberState.UNREVOKED_TASKS:
            self.deadlines.cancel(member.rebalance)
        elif before.state is not MemberState.UNREVOKED_TASKS or after.revoking != before.revoking:
            self.deadlines.set(member.rebalance, now.after(member.record.rebalance_timeout_ms))

    # Stored rows

    def head(self) -> HeadRecord:
        return HeadRecord(
            epoch=self.epoch,
            target_epoch=self.target_epoch,
            validated_epoch=self.validated_epoch,
            signature=self._signature,
            standbys=self.standbys,
            state_since_ms=self.state_since_ms,
            shutdown_by=self.shutdown_by,
        )

    def restore(
        self,
        head: HeadRecord,
        topology: Topology | None,
        members: Iterable[MemberRecord],
        current: Mapping[str, CurrentRecord],
        targets: Mapping[str, Tasks],
        now: Instant,
    ) -> Generator[None, None, None]:
        """Take over the stored state, in steps of a member. Members go on as if the server had never been away."""
        assert not self.members, "only a new group is restored"
        self.topology = topology
        for record in members:
            yield
            self._add(record)
            if record.member_id in targets:
                self.targets[record.member_id] = targets[record.member_id]
        self.changed.clear()
        self.validated_epoch = head.validated_epoch
        self._signature, self.standbys = head.signature, head.standbys
        self.state_since_ms, self.shutdown_by = head.state_since_ms, head.shutdown_by
        self._restore_epochs(head.epoch, head.target_epoch)
        yield from self._restore_current(current, now)
        for member in self.members.values():
            yield
            self._extend_session(member, now)
        self._charge()

    def _restore_current(self, current: Mapping[str, CurrentRecord], now: Instant) -> Generator[None, None, None]:
        """Of two members with one active task, the one that got it later has it: the end came in between."""
        latest: dict[Task, int] = {}
        for record in current.values():
            yield
            for holdings in (record.assigned, record.revoking):
                for task, epoch in holdings.active.pairs():
                    latest[task] = max(epoch, latest.get(task, -1))

        def unowned(holdings: Holdings) -> Holdings:
            kept = ((t, e) for t, e in holdings.active.pairs() if not self._owners.is_active(t) and latest[t] == e)
            return Holdings(Held.of(kept), holdings.standby)

        for member_id, record in current.items():
            yield
            member = self.members.get(member_id)
            if member is not None:
                own = replace(record, assigned=unowned(record.assigned), revoking=unowned(record.revoking))
                self._move(member, Step(own, gained=own_tasks(own)), now)
                if own == record:
                    self.changed.pop(RowKey(RowKind.CURRENT, member_id), None)


def own_tasks(record: CurrentRecord) -> Tasks:
    """A member's own tasks, those included that it must give up."""
    assigned, revoking = record.assigned, record.revoking
    active, standby = joined(assigned.active.all(), revoking.active.all()), joined(assigned.standby, revoking.standby)
    return Tasks(active, standby)


def rows_of_member(member_id: str) -> tuple[RowKey, ...]:
    """The rows that a member has or may have."""
    return tuple(RowKey(kind, member_id) for kind in (RowKind.MEMBER, RowKind.CURRENT, RowKind.TARGET))
