"""UnregisterBroker (key 64), version 0: has the cluster forget a broker that does not run any more.

Keeps: a broker that lives stays in the cluster, as it would register again at once.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal, refusal_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def unregister_broker(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    broker = request.broker_id
    try:
        await _forget(ctx, broker)
    except Refusal as refused:
        return told(refused)
    except StoreError as error:
        return told(refusal_of(error))
    ctx.tell("broker forgotten", broker=broker)
    return told(None)


async def _forget(ctx: RequestContext, broker: int) -> None:
    """Raises Refusal, StoreError."""
    services = ctx.services
    known = {node.id: node for node in services.picture.nodes()}
    if broker not in known:
        raise Refusal(ErrorCode.broker_id_not_registered, f"Broker ID {broker} is not currently registered")
    if known[broker].end is None:
        why = "is the only broker" if len(known) == 1 else "runs: stop it first"
        raise Refusal(ErrorCode.policy_violation, f"Broker ID {broker} {why}")
    if services.forget_node is None or not await services.forget_node(broker):
        raise Refusal(ErrorCode.policy_violation, f"Broker ID {broker} has changed meanwhile: look whether it runs")


API: Final = Api(
    key=64,
    name="UnregisterBroker",
    versions=range(1),
    handle=unregister_broker,
    error_response=lambda request, version, code: {"error_code": code},
)
