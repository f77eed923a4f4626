"""The group protocols after the classic one that are not served because the operator leaves them out: consumer
(KIP-848), share (KIP-932) and streams groups (KIP-1071).

They are answered as by a Kafka whose group.coordinator.rebalance.protocols leaves them out: with UNSUPPORTED_VERSION,
which a client takes for final. Were their keys not served, librdkafka would wait for a coordinator that speaks them,
for ever and without an error.

Keeps: a member that is turned away leaves a log line that names its client and the remedy; a question about such groups
leaves none, because administrative clients ask first and then fall back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.refusals import Refusal
from gateway.wire.message import Message

logger = logging.getLogger(__name__)

NOT_SERVED: Final = ErrorCode.unsupported_version
NOT_SERVED_TEXT: Final = "The version of API is not supported."
"""Kafka's message, in the answers that have one."""
CHARS_MAX: Final = 100
"""Characters of a name that a client chose, in a log line."""


def serves_consumer_groups(ctx: RequestContext) -> bool:
    """Whether consumer groups (KIP-848) are served: as configured, and unless their feature is lowered."""
    protocols = ctx.services.config.group_coordinator_rebalance_protocols
    return "consumer" in protocols and ctx.services.features.level("group.version") > 0


def serves_streams_groups(ctx: RequestContext) -> bool:
    """Whether streams groups (KIP-1071) are served: as configured, and unless their feature is lowered."""
    protocols = ctx.services.config.group_coordinator_rebalance_protocols
    return "streams" in protocols and ctx.services.features.level("streams.version") > 0


def turned_away(ctx: RequestContext, group_id: str, protocol: str, remedy: str) -> Mapping[str, Any]:
    """The answer to a member that would join; the log's rate limit is per line, so floods cost a count."""
    connection = ctx.connection
    software = f"{connection.client_software_name or 'unknown'}/{connection.client_software_version or 'unknown'}"
    logger.warning(
        "a client asks for a group protocol that is not served: %s",
        remedy,
        extra={
            "protocol": protocol,
            "client": (ctx.client_id or "")[:CHARS_MAX],
            "software": software,
            "peer": f"{connection.peer_host}:{connection.peer_port}",
            "group": group_id[:CHARS_MAX],
        },
    )
    return {"error_code": NOT_SERVED}


def refused(refusal: Refusal) -> Mapping[str, Any]:
    """The answer to a member whose request is refused."""
    return {"error_code": refusal.code, "error_message": refusal.message}


def none_described(group_ids: Iterable[str], code: int = NOT_SERVED) -> Mapping[str, Any]:
    """The answer to a description of groups."""
    return {"groups": [{"error_code": code, "group_id": group_id} for group_id in group_ids]}


def in_every_group(request: Message, version: int, code: int) -> Mapping[str, Any]:
    """The error response of what describes groups."""
    return none_described(request.group_ids, code)
