"""DescribeTransactions (key 65), version 0: state and partitions of transactional ids (KIP-664)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.transaction import Transaction
from gateway.wire.message import Message


async def describe_transactions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    described = []
    async for transactional_id in ctx.paced(dict.fromkeys(request.transactional_ids)):
        if not ctx.may(Operation.DESCRIBE, ResourceType.TRANSACTIONAL_ID, transactional_id):
            described.append(_denied(transactional_id))
            continue
        try:
            known = ctx.services.transactions.of(transactional_id).get(transactional_id)
        except Refusal as refused:
            described.append(_failed(transactional_id, refused.code))
            continue
        if known is not None:
            described.append(await _described(ctx, known))
        elif transactional_id:
            described.append(_failed(transactional_id, ErrorCode.transactional_id_not_found))
        else:
            described.append(_failed(transactional_id, ErrorCode.invalid_request))
    return {"transaction_states": described}


async def _described(ctx: RequestContext, known: Transaction) -> dict[str, Any]:
    slots: dict[int, list[int]] = {}
    async for place in ctx.paced(known.partitions):
        slots.setdefault(place.stream_id, []).append(place.slot)
    partitions: dict[str, list[int]] = {}
    async for stream_id in ctx.paced(sorted(slots)):
        stream = ctx.services.store.stream_of(stream_id)
        if stream is not None and ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, stream.name):
            partitions[stream.name] = sorted(slots[stream_id])
    return {
        "error_code": ErrorCode.none,
        "transactional_id": known.transactional_id,
        "transaction_state": known.state.kafka_name,
        "transaction_timeout": known.timeout_ms,
        "transaction_start_time": known.started_ms,
        "producer_id": known.producer_id,
        "producer_epoch": known.epoch,
        "topics": [{"topic": name, "partitions": numbers} for name, numbers in partitions.items()],
    }


def _denied(transactional_id: str) -> dict[str, Any]:
    """As Kafka: with zeros in the place of all that it would say."""
    code = ErrorCode.transactional_id_authorization_failed
    nothing = {"transaction_start_time": 0, "producer_id": 0, "producer_epoch": 0}
    return _failed(transactional_id, code) | nothing


def _failed(transactional_id: str, code: int) -> dict[str, Any]:
    return {
        "error_code": code,
        "transactional_id": transactional_id,
        "transaction_state": "",
        "transaction_timeout": 0,
        "transaction_start_time": 0,
        "producer_id": 0,
        "producer_epoch": 0,
        "topics": [],
    }


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {"transaction_states": [_failed(name, code) for name in request.transactional_ids]}


API: Final = Api(
    key=65,
    name="DescribeTransactions",
    versions=range(1),
    handle=describe_transactions,
    error_response=error_response,
    large_answer=True,
)
