"""DescribeTopicPartitions (key 75), version 0: topics page by page (KIP-966).

Keeps: topics come in the order of their names, so that a cursor (topic, partition) says exactly
what is still to come, whatever was created or deleted meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis.shared.administration import NOT_ASKED
from gateway.apis.shared.leaders import leaders_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.topics.checks import check_name
from gateway.topics.topics import INTERNAL
from gateway.wire.message import Message

PARTITIONS_MAX: Final = 2_000
"""Partitions in one response, whatever the client asks for: Kafka's max.request.partition.size.limit."""
SORTED_AT_ONCE: Final = 2_000
"""Names that are sorted into a page together."""


async def describe_topic_partitions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    cursor = request.cursor
    names = {topic.name async for topic in ctx.paced(request.topics)}
    if cursor is not None and (cursor.partition_index < 0 or (names and cursor.topic_name not in names)):
        return _error_response(request, ctx.version, ErrorCode.invalid_request)
    first_name = cursor.topic_name if cursor is not None else ""
    every = names or {
        stream.name
        async for stream in ctx.paced([*ctx.services.topics, *ctx.services.internal_topics.listed()])
        if ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, stream.name)
    }
    left = max(1, min(request.response_partition_limit, PARTITIONS_MAX))
    entries: list[dict[str, Any]] = []
    # One more than a page can hold: it is the next page's first.
    page = await _first_of(ctx, left + 1, [name async for name in ctx.paced(every) if name >= first_name])
    async for name in ctx.paced(page):
        if not left:
            return _page(entries, name, 0)
        first = cursor.partition_index if cursor is not None and name == first_name else 0
        if not ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, name):
            entries.append(_failed(name, ErrorCode.topic_authorization_failed, NOT_ASKED))
            left -= 1
            continue
        stream = ctx.services.readable(name)
        if stream is None:
            entries.append(_unknown(ctx, name))
            left -= 1
            continue
        end = min(stream.slot_count, first + left)
        entries.append(_known(ctx, stream, range(first, end)))
        left -= max(0, end - first)
        if end < stream.slot_count:
            return _page(entries, name, end)
    return {"topics": entries, "next_cursor": None}


async def _first_of(ctx: RequestContext, count: int, names: Sequence[str]) -> list[str]:
    """The first of many names, in their order."""
    first: list[str] = []
    async for begin in ctx.paced(range(0, len(names), SORTED_AT_ONCE)):
        first = sorted([*first, *names[begin : begin + SORTED_AT_ONCE]])[:count]
    return first


def _page(entries: list[dict[str, Any]], topic: str, partition: int) -> Mapping[str, Any]:
    return {
        "topics": entries,
        "next_cursor": {"topic_name": topic, "partition_index": partition},
    }


def _unknown(ctx: RequestContext, name: str) -> dict[str, Any]:
    code = ErrorCode.unknown_topic_or_partition
    try:
        check_name(name)
    except Refusal as refused:
        code = refused.code
    return _failed(name, code, ctx.operations(ResourceType.TOPIC, name))


def _failed(name: str, code: int, operations: int) -> dict[str, Any]:
    return {
        "error_code": code,
        "name": name,
        "is_internal": name in INTERNAL,
        "topic_authorized_operations": operations,
    }


def _known(ctx: RequestContext, stream: Stream, partitions: range) -> dict[str, Any]:
    leaders = leaders_of(ctx.services, stream)
    only = next(iter(leaders.values())) if len(set(leaders.values())) == 1 else None

    def described(index: int) -> dict[str, Any]:
        leader = leaders[stream.state.container_of_slot(index)] if only is None else only
        replicas = [] if leader.error else [leader.node_id]
        return {
            "error_code": leader.error,
            "partition_index": index,
            "leader_id": leader.node_id,
            "leader_epoch": leader.epoch,
            "replica_nodes": replicas,
            "isr_nodes": replicas,
            "eligible_leader_replicas": [],
            "last_known_elr": [],
            "offline_replicas": [],
        }

    return {
        "error_code": ErrorCode.none,
        "name": stream.name,
        "topic_id": stream.uuid,
        "is_internal": stream.name in INTERNAL,
        "partitions": [described(index) for index in partitions],
        "topic_authorized_operations": ctx.operations(ResourceType.TOPIC, stream.name),
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {"error_code": code, "name": topic.name, "topic_authorized_operations": NOT_ASKED}
            for topic in request.topics
        ],
        "next_cursor": None,
    }


API: Final = Api(
    key=75,
    name="DescribeTopicPartitions",
    versions=range(1),
    handle=describe_topic_partitions,
    error_response=_error_response,
    large_answer=True,
)
