"""What the HTTP port answers: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http.exposition import CONTENT_TYPE, Exposition


class Health(Protocol):
    """What the HTTP port asks of the process."""

    @property
    def phase(self) -> str:
        """Where it stands: starting, recovering, serving, stopping, failed."""

    @property
    def ready(self) -> bool:
        """Clients are served."""

    @property
    def healthy(self) -> bool:
        """A restart would not help."""


def build(health: Health, exposition: Callable[[], Exposition]) -> Starlette:
    """The application; the exposition is asked for at the first scrape, when everything is up."""

    async def healthz(_: Request) -> Response:
        return _status(health.healthy, health.phase)

    async def readyz(_: Request) -> Response:
        return _status(health.ready, health.phase)

    async def metrics(_: Request) -> Response:
        return Response(exposition().text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


def _status(good: bool, phase: str) -> Response:
    return JSONResponse({"status": phase}, status_code=200 if good else 503)
