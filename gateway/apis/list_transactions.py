"""ListTransactions (key 66), versions 0-2: transactional ids by state and producer (KIP-664).

v1 (KIP-994) leaves out transactions that are younger than a time. v2 (KIP-1152) takes a regular expression of ids, of
RE2's syntax as in Kafka; another is INVALID_REGULAR_EXPRESSION. While some of this broker's ids load, it is
COORDINATOR_LOAD_IN_PROGRESS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.patterns import BadPattern, whole_match
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.transaction import Transaction, TransactionState
from gateway.wire.message import Message

PATTERN_SINCE: Final = 2
UNUSED_STATES: Final = frozenset({"Dead", "PrepareEpochFence"})
"""Kafka's states that no transaction has here; a filter may name them."""


async def list_transactions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.services.transactions.are_loading:
        return error_response(request, ctx.version, ErrorCode.coordinator_load_in_progress)
    try:
        is_named = _named_by(request, ctx.version)
    except BadPattern:
        return {"error_code": ErrorCode.invalid_regular_expression}
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
            and is_named(known.transactional_id)
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


def _named_by(request: Message, version: int) -> Callable[[str], bool]:
    """Whether a transactional id is asked for. Raises BadPattern."""
    pattern = request.transactional_id_pattern if version >= PATTERN_SINCE else None
    return whole_match(pattern) if pattern else lambda name: True


def _listed(known: Transaction) -> dict[str, Any]:
    return {
        "transactional_id": known.transactional_id,
        "producer_id": known.producer_id,
        "transaction_state": known.state.kafka_name,
    }


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {"error_code": code, "unknown_state_filters": [], "transaction_states": []}


API: Final = Api(
    key=66,
    name="ListTransactions",
    versions=range(3),
    handle=list_transactions,
    error_response=error_response,
    large_answer=True,
)
