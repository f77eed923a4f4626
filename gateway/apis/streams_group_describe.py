"""StreamsGroupDescribe (key 89), version 0 (KIP-1071): state, topology, members and assignments of streams groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import NOT_ASKED
from gateway.apis.shared.new_groups import NOT_SERVED, in_every_group, none_described, serves_streams_groups
from gateway.apis.streams_group_heartbeat import TASKS_AT_ONCE, task_ids
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.messages import Holdings, MemberRecord, Tasks
from gateway.groups.streams.topology import Subtopology, TopicInfo
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

UNSEEN: Final = "The group has described topic(s) that the client is not authorized to describe."
"""Kafka's words."""


async def streams_group_describe(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_streams_groups(ctx):
        return none_described(request.group_ids, NOT_SERVED)
    is_asked = request.include_authorized_operations
    described = []
    async for group_id in ctx.paced(dict.fromkeys(request.group_ids)):  # a group named twice is described once
        if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group_id):
            described.append({"error_code": ErrorCode.group_authorization_failed, "group_id": group_id})
            continue
        try:
            coordinator = ctx.services.groups.of(group_id)
            error, group = coordinator.check_group_id(group_id), coordinator.get(group_id)
        except Refusal as refused:
            error, group = refused.code, None
        if error:
            described.append({"error_code": error, "group_id": group_id})
        elif isinstance(group, StreamsGroup):
            operations = ctx.operations(ResourceType.GROUP, group_id) if is_asked else NOT_ASKED
            described.append(await _described(ctx, group) | {"authorized_operations": operations})
        else:
            why = f"Streams group {group_id} not found."
            if group is not None:
                why = f"Group {group_id} is not a streams group."
            error = ErrorCode.group_id_not_found
            described.append({"error_code": error, "error_message": why, "group_id": group_id})
    return {"groups": described}


async def _described(ctx: RequestContext, group: StreamsGroup) -> dict[str, Any]:
    topology = group.topology
    shown: dict[str, Any] = {
        "error_code": ErrorCode.none,
        "group_id": group.group_id,
        "group_state": group.state.value,
        "group_epoch": group.epoch,
        "assignment_epoch": group.target_epoch,
        "topology": None,
        "members": [],
    }
    names = topology.required if topology is not None else frozenset()
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names)
    if any([name not in allowed async for name in ctx.paced(names)]):
        return shown | {"error_code": ErrorCode.topic_authorization_failed, "error_message": UNSEEN}
    if topology is not None:
        parts = [_subtopology(part, group) async for part in ctx.paced(topology.subtopologies)]
        shown["topology"] = {"epoch": topology.epoch, "subtopologies": parts}
    members = shown["members"] = []
    async for member in ctx.paced(list(group.members.values())):
        assigned, target = member.current.assigned, group.target_of(member.member_id)
        tell = partial(_member, member.record, member.epoch, assigned, target)
        size = len(assigned.active) + len(assigned.standby) + sum(map(len, target))
        members.append(tell() if size <= TASKS_AT_ONCE else await ctx.connection.aside(tell))
    return shown


def _subtopology(part: Subtopology, group: StreamsGroup) -> dict[str, Any]:
    decided = group.shape.partitions
    return {
        "subtopology_id": part.id,
        "source_topics": list(part.sources),
        "repartition_sink_topics": list(part.repartition_sinks),
        "state_changelog_topics": _topics(part.changelogs, decided),
        "repartition_source_topics": _topics(part.repartition_sources, decided),
    }


def _topics(topics: Iterable[TopicInfo], decided: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "name": topic.name,
            "partitions": decided.get(topic.name, topic.partitions),
            "replication_factor": topic.replication_factor,
            "topic_configs": [{"key": key, "value": value} for key, value in topic.configs],
        }
        for topic in topics
    ]


def _member(record: MemberRecord, epoch: int, assigned: Holdings, target: Tasks) -> dict[str, Any]:
    endpoint = record.endpoint
    return {
        "member_id": record.member_id,
        "member_epoch": epoch,
        "instance_id": None,
        "rack_id": record.rack_id,
        "client_id": record.client_id,
        "client_host": record.client_host,
        "topology_epoch": record.topology_epoch,
        "process_id": record.process_id,
        "user_endpoint": None if endpoint is None else {"host": endpoint.host, "port": endpoint.port},
        "client_tags": [{"key": key, "value": value} for key, value in record.tags],
        "task_offsets": [],
        "task_end_offsets": [],
        "assignment": _assignment(assigned.tasks()),
        "target_assignment": _assignment(target),
        "is_classic": False,
    }


def _assignment(tasks: Tasks) -> dict[str, Any]:
    return {"active_tasks": task_ids(tasks.active), "standby_tasks": task_ids(tasks.standby), "warmup_tasks": []}


API: Final = Api(
    key=89,
    name="StreamsGroupDescribe",
    versions=range(1),
    handle=streams_group_describe,
    error_response=in_every_group,
    large_answer=True,
)
