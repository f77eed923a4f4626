"""DeleteRecords (key 21), versions 0-2: move a partition's log start up.

Keeps: the answer is sent once the new start is durable, so it survives a crash. -1 means the high
watermark. A topic that is only compacted refuses (POLICY_VIOLATION), as in Kafka.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.administration import slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.topic_config import config_of
from gateway.refusals import Asked, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.topics.topics import INTERNAL
from gateway.wire.message import Message

HIGH_WATERMARK: Final = -1
AT_ONCE: Final = 500
"""Partitions that wait for the log together: they share syncs."""


async def delete_records(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    # As in Kafka, the last entry for a partition counts.
    wanted = {
        (t.name, p.partition_index): p.offset
        async for t in ctx.paced(request.topics)
        async for p in ctx.paced(t.partitions)
    }
    items = list(wanted.items())
    results: dict[str, list[dict[str, Any]]] = {topic.name: [] async for topic in ctx.paced(request.topics)}
    async for first in ctx.paced(range(0, len(items), AT_ONCE)):
        some = items[first : first + AT_ONCE]
        answers = await asyncio.gather(*(_delete(ctx, *where, offset) for where, offset in some))
        for ((name, partition), _), (start, code) in zip(some, answers, strict=True):
            results[name].append(_result(partition, start, code))
    return {"topics": [{"name": name, "partitions": done} async for name, done in ctx.paced(results.items())]}


async def _delete(ctx: RequestContext, name: str, partition: int, offset: int) -> tuple[int, ErrorCode]:
    """The partition's new start; -1 and an error code if it is refused."""
    if not ctx.may(Operation.DELETE, ResourceType.TOPIC, name):
        return -1, ErrorCode.topic_authorization_failed
    if name in INTERNAL:
        return -1, ErrorCode.invalid_topic_exception
    stream = ctx.services.topics.get(name)
    slot = slot_of(stream, partition)
    if stream is None or slot is None:
        return -1, ErrorCode.unknown_topic_or_partition
    if not ctx.services.store.serves(slot.container_id):
        return -1, ErrorCode.not_leader_or_follower
    config = config_of(stream)
    if config.compact and not config.delete:
        return -1, ErrorCode.policy_violation
    wanted = slot.durable_end if offset == HIGH_WATERMARK else offset
    if not 0 <= wanted <= slot.durable_end:
        return -1, ErrorCode.offset_out_of_range
    try:
        start = await ctx.services.store.hosted(slot).truncate(slot, wanted)
    except StoreError as failed:
        return -1, code_of(failed, Asked.PARTITION)
    ctx.tell("records deleted", name=name, partition=partition, before=start)
    return start, ErrorCode.none


def _result(partition: int, start: int, code: int) -> dict[str, Any]:
    return {"partition_index": partition, "low_watermark": start, "error_code": code}


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [_result(p.partition_index, -1, code) for p in topic.partitions],
            }
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=21,
    name="DeleteRecords",
    versions=range(3),
    handle=delete_records,
    error_response=_error_response,
)
