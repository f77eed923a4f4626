"""Checks of a streams group's requests, in Kafka's order, each with its error and its words.

Keeps: the checks change nothing. All raise Refusal. (Kafka: GroupCoordinatorService, GroupMetadataManager.)
"""

from __future__ import annotations

from collections.abc import Mapping

from kio.schema.errors import ErrorCode

from gateway.groups.classic.allowance import Allowance
from gateway.groups.modern import allowing
from gateway.groups.modern.epochs import JOINING_EPOCH, LEAVING_EPOCH, fenced
from gateway.groups.streams.member import Member, size_of
from gateway.groups.streams.messages import Extents, Heartbeat, MemberRecord, Tasks
from gateway.groups.streams.topology import Topology, size_of_topology
from gateway.refusals import Refusal, invalid_request


def check_heartbeat(request: Heartbeat) -> None:
    """Does the request make sense, whatever the group's state?"""
    if not request.member_id.strip():
        raise invalid_request("MemberId can't be empty.")
    if request.rack_id is not None and not request.rack_id.strip():
        raise invalid_request("RackId can't be empty.")
    if request.epoch == JOINING_EPOCH:
        if request.rebalance_timeout_ms == -1:
            raise invalid_request("RebalanceTimeoutMs must be provided in first request.")
        if request.owned is None or request.owned.active:
            raise invalid_request("ActiveTasks must be empty when (re-)joining.")
        if request.owned.standby:
            raise invalid_request("StandbyTasks must be empty when (re-)joining.")
        if request.topology is None:
            raise invalid_request("Topology must be non-null when (re-)joining.")
        _check_topology(request.topology)
    elif request.epoch < LEAVING_EPOCH:
        raise invalid_request(f"MemberEpoch is {request.epoch}, but must be greater than or equal to -1.")
    elif request.topology is not None:
        raise invalid_request("Topology can only be provided when (re-)joining.")


def _check_topology(topology: Topology) -> None:
    ids = [subtopology.id for subtopology in topology.subtopologies]
    if len(set(ids)) < len(ids):
        raise Refusal(ErrorCode.streams_invalid_topology, "A subtopology id occurs more than once.")
    for subtopology in topology.subtopologies:
        for topic in subtopology.changelogs:
            if topic.partitions:
                raise Refusal(
                    ErrorCode.streams_invalid_topology,
                    f"Changelog topic {topic.name} must have an undefined partition count, but it is set to "
                    f"{topic.partitions}.",
                )
        for topic in subtopology.repartition_sources:
            if topic.partitions < 0:
                why = f"Repartition topic {topic.name} has {topic.partitions} partitions."
                raise Refusal(ErrorCode.streams_invalid_topology, why)


def check_epoch(member: Member, epoch: int, owned: Tasks | None) -> None:
    """Is this the member's epoch? The one before is too, if the answer with the present one may be lost."""
    current = member.current
    if epoch in (JOINING_EPOCH, current.epoch):
        return
    if epoch == current.previous_epoch < current.epoch and owned is not None:
        has = current.assigned.tasks()
        if owned.active <= has.active and owned.standby <= has.standby:
            return
    raise fenced("streams", epoch, current.epoch)


def check_owned(owned: Extents, tasks: Mapping[str, int]) -> None:
    """Does a member have only tasks that the topology has?"""
    for name, numbers in owned.items():
        if name not in tasks:
            raise invalid_request(f"Subtopology {name} does not exist in the topology.")
        for number in numbers:
            if not 0 <= number < tasks[name]:
                raise invalid_request(
                    f"Task {number} for subtopology {name} is invalid. Number of tasks for this subtopology: "
                    f"{tasks[name]}"
                )


def check_size(
    record: MemberRecord, before: MemberRecord | None, new_topology: Topology | None, allowance: Allowance
) -> None:
    """Is there room for a member as it is now, and for the topology that it brings?"""
    if record == before:
        return
    size = size_of(record) + (size_of_topology(new_topology) if new_topology is not None else 0)
    allowing.check_size(allowance, size, size_of(before) if before is not None else 0)
