"""The REST API: streams and their segments, scale events, totals; the changes scale, move and seal; and records, read
and added.

Keeps: every refusal is a problem document; a change passes the `Guard` before its body is read, and so does whoever
reads records, which a token may protect.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import NotHosted, NotMovedYet, StoreError, UnknownStream
from core.streams.live import Stream
from core.turns import in_turns
from gateway.cluster.nodes import NOBODY
from gateway.http.access import Access
from gateway.http.byte_quota import TOO_FAST, ByteQuota
from gateway.http.console import SECURITY
from gateway.http.desk import INT_MAX, LISTED_MAX, TOPIC, Desk, answered, number, wanted_by
from gateway.http.models import (
    Added,
    EventList,
    HeatHistory,
    LimitView,
    MoveRequest,
    MoveState,
    Moving,
    NewRecords,
    Overview,
    RecordPage,
    Scaled,
    ScaleEventView,
    ScaleRequest,
    Sealed,
    StreamList,
    StreamMap,
    StreamView,
)
from gateway.http.openapi import Endpoint, Parameter, document, page
from gateway.http.problems import Problem
from gateway.http.records import RECORDS_DEFAULT, RECORDS_MAX, WAIT_MS_MAX, Wanted
from gateway.http.scaling import Planned, plan
from gateway.http.views import status_of, stream_map, summary, told
from gateway.metrics.activity import Activity, told_limit
from gateway.quotas.quotas import FETCHED, PRODUCED
from gateway.security.acls import Operation, ResourceType

SEGMENTS_TOLD_MAX: Final = 100
"""Segments of one scale that the audit log names, of each kind."""
STREAMS_AT_ONCE: Final = 50
"""Streams that are read before other work runs."""
MOVE_WAIT_S: Final = 5.0
"""The longest wait of one request for a move: copying may take minutes. A front waits for twice as long."""
EVENTS_MAX: Final = 1_000
EVENTS_DEFAULT: Final = 50
COMMITTED, UNCOMMITTED = "read_committed", "read_uncommitted"


class Api:
    """The operations on streams and records; the document and its page tell of the `others` too."""

    def __init__(self, desk: Desk, others: Sequence[Endpoint] = ()) -> None:
        self._desk = desk
        self.endpoints: Sequence[Endpoint] = (*others, *(operation.endpoint(self) for operation in _OPERATIONS))
        self._document = document(self.endpoints)
        self._page = page(self.endpoints, self._document)

    def routes(self) -> list[Route]:
        return [
            *(Route(e.path, e.handle, methods=[e.method]) for e in self.endpoints),
            Route("/api/v1/openapi.json", self._openapi),
            Route("/api", self._openapi_page),
        ]

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def _openapi_page(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers=SECURITY)

    # Looking

    async def _overview(self, request: Request) -> Response:
        sources = self._desk.ready()
        Access(sources.authorizer, request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        return answered(sources.totals.overview())

    async def _list(self, request: Request) -> Response:
        sources = self._desk.ready()
        most = number(request, "limit", LISTED_MAX, LISTED_MAX)
        access = Access(sources.authorizer, request)
        seen = [stream async for stream in in_turns(list(sources.store.streams)) if access.sees(TOPIC, stream.name)]
        streams = sorted(seen, key=lambda stream: stream.name)
        after = request.query_params.get("after")
        begin = 0 if after is None else bisect_right(streams, after, key=lambda stream: stream.name)
        listed = []
        for n, stream in enumerate(islice(streams, begin, begin + (most or 0)), 1):
            listed.append(summary(stream, sources.activity))
            if n % STREAMS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return answered(StreamList(streams=listed, total=len(streams)))

    async def _show(self, request: Request) -> Response:
        sources, stream = self._desk.stream(request, Operation.DESCRIBE)
        epochs = number(request, "epochs", None, INT_MAX, least=1)
        return StreamingResponse(told(stream, sources.activity, epochs), media_type="application/json")

    async def _map(self, request: Request) -> Response:
        sources, stream = self._desk.stream(request, Operation.DESCRIBE)
        since_ms = number(request, "since_ms", 0, INT_MAX)
        nodes = sources.services.nodes

        def leader(container_id: int) -> int | None:
            return None if (node := nodes.leader(container_id)) == NOBODY else node

        return answered(stream_map(stream, sources.activity, since_ms or 0, sources.clock.wall_ms(), leader))

    async def _heat(self, request: Request) -> Response:
        sources, stream = self._desk.stream(request, Operation.DESCRIBE)
        since_ms = number(request, "since_ms", 0, INT_MAX)
        heat = await sources.memory.heat.of(stream, since_ms or 0)
        return await asyncio.to_thread(answered, heat)

    async def _events(self, request: Request) -> Response:
        sources = self._desk.ready()
        activity, access = sources.activity, Access(sources.authorizer, request)
        most = number(request, "limit", EVENTS_DEFAULT, EVENTS_MAX)
        events = [
            ScaleEventView(
                time_ms=event.time_ms,
                stream=event.stream,
                epoch=event.epoch,
                kind=event.kind,
                reason=event.reason,
                sealed=list(event.sealed),
                opened=list(event.opened),
            )
            for event in activity.events(most or 0)
            if access.sees(TOPIC, event.stream)
        ]
        limits = [
            LimitView(stream=limit.stream, segment=limit.segment, message=told_limit(limit))
            for limit in activity.limits()[:LISTED_MAX]
            if access.sees(TOPIC, limit.stream)
        ]
        return answered(EventList(events=events, limits=limits))

    # Changing

    async def _scale(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        wanted = await wanted_by(request, ScaleRequest)
        sources, stream = self._desk.stream(request, Operation.ALTER)
        planned = _planned(stream, wanted, sources.activity)
        try:
            epoch = await sources.store.scale_stream(stream, planned.sealed, planned.cuts, planned.reason)
        except ValueError as error:
            raise Problem(409, "Cannot be scaled like that", str(error)) from error
        except StoreError as error:
            raise _failed(error) from error
        opened = [run.number for run in epoch.opened]
        sealed, access = list(planned.sealed), Access(sources.authorizer, request)
        told = {"sealed": sealed[:SEGMENTS_TOLD_MAX], "opened": opened[:SEGMENTS_TOLD_MAX]}
        access.tell("stream scaled", name=stream.name, epoch=epoch.epoch, **told)
        return answered(Scaled(name=stream.name, epoch=epoch.epoch, sealed=sealed, opened=opened))

    async def _move(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        wanted = await wanted_by(request, MoveRequest)
        sources, stream = self._desk.stream(request, Operation.ALTER)
        moving = asyncio.ensure_future(sources.store.move_slot(stream, wanted.slot, wanted.container))
        await asyncio.wait((moving,), timeout=MOVE_WAIT_S)
        state: MoveState = "moved" if moving.done() else "moving"
        try:
            if moving.done():
                moving.result()
            else:
                moving.cancel()  # our waiting: the move goes on, and the log tells what comes of it
        except NotHosted as error:
            raise Problem(404, "No such container here", str(error)) from error
        except NotMovedYet as error:
            raise Problem(503, "Not moved yet", str(error)) from error
        except ValueError as error:
            raise Problem(409, "Cannot be moved", str(error)) from error
        except StoreError as error:
            raise _failed(error) from error
        told = {"slot": wanted.slot, "container": wanted.container, "state": state}
        Access(sources.authorizer, request).tell("stream slot moved", name=stream.name, **told)
        return answered(Moving(name=stream.name, slot=wanted.slot, container=wanted.container, state=state))

    async def _seal(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        sources, stream = self._desk.stream(request, Operation.ALTER)
        try:
            await sources.store.seal_stream(stream)
        except ValueError as error:
            raise Problem(409, "Sealed already", str(error)) from error
        except StoreError as error:
            raise _failed(error) from error
        Access(sources.authorizer, request).tell("stream sealed", name=stream.name)
        return answered(Sealed(name=stream.name, state=status_of(stream.state), sealed_ms=stream.state.sealed_ms or 0))

    # Records

    async def _read_records(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        sources, slot = self._desk.slot(request, Operation.READ)
        name = slot.stream.name
        quota = ByteQuota(sources.services.quotas, FETCHED, self._desk.access(request))
        quota.require()

        def require() -> None:
            self._desk.access(request).require(Operation.READ, ResourceType.TOPIC, name)

        page = await sources.records.read(slot, _wanted(request), require, quota.count)
        return await asyncio.to_thread(answered, page)

    async def _add_records(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        wanted = await wanted_by(request, NewRecords)
        sources, slot = self._desk.slot(request, Operation.WRITE)
        quota = ByteQuota(sources.services.quotas, PRODUCED, self._desk.access(request))
        quota.require()
        return answered(await sources.records.add(slot, wanted.records, quota.count))


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation before it is bound to an `Api`."""

    method: str
    path: str
    summary: str
    handle: Callable[[Api, Request], Awaitable[Response]]
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    query: Sequence[Parameter] = ()
    problems: Sequence[int] = (503,)

    def endpoint(self, api: Api) -> Endpoint:
        handle = partial(self.handle, api)
        return Endpoint(self.method, self.path, self.summary, handle, self.answer, self.body, self.query, self.problems)


