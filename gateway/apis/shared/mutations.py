"""Requests that make or delete partitions, against their client's quota.

Keeps: a request whose answer names a pause is the last that its connection begins before the pause is over.
"""

from __future__ import annotations

from gateway.dispatch.context import RequestContext
from gateway.quotas.mutations import Mutations


def mutations_of(ctx: RequestContext, strict_from: int) -> Mutations:
    """The quota that a request's partitions are charged to; strict from a version of its API on."""
    is_strict = ctx.version >= strict_from
    return Mutations(ctx.services.quotas, ctx.principal.name, ctx.client_id, is_strict=is_strict)


def pause(ctx: RequestContext, mutations: Mutations) -> int:
    """Mute the connection for as long as its client must pause; returns the `throttle_time` of the answer, in ms."""
    ctx.connection.mute(mutations.pause_ms)
    return mutations.pause_ms
