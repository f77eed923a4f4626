"""FindCoordinator (key 10), versions 0-6: the broker that keeps a group or a transaction.

v1 brings key types, v4 (KIP-699) several keys at once, v6 (KIP-932) those of share coordinators, which brokers alone
ask for: they are refused with INVALID_REQUEST. A key's coordinator is that of its home; there is none while that
container's storage has failed. Clients are sent back to the listener that they came by.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.security.denial import denial_of
from gateway.topics.topics import CONSUMER_OFFSETS, TRANSACTION_STATE
from gateway.wire.message import Message

BATCHED_FROM: Final = 4
MALFORMED: Final = (
    "This most likely occurs because of a request being malformed by the client library or the message was sent to an "
    "incompatible broker. See the broker logs for more details."
)
NO_NODE: Final[Mapping[str, Any]] = {"node_id": -1, "host": "", "port": -1}


class KeyType(enum.IntEnum):
    GROUP = 0
    TRANSACTION = 1


_TOPICS: Final = {KeyType.GROUP: CONSUMER_OFFSETS, KeyType.TRANSACTION: TRANSACTION_STATE}
_RESOURCES: Final = {KeyType.GROUP: ResourceType.GROUP, KeyType.TRANSACTION: ResourceType.TRANSACTIONAL_ID}


async def find_coordinator(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if request.key_type not in (KeyType.GROUP, KeyType.TRANSACTION):
        return error_response(request, ctx.version, ErrorCode.invalid_request)
    listener = ctx.connection.listener
    nodes, homes = ctx.services.nodes, ctx.services.groups.homes
    coordinators = ctx.services.groups if request.key_type == KeyType.GROUP else ctx.services.transactions

    def node_of(key: str) -> Mapping[str, Any] | None:
        """The node that keeps a group or a transaction; None while there is none."""
        ctx.services.internal_topics.asked_for(_TOPICS[request.key_type])
        is_here = coordinators.is_here(key)
        address = nodes.address(nodes.me if is_here else nodes.leader(homes.of(key)), listener)
        if address is None or (address.node_id == nodes.me and not is_here):
            return None
        return {"error_code": ErrorCode.none, **address._asdict()}

    kind = _RESOURCES[request.key_type]
    if ctx.version < BATCHED_FROM:
        ctx.require(Operation.DESCRIBE, kind, request.key)
        found = node_of(request.key)
        return found or error_response(request, ctx.version, ErrorCode.coordinator_not_available)
    denied = _failed(denial_of(kind).code)
    nobody = _failed(ErrorCode.coordinator_not_available)

    def answer(key: str) -> Mapping[str, Any]:
        if not ctx.may(Operation.DESCRIBE, kind, key):
            return denied
        return node_of(key) or nobody

    return {"coordinators": [{"key": key, **answer(key)} async for key in ctx.paced(request.coordinator_keys)]}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    if version < BATCHED_FROM:
        why = MALFORMED if error == ErrorCode.invalid_request else None
        return {"error_code": error, "error_message": why, **NO_NODE}
    answer = _failed(error)
    return {"coordinators": [{"key": key, **answer} for key in request.coordinator_keys]}


def _failed(error: int) -> Mapping[str, Any]:
    return {"error_code": error, "error_message": "", **NO_NODE}


API: Final = Api(
    key=10,
    name="FindCoordinator",
    versions=range(7),
    handle=find_coordinator,
    error_response=error_response,
    large_answer=True,
)
