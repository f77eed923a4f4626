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

    async def healthz(_: Request) -> Response:
        return _status(health.healthy, health.phase)

    async def readyz(_: Request) -> Response:
        if not health.ready or (why := health.unready):
            return _status(False, health.phase, [why] if health.ready else ())
        return _status(True, health.phase, health.concerns)

    async def metrics(_: Request) -> Response:
        if health.ready:
            await services().lags.refresh()
        return Response(await exposition().text(), media_type=CONTENT_TYPE)

    async def tier2(request: Request) -> Response:
        if not health.ready:
            raise not_ready(health.phase)
        Access(services().authorizer, request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        return StreamingResponse(_lines(containers()), media_type=LINES)

    async def one_chunk(request: Request) -> Response:
        if not health.ready:
            raise not_ready(health.phase)
        Access(services().authorizer, request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        key = request.path_params["key"]
        found = await tier2_chunk(containers(), key)
        if found is None:
            raise Problem(404, "No such chunk", f"the store does not know {key[:300]!r}")
        return JSONResponse(found)

    get, text = "GET", "text/plain"
    operations = (
        Endpoint(get, "/healthz", "503: a restart would help", healthz, models.Health, problems=(), also=(503,)),
        Endpoint(
            get,
            "/readyz",
            "503: other nodes should serve clients",
            readyz,
            models.Health,
            problems=(),
            also=(503,),
        ),
        Endpoint(get, "/metrics", "Prometheus' text format", metrics, problems=(), media_type=text),
        Endpoint(get, "/api/v1/tier2/chunks", "What lies in long-term storage, a JSON object a line", tier2),
        Endpoint(
            get,
            "/api/v1/tier2/chunks/{key:path}",
            "One object there",
            one_chunk,
            models.ChunkView,
            problems=(403, 404, 503),
        ),
    )
    desk = Desk(lambda: services() if health.ready else None, lambda: health.phase, guard)
    of_nodes = NodePages(desk, lambda: health.unready, lambda: health.concerns)
    of_health = HealthPages(desk, lambda: health.concerns)
    pages = (TopicPages(desk), GroupListPage(desk), GroupPages(desk), of_health, of_nodes)
    api = Api(desk, (*operations, *(each for page in pages for each in page.endpoints())))
    application = Starlette(
        routes=[*api.routes(), Route("/", console.index), Route("/console/{name}", console.file)],
        exception_handlers={Problem: answer_problem, HTTPException: answer_refusal},
    )
    application.router.redirect_slashes = False  # it would redirect past a proxy, to our own address
    return application


async def _lines(containers: Sequence[HostedContainer]) -> AsyncIterator[bytes]:
    """The store's knowledge, a JSON object a line; the last object marks the end."""
    async for record in tier2_records(containers):
        yield json.dumps(record).encode() + b"\n"
    yield b'{"complete": true}\n'


def _status(good: bool, phase: str, concerns: Sequence[str] = ()) -> Response:
    detail = {"detail": list(concerns)} if concerns else {}
    return JSONResponse({"status": phase, **detail}, status_code=200 if good else 503)
