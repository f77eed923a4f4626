"""The checks that every request passes before the application sees it, whatever its path and method.

Keeps: a request with two headers that disagree about its end closes its connection, since the bytes that follow may be
another client's. A page that pointed its own name at this address reads nothing; probes may ask by any name, and get
one word. Where users are asked for, nothing but `HttpUsers.are_asked_for` lets a request pass without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.access import PRINCIPAL
from gateway.http.guard import Guard
from gateway.http.problems import Problem
from gateway.http.server import CERTIFICATE
from gateway.http.users import HttpUsers
from gateway.security.principal import USER, Principal
from gateway.security.tls import ListenerTls, NoPrincipal

PROBES: Final = frozenset({"/healthz", "/readyz"})

CERTIFIED_AS: Final = "X-Penstock-User"
"""In a request to a worker: the user that the client's certificate names. The public port passes no such header on."""
Certified = Callable[[Scope], Principal | None]
"""The user that a certificate has proved, if one has."""


def nobody_certified(scope: Scope) -> Principal | None:
    return None


def certified_by(tls: ListenerTls | None) -> Certified:
    """By the certificate of the connection. One that names no user is none."""

    def certified(scope: Scope) -> Principal | None:
        der: bytes | None = scope.get(CERTIFICATE)
        if tls is None or der is None:
            return None
        try:
            return tls.principal_of(der)
        except NoPrincipal:
            return None

    return certified


def certified_in_front(scope: Scope) -> Principal | None:
    """By the word of the public port, which alone reaches a worker's."""
    user = Headers(scope=scope).get(CERTIFIED_AS)
    return None if user is None else Principal(USER, unquote(user))


class Entrance:
    """An application behind a guard."""

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        users: HttpUsers | None = None,
        certified: Certified = nobody_certified,
        *,
        is_front: bool = False,
    ) -> None:
        """`is_front`: nodes behind it ask for the user again, by the same headers, and are told of certificates alone.
        A node that asks for users lets no stranger in to others that do not."""
        self._is_front = is_front
        self._app = app
        self._guard = guard
        self._users = users
        self._certified = certified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            await self._know(scope)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _know(self, scope: Scope) -> None:
        """Put the user into the scope. Raises Problem."""
        certified = self._certified(scope)
        if self._users is None:
            if certified is not None:
                scope[PRINCIPAL] = certified
        elif self._users.are_asked_for(scope["path"]):
            host = scope["client"][0] if scope.get("client") else ""
            found = await self._users.principal_of(Headers(scope=scope), host, certified)
            if not self._is_front:
                scope[PRINCIPAL] = found
            elif certified is not None:
                scope[PRINCIPAL] = certified

    def _check(self, scope: Scope) -> None:
        """Raises Problem."""
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Problem(
                400,
                "Conflicting lengths",
                "a request has Content-Length or Transfer-Encoding, not both",
                {"Connection": "close"},
            )
        if len(headers.getlist("host")) > 1:
            raise Problem(400, "Two hosts", "a request names one Host", {"Connection": "close"})
        if scope["path"] not in PROBES:
            self._guard.check_read(headers)
