"""DescribeLogDirs (key 35), versions 1-5: the directories of the store, and how many bytes partitions have.

Keeps: a partition's size is that of its records from its log start on; all partitions of a container
share one log, so a directory's files are not the sum of them.
"""

import asyncio
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis.shared.directories import directories_of
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
    directories = directories_of(ctx.services.config)
    return {"results": [await _described(ctx, request, place, path) for place, path in enumerate(directories)]}


async def _described(ctx: RequestContext, request: Message, place: int, directory: str) -> Mapping[str, Any]:
    try:
        usage = await asyncio.to_thread(shutil.disk_usage, directory)
    except OSError:
        return {"error_code": ErrorCode.kafka_storage_error, "log_dir": directory}
    count = len(directories_of(ctx.services.config))
    here = frozenset(ctx.services.store.config.container_ids[place::count])
    return {
        "error_code": ErrorCode.none,
        "log_dir": directory,
        "topics": await _topics(ctx, request, here),
        "total_bytes": usage.total,
        "usable_bytes": usage.free,
        "is_cordoned": False,
    }


async def _topics(ctx: RequestContext, request: Message, here: frozenset[int]) -> list[dict[str, Any]]:
    """The topics that have partitions in these containers."""
    if request.topics is None:
        every: list[Stream] = list(ctx.services.topics)
        found = [await _topic(ctx, stream, range(stream.slot_count), here) async for stream in ctx.paced(every)]
        return [topic for topic in found if topic["partitions"]]
    asked: dict[str, dict[int, None]] = {}
    async for topic in ctx.paced(request.topics):
        asked.setdefault(topic.topic, {}).update(dict.fromkeys(topic.partitions))
    described = []
    async for name, partitions in ctx.paced(asked.items()):
        stream = ctx.services.topics.get(name)
        there = [p for p in partitions if stream is not None and 0 <= p < stream.slot_count]
        if stream is not None and there and (topic := await _topic(ctx, stream, there, here))["partitions"]:
            described.append(topic)
    return described


async def _topic(
    ctx: RequestContext, stream: Stream, partitions: Iterable[int], here: frozenset[int]
) -> dict[str, Any]:
    state = stream.state
    if not state.containers <= here:
        partitions = [index async for index in ctx.paced(partitions) if state.container_of_slot(index) in here]
    return {"name": stream.name, "partitions": [_sized(stream, index) async for index in ctx.paced(partitions)]}


def _sized(stream: Stream, index: int) -> dict[str, Any]:
    slot = stream.known_slot(index)
    return {"partition_index": index, "partition_size": 0 if slot is None else slot.size_bytes}


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
