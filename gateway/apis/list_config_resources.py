"""ListConfigResources (key 74), versions 0-1: names that can be described (KIP-714, KIP-1142).

v0 is about client metrics only. Groups and subscriptions are listed if they have configs of their own.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.keys import ResourceType
from gateway.kafka_configs.resource_keys import KINDS
from gateway.security.acls import Operation
from gateway.security.acls import ResourceType as AclType
from gateway.wire.message import Message

ANY_TYPE_FROM: Final = 1


async def list_config_resources(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE_CONFIGS, AclType.CLUSTER)
    known = {kind.value for kind in ResourceType}
    asked = set(request.resource_types) or known
    if ctx.version < ANY_TYPE_FROM:
        asked = {ResourceType.CLIENT_METRICS.value}
    if asked - known:
        return {"error_code": ErrorCode.unsupported_version}
    node = str(ctx.services.node_id)
    found = [(node, kind) for kind in (ResourceType.BROKER, ResourceType.BROKER_LOGGER)]
    if ResourceType.TOPIC in asked:
        found += [(stream.name, ResourceType.TOPIC) async for stream in ctx.paced(list(ctx.services.topics))]
    for kind in KINDS.values():
        found += [(name, kind.type) for name in ctx.services.resource_configs.names(kind)]
    return {
        "config_resources": [
            {"resource_name": name, "resource_type": kind} async for name, kind in ctx.paced(found) if kind in asked
        ]
    }


API: Final = Api(
    key=74,
    name="ListConfigResources",
    versions=range(2),
    handle=list_config_resources,
    error_response=lambda request, version, code: {"error_code": code},
)
