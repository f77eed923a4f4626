"""OffsetCommit (key 8), versions 2-10: how far a consumer has come.

v2-v4 name a retention, v6 adds leader epochs (KIP-320), v7 static members (KIP-345), v9 answers an
unknown group with GROUP_ID_NOT_FOUND (KIP-848), v10 names topics by id.

Keeps: an offset is acknowledged when it is in the log. Topics are looked up, the group asked and the
write submitted without an await in between, so commits of one connection stay in order (one with many partitions is
alone on its connection, and gives way between its commits).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.consumer.committing import Place
from gateway.groups.offsets.service import OffsetCommit
from gateway.network.turns import Stint
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

GROUP_ID_NOT_FOUND_FROM: Final = 9
MEMBER_EPOCHS_FROM: Final = 9
"""Before, a member of the consumer protocol cannot commit: it has no generation."""
TOPIC_IDS_FROM: Final = 10
AT_ONCE: Final = 1_200
"""Partitions that one commit is made of. A request with more makes several; being large, it is alone on its
connection."""


async def offset_commit(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    by_id = ctx.version >= TOPIC_IDS_FROM
    group = _Group(ctx, request)
    stint = Stint(ctx.connection.turns, ctx.connection.party)
    looked_at = 0
    topics = []
    for topic in request.topics:
        partitions = []
        for partition in topic.partitions:
            partitions.append(group.take(topic, partition, by_id))
            looked_at += 1
            if looked_at % AT_ONCE == 0:
                await group.commit()
                if stint.is_over:
                    await stint.give_way()
        topics.append({**_identity(topic, by_id), "partitions": partitions})
    await group.commit()
    return {"topics": topics}


class _Group:
    """The group of a request, and the offsets to commit to it next."""

    def __init__(self, ctx: RequestContext, request: Message) -> None:
        self._ctx = ctx
        self._request = request
        self._answers: list[dict[str, Any]] = []  # those of `commits`
        self._places: list[Place] = []
        self.commits: list[OffsetCommit] = []

    def take(self, topic: Message, partition: Message, by_id: bool) -> dict[str, Any]:
        """The partition's answer: complete if it cannot be committed, else `commit` completes it."""
        topics = self._ctx.services.all_topics
        stream = topics.by_uuid(topic.topic_id) if by_id else topics.get(topic.name)
        if stream is not None and topics.get(stream.name) is not stream:
            stream = None  # it is being deleted, and another has its name already
        answer: dict[str, Any] = {"partition_index": partition.partition_index}
        name = topic.name if stream is None else stream.name
        if name and not self._ctx.may(Operation.READ, ResourceType.TOPIC, name):
            answer["error_code"] = ErrorCode.topic_authorization_failed
        elif stream is None:
            answer["error_code"] = ErrorCode.unknown_topic_id if by_id else ErrorCode.unknown_topic_or_partition
        elif not 0 <= partition.partition_index < stream.slot_count:
            answer["error_code"] = ErrorCode.unknown_topic_or_partition
        else:
            self.commits.append(_commit(stream, partition))
            self._places.append((stream.uuid, partition.partition_index))
            self._answers.append(answer)
        return answer

    async def commit(self) -> None:
        """Ask the group and submit the write, without an await in between."""
        commits, answers = self.commits, self._answers
        places, self._places = self._places, []
        self.commits, self._answers = [], []
        if not commits:
            return
        error = _admit(self._ctx, self._request, places)
        if error:
            errors = [error] * len(commits)
        else:
            request = self._request
            groups = self._ctx.services.groups.of(request.group_id)
            errors = await groups.offsets.commit(request.group_id, commits, request.retention_time)
        for answer, code in zip(answers, errors, strict=True):
            answer["error_code"] = code


def _commit(stream: Stream, partition: Message) -> OffsetCommit:
    return OffsetCommit(
        stream.name,
        partition.partition_index,
        partition.committed_offset,
        partition.committed_leader_epoch,
        partition.committed_metadata or "",
    )


def _admit(ctx: RequestContext, request: Message, places: Collection[Place]) -> ErrorCode:
    error: ErrorCode = ctx.services.groups.of(request.group_id).admission.commit(
        request.group_id,
        request.member_id,
        request.group_instance_id,
        request.generation_id_or_member_epoch,
        places,
        ctx.version >= MEMBER_EPOCHS_FROM,
    )
    if error is ErrorCode.group_id_not_found and ctx.version < GROUP_ID_NOT_FOUND_FROM:
        return ErrorCode.illegal_generation
    return error


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
