"""AlterPartitionReassignments (key 45), versions 0-1; v1 (KIP-860) may forbid another number of replicas.

Keeps: a partition's only replica is this broker's. An assignment to it alone is already in effect; any other names a
broker that does not exist. No reassignment is ever under way, so none can be cancelled.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import slot_of, told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def alter_partition_reassignments(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    return {
        "allow_replication_factor_change": request.allow_replication_factor_change,
        "error_message": None if request.topics else "",
        "responses": [
            {
                "name": topic.name,
                "partitions": [
                    {"partition_index": part.partition_index, **told(_why_not(ctx, topic.name, part))}
                    async for part in ctx.paced(topic.partitions)
                ],
            }
            async for topic in ctx.paced(request.topics)
        ],
    }


def _why_not(ctx: RequestContext, name: str, part: Message) -> Refusal | None:
    """Why the requested replicas are refused; None when the partition has them already."""
    stream = ctx.services.topics.get(name)
    if stream is None:
        return Refusal(ErrorCode.unknown_topic_or_partition, f"Unable to find a topic named {name}.")
    if slot_of(stream, part.partition_index) is None:
        why = f"Unable to find partition {name}:{part.partition_index}."
        return Refusal(ErrorCode.unknown_topic_or_partition, why)
    if part.replicas is None:
        return Refusal(ErrorCode.no_reassignment_in_progress)
    return _wrong(part.replicas, ctx.services.node_id)


def _wrong(replicas: Sequence[int], node_id: int) -> Refusal | None:
    if not replicas:
        return _invalid("includes an empty replica list.")
    before = None
    for replica in sorted(replicas):
        if replica != node_id:
            return _invalid(f"includes broker {replica}, but no such broker is registered.")
        if replica == before:
            return _invalid(f"includes the broker {replica} more than once.")
        before = replica
    return None


def _invalid(why: str) -> Refusal:
    return Refusal(ErrorCode.invalid_replica_assignment, f"The manual partition assignment {why}")


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "error_code": code,
        "responses": [
            {
                "name": topic.name,
                "partitions": [{"partition_index": p.partition_index, "error_code": code} for p in topic.partitions],
            }
            for topic in request.topics
        ],
    }


API: Final = Api(
    key=45,
    name="AlterPartitionReassignments",
    versions=range(2),
    handle=alter_partition_reassignments,
    error_response=_error_response,
)
