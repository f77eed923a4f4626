"""EndTxn (key 26), versions 0-5: commit or abort.

v2 answers a fenced producer with PRODUCER_FENCED, v5 (KIP-890) gives the producer a new epoch with each end, so that
nothing of an old transaction can reach the next one.

Keeps: the answer without error is sent when the outcome and the new epoch are durable. Where all lies in one container,
or nothing holds up the others, markers and offsets are, too. An unexpected error closes the connection, so that the
client asks again: at UNKNOWN_SERVER_ERROR clients lose data silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.errors import transaction_code
from gateway.transactions.transaction import NO_EPOCH, NO_ID, Identity
from gateway.wire.message import Message

EPOCH_BUMPED_SINCE: Final = 5


async def end_txn(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not ctx.may(Operation.WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id):
        return _refused(ErrorCode.transactional_id_authorization_failed)
    try:
        identity = await ctx.services.transactions.of(request.transactional_id).end(
            request.transactional_id,
            Identity(request.producer_id, request.producer_epoch),
            committed=request.committed,
            bumps=ctx.version >= EPOCH_BUMPED_SINCE,
        )
    except (Refusal, StoreError) as error:
        return _refused(transaction_code(error, ctx.version))
    return {"error_code": 0, "producer_id": identity.producer_id, "producer_epoch": identity.epoch}


def _refused(code: int) -> Mapping[str, Any]:
    return {"error_code": code, "producer_id": NO_ID, "producer_epoch": NO_EPOCH}


API: Final = Api(key=26, name="EndTxn", versions=range(6), handle=end_txn)