_AFTER: Final = Parameter("after", "Only streams whose names come after this one", "string")
_LIMIT: Final = Parameter("limit", f"Maximum number of entries. Default: {LISTED_MAX}")

_SINCE: Final = Parameter("since_ms", "Milliseconds since 1970. Default: all")
_PARTITION: Final = Parameter("partition", "Its number; needed", example="0")

_OPERATIONS: Final = (
    _Operation(
        "GET",
        "/api/v1/overview",
        "Counters and sizes of the whole gateway",
        Api._overview,
        Overview,
        problems=(403, 503),
    ),
    _Operation("GET", "/api/v1/streams", "Streams by name", Api._list, StreamList, query=(_LIMIT, _AFTER)),
    _Operation(
        "GET",
        "/api/v1/streams/{name}",
        "A stream with its epochs",
        Api._show,
        StreamView,
        query=(Parameter("epochs", "Maximum number of epochs, newest first. Default: all"),),
        problems=(400, 403, 404, 503),
    ),
    _Operation(
        "GET",
        "/api/v1/streams/{name}/map",
        "The segments that were active since a time, as rectangles of key space and time",
        Api._map,
        StreamMap,
        query=(_SINCE,),
        problems=(400, 403, 404, 503),
    ),
    _Operation(
        "GET",
        "/api/v1/streams/{name}/heat",
        "The loads of segments in the last six hours, as the gateway remembers them",
        Api._heat,
        HeatHistory,
        query=(_SINCE,),
        problems=(400, 403, 404, 503),
    ),
    _Operation(
        "POST",
        "/api/v1/streams/{name}/scale",
        "Split a segment, or merge neighbouring ones",
        Api._scale,
        Scaled,
        ScaleRequest,
        problems=(400, 401, 403, 404, 409, 413, 415, 503),
    ),
    _Operation(
        "POST",
        "/api/v1/streams/{name}/move",
        "Move a slot to another container, while it is written and read; asking again waits for the same move",
        Api._move,
        Moving,
        MoveRequest,
        problems=(400, 401, 403, 404, 409, 413, 415, 503),
    ),
    _Operation(
        "POST",
        "/api/v1/streams/{name}/seal",
        "End a stream: it is read, and takes no more records",
        Api._seal,
        Sealed,
        problems=(401, 403, 404, 409, 503),
    ),
    _Operation(
        "GET",
        "/api/v1/topics/{name}/records",
        "Records of a partition, from an offset, a time, or the end; reading needs what a change needs",
        Api._read_records,
        RecordPage,
        query=(
            _PARTITION,
            Parameter("offset", "First offset. Neither this nor since_ms: the end", example="0"),
            Parameter("since_ms", "Milliseconds since 1970: from the first record at or after it"),
            Parameter("max", f"Maximum number of records. Default: {RECORDS_DEFAULT}, at most {RECORDS_MAX}"),
            Parameter("wait_ms", f"Longest wait for a record. Default: 0, at most {WAIT_MS_MAX}"),
            Parameter("until", "Only records before this offset"),
            Parameter(
                "key", "Only records with this key; go on with next_offset, as one request looks at some", "string"
            ),
            Parameter("isolation", f"{COMMITTED} (default) or {UNCOMMITTED}", "string"),
        ),
        problems=(400, 401, 403, 404, 413, 416, 422, TOO_FAST, 503),
    ),
    _Operation(
        "POST",
        "/api/v1/topics/{name}/records",
        "Add records to a partition, as one batch; the answer comes when they are durable",
        Api._add_records,
        Added,
        NewRecords,
        query=(_PARTITION,),
        problems=(400, 401, 403, 404, 409, 413, 415, TOO_FAST, 503),
    ),
    _Operation(
        "GET",
        "/api/v1/events",
        "Recent scales, and hot segments that cannot split",
        Api._events,
        EventList,
        query=(Parameter("limit", f"Maximum number of scales. Default: {EVENTS_DEFAULT}"),),
        problems=(400, 503),
    ),
)


