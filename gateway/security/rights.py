"""What one principal may do from one address: decisions, remembered.

Keeps: a remembered decision is that of the present ACLs: every change of them drops all that is remembered. On the hot
path a permission is one look-up in a dict; a denial is told to the audit log each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from gateway.security.acls import OPERATIONS_OF, Operation, ResourceType

if TYPE_CHECKING:
    from gateway.security.audit import Audit
    from gateway.security.principal import Principal

_TYPE_NAMES: Final = {
    ResourceType.TOPIC: "Topic",
    ResourceType.GROUP: "Group",
    ResourceType.CLUSTER: "Cluster",
    ResourceType.TRANSACTIONAL_ID: "TransactionalId",
    ResourceType.DELEGATION_TOKEN: "DelegationToken",
    ResourceType.USER: "User",
}
"""Kafka's words in its audit log."""


class Subject(Protocol):
    """Whose rights are asked for: a connection. It keeps what was found, for its next request."""

    principal: Principal
    rights: Rights | None
    peer_host: str


class Decider(Protocol):
    """Makes the decisions: the authorizer."""

    audit: Audit
    version: int
    denied: int

    def decide(self, principal: Principal, host: str, operation: Operation, kind: ResourceType, name: str) -> bool: ...

    def decide_some(self, principal: Principal, host: str, operation: Operation, kind: ResourceType) -> bool: ...

    def may_remember(self, version: int) -> bool:
        """Is there room to remember a decision that was made at a version?"""
        ...


class Rights:
    """The decisions about one principal at one address."""

    __slots__ = ("_authorizer", "_known", "host", "principal", "version")

    def __init__(self, authorizer: Decider, principal: Principal, host: str) -> None:
        self._authorizer = authorizer
        self.principal = principal
        self.host = host
        self.version = authorizer.version
        self._known: dict[tuple[Operation, ResourceType, str], bool] = {}

    def __repr__(self) -> str:
        return f"<Rights of {self.principal} from {self.host}, {len(self._known)} known>"

    def may(self, operation: Operation, kind: ResourceType, name: str, api: str) -> bool:
        """May it do the operation on the resource, for a request of `api`? The audit log hears of it."""
        key = (operation, kind, name)
        known = self._known.get(key)
        if known:
            return True
        audit = self._authorizer.audit
        allowed = self._decide(key) if known is None else known
        self._authorizer.denied += not allowed
        if audit.tells_allowed or not allowed:
            audit.tell(
                "allowed" if allowed else "denied",
                self.principal,
                self.host,
                operation=operation.name,
                resource=_TYPE_NAMES[kind],
                name=name,
                request=api,
            )
        return allowed

    def has(self, operation: Operation, kind: ResourceType, name: str) -> bool:
        """The same for a question by which nothing is granted or refused: the audit log does not hear of it."""
        known = self._known.get((operation, kind, name))
        return self._decide((operation, kind, name)) if known is None else known

    def has_some(self, operation: Operation, kind: ResourceType) -> bool:
        """Is there a resource of the type that it may do this with?"""
        return self._authorizer.decide_some(self.principal, self.host, operation, kind)

    def operations(self, kind: ResourceType, name: str) -> int:
        """Kafka's `authorized_operations`: a bit for each operation that is allowed on a resource."""
        return sum(1 << operation for operation in OPERATIONS_OF[kind] if self.has(operation, kind, name))

    def _decide(self, key: tuple[Operation, ResourceType, str]) -> bool:
        authorizer = self._authorizer
        allowed = authorizer.decide(self.principal, self.host, *key)
        if (not allowed or not authorizer.audit.tells_allowed) and authorizer.may_remember(self.version):
            self._known[key] = allowed
        return allowed
