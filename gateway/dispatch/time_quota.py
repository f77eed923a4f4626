"""Whose quota the time of a request is charged to (`request_percentage`), and the pause that follows from it.

Kafka counts the time of its threads, of which it has many; here it is the time of the one event loop, in per cent.

Keeps: a client over its share is muted for at most a second, and what it asked before is answered, with records too: it
is slower, and is never shut out. Nodes, and clients that have not said who they are, have no quota.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.network.connection import Connection


def charge_time(connection: Connection, seconds: float) -> None:
    """Count time of the loop; a client that had more than its share is muted."""
    if _has_quota(connection):
        quotas = connection.services.quotas
        connection.mute(quotas.spend(connection.principal.name, connection.client_id, seconds))


def time_pause_ms(connection: Connection) -> int:
    """The pause that an answer names: for what was counted until now, as the answer itself still takes time."""
    quotas = connection.services.quotas
    if not quotas.is_timed or not _has_quota(connection):
        return 0
    return quotas.time_pause_ms(connection.principal.name, connection.client_id)


def _has_quota(connection: Connection) -> bool:
    return not (connection.listener.inner or connection.is_unproved)
