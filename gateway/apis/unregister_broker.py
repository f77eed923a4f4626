"""UnregisterBroker (key 64), version 0: takes a broker out of the cluster.

Keeps: this broker is the cluster, and stays in it; no other is known.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def unregister_broker(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    if request.broker_id != ctx.services.node_id:
        why = f"Broker ID {request.broker_id} is not currently registered"
        return told(Refusal(ErrorCode.broker_id_not_registered, why))
    return told(Refusal(ErrorCode.policy_violation, f"Broker ID {request.broker_id} is the only broker"))


API: Final = Api(
    key=64,
    name="UnregisterBroker",
    versions=range(1),
    handle=unregister_broker,
    error_response=lambda request, version, code: {"error_code": code},
)
