"""The console's files: pages in one frame, their modules and their style, made at the start and served from memory.

Keeps: a page may load only from this gateway, and no other site may frame it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template
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


@dataclass(frozen=True, slots=True)
class Page:
    """A page's place in the frame. `begins` is the id of its first heading, to which the keyboard skips."""

    title: str
    begins: str
    what: str
    file: str
    listed: bool = True
    """Every page links to it."""


INDEX: Final = "index"
PAGES: Final[Mapping[str, Page]] = {
    INDEX: Page("Overview", "map-heading", "the map", "index.html"),
    "topics": Page("Topics", "list-heading", "the topics", "list.html"),
    "groups": Page("Groups", "list-heading", "the groups", "list.html"),
    "health": Page("Health", "logs-heading", "the logs", "health.html"),
    "topic": Page("Topic", "name", "the topic", "topic.html", listed=False),
    "messages": Page("Messages", "messages-heading", "the messages", "messages.html", listed=False),
    "group": Page("Group", "name", "the group", "group.html", listed=False),
}
FRAME: Final = "frame.html"
STREAM_MAP: Final = "stream-map.html"
"""What two pages have."""


class Console:
    """The files, read once."""

    def __init__(self) -> None:
        self._files: Mapping[str, tuple[bytes, str, str]] = {
            name: (content, TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
            for name, content in (*_static(), *_pages())
            if (suffix := name.rpartition(".")[2]) in TYPES
        }

    @property
    def names(self) -> frozenset[str]:
        """What lies below /console/."""
        return frozenset(self._files)

    async def index(self, request: Request) -> Response:
        return self._answer(f"{INDEX}.html", request)

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._answer("" if name == f"{INDEX}.html" else name, request)  # its links begin at the root

    def _answer(self, name: str, request: Request) -> Response:
        if name not in self._files:
            return Response("There is no such page here.\n", 404, SECURITY, "text/plain; charset=utf-8")
        content, media_type, tag = self._files[name]
        headers = SECURITY | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)


def _static() -> Iterator[tuple[str, bytes]]:
    for file in files("gateway.http").joinpath("static").iterdir():
        yield file.name, file.read_bytes()


def _pages() -> Iterator[tuple[str, bytes]]:
    """Each page in the frame, with links that are relative: a proxy may have put all of it below a path of its own."""
    directory = files("gateway.http").joinpath("pages")
    read = {
        name: directory.joinpath(name).read_text() for name in {FRAME, STREAM_MAP, *(p.file for p in PAGES.values())}
    }
    for name, page in PAGES.items():
        content = read[page.file].replace(f"<!-- {STREAM_MAP} -->\n", read[STREAM_MAP])
        root = "" if name == INDEX else "../"
        text = Template(read[FRAME]).substitute(
            title="Penstock" if name == INDEX else f"{page.title} - Penstock",
            root=root,
            module=f"{name}.js",
            begins=page.begins,
            what=page.what,
            links="".join(_link(other, root, is_here=other == name) for other in PAGES if PAGES[other].listed),
            content=Template(content).substitute(title=page.title),
        )
        yield f"{name}.html", text.encode()


def _link(name: str, root: str, *, is_here: bool) -> str:
    address = (root or "./") if name == INDEX else f"{root}console/{name}.html"
    current = ' aria-current="page"' if is_here else ""
    return f'<a href="{address}"{current}>{PAGES[name].title}</a>'
