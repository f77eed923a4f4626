"""InitProducerId (key 22), versions 0-5: ids for idempotent and transactional producers.

v3 lets a producer name the id and epoch that it had (KIP-360), v4 answers a fenced one with PRODUCER_FENCED, v5
belongs to the second version of transactions (KIP-890). v6 (KIP-939) is not stable in any Kafka and not served.

Keeps: without a transactional id every answer is a new id with epoch 0, as in Kafka, even for a producer that names its
former one: idempotent producers bump their epoch themselves, and an id that a stranger makes up must never be
confirmed. With a transactional id, each producer that asks fences the one before.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.errors import transaction_code
from gateway.transactions.transaction import NOBODY, Identity
from gateway.wire.message import Message

FENCED_SINCE: Final = 4


async def init_producer_id(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    expected = Identity(request.producer_id, request.producer_epoch)
    if request.transactional_id == "" or (expected.producer_id == -1) != (expected.epoch == -1):
        return _refused(ErrorCode.invalid_request)
    if request.transactional_id is None:
        if not ctx.has(Operation.IDEMPOTENT_WRITE, ResourceType.CLUSTER) and not ctx.has_some(
            Operation.WRITE, ResourceType.TOPIC
        ):
            ctx.require(Operation.IDEMPOTENT_WRITE, ResourceType.CLUSTER)
        try:
            return _answer(Identity(await ctx.services.producers.allocate(), 0))
        except StoreError as failed:
            return _refused(code_of(failed, Asked.PARTITION))
    ctx.require(Operation.WRITE, ResourceType.TRANSACTIONAL_ID, request.transactional_id)
    try:
        return _answer(
            await ctx.services.transactions.of(request.transactional_id).init_producer(
                request.transactional_id,
                request.transaction_timeout,
                None if expected == NOBODY else expected,
            )
        )
    except (Refusal, StoreError) as error:
        return _refused(transaction_code(error, ctx.version, FENCED_SINCE))


def _answer(identity: Identity) -> Mapping[str, Any]:
    return {"error_code": ErrorCode.none, "producer_id": identity.producer_id, "producer_epoch": identity.epoch}


def _refused(code: int) -> Mapping[str, Any]:
    return {"error_code": code, "producer_id": NOBODY.producer_id, "producer_epoch": NOBODY.epoch}


API: Final = Api(
    key=22,
    name="InitProducerId",
    versions=range(6),
    handle=init_producer_id,
    error_response=lambda request, version, code: _refused(code),
)
