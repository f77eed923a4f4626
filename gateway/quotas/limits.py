"""Which quota holds for a client: Kafka's order of entities. Pure.

A user and a client id are named, default (None), or not part of an entity. Of several entities that fit a client the
first of this order counts, whatever their values: user and client; user and default client; user; default user and
client; default user and default client; default user; client; default client.

Keeps: all clients that share an entity by its names share its rate. A default gives each client a rate of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

USER, CLIENT_ID = "user", "client-id"
DEFAULT: Final = None

Parts = frozenset[tuple[str, str | None]]
"""An entity: names by kind; None is the default of its kind."""


class Limit(NamedTuple):
    """A limit, and whose rate it bounds."""

    value: float
    user: str | None
    client_id: str | None
    """None: the rate of all users, or of all client ids, together."""


def limit_of(quotas: Mapping[Parts, float], user: str, client_id: str) -> Limit | None:
    """The limit of a client by the values of one quota; None if there is none."""
    for parts, by_user, by_client in _in_order(user, client_id):
        value = quotas.get(parts)
        if value is not None:
            return Limit(value, user if by_user else None, client_id if by_client else None)
    return None


def _in_order(user: str, client_id: str) -> Iterator[tuple[Parts, bool, bool]]:
    for named in (user, DEFAULT):
        for client in (client_id, DEFAULT):
            yield frozenset({(USER, named), (CLIENT_ID, client)}), True, True
        yield frozenset({(USER, named)}), True, False
    for client in (client_id, DEFAULT):
        yield frozenset({(CLIENT_ID, client)}), False, True