def _wanted(request: Request) -> Wanted:
    """Raises Problem."""
    isolation = request.query_params.get("isolation", COMMITTED)
    if isolation not in (COMMITTED, UNCOMMITTED):
        raise Problem(400, "Not understood", f"isolation is {COMMITTED} or {UNCOMMITTED}, not {isolation[:100]!r}")
    key = request.query_params.get("key")
    offset = number(request, "offset", None, INT_MAX)
    since_ms = number(request, "since_ms", None, INT_MAX)
    if offset is not None and since_ms is not None:
        raise Problem(400, "Not understood", "give offset or since_ms, or neither for the end")
    return Wanted(
        offset=offset,
        since_ms=since_ms,
        most=number(request, "max", RECORDS_DEFAULT, RECORDS_MAX, least=1) or RECORDS_DEFAULT,
        wait_ms=number(request, "wait_ms", 0, WAIT_MS_MAX) or 0,
        committed=isolation == COMMITTED,
        until=number(request, "until", None, INT_MAX),
        key=None if key is None else key.encode(errors="surrogateescape"),
    )


def _planned(stream: Stream, wanted: ScaleRequest, activity: Activity) -> Planned:
    try:
        return plan(stream, wanted, activity)
    except ValueError as error:
        raise Problem(409, "Cannot be scaled like that", str(error)) from error


def _failed(error: StoreError) -> Problem:
    if isinstance(error, UnknownStream):
        return Problem(404, "No such stream", "the stream was deleted meanwhile")
    return Problem(503, "Not stored", f"the store could not make the change: {error}")
