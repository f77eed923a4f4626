"""ListPartitionReassignments (key 46), version 0: none is ever under way, for there is one broker."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def list_partition_reassignments(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE, ResourceType.CLUSTER)
    return {"topics": []}


API: Final = Api(
    key=46,
    name="ListPartitionReassignments",
    versions=range(1),
    handle=list_partition_reassignments,
    error_response=lambda request, version, code: {"error_code": code},
)
