"""AddOffsetsToTxn (key 25), versions 0-4: announces a group for which a transaction will commit offsets.

v2 answers a fenced producer with PRODUCER_FENCED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.coordinator import check_name
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.errors import transaction_code
from gateway.transactions.transaction import Identity
from gateway.wire.message import Message


async def add_offsets_to_txn(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id)
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    error = check_name(request.group_id)
    if error is not ErrorCode.none:
        return {"error_code": error}
    identity = Identity(request.producer_id, request.producer_epoch)
    try:
        transactions = ctx.services.transactions.of(request.transactional_id)
        add = transactions.add_elsewhere if ctx.connection.listener.inner else transactions.add
        await add(request.transactional_id, identity, (), (request.group_id,))
    except (Refusal, StoreError) as refused:
        return {"error_code": transaction_code(refused, ctx.version)}
    return {"error_code": ErrorCode.none}


API: Final = Api(
    key=25,
    name="AddOffsetsToTxn",
    versions=range(5),
    handle=add_offsets_to_txn,
    error_response=lambda request, version, code: {"error_code": code},
)
