"""ElectLeaders (key 43), versions 0-2; v1 names the kind of election (KIP-460).

Keeps: every partition has its only leader already: ELECTION_NOT_NEEDED. A request for all partitions
lists those whose leader changed: none.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import slot_of, told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

PREFERRED, UNCLEAN = 0, 1


async def elect_leaders(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    if request.election_type not in (PREFERRED, UNCLEAN):
        why = f"Unknown election type {request.election_type}"
        return await ctx.connection.aside(_everywhere, request, Refusal(ErrorCode.invalid_request, why))
    return {
        "replica_election_results": [
            {
                "topic": topic.topic,
                "partition_result": [
                    {"partition_id": p, **told(_outcome(ctx, topic.topic, p))}
                    async for p in ctx.paced(topic.partitions)
                ],
            }
            async for topic in ctx.paced(request.topic_partitions or [])
        ]
    }


def _outcome(ctx: RequestContext, name: str, partition: int) -> Refusal:
    stream = ctx.services.topics.get(name)
    if stream is None:
        return Refusal(ErrorCode.unknown_topic_or_partition, f"No such topic as {name}")
    if slot_of(stream, partition) is None:
        why = f"No such partition as {name}-{partition}"
        return Refusal(ErrorCode.unknown_topic_or_partition, why)
    return Refusal(ErrorCode.election_not_needed, "Leader election not needed for topic partition.")


def _everywhere(request: Message, refusal: Refusal) -> Mapping[str, Any]:
    """The same for every partition. For any thread."""
    return {
        "error_code": refusal.code,
        "replica_election_results": [
            {
                "topic": topic.topic,
                "partition_result": [{"partition_id": p, **told(refusal)} for p in topic.partitions],
            }
            for topic in request.topic_partitions or []
        ],
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return _everywhere(request, Refusal(ErrorCode(code)))


API: Final = Api(
    key=43,
    name="ElectLeaders",
    versions=range(3),
    handle=elect_leaders,
    error_response=_error_response,
)
