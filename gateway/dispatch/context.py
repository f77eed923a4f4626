"""A request's context beside its body: the client, the connection and the broker's services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from gateway.network.turns import Stint

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.services import Services

_T = TypeVar("_T")


class Described(Protocol):
    """An API that is served, as ApiVersions shows it."""

    @property
    def key(self) -> int: ...

    @property
    def versions(self) -> range: ...

    @property
    def advertise_from(self) -> int | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class RequestContext:
    """One request, without its body. `apis`: every API that is served."""

    services: Services
    version: int
    correlation_id: int
    client_id: str | None
    connection: Connection
    apis: Iterable[Described]

    async def paced(self, items: Iterable[_T]) -> AsyncIterator[_T]:
        """One item after another; gives way to others when this has kept the event loop for long."""
        stint = Stint(self.connection.turns, self.connection.party)
        for item in items:
            if stint.is_over:
                await stint.give_way()
            yield item
