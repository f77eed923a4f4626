"""Refusals of requests, as problem documents (RFC 9457).

Keeps: an answer with a status of 400 or more below `/api` is `application/problem+json` and names the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match

from gateway.http.models import ProblemDocument

PROBLEM_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """A request that is refused."""

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self, instance: str) -> Response:
        document = ProblemDocument(title=self.title, status=self.status, detail=self.detail, instance=instance)
        return Response(document.model_dump_json(), self.status, self.headers, PROBLEM_TYPE)


async def answer_problem(request: Request, error: Exception) -> Response:
    """Starlette's handler of `Problem`."""
    assert isinstance(error, Problem)
    return error.response(request.url.path)


async def answer_refusal(request: Request, error: Exception) -> Response:
    """Starlette's handler of its own refusals: unknown paths, and methods that a path does not take."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND and (there := _without_slash(request)) is not None:
        return RedirectResponse(there)
    if not path.startswith("/api/"):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    allowed = (error.headers or {}).get("Allow")
    detail = (
        f"{path[:300]!r} takes {allowed}" if allowed else f"there is no {path[:300]!r}; /api describes what there is"
    )
    return Problem(error.status_code, error.detail, detail, error.headers).response(path)


def _without_slash(request: Request) -> str | None:
    """The URL without its final slash, if there is such a page: relative, as a proxy may add a path in front."""
    path: str = request.scope["path"]
    bare = path.removesuffix("/")
    routes = request.app.router.routes
    if bare == path or not any(route.matches({**request.scope, "path": bare})[0] is Match.FULL for route in routes):
        return None
    query = f"?{request.url.query}" if request.url.query else ""
    return f"../{quote(bare.rpartition('/')[2])}{query}"


def no_such_stream(name: str) -> Problem:
    return Problem(404, "No such stream", f"there is no stream {name[:300]!r}; GET /api/v1/streams lists them")


def not_ready(phase: str) -> Problem:
    return Problem(503, "Not ready", f"the gateway is {phase}; try again", {"Retry-After": "1"})
