"""Members of the classic protocol in a consumer group, while a group migrates (KIP-848).

Keeps: such a member's generation is its member epoch; it is told to join again whenever it must give up partitions,
can get more, or the group has a newer epoch; what it asks for, it gets with SyncGroup. All checks come before changes.
(Kafka: GroupMetadataManager.classicGroup…ToConsumerGroup.)
"""

from __future__ import annotations

from dataclasses import replace

from kio.schema.errors import ErrorCode

from gateway.groups.classic.messages import (
    NO_MEMBER_ID,
    Instant,
    JoinRequest,
    JoinResult,
    LeavingMember,
    Protocol,
    SyncRequest,
    SyncResult,
)
from gateway.groups.classic.subscription import CONSUMER_PROTOCOL_TYPE
from gateway.groups.consumer.checks import check_holds_instance
from gateway.groups.consumer.embedded import Malformed, Subscription, read_subscription, write_assignment
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import ClassicFacts, MemberRecord, MemberState, Partitions
from gateway.refusals import Refusal


def join(group: ConsumerGroup, request: JoinRequest, now: Instant) -> JoinResult:
    """A member joins by JoinGroup; it never waits. Raises Refusal."""
    is_new = request.member_id == NO_MEMBER_ID
    member_id = (
        f"{request.client_id or request.instance_id or ''}-{group.rules.new_id()}" if is_new else request.member_id
    )
    group.check_room(member_id)
    subscription = _check_protocols(group, request)
    if is_new and request.instance_id is None and request.requires_known_member_id:
        return JoinResult(error=ErrorCode.member_id_required, member_id=member_id)
    known, taken_over = _find(group, request, member_id)
    base = known or taken_over
    before = base.record() if base is not None else None
    record = MemberRecord(
        member_id=member_id,
        instance_id=request.instance_id,
        rack_id=subscription.rack_id,
        client_id=request.client_id,
        client_host=request.client_host,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        names=frozenset(subscription.topics),
        regex="",
        assignor=None,
        classic=ClassicFacts(request.session_timeout_ms, request.protocols),
    )
    group.check_record(record, before)
    if known is not None:
        member = known
    elif taken_over is not None:
        member = group.replace_static(taken_over, member_id)
    else:
        member = group.add(replace(record, names=frozenset()))
    group.look(now)
    changed = group.take_record(member, record, before, None, now)
    group.assign_if_due(now)
    group.reconcile(member, _owned(group, subscription), changed, now)
    group.deadlines.cancel(member.joins)
    group.extend_session(member, now)
    group.deadlines.set(member.syncs, now.after(member.rebalance_timeout_ms))
    return JoinResult(
        member_id=member_id,
        generation=member.epoch,
        protocol_type=CONSUMER_PROTOCOL_TYPE,
        protocol_name=request.protocols[0].name,
    )


def sync(group: ConsumerGroup, request: SyncRequest, now: Instant) -> SyncResult:
    """A member asks for its assignment by SyncGroup. Raises Refusal."""
    member = find(group, request.member_id, request.instance_id)
    _check_generation(member, request.generation)
    protocol = _protocols(member)[0]
    named = ((request.protocol_type, CONSUMER_PROTOCOL_TYPE), (request.protocol_name, protocol.name))
    if any(said is not None and said != known for said, known in named):
        raise Refusal(ErrorCode.inconsistent_group_protocol)
    if group.epoch > member.epoch and member.state is not MemberState.UNREVOKED_PARTITIONS:
        _ask_to_join(group, member, now)
        raise Refusal(ErrorCode.rebalance_in_progress)
    group.deadlines.cancel(member.syncs)
    group.extend_session(member, now)
    return SyncResult(
        protocol_type=CONSUMER_PROTOCOL_TYPE, protocol_name=protocol.name, assignment=assignment_of(group, member)
    )


