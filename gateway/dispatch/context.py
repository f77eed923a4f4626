"""A request's context beside its body: the client, its rights, the connection and the broker's services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gateway.network.turns import Stint
from gateway.security.acls import CLUSTER_NAME, OPERATIONS_OF, Operation, ResourceType
from gateway.security.denial import Denied, denial_of

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.security.principal import Principal
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
    """One request, without its body. `apis`: every API that is served. `api`: the name of the one that is asked.
    `is_alone`: its connection begins nothing further before it is answered, as it is large."""

    services: Services
    version: int
    correlation_id: int
    client_id: str | None
    connection: Connection
    apis: Iterable[Described]
    api: str = ""
    is_alone: bool = False

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.connection.principal

    @property
    def host(self) -> str:
        """The address of who asks."""
        return self.connection.peer_host

    def may(self, operation: Operation, kind: ResourceType, name: str = CLUSTER_NAME) -> bool:
        """May the client do this? A handler asks before it looks whether the resource exists; the audit log hears of
        a denial."""
        authorizer = self.services.authorizer
        return authorizer is None or authorizer.rights_of(self.connection).may(operation, kind, name, self.api)

    def has(self, operation: Operation, kind: ResourceType, name: str = CLUSTER_NAME) -> bool:
        """The same for a filter of a list, or where one of several rights is enough: a denial is no event."""
        authorizer = self.services.authorizer
        return authorizer is None or authorizer.rights_of(self.connection).has(operation, kind, name)

    def has_some(self, operation: Operation, kind: ResourceType) -> bool:
        """May the client do this with some resource of the type?"""
        authorizer = self.services.authorizer
        return authorizer is None or authorizer.rights_of(self.connection).has_some(operation, kind)

    def require(self, operation: Operation, kind: ResourceType, name: str = CLUSTER_NAME) -> None:
        """Raises Denied, which ends the request: `Api.error_response` is its answer, with the type's code."""
        if not self.may(operation, kind, name):
            raise denial_of(kind)

    async def allowed(self, operation: Operation, kind: ResourceType, names: Iterable[str]) -> Allowed:
        """Those of many names that the client may do this to, each asked once."""
        if self.services.authorizer is None:
            return ALL_ALLOWED
        return frozenset([name async for name in self.paced(dict.fromkeys(names)) if self.may(operation, kind, name)])

    def operations(self, kind: ResourceType, name: str = CLUSTER_NAME) -> int:
        """Kafka's `authorized_operations`: a bit for each operation that the client may do on a resource."""
        authorizer = self.services.authorizer
        if authorizer is None:
            return sum(1 << operation for operation in OPERATIONS_OF[kind])
        return authorizer.rights_of(self.connection).operations(kind, name)

    def tell(self, event: str, **facts: Any) -> None:
        """The audit log, if there is one, hears what the client has changed."""
        authorizer = self.services.authorizer
        if authorizer is not None:
            authorizer.audit.tell(event, self.principal, self.host, **facts)

    async def paced(self, items: Iterable[_T], gives_way: bool = True) -> AsyncIterator[_T]:
        """One item after another; gives way to others when this has kept the event loop for long.

        `gives_way`: `is_alone` for a request that must take effect before those behind it on its connection.
        """
        stint = Stint(self.connection.turns, self.connection.party)
        for item in items:
            if gives_way and stint.is_over:
                await stint.give_way()
            yield item


class Allowed(Protocol):
    """Names that are allowed."""

    def __contains__(self, name: object, /) -> bool: ...


class _All:
    """Every name."""

    def __contains__(self, name: object, /) -> bool:
        return True


ALL_ALLOWED: Allowed = _All()
__all__ = ["ALL_ALLOWED", "Allowed", "Denied", "Described", "RequestContext"]
