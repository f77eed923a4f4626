"""What every operation of the REST API begins with: the sources, a stream that the request has a right to, its body.

Keeps: a right is asked for before anything is looked up; no body is larger than `BODY_BYTES_MAX`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from kio.schema.errors import ErrorCode
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from core.streams.live import Slot, Stream
from gateway.http.access import Access
from gateway.http.guard import Guard
from gateway.http.history import Memory
from gateway.http.models import Overview
from gateway.http.problems import Problem, no_such_stream, not_ready
from gateway.http.records import TopicRecords
from gateway.http.topic_table import TopicTable
from gateway.metrics.sources import Sources
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.security.authorizer import Authorizer
from gateway.services import Services

BODY_BYTES_MAX: Final = 1 << 20
LISTED_MAX: Final = 1_000
"""Most streams, or groups, in one answer."""
INT_MAX: Final = 2**53
REFUSAL_CHARS_MAX: Final = 1_000
STATUSES: Final[Mapping[ErrorCode, tuple[int, str]]] = {
    ErrorCode.invalid_config: (400, "Not a valid configuration"),
    ErrorCode.invalid_request: (400, "Not understood"),
    ErrorCode.unknown_topic_or_partition: (404, "No such topic"),
    ErrorCode.group_id_not_found: (404, "No such group"),
    ErrorCode.not_coordinator: (404, "No such group here"),
    ErrorCode.non_empty_group: (409, "The group has members"),
    ErrorCode.unknown_member_id: (409, "The group has members"),
    ErrorCode.policy_violation: (409, "Not allowed by a bound"),
}
"""Statuses of Kafka's refusals; another one may pass by itself."""
TOPIC: Final = ResourceType.TOPIC
"""The type of resource that a stream is to the authorizer."""

_Model = TypeVar("_Model", bound=BaseModel)


class Totals(Protocol):
    """The gateway's facts about itself."""

    def overview(self) -> Overview:
        """Counters and sizes of the whole."""


@dataclass(frozen=True, slots=True)
class ApiSources(Sources):
    """The sources of the API; made when clients are served."""

    totals: Totals
    authorizer: Authorizer | None
    records: TopicRecords
    topics: TopicTable
    memory: Memory
    services: Services


@dataclass(frozen=True, slots=True)
class Desk:
    """Where requests are received. `sources` is asked for at each request: None until clients are served."""

    sources: Callable[[], ApiSources | None]
    phase: Callable[[], str]
    guard: Guard

    def ready(self) -> ApiSources:
        """Raises Problem until clients are served."""
        sources = self.sources()
        if sources is None:
            raise not_ready(self.phase())
        return sources

    def access(self, request: Request) -> Access:
        """The rights of a request."""
        return Access(self.ready().authorizer, request)

    def stream(self, request: Request, operation: Operation) -> tuple[ApiSources, Stream]:
        """The stream of a request that has the right to an operation on it. Raises Problem."""
        sources = self.ready()
        name = request.path_params["name"]
        Access(sources.authorizer, request).require(operation, TOPIC, name)
        stream = sources.store.streams.get(name)
        if stream is None:
            raise no_such_stream(name)
        return sources, stream

    def slot(self, request: Request, operation: Operation) -> tuple[ApiSources, Slot]:
        """The partition of a request that has the right to an operation on its topic. Raises Problem."""
        sources, stream = self.stream(request, operation)
        partition = number(request, "partition", None, INT_MAX)
        if partition is None:
            raise Problem(400, "Which partition?", f"give partition=0 to {stream.slot_count - 1}")
        try:
            return sources, stream.slot(partition)
        except IndexError as error:
            detail = f"{stream.name[:300]!r} has the partitions 0 to {stream.slot_count - 1}, not {partition}"
            raise Problem(404, "No such partition", detail) from error


def answered(model: BaseModel) -> Response:
    """A model as an answer that no cache keeps."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(model.model_dump_json(), headers=headers, media_type="application/json")


def number(request: Request, name: str, default: int | None, most: int, *, least: int = 0) -> int | None:
    """A parameter's number, `most` if it is larger. Raises Problem."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) < least:
        raise Problem(400, "Not a number", f"{name} takes a whole number of {least} or more, not {text[:100]!r}")
    return min(int(text), most)


def problem_of(refusal: Refusal) -> Problem:
    """A refusal that a Kafka client would get, as one over HTTP."""
    status, title = STATUSES.get(refusal.code, (503, "Not done"))
    return Problem(status, title, f"{refusal.code.name}: {refusal}"[:REFUSAL_CHARS_MAX])


async def read_body(request: Request) -> bytes:
    """Raises Problem."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise Problem(413, "Too large", f"a body has at most {BODY_BYTES_MAX} bytes")
    except ClientDisconnect as gone:
        raise Problem(400, "Cut off", "the body ended early") from gone
    return bytes(body)


async def wanted_by(request: Request, model: type[_Model]) -> _Model:
    """A request's body as a model. Raises Problem."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "Not JSON", "send a body with Content-Type: application/json")
    try:
        return model.model_validate_json(await read_body(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(400, "Not understood", f"{where}: {first['msg']}") from error
