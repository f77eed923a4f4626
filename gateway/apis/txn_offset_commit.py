"""TxnOffsetCommit (key 28), versions 0-5: offsets that a transaction commits for a group if it commits.

v3 (KIP-447) names the member, its generation and instance, v5 (KIP-890) makes the group part of the transaction by
itself; v4 has TRANSACTION_ABORTABLE for a group that is not.

Keeps: offsets are durable before the answer, and visible only after the commit. They lie in the container of their
group; where the transaction's coordinator is another one, it has the group as a part of the transaction before that. A
request that is not alone on its connection is submitted before what follows it there begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.offsets.service import OffsetCommit
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.errors import transaction_code
from gateway.transactions.group_writes import GroupWrites
from gateway.transactions.transaction import Identity
from gateway.wire.message import Message

ABORTABLE_SINCE: Final = 4
GROUP_ADDED_SINCE: Final = 5
FENCED_SINCE: Final = 6
"""No version of this API has PRODUCER_FENCED: a group's coordinator says INVALID_PRODUCER_EPOCH."""
AT_ONCE: Final = 1_200
"""Partitions that are added to the transaction together."""


async def txn_offset_commit(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id)
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    commits: list[OffsetCommit] = []
    topics = [await _topic(ctx, topic, commits) async for topic in ctx.paced(request.topics, ctx.is_alone)]
    outcomes: list[ErrorCode] = []
    async for first in ctx.paced(range(0, len(commits), AT_ONCE), ctx.is_alone):
        outcomes += await _commit(ctx, request, commits[first : first + AT_ONCE])
    left = iter(outcomes)
    async for topic in ctx.paced(topics):
        async for partition in ctx.paced(topic["partitions"]):
            if partition["error_code"] is None:
                partition["error_code"] = next(left)
    return {"topics": topics}


async def _topic(ctx: RequestContext, topic: Message, commits: list[OffsetCommit]) -> dict[str, Any]:
    """The topic's answer; partitions that can be committed are left open and noted in `commits`."""
    is_allowed = ctx.may(Operation.READ, ResourceType.TOPIC, topic.name)
    unknown = ErrorCode.unknown_topic_or_partition if is_allowed else ErrorCode.topic_authorization_failed
    stream = ctx.services.all_topics.get(topic.name) if is_allowed else None
    partitions: list[dict[str, Any]] = []
    async for partition in ctx.paced(topic.partitions, ctx.is_alone):
        index = partition.partition_index
        is_known = stream is not None and 0 <= index < stream.slot_count
        if is_known:
            commits.append(
                OffsetCommit(
                    topic.name,
                    index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata or "",
                )
            )
        error = None if is_known else unknown
        partitions.append({"partition_index": index, "error_code": error})
    return {"name": topic.name, "partitions": partitions}


async def _commit(ctx: RequestContext, request: Message, commits: list[OffsetCommit]) -> list[ErrorCode]:
    groups, all_topics = ctx.services.groups.of(request.group_id), ctx.services.all_topics
    identity = Identity(request.producer_id, request.producer_epoch)
    writes = GroupWrites(ctx.services.transactions, request.transactional_id, identity, request.group_id)
    try:
        if not await writes.admit(adds=ctx.version >= GROUP_ADDED_SINCE):
            return [_outside(ctx.version)] * len(commits)
        # A topic may have gone while another coordinator was asked: its offsets would be the next one's of that name.
        streams = {name: all_topics.get(name) for name in {commit.topic for commit in commits}}
        error = groups.admission.transactional_commit(
            request.group_id,
            request.member_id,
            request.group_instance_id,
            request.generation_id,
            [(stream.uuid, c.partition) for c in commits if (stream := streams[c.topic]) is not None],
        )
        if error is not ErrorCode.none:
            return [error] * len(commits)
        offsets, errors = groups.offsets.judge(request.group_id, [c for c in commits if streams[c.topic] is not None])
        await writes.commit(offsets)
        left = iter(errors)
        unknown = ErrorCode.unknown_topic_or_partition
        return [unknown if streams[c.topic] is None else next(left) for c in commits]
    except (Refusal, StoreError) as refused:
        return [_refused(refused, ctx.version)] * len(commits)


def _outside(version: int) -> ErrorCode:
    return ErrorCode.transaction_abortable if version >= ABORTABLE_SINCE else ErrorCode.invalid_txn_state


def _refused(error: Refusal | StoreError, version: int) -> ErrorCode:
    code = transaction_code(error, version, FENCED_SINCE)
    if code is ErrorCode.concurrent_transactions and version < GROUP_ADDED_SINCE:
        return ErrorCode.coordinator_load_in_progress  # the one that older clients try again
    return code


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {"partition_index": partition.partition_index, "error_code": code} for partition in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=28,
    name="TxnOffsetCommit",
    versions=range(6),
    handle=txn_offset_commit,
    error_response=error_response,
)
