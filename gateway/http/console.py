"""The console's files: one page, its modules and its style, served from memory.

Keeps: a page may load only from this gateway, and no other site may frame it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
INDEX: Final = "index.html"


class Console:
    """The files, read once."""

    def __init__(self) -> None:
        self._files: Mapping[str, tuple[bytes, str, str]] = {
            file.name: (content := file.read_bytes(), TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
            for file in files("gateway.http").joinpath("static").iterdir()
            if (suffix := file.name.rpartition(".")[2]) in TYPES
        }

    async def index(self, request: Request) -> Response:
        return self._answer(INDEX, request)

    async def file(self, request: Request) -> Response:
        return self._answer(request.path_params["name"], request)

    def _answer(self, name: str, request: Request) -> Response:
        if name not in self._files:
            return Response("There is no such page here.\n", 404, SECURITY, "text/plain; charset=utf-8")
        content, media_type, tag = self._files[name]
        headers = SECURITY | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)
