"""The checks that every request passes before the application sees it, whatever its path and method.

Keeps: a request with two headers that disagree about its end closes its connection, since the bytes that follow may be
another client's. A page that pointed its own name at this address reads nothing; probes may ask by any name, and get
one word.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.guard import Guard
from gateway.http.problems import Problem

PROBES: Final = frozenset({"/healthz", "/readyz"})


class Entrance:
    """An application behind a guard."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

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
