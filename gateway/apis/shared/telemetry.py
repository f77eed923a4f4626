"""A client's properties that subscriptions to its metrics match (KIP-714)."""

from __future__ import annotations

from gateway.dispatch.context import RequestContext
from gateway.telemetry.subscriptions import Properties


def properties_of(ctx: RequestContext) -> Properties:
    """Without its instance id, which it may not have yet."""
    connection = ctx.connection
    return Properties(
        instance_id="",
        id=ctx.client_id or "",
        software_name=connection.client_software_name or "",
        software_version=connection.client_software_version or "",
        source_address=connection.peer_host,
        source_port=str(connection.peer_port),
    )
