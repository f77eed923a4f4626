"""DescribeLogDirs (key 35), versions 1-5: the data directory, and how many bytes partitions have.

Keeps: a partition's size is that of its records from its log start on; all partitions share one
log, so the directory's files are not the sum of them.
"""

import asyncio
import shutil
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

ERROR_CODE_FROM: Final = 3
"""First version with an error of the whole answer; before it, a client without the right sees no directory."""


async def describe_log_dirs(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not ctx.may(Operation.DESCRIBE, ResourceType.CLUSTER):
        code = ErrorCode.cluster_authorization_failed if ctx.version >= ERROR_CODE_FROM else ErrorCode.none
        return {"error_code": code, "results": []}
    directory = ctx.services.config.data_dir.absolute()
    try:
        usage = await asyncio.to_thread(shutil.disk_usage, directory)
    except OSError:
        return {"results": [{"error_code": ErrorCode.kafka_storage_error, "log_dir": str(directory)}]}
    described = {
        "error_code": ErrorCode.none,
        "log_dir": str(directory),
        "topics": await _topics(ctx, request),
        "total_bytes": usage.total,
        "usable_bytes": usage.free,
        "is_cordoned": False,
    }
    return {"results": [described]}


async def _topics(ctx: RequestContext, request: Message) -> list[dict[str, Any]]:
    if request.topics is None:
        every: list[Stream] = list(ctx.services.topics)
        return [_topic(stream, range(stream.slot_count)) async for stream in ctx.paced(every)]
    asked: dict[str, dict[int, None]] = {}
    async for topic in ctx.paced(request.topics):
        asked.setdefault(topic.topic, {}).update(dict.fromkeys(topic.partitions))
    described = []
    async for name, partitions in ctx.paced(asked.items()):
        stream = ctx.services.topics.get(name)
        there = [p for p in partitions if stream is not None and 0 <= p < stream.slot_count]
        if stream is not None and there:
            described.append(_topic(stream, there))
    return described


def _topic(stream: Stream, partitions: range | list[int]) -> dict[str, Any]:
    sizes = {slot.number: slot.size_bytes for slot in stream.written_slots()}
    return {
        "name": stream.name,
        "partitions": [{"partition_index": index, "partition_size": sizes.get(index, 0)} for index in partitions],
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {"error_code": code, "results": [{"error_code": code}]}  # v1 and v2 have only the latter


API: Final = Api(
    key=35,
    name="DescribeLogDirs",
    versions=range(1, 6),
    handle=describe_log_dirs,
    error_response=_error_response,
    large_answer=True,
)
