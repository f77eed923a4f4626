"""The description of the REST API against the routes of the application that serves it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message

from gateway.http.app import build
from gateway.http.guard import Guard

PAGES = {"/", "/console/{name}", "/api", "/api/v1/openapi.json"}
"""What people look at, and the description itself."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A gateway that serves nobody yet."""

    phase: str = "starting"
    ready: bool = False
    unready: str = ""
    healthy: bool = True
    concerns: Sequence[str] = ()


def application() -> Starlette:
    def too_early() -> Any:
        raise AssertionError("nothing is asked for before the gateway serves")

    return build(Starting(), too_early, too_early, too_early, Guard(loopback=True))


async def described(served: Starlette) -> dict[str, Any]:
    """The OpenAPI document."""
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        parts.append(message.get("body", b""))

    path = "/api/v1/openapi.json"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
    }
    await served({**scope, "scheme": "http", "root_path": "", "http_version": "1.1"}, receive, send)
    document: dict[str, Any] = json.loads(b"".join(parts))
    return document


def test_every_route_is_described() -> None:
    """The document has each method of each route, and nothing that is not served."""
    served = application()
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in served.routes
        if isinstance(route, Route) and route.path not in PAGES
        for method in (route.methods or ()) - {"HEAD"}
    }
    document = asyncio.run(described(served))

    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == routes
    assert len(routes) > 20


def test_every_operation_tells_its_parameters() -> None:
    """Each name in a path is a parameter that a request must have, and each operation has a summary and its answers."""
    for path, operations in asyncio.run(described(application()))["paths"].items():
        for operation in operations.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == {part.strip("{}") for part in path.split("/") if part.startswith("{")}, path
            assert operation["summary"]
            assert "200" in operation["responses"], path


def test_every_reference_leads_somewhere() -> None:
    """A model that is named is described."""
    document = asyncio.run(described(application()))
    text = json.dumps(document)
    named = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}

    assert named
    assert named - document["components"]["schemas"].keys() == set()
