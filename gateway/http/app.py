"""The answers of the HTTP port: liveness, readiness and metrics; the REST API and the console."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.hosted import HostedContainer
from gateway.http import models
from gateway.http.access import Access
from gateway.http.api import Api
from gateway.http.console import Console
from gateway.http.desk import ApiSources, Desk
from gateway.http.group_list import GroupListPage
from gateway.http.groups import GroupPages
from gateway.http.guard import Guard
from gateway.http.health import HealthPages
from gateway.http.nodes import NodePages
from gateway.http.openapi import Endpoint
from gateway.http.problems import Problem, answer_problem, answer_refusal, not_ready
from gateway.http.topics import TopicPages
from gateway.long_term.view import tier2_chunk, tier2_records
from gateway.metrics.exposition import CONTENT_TYPE, Exposition
from gateway.security.acls import Operation, ResourceType

LINES: Final = "application/x-ndjson"


class Health(Protocol):
    """The process's state, as the HTTP port reads it."""

    @property
    def phase(self) -> str:
        """The phase: starting, recovering, serving, stopping, failed."""

    @property
    def ready(self) -> bool:
        """Clients are served."""

    @property
    def unready(self) -> str:
        """Why a client should rather go to another node of the cluster; empty if it need not."""

    @property
    def healthy(self) -> bool:
        """A restart would not help."""

    @property
    def concerns(self) -> Sequence[str]:
        """Problems, although clients are served."""


def build(
    health: Health,
    exposition: Callable[[], Exposition],
    containers: Callable[[], Sequence[HostedContainer]],
    services: Callable[[], ApiSources],
    guard: Guard,
) -> Starlette:
    """The application; it asks for the exposition and the services once the gateway is up."""
    console = Console()
    desk = Desk(lambda: services() if health.ready else None, lambda: health.phase, guard)
    pages = (
        _ProcessPages(health, exposition, containers, services),
        TopicPages(desk),
        GroupListPage(desk),
        GroupPages(desk),
        HealthPages(desk, lambda: health.concerns),
        NodePages(desk, lambda: health.unready, lambda: health.concerns),
    )
    api = Api(desk, tuple(each for page in pages for each in page.endpoints()))
    application = Starlette(
        routes=[*api.routes(), Route("/", console.index), Route("/console/{name}", console.file)],
        exception_handlers={Problem: answer_problem, HTTPException: answer_refusal},
    )
    application.router.redirect_slashes = False  # it would redirect past a proxy, to our own address
    return application


class _ProcessPages:
    """What the process tells of itself, and of what lies in long-term storage."""

    def __init__(
        self,
        health: Health,
        exposition: Callable[[], Exposition],
        containers: Callable[[], Sequence[HostedContainer]],
        services: Callable[[], ApiSources],
    ) -> None:
        self._health = health
        self._exposition = exposition
        self._containers = containers
        self._services = services

    def endpoints(self) -> tuple[Endpoint, ...]:
        get, text = "GET", "text/plain"
        health, chunk = models.Health, models.ChunkView
        return (
            Endpoint(get, "/healthz", "503: a restart would help", self._healthz, health, problems=(), also=(503,)),
            Endpoint(
                get, "/readyz", "503: other nodes should serve clients", self._readyz, health, problems=(), also=(503,)
            ),
            Endpoint(get, "/metrics", "Prometheus' text format", self._metrics, problems=(), media_type=text),
            Endpoint(get, "/api/v1/tier2/chunks", "What lies in long-term storage, a JSON object a line", self._chunks),
            Endpoint(
                get,
                "/api/v1/tier2/chunks/{key:path}",
                "One object there",
                self._chunk,
                chunk,
                problems=(403, 404, 503),
            ),
        )

    async def _healthz(self, _: Request) -> Response:
        return _status(self._health.healthy, self._health.phase)

    async def _readyz(self, _: Request) -> Response:
        health = self._health
        if not health.ready or (why := health.unready):
            return _status(False, health.phase, [why] if health.ready else ())
        return _status(True, health.phase, health.concerns)

    async def _metrics(self, _: Request) -> Response:
        if self._health.ready:
            await self._services().lags.refresh()
        return Response(await self._exposition().text(), media_type=CONTENT_TYPE)

    async def _chunks(self, request: Request) -> Response:
        self._check_tier2(request)
        return StreamingResponse(_lines(self._containers()), media_type=LINES)

    async def _chunk(self, request: Request) -> Response:
        self._check_tier2(request)
        key = request.path_params["key"]
        found = await tier2_chunk(self._containers(), key)
        if found is None:
            raise Problem(404, "No such chunk", f"the store does not know {key[:300]!r}")
        return JSONResponse(found)

    def _check_tier2(self, request: Request) -> None:
        """Raises Problem."""
        if not self._health.ready:
            raise not_ready(self._health.phase)
        Access(self._services().authorizer, request).require(Operation.DESCRIBE, ResourceType.CLUSTER)


async def _lines(containers: Sequence[HostedContainer]) -> AsyncIterator[bytes]:
    """The store's knowledge, a JSON object a line; the last object marks the end."""
    async for record in tier2_records(containers):
        yield json.dumps(record).encode() + b"\n"
    yield b'{"complete": true}\n'


def _status(good: bool, phase: str, concerns: Sequence[str] = ()) -> Response:
    detail = {"detail": list(concerns)} if concerns else {}
    return JSONResponse({"status": phase, **detail}, status_code=200 if good else 503)
