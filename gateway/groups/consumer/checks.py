"""Checks of a consumer group's requests, in Kafka's order, each with its error and its words.

Keeps: the checks change nothing. All raise Refusal. (Kafka: GroupCoordinatorService, GroupMetadataManager.)
"""

from __future__ import annotations

from collections.abc import Iterable

from kio.schema.errors import ErrorCode

from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import LEAVING_FOR_A_WHILE_EPOCH, Heartbeat, Partitions
from gateway.groups.modern.epochs import JOINING_EPOCH, LEAVING_EPOCH, fenced
from gateway.refusals import Refusal, invalid_request

MEMBER_MAKES_ITS_ID_FROM = 1
"""From this version of ConsumerGroupHeartbeat on a client makes its member id (KIP-1082)."""


def check_heartbeat(request: Heartbeat, version: int, assignors: Iterable[str]) -> None:
    """Does the request make sense, whatever the group's state?"""
    needs_id = version >= MEMBER_MAKES_ITS_ID_FROM or request.epoch > 0 or request.epoch == LEAVING_EPOCH
    if needs_id and not request.member_id.strip():
        raise invalid_request("MemberId can't be empty.")
    for what, text in (("InstanceId", request.instance_id), ("RackId", request.rack_id)):
        if text is not None and not text.strip():
            raise invalid_request(f"{what} can't be empty.")
    if request.epoch == JOINING_EPOCH:
        if request.rebalance_timeout_ms == -1:
            raise invalid_request("RebalanceTimeoutMs must be provided in first request.")
        if request.owned is None or request.owned:
            raise invalid_request("TopicPartitions must be empty when (re-)joining.")
        if request.names is None and request.regex is None:
            why = "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
            raise invalid_request(why)
    elif request.epoch == LEAVING_FOR_A_WHILE_EPOCH:
        if request.instance_id is None:
            raise invalid_request("InstanceId can't be null.")
    elif request.epoch < LEAVING_FOR_A_WHILE_EPOCH:
        raise invalid_request("MemberEpoch is invalid.")
    known = list(assignors)
    if request.assignor is not None and request.assignor not in known:
        why = f"ServerAssignor {request.assignor} is not supported. Supported assignors: {', '.join(known)}."
        raise Refusal(ErrorCode.unsupported_assignor, why)


def check_epoch(member: Member, epoch: int, owned: Partitions | None) -> None:
    """Is this the member's epoch? The one before is too, if the answer with the present one may be lost."""
    if epoch in (JOINING_EPOCH, member.epoch):
        return
    if epoch < member.epoch and epoch == member.previous_epoch and owned is not None and _within(owned, member):
        return
    raise fenced("consumer", epoch, member.epoch)


def _within(owned: Partitions, member: Member) -> bool:
    return all(partitions <= member.assigned.get(topic, {}).keys() for topic, partitions in owned.items())


def check_released(member: Member, member_id: str) -> None:
    """May another member take over this one's instance id?"""
    if member.epoch != LEAVING_FOR_A_WHILE_EPOCH:
        why = (
            f"Static member {member_id} with instance id {member.instance_id} cannot join the group because the "
            f"instance id is owned by {member.member_id} member."
        )
        raise Refusal(ErrorCode.unreleased_instance_id, why)


def check_holds_instance(member: Member | None, member_id: str, instance_id: str) -> Member:
    """The static member of an instance id, if it is this one."""
    if member is None:
        raise Refusal(ErrorCode.unknown_member_id, f"Instance id {instance_id} is unknown.")
    if member.member_id != member_id:
        why = f"Static member {member_id} with instance id {instance_id} was fenced by member {member.member_id}."
        raise Refusal(ErrorCode.fenced_instance_id, why)
    return member
