"""The rights of requests over HTTP: those of their user, or ANONYMOUS, at the address that they come from.

Keeps: with an authorizer, what a request reads or changes is asked for as of a Kafka client, before anything is looked
up. Without one, the `Guard` alone decides.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from gateway.http.problems import Problem
from gateway.security.acls import CLUSTER_NAME, Operation, ResourceType
from gateway.security.authorizer import Authorizer
from gateway.security.principal import ANONYMOUS, Principal

API: Final = "HTTP"
"""What the audit log calls these requests."""
PRINCIPAL: Final = "penstock.principal"
"""Where a request's scope has its user, once that is proved."""


class Access:
    """One request's rights."""

    def __init__(self, authorizer: Authorizer | None, request: Request) -> None:
        self._host = host = request.client.host if request.client else ""
        self._principal: Principal = request.scope.get(PRINCIPAL, ANONYMOUS)
        self._audit = None if authorizer is None else authorizer.audit
        self._rights = None if authorizer is None else authorizer.rights(self._principal, host)

    @property
    def user(self) -> str:
        return self._principal.name

    def sees(self, kind: ResourceType, name: str) -> bool:
        """May it see the resource in a list?"""
        return self._rights is None or self._rights.has(Operation.DESCRIBE, kind, name)

    def tell(self, event: str, **facts: Any) -> None:
        """The audit log, if there is one, hears what the request has changed."""
        if self._audit is not None:
            self._audit.tell(event, self._principal, self._host, request=API, **facts)

    def require(self, operation: Operation, kind: ResourceType, name: str = CLUSTER_NAME) -> None:
        """Raises Problem, whether there is such a resource or not."""
        if self._rights is None or self._rights.may(operation, kind, name, API):
            return
        what = kind.name.lower().replace("_", " ")
        raise Problem(
            403,
            "Not allowed",
            f"{str(self._principal)[:300]} at {self._rights.host} needs {operation.name} on {what} {name[:300]!r}: "
            "ask for an ACL",
        )
