"""OffsetCommit (key 8), versions 2-10: how far a consumer has come.

v2-v4 name a retention, v6 adds leader epochs (KIP-320), v7 static members (KIP-345), v9 answers an
unknown group with GROUP_ID_NOT_FOUND (KIP-848), v10 names topics by id.

Keeps: an offset is acknowledged when it is in the log. Topics are looked up, the group asked and the
write submitted before the first await, so commits of one connection stay in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.stream import Stream
from gateway.apis import Api, RequestContext
from gateway.groups.coordinator import OffsetCommit
from gateway.wire.message import Message

GROUP_ID_NOT_FOUND_FROM: Final = 9
TOPIC_IDS_FROM: Final = 10


async def offset_commit(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    by_id = ctx.version >= TOPIC_IDS_FROM
    commits: list[OffsetCommit] = []
    topics = [_topic(ctx, topic, by_id, commits) for topic in request.topics]
    if commits:
        error = _admit(ctx, request)
        errors = (
            [error] * len(commits)
            if error
            else await ctx.broker.groups.commit(request.group_id, commits, request.retention_time)
        )
        _fill_in(topics, errors)
    return {"topics": topics}


def _topic(ctx: RequestContext, topic: Message, by_id: bool, commits: list[OffsetCommit]) -> dict[str, Any]:
    """The topic's answer; partitions that can be committed are left open and noted in `commits`."""
    topics = ctx.broker.topics
    stream = topics.by_uuid(topic.topic_id) if by_id else topics.get(topic.name)
    unknown = ErrorCode.unknown_topic_id if by_id else ErrorCode.unknown_topic_or_partition
    partitions: list[dict[str, Any]] = []
    for partition in topic.partitions:
        index = partition.partition_index
        error: ErrorCode | None = None
        if stream is None:
            error = unknown
        elif not 0 <= index < stream.slot_count:
            error = ErrorCode.unknown_topic_or_partition
        else:
            commits.append(_commit(stream, partition))
        partitions.append({"partition_index": index, "error_code": error})
    return {**_identity(topic, by_id), "partitions": partitions}


def _commit(stream: Stream, partition: Message) -> OffsetCommit:
    return OffsetCommit(
        stream.name,
        partition.partition_index,
        partition.committed_offset,
        partition.committed_leader_epoch,
        partition.committed_metadata or "",
    )


def _admit(ctx: RequestContext, request: Message) -> ErrorCode:
    error: ErrorCode = ctx.broker.groups.admit_commit(
        request.group_id,
        request.member_id,
        request.group_instance_id,
        request.generation_id_or_member_epoch,
    )
    if error is ErrorCode.group_id_not_found and ctx.version < GROUP_ID_NOT_FOUND_FROM:
        return ErrorCode.illegal_generation
    return error


def _fill_in(topics: list[dict[str, Any]], errors: list[ErrorCode]) -> None:
    outcomes = iter(errors)
    for topic in topics:
        for partition in topic["partitions"]:
            if partition["error_code"] is None:
                partition["error_code"] = next(outcomes)


def _identity(topic: Message, by_id: bool) -> dict[str, Any]:
    return {"topic_id": topic.topic_id} if by_id else {"name": topic.name}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {
                **_identity(topic, version >= TOPIC_IDS_FROM),
                "partitions": [
                    {"partition_index": partition.partition_index, "error_code": error}
                    for partition in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=8,
    name="OffsetCommit",
    versions=range(2, 11),
    handle=offset_commit,
    error_response=error_response,
)
