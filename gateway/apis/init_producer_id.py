"""InitProducerId (key 22), versions 0-5: ids for idempotent producers.

v3 lets a producer name the id that it had (KIP-360), v4 and v5 change error codes of transactions.
v6 (KIP-939) is not stable in any Kafka and not served.

Keeps: every answer is an id that nobody ever had, with epoch 0, as Kafka's, also for a producer
that names its former one: idempotent producers bump their epoch themselves, and an id that a
stranger makes up must never be confirmed. Transactions are not there yet: a transactional id gets
TRANSACTIONAL_ID_AUTHORIZATION_FAILED, the one code that every client takes as final at once
(librdkafka retries UNSUPPORTED_VERSION until its time-out).
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.admin import storage_code
from gateway.apis import Api, RequestContext
from gateway.wire.message import Message


async def init_producer_id(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if request.transactional_id == "":
        return _refused(ErrorCode.invalid_request)
    if (request.producer_id == -1) != (request.producer_epoch == -1):
        return _refused(ErrorCode.invalid_request)
    if request.transactional_id is not None:
        return _refused(ErrorCode.transactional_id_authorization_failed)
    try:
        producer_id = await ctx.broker.producers.allocate()
    except StoreError as failed:
        return _refused(storage_code(failed))
    return {"error_code": ErrorCode.none, "producer_id": producer_id, "producer_epoch": 0}


def _refused(code: int) -> Mapping[str, Any]:
    return {"error_code": code, "producer_id": -1, "producer_epoch": -1}


API: Final = Api(
    key=22,
    name="InitProducerId",
    versions=range(6),
    handle=init_producer_id,
    error_response=lambda request, version, code: _refused(code),
)