def heartbeat(
    group: ConsumerGroup, member_id: str, instance_id: str | None, generation: int, now: Instant
) -> ErrorCode:
    """A member says by Heartbeat that it is alive. Raises Refusal."""
    member = find(group, member_id, instance_id)
    _check_generation(member, generation)
    group.extend_session(member, now)
    group.look(now)
    group.assign_if_due(now)
    must_join = (
        member.epoch < group.epoch
        or member.state is MemberState.UNREVOKED_PARTITIONS
        or (member.state is MemberState.UNRELEASED_PARTITIONS and group.can_get_more(member))
    )
    if must_join:
        _ask_to_join(group, member, now)
        return ErrorCode.rebalance_in_progress
    return ErrorCode.none


def leave(group: ConsumerGroup, leaving: LeavingMember, now: Instant) -> ErrorCode:
    """A member leaves, or is removed by an administrator, by LeaveGroup."""
    member_id, instance_id, _ = leaving
    try:
        if instance_id is None:
            member = find(group, member_id, None)
        elif member_id == NO_MEMBER_ID:
            holder = group.static_member(instance_id)
            if holder is None:
                return ErrorCode.unknown_member_id
            member = holder
        else:
            member = check_holds_instance(group.static_member(instance_id), member_id, instance_id)
            _check_is_classic(member)
    except Refusal as refused:
        return refused.code
    group.remove(member, now)
    return ErrorCode.none


def find(group: ConsumerGroup, member_id: str, instance_id: str | None) -> Member:
    """The member of a request of the classic protocol. Raises Refusal."""
    if instance_id is None:
        member = group.member(member_id)
    else:
        member = check_holds_instance(group.static_member(instance_id), member_id, instance_id)
    _check_is_classic(member)
    return member


def assignment_of(group: ConsumerGroup, member: Member) -> bytes:
    """What the member may consume, as an assignor of the classic protocol would tell it."""
    partitions = {
        name: tuple(sorted(held))
        for topic, held in member.assigned.items()
        if (name := group.rules.topics.name_of(topic)) is not None
    }
    return write_assignment(read_subscription(_protocols(member)[0].metadata).version, partitions)


def _find(group: ConsumerGroup, request: JoinRequest, member_id: str) -> tuple[Member | None, Member | None]:
    if request.instance_id is None:
        # An id that was handed out is not remembered: like Kafka, whoever comes with an id is let in.
        return group.members.get(member_id), None
    holder = group.static_member(request.instance_id)
    if request.member_id != NO_MEMBER_ID:
        return check_holds_instance(holder, member_id, request.instance_id), None
    return None, holder


def _check_protocols(group: ConsumerGroup, request: JoinRequest) -> Subscription:
    """A member must be a consumer, and share a protocol with the other classic members."""
    names = {protocol.name for protocol in request.protocols}
    if request.protocol_type != CONSUMER_PROTOCOL_TYPE or not names:
        raise Refusal(ErrorCode.inconsistent_group_protocol)
    known = group.members.get(request.member_id)
    if not group.agreement.is_shared(names, known.classic if known is not None else None):
        raise Refusal(ErrorCode.inconsistent_group_protocol)
    try:
        return read_subscription(request.protocols[0].metadata)
    except Malformed as exc:
        raise Refusal(ErrorCode.inconsistent_group_protocol) from exc


def _owned(group: ConsumerGroup, subscription: Subscription) -> Partitions:
    """The partitions that a member says it has; one that never says has given up everything to join."""
    owned = {}
    for name, partitions in (subscription.owned or {}).items():
        topic = group.rules.topics.topic(name)
        if topic is not None:
            owned[topic.id] = frozenset(partitions)
    return owned


def _check_is_classic(member: Member) -> None:
    if member.classic is None:
        raise Refusal(ErrorCode.unknown_member_id)


def _check_generation(member: Member, generation: int) -> None:
    if member.epoch != generation:
        raise Refusal(ErrorCode.illegal_generation)


def _protocols(member: Member) -> tuple[Protocol, ...]:
    assert member.classic is not None, "only members of the classic protocol have protocols"
    return member.classic.protocols


def _ask_to_join(group: ConsumerGroup, member: Member, now: Instant) -> None:
    """A member that does not join within its rebalance time-out is removed."""
    if member.joins.at_s is None:
        group.deadlines.set(member.joins, now.after(member.rebalance_timeout_ms))
