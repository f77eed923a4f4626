"""AlterReplicaLogDirs (key 34), versions 1-2 (KIP-113): moves partitions between a broker's directories.

Keeps: a partition stays in its directory. A move there is already done; a move to another is LOG_DIR_NOT_FOUND.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import slot_of
from gateway.apis.shared.directories import directories_of, directory_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def alter_replica_log_dirs(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    outcomes: dict[str, dict[int, int]] = {}
    async for directory in ctx.paced(request.dirs):
        async for topic in ctx.paced(directory.topics):
            async for partition in ctx.paced(topic.partitions):
                code = _outcome(ctx, topic.name, partition, directory.path)
                outcomes.setdefault(topic.name, {})[partition] = code
    return {"results": await ctx.connection.aside(_results, outcomes)}


def _outcome(ctx: RequestContext, name: str, partition: int, directory: str) -> int:
    if directory not in directories_of(ctx.services.config):
        return ErrorCode.log_dir_not_found
    slot = slot_of(ctx.services.topics.get(name), partition)
    if slot is None:
        return ErrorCode.unknown_topic_or_partition
    is_there = directory_of(ctx.services.config, ctx.services.store, slot) == directory
    return ErrorCode.none if is_there else ErrorCode.log_dir_not_found


def _results(outcomes: Mapping[str, Mapping[int, int]]) -> list[dict[str, Any]]:
    """For any thread."""
    return [
        {
            "topic_name": name,
            "partitions": [{"partition_index": index, "error_code": code} for index, code in partitions.items()],
        }
        for name, partitions in outcomes.items()
    ]


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    outcomes: dict[str, dict[int, int]] = {}
    for directory in request.dirs:
        for topic in directory.topics:
            outcomes.setdefault(topic.name, {}).update(dict.fromkeys(topic.partitions, code))
    return {"results": _results(outcomes)}


API: Final = Api(
    key=34,
    name="AlterReplicaLogDirs",
    versions=range(1, 3),
    handle=alter_replica_log_dirs,
    error_response=_error_response,
)
