"""ListTransactions (key 66), versions 0-1: transactional ids by state and producer (KIP-664).

v1 (KIP-994) leaves out transactions that are younger than a time. v2 is not served: its pattern of ids is a stranger's
regular expression, which Python may evaluate for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.transaction import Transaction, TransactionState
from gateway.wire.message import Message

UNUSED_STATES: Final = frozenset({"Dead", "PrepareEpochFence"})
"""Kafka's states that no transaction has here; a filter may name them."""


async def list_transactions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    names = {state.kafka_name for state in TransactionState} | UNUSED_STATES
    unknown = [name for name in request.state_filters if name not in names]
    wanted, producer_ids = set(request.state_filters), set(request.producer_id_filters)
    began_before_ms = (
        ctx.services.store.trusted.ages_ms() - request.duration_filter if request.duration_filter >= 0 else None
    )

    def matches(known: Transaction) -> bool:
        return (
            (not wanted or known.state.kafka_name in wanted)
            and (not producer_ids or known.producer_id in producer_ids)
            and (began_before_ms is None or 0 <= known.started_ms < began_before_ms)
            and ctx.has(Operation.DESCRIBE, ResourceType.TRANSACTIONAL_ID, known.transactional_id)
        )

    return {
        "error_code": ErrorCode.none,
        "unknown_state_filters": unknown,
        "transaction_states": [
            _listed(known) async for known in ctx.paced(list(ctx.services.transactions)) if matches(known)
        ],
    }


def _listed(known: Transaction) -> dict[str, Any]:
    return {
        "transactional_id": known.transactional_id,
        "producer_id": known.producer_id,
        "transaction_state": known.state.kafka_name,
    }


API: Final = Api(
    key=66,
    name="ListTransactions",
    versions=range(2),
    handle=list_transactions,
    error_response=lambda request, version, code: {
        "error_code": code,
        "unknown_state_filters": [],
        "transaction_states": [],
    },
    large_answer=True,
)
