"""The OpenAPI document and its page, made from the routes themselves.

Keeps: the document lists exactly the served operations; the page needs nothing from another host and runs no script.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.http.models import ProblemDocument

EXAMPLE_ADDRESS: Final = "localhost:9094"
SCHEMA_REF: Final = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter."""

    name: str
    description: str
    type: str = "integer"
    example: str | None = None
    """What the page gives, if a request is nothing without it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the REST API."""

    method: str
    path: str
    summary: str
    handle: Callable[[Request], Awaitable[Response]]
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    query: Sequence[Parameter] = ()
    problems: Sequence[int] = (503,)
    also: Sequence[int] = ()
    """Further statuses with the same answer."""
    media_type: str = "application/x-ndjson"
    """The media type of an answer that is not a model's JSON."""


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = {ProblemDocument} | {m for e in endpoints for m in (e.answer, e.body) if m is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "serialization") for model in ordered], ref_template=SCHEMA_REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path.replace(":path", ""), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": __version__, "license": {"name": "Apache-2.0"}},
        # Beside this document: a proxy may have put all of it below a path of its own.
        "servers": [{"url": "../.."}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answer = {"application/json": {"schema": _ref(endpoint.answer)}} if endpoint.answer else {endpoint.media_type: {}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": [
            *({"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in _names(endpoint.path)),
            *(
                {"name": p.name, "in": "query", "description": p.description, "schema": {"type": p.type}}
                | ({} if p.example is None else {"example": p.example})
                for p in endpoint.query
            ),
        ],
        "responses": {
            "200": {"description": "Done", "content": answer},
            **{str(status): {"description": "Not so", "content": answer} for status in endpoint.also},
            **{
                str(status): {
                    "description": "Refused",
                    "content": {"application/problem+json": {"schema": _ref(ProblemDocument)}},
                }
                for status in endpoint.problems
            },
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(endpoint.body)}}}
    if endpoint.method != "GET":
        operation["security"] = [{}, {"token": []}]
    return operation


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}


def _names(path: str) -> list[str]:
    return [part.strip("{}").split(":")[0] for part in path.split("/") if part.startswith("{")]


# The page


def page(endpoints: Sequence[Endpoint], whole: dict[str, Any]) -> str:
    """The document for people."""
    operations = "".join(_section(endpoint, whole) for endpoint in endpoints)
    schemas = "".join(
        f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        f'<pre tabindex="0">{escape(json.dumps(schema.get("properties", {}), indent=2))}</pre></section>'
        for name, schema in whole["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>Penstock REST API</title><link rel="icon" href="console/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="console/console.css"></head><body class="api">'
        '<header><h1>Penstock REST API</h1><div class="grow"></div><a href=".">Console</a>'
        '<a href="api/v1/openapi.json">openapi.json</a></header>'
        "<main><p>Changes are sent as JSON; from another machine, or if <code>http.token</code> is set, with "
        "<code>Authorization: Bearer TOKEN</code>. A refused request gets a problem document (RFC 9457).</p>"
        f"<h2>Operations</h2>{operations}<h2>Models</h2>{schemas}</main></body></html>"
    )


def _section(endpoint: Endpoint, whole: dict[str, Any]) -> str:
    lines = [
        f"<section><h3><code>{endpoint.method} {escape(endpoint.path)}</code></h3><p>{escape(endpoint.summary)}</p>"
    ]
    if endpoint.query:
        rows = "".join(f"<li><code>{p.name}</code> {escape(p.description)}</li>" for p in endpoint.query)
        lines.append(f"<ul>{rows}</ul>")
    for what, model in (("Takes", endpoint.body), ("Answers", endpoint.answer)):
        if model is not None:
            lines.append(f'<p>{what} <a href="#{model.__name__}">{model.__name__}</a></p>')
    lines.append(f'<pre class="curl" tabindex="0">{escape(curl(endpoint.method, endpoint.path, whole))}</pre>')
    return "".join((*lines, "</section>"))


def curl(method: str, path: str, whole: dict[str, Any]) -> str:
    """An operation as a command line, with what the document gives as examples."""
    bare = path.replace(":path", "")
    operation = whole["paths"][bare][method.lower()]
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            bare = bare.replace(f"{{{parameter['name']}}}", parameter["name"].upper())
    query = "&".join(f"{p['name']}={p['example']}" for p in operation["parameters"] if "example" in p)
    address = f"{EXAMPLE_ADDRESS}{bare}{'?' if query else ''}{query}"
    if "requestBody" not in operation:
        return f"curl {'' if method == 'GET' else f'-X {method} '}'{address}'"
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    body = whole["components"]["schemas"][name]["examples"][0]
    data = json.dumps(body).replace("'", "'\\''")
    return f"curl -X {method} '{address}' -H 'Content-Type: application/json' -d '{data}'"
