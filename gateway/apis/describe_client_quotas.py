"""DescribeClientQuotas (key 48), versions 0-1 (KIP-546): the quotas of entities that match a filter; v1 is flexible.

A filter that makes no sense is refused, as by Kafka.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.apis.shared.client_quotas import PARTS_MAX, Component, check_filter, chosen
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def describe_client_quotas(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER)
    some = request.components[:PARTS_MAX]  # more than there are kinds name one twice, or one that is none
    components = [Component(part.entity_type, part.match_type, part.match) for part in some]
    try:
        check_filter(components)
    except Refusal as refused:
        return {**told(refused), "entries": None}
    entries = [
        {
            "entity": [{"entity_type": kind, "entity_name": name} for kind, name in sorted(entity)],
            "values": [{"key": key, "value": value} for key, value in sorted(values.items())],
        }
        async for entity, values in ctx.paced(ctx.services.quotas.entities().items())
        if chosen(components, request.strict, dict(entity))
    ]
    return {"error_message": "", "entries": entries}


API: Final = Api(
    key=48,
    name="DescribeClientQuotas",
    versions=range(2),
    handle=describe_client_quotas,
    error_response=lambda request, version, code: {"error_code": code, "entries": None},
)
