"""Delegation tokens as requests name them, and who may ask for them at all.

Keeps: a connection without an identity of its own, or with one that a token gave it, does nothing with tokens, as in
Kafka: a token can neither make another nor prolong itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.refusals import Refusal
from gateway.security.delegation_rows import DelegationToken
from gateway.security.principal import ANONYMOUS

NO_TIME: Final = -1
"""A token's time, in ms, if there is no token."""
NOT_ALLOWED: Final = Refusal(
    ErrorCode.delegation_token_request_not_allowed,
    "Tokens are for connections that prove who they are, by other means than a token",
)


def require_own_proof(ctx: RequestContext) -> None:
    """Raises Refusal for a connection that may not ask about tokens."""
    session = ctx.connection.sasl_session
    if session.came_by_token if session is not None else ctx.principal == ANONYMOUS:
        raise NOT_ALLOWED


def told_token(token: DelegationToken) -> dict[str, Any]:
    """What answers tell of a token, but for its secret."""
    return {
        "principal_type": token.owner.type,
        "principal_name": token.owner.name,
        "token_requester_principal_type": token.requester.type,
        "token_requester_principal_name": token.requester.name,
        "issue_timestamp": token.made_ms,
        "expiry_timestamp": token.ends_ms,
        "max_timestamp": token.ends_at_last_ms,
        "token_id": token.id,
    }


def tell(ctx: RequestContext, event: str, token: DelegationToken) -> None:
    """The audit log hears what was done to a token."""
    ctx.tell(event, token=token.id, owner=str(token.owner), ends_ms=token.ends_ms)


def no_end(code: int) -> Mapping[str, Any]:
    """The answer to a renewal or an end that came to nothing, with Kafka's times: its brokers say one, its controller
    another."""
    return {"error_code": code, "expiry_timestamp": NO_TIME if code == NOT_ALLOWED.code else 0}
