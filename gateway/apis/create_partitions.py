"""CreatePartitions (key 37), versions 0-3.

Keeps: a topic only grows, and every partition keeps its number, offsets and records: a growth is a
scale that seals every segment and cuts the key space again in the same way. From N to 2N partitions, N a
power of two, a key of partition p stays there or goes to p + N. One key's records from before and after
are in order if its producers were idle in between; see docs/internals/elasticity.md.
Assignments that contradict themselves are refused; all others are accepted.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.create_topics import AT_ONCE, replicas_refused
from gateway.apis.shared.administration import repeated_among, told
from gateway.apis.shared.mutations import mutations_of, pause
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.topics.checks import check_growth
from gateway.wire.message import Message

STRICT_FROM: Final = 3
"""First version whose clients know that they are refused for their quota (KIP-599)."""


async def create_partitions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    twice = await repeated_among(ctx, (topic.name for topic in request.topics))
    outcomes: dict[str, Refusal | None] = {}
    wanted: dict[str, int] = {}
    async for topic in ctx.paced(request.topics):
        if topic.name in twice:
            outcomes[topic.name] = Refusal(ErrorCode.invalid_request, "Duplicate topic name.")
            continue
        try:
            ctx.require(Operation.ALTER, ResourceType.TOPIC, topic.name)
            await _check_assignments(ctx, topic)
            wanted[topic.name] = topic.count
        except Refusal as refused:
            outcomes[topic.name] = refused
    mutations = mutations_of(ctx, STRICT_FROM)
    grown = await ctx.services.topics.grow(wanted, request.validate_only, mutations.charge)
    async for name, refusal in ctx.paced(grown.items()):
        if refusal is None and not request.validate_only:
            ctx.tell("partitions added", name=name, partitions=wanted[name])
    outcomes |= grown
    results = [{"name": name, **told(outcome)} async for name, outcome in ctx.paced(outcomes.items())]
    return {"throttle_time": pause(ctx, mutations), "results": results}


async def _check_assignments(ctx: RequestContext, topic: Message) -> None:
    """Kafka looks at the topic and the count first."""
    if topic.assignments is None:
        return
    stream = ctx.services.topics.existing(topic.name)
    check_growth(stream, topic.count)
    added = topic.count - stream.slot_count
    if added != len(topic.assignments):
        raise Refusal(
            ErrorCode.invalid_replica_assignment,
            f"Attempted to add {added} additional partition(s), but only "
            f"{len(topic.assignments)} assignment(s) were specified.",
        )
    brokers = [assignment.broker_ids for assignment in topic.assignments]
    why = await ctx.connection.aside(replicas_refused, brokers) if added > AT_ONCE else replicas_refused(brokers)
    if why is not None:
        raise Refusal(ErrorCode.invalid_replica_assignment, why)


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {"results": [{"name": topic.name, "error_code": code} for topic in request.topics]}


API: Final = Api(
    key=37,
    name="CreatePartitions",
    versions=range(4),
    handle=create_partitions,
    error_response=_error_response,
)
