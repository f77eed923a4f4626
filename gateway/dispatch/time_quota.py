"""Whose quota the time of a request is charged to (`request_percentage`), and the pause that follows from it.

Kafka counts the time of its threads, of which it has many; here it is the time of the one event loop, in per cent.

Keeps: a client over its share is muted for at most a second, and what it asked before is answered, with records too: it
is slower, and is never shut out. It is muted for as long as its answer says. What its turn takes after that, for the
answer's bytes, counts for the next pause, as Kafka counts the time of its network threads. So does what the records of
its TLS take on the loop, to be decrypted and encrypted: it is charged with the next request that has a turn. Nodes, and
clients that have not said who they are, have no quota.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.network.connection import Connection

_now: Final = time.perf_counter


def charge_time(connection: Connection, seconds: float) -> None:
    """Count the time of a turn that has ended; a client that had more than its share is muted, unless its answer has
    named a pause already."""
    party = connection.party
    is_told, party.pause_is_told = party.pause_is_told, False
    seconds += connection.records_s
    connection.records_s = 0.0
    if not _has_quota(connection):
        return
    pause_ms = connection.services.quotas.spend(connection.principal.name, connection.client_id, seconds)
    if not is_told:
        connection.mute(pause_ms)


def time_pause_ms(connection: Connection) -> int:
    """The pause that an answer names, for all that was counted and what this turn has taken until now; the client is
    muted for it."""
    quotas, party = connection.services.quotas, connection.party
    if not quotas.is_timed or not _has_quota(connection):
        return 0
    taken_s = _now() - party.began_s if party.began_s else 0.0  # an answer may come between turns, when all is counted
    taken_s += connection.records_s
    pause_ms = quotas.time_pause_ms(connection.principal.name, connection.client_id, taken_s)
    party.pause_is_told = bool(party.began_s)
    connection.mute(pause_ms)
    return pause_ms


def _has_quota(connection: Connection) -> bool:
    return not (connection.listener.inner or connection.is_unproved)
