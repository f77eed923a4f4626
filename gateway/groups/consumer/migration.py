"""A living group changes its kind: from classic to consumer and back, without losing its members (KIP-848).

Keeps: each member keeps its partitions, and its generation is its epoch. These functions make records; they change
neither group. (Kafka: ConsumerGroup.fromClassicGroup, ClassicGroup.fromConsumerGroup.)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from uuid import UUID

from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import GroupRecord, Protocol
from gateway.groups.classic.messages import MemberRecord as ClassicRecord
from gateway.groups.classic.roster import Member as ClassicMember
from gateway.groups.consumer.classic_members import assignment_of
from gateway.groups.consumer.embedded import (
    Assignment,
    Malformed,
    Subscription,
    read_assignment,
    read_subscription,
    write_subscription,
)
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import (
    ClassicFacts,
    CurrentRecord,
    HeadRecord,
    MemberRecord,
    MemberState,
    Partitions,
)
from gateway.groups.modern.topics import TopicView


class CannotMigrate(Exception):
    """The group must stay of its kind; the text says why."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The stored form of a consumer group that was a classic one."""

    head: HeadRecord
    members: tuple[MemberRecord, ...]
    current: dict[str, CurrentRecord]
    targets: dict[str, Partitions]


def upgraded(group: GroupFacts, topics: TopicView, now_ms: int) -> Generator[None, None, Upgraded]:
    """A classic group's members in a consumer group, in steps of a member. Raises CannotMigrate.

    A caller that lets others run in between sees to it that the group is still the same.
    """
    if not group.uses_consumer_protocol:
        raise CannotMigrate("the group does not use the consumer embedded protocol")
    members: list[MemberRecord] = []
    current: dict[str, CurrentRecord] = {}
    targets: dict[str, Partitions] = {}
    try:
        for member in list(group.roster):
            yield
            record, partitions = _upgraded_member(group, member, topics)
            members.append(record)
            targets[member.member_id] = partitions
            current[member.member_id] = CurrentRecord(
                epoch=group.generation,
                previous_epoch=group.generation,
                state=MemberState.STABLE,
                assigned={topic: dict.fromkeys(numbers, group.generation) for topic, numbers in partitions.items()},
                revoking={},
            )
    except Malformed as exc:
        raise CannotMigrate(f"the embedded consumer protocol is malformed: {exc}") from exc
    head = HeadRecord(epoch=group.generation, target_epoch=group.generation, signature=0, state_since_ms=now_ms)
    return Upgraded(head, tuple(members), current, targets)


def _upgraded_member(group: GroupFacts, member: ClassicMember, topics: TopicView) -> tuple[MemberRecord, Partitions]:
    name = group.protocol_name if group.protocol_name is not None else member.protocols[0].name
    subscription = read_subscription(member.metadata(name) or member.protocols[0].metadata)
    assignment = read_assignment(member.assignment) if member.assignment else Assignment({})
    if assignment.user_data:
        raise CannotMigrate("an unsupported custom assignor is in use")
    partitions: dict[UUID, frozenset[int]] = {}
    for topic_name, numbers in assignment.partitions.items():
        topic = topics.topic(topic_name)
        if topic is not None:
            existing = frozenset(number for number in numbers if 0 <= number < topic.partition_count)
            partitions |= {topic.id: existing} if existing else {}
    record = MemberRecord(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=subscription.rack_id,
        client_id=member.client_id,
        client_host=member.client_host,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
        names=frozenset(subscription.topics),
        regex="",
        assignor=None,
        classic=ClassicFacts(member.session_timeout_ms, _chosen_first(member.protocols, name)),
    )
    return record, partitions


def _chosen_first(protocols: tuple[Protocol, ...], name: str) -> tuple[Protocol, ...]:
    """A client that syncs names the protocol that was chosen, which answers name as the first."""
    return tuple(sorted(protocols, key=lambda protocol: protocol.name != name))


def downgraded(group: ConsumerGroup, now_ms: int) -> Generator[None, None, GroupRecord]:
    """A consumer group whose members are all of the classic protocol, as a classic group, in steps of a member."""
    members = list(group.members.values())
    first = [name for name, _ in _facts(members[0]).protocols]
    shared = [name for name in first if group.agreement.is_shared([name], None)]
    if not shared:
        raise CannotMigrate("its members share no protocol")
    records = []
    for member in members:
        yield
        records.append(_downgraded_member(group, member))
    return GroupRecord(
        generation=group.epoch,
        state_since_ms=now_ms,
        protocol_type=group.protocol_type,
        protocol_name=shared[0],
        leader=members[0].member_id,
        members=tuple(records),
    )


def _downgraded_member(group: ConsumerGroup, member: Member) -> ClassicRecord:
    facts = _facts(member)
    owned = {
        name: tuple(sorted(held))
        for topic, held in member.assigned.items()
        if (name := group.rules.topics.name_of(topic)) is not None
    }
    protocols = []
    for name, metadata in facts.protocols:
        said = read_subscription(metadata)
        now = Subscription(said.version, said.topics, said.user_data, owned, said.rack_id)
        protocols.append(Protocol(name, write_subscription(now)))
    return ClassicRecord(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        session_timeout_ms=facts.session_timeout_ms,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
        protocols=tuple(protocols),
        assignment=assignment_of(group, member),
    )


def _facts(member: Member) -> ClassicFacts:
    assert member.classic is not None, "a group with members of the consumer protocol stays a consumer group"
    return member.classic
