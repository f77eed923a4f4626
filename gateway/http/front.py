"""The public HTTP port of a gateway of several workers: it asks each worker's own HTTP server, and answers for all.
A node of a cluster does so with all nodes (`gateway.http.cluster_front`). How they are asked: `gateway.http.asking`.

Workers serve the same application, each at a unix socket that this process alone reaches. What a change may do is
decided here by the `Guard`, and there by the ACLs, which see the client's address in `X-Forwarded-For`.

Invariants:

- A change passes the guard before its body is read and before a worker hears of it.
- At most `AT_ONCE` requests hold answers of workers in memory, and `RECORD_CALLS_AT_ONCE` one answer with records, each
  worker's of at most `ANSWER_BYTES_MAX`. A body that comes slowly keeps none of these places: `CHANGES_AT_ONCE` are
  read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.http import merging
from gateway.http.api import EVENTS_DEFAULT, EVENTS_MAX
from gateway.http.asking import Workers, bounded
from gateway.http.console import Console
from gateway.http.desk import LISTED_MAX, answered, read_body
from gateway.http.exchange import (
    ANSWER_S_MAX,
    STATUS_BYTES_MAX,
    Answer,
    Asked,
    Dial,
    Refused,
    asked_by,
    concerns_of,
)
from gateway.http.group_list import VIEW_ORDER
from gateway.http.guard import Guard
from gateway.http.health import WARNINGS_DEFAULT
from gateway.http.health_models import HealthReport, ThroughputHistory, WarningList
from gateway.http.models import (
    EventList,
    GroupList,
    GroupView,
    HeatHistory,
    Overview,
    ScaleRequest,
    StreamList,
    StreamMap,
    StreamView,
)
from gateway.http.node_models import NodeList
from gateway.http.problems import Problem, answer_problem, answer_refusal
from gateway.http.sorting import BY_NAME, in_order
from gateway.http.topic_models import PartitionList, TopicList, TopicRow
from gateway.http.topics import ORDER
from gateway.logs import RECENT_MAX
from gateway.metrics.exposition import CONTENT_TYPE

AT_ONCE: Final = 4
RECORD_CALLS_AT_ONCE: Final = 16
"""Requests for records, which may wait for some; each holds one answer."""
CHANGES_AT_ONCE: Final = 64
"""Requests whose bodies are being read, or are held until they are answered."""
SORTED_MAX: Final = 20_000
"""Topics, or groups, that are sorted together; some 10 MB while they are."""
CONCERNS_MAX: Final = 100
LINES: Final = "application/x-ndjson"

_M = TypeVar("_M", bound=BaseModel)


def front(
    workers: Callable[[], Mapping[str, Dial]],
    guard: Guard,
    phase: Callable[[], str],
    count: Callable[[], int] | None = None,
    *,
    within_s: float | None = None,
    kind: str = "",
    closed: Callable[[], int] = lambda: 0,
) -> Starlette:
    """The application.

    `workers` gives the ways to the workers that serve now, by number; `phase` is starting, serving or stopping; `count`
    is the number of all workers, whether they serve or not. Without it, those that serve are all. `within_s`: how long
    one is waited for that is only looked at; else `ANSWER_S_MAX`. `kind`: what they are on machines of their own, whose
    disks and troubles are told apart. `closed`: how many of these cannot be asked at all.
    """
    console = Console()
    whole = _Front(Workers(workers, phase, count, within_s, closed), guard, phase, within_s, kind)
    application = Starlette(
        routes=[
            Route("/healthz", whole.healthz),
            Route("/readyz", whole.readyz),
            Route("/metrics", whole.metrics),
            Route("/api/v1/overview", whole.overview),
            Route("/api/v1/streams", whole.streams),
            Route("/api/v1/streams/{name}", whole.stream),
            Route("/api/v1/streams/{name}/map", whole.stream_map),
            Route("/api/v1/streams/{name}/heat", whole.heat),
            Route("/api/v1/streams/{name}/scale", whole.scale, methods=["POST"]),
            Route("/api/v1/streams/{name}/move", whole.move, methods=["POST"]),
            Route("/api/v1/streams/{name}/seal", whole.any_changes, methods=["POST"]),
            Route("/api/v1/topics", whole.topics),
            Route("/api/v1/topics/{name}/partitions", whole.partitions),
            Route("/api/v1/topics/{name}/configs", whole.same_everywhere),
            Route("/api/v1/topics/{name}/configs", whole.any_changes, methods=["PATCH"]),
            Route("/api/v1/topics/{name}/records", whole.records, methods=["GET", "POST"]),
            Route("/api/v1/groups", whole.groups),
            Route("/api/v1/groups/{name:path}/history", whole.same_everywhere),
            Route("/api/v1/groups/{name:path}/offsets", whole.any_changes, methods=["POST"]),
            Route("/api/v1/groups/{name:path}", whole.same_everywhere),
            Route("/api/v1/events", whole.events),
            Route("/api/v1/health", whole.health),
            Route("/api/v1/nodes", whole.nodes),
            Route("/api/v1/history", whole.history),
            Route("/api/v1/warnings", whole.warnings),
            Route("/api/v1/tier2/chunks", whole.chunks),
            Route("/api/v1/tier2/chunks/{key:path}", whole.chunk),
            Route("/api/v1/openapi.json", whole.same_everywhere),
            Route("/api", whole.same_everywhere),
            Route("/", console.index),
            Route("/console/{name}", console.file),
        ],
        exception_handlers={Problem: answer_problem, HTTPException: answer_refusal},
    )
    application.router.redirect_slashes = False  # it would redirect past a proxy, to our own address
    return application


# All workers


class _Front:
    """The operations."""

    def __init__(
        self, workers: Workers, guard: Guard, phase: Callable[[], str], within_s: float | None, kind: str
    ) -> None:
        self._workers = workers
        self._guard = guard
        self._phase = phase
        self._within_s = within_s
        self._kind = kind
        self._places = asyncio.Semaphore(AT_ONCE)
        self._record_places = asyncio.Semaphore(RECORD_CALLS_AT_ONCE)
        self._change_places = asyncio.Semaphore(CHANGES_AT_ONCE)

    # The process

    async def healthz(self, _: Request) -> Response:
        phase = self._phase()
        return _status(phase != "failed", phase)

    async def readyz(self, _: Request) -> Response:
        phase = self._phase()
        if phase != "serving":
            return _status(False, phase)
        answers = await self._workers.all(Asked("GET", b"/readyz"), STATUS_BYTES_MAX)
        away = self._workers.missing(answers)
        concerns = [f"{away} of the workers do not answer"] if away else []
        for worker, answer in answers.items():
            concerns += concerns_of(worker, answer)
        ready = not away and bool(answers) and all(answer.status == 200 for answer in answers.values())
        return _status(ready, phase, concerns[:CONCERNS_MAX])

    async def metrics(self, request: Request) -> Response:
        async with self._place():
            answers = await self._workers.all(asked_by(request))
            for answer in answers.values():
                if answer.status == 401:
                    raise Refused(answer)
            texts = {worker: one.body for worker, one in answers.items() if one.status == 200}
            silent = self._workers.missing(texts)
            text = await bounded(sum(map(len, texts.values())), lambda: merging.exposition(texts, silent))
            return Response(text, media_type=CONTENT_TYPE)

    async def same_everywhere(self, request: Request) -> Response:
        """What every worker tells alike."""
        async with self._place():
            return (await self._workers.first(asked_by(request), {404, 503}, within_s=self._within_s)).passed_on()

    # Looking

    async def overview(self, request: Request) -> Response:
        return await self._merged(request, Overview, merging.overview)

    async def streams(self, request: Request) -> Response:
        limit = _limit(request, LISTED_MAX, LISTED_MAX)
        return await self._merged(request, StreamList, lambda answers: merging.streams(answers, limit))

    async def stream(self, request: Request) -> Response:
        return await self._merged(request, StreamView, merging.stream)

    async def stream_map(self, request: Request) -> Response:
        return await self._merged(request, StreamMap, merging.stream_map)

    async def heat(self, request: Request) -> Response:
        return await self._merged(request, HeatHistory, merging.heat)

    async def topics(self, request: Request) -> Response:
        """A page in another order than that of names is cut from all that the workers find."""
        asked = ORDER.asked(request)
        if asked.order == "name" and not asked.descending:
            return await self._merged(request, TopicList, merging.topics)
        async with self._place():
            found, truncated = await self._all_topics(request)
            page = await ORDER.page_of(found.topics, asked)
        return answered(found.model_copy(update={"topics": list(page), "truncated": truncated}))

    async def _all_topics(self, request: Request) -> tuple[TopicList, bool]:
        """What the workers find, up to `SORTED_MAX` topics, by name; and whether there are more."""
        topics: list[TopicRow] = []
        while True:
            page = await self._workers.told(_another_page(request, len(topics), sort="name"), TopicList, merging.topics)
            topics += page.topics
            if not page.topics or len(topics) >= min(page.found, SORTED_MAX):
                return page.model_copy(update={"topics": topics}), page.found > len(topics)

    async def partitions(self, request: Request) -> Response:
        return await self._merged(request, PartitionList, merging.partitions)

    async def groups(self, request: Request) -> Response:
        """A page is cut from as many as each worker has before the page's end, in the wanted order."""
        asked = VIEW_ORDER.asked(request)
        if asked.end > SORTED_MAX:
            raise Problem(400, "Too far", f"only the first {SORTED_MAX} groups are told of: search for fewer")
        async with self._place():
            found = await self._groups_until(request, asked.end)
            page = await VIEW_ORDER.page_of(found.groups, asked)
        return answered(found.model_copy(update={"groups": list(page)}))

    async def _groups_until(self, request: Request, end: int) -> GroupList:
        """The first groups of every worker, by name."""
        groups: list[GroupView] = []
        for first in range(0, max(end, 1), LISTED_MAX):
            asked = _another_page(request, first, min(LISTED_MAX, end - first))
            told = await self._workers.told(asked, GroupList, merging.groups)
            groups += told.groups
            if not told.groups:
                break
        return told.model_copy(update={"groups": await in_order(groups, BY_NAME)})

    async def events(self, request: Request) -> Response:
        limit = _limit(request, EVENTS_DEFAULT, EVENTS_MAX)
        return await self._merged(request, EventList, lambda answers: merging.events(answers, limit))

    async def health(self, request: Request) -> Response:
        if not self._kind:
            return await self._merged(request, HealthReport, merging.health)
        async with self._place():
            told = await self._workers.all(asked_by(request))
            self._workers.usable(told)
            named = {f"{self._kind} {one}": answer for one, answer in told.items() if answer.status == 200}
            reports = {name: HealthReport.model_validate_json(answer.body) for name, answer in named.items()}
            return answered(merging.health_of_machines(reports, self._silent(told)))

    async def nodes(self, request: Request) -> Response:
        return await self._merged(request, NodeList, merging.nodes)

    def _silent(self, answers: Mapping[str, Answer]) -> list[str]:
        """Those that have not answered, by name."""
        return [f"{self._kind} {one}" for one in self._workers.ways() if one not in answers]

    async def history(self, request: Request) -> Response:
        return await self._merged(request, ThroughputHistory, merging.history)

    async def warnings(self, request: Request) -> Response:
        limit = _limit(request, WARNINGS_DEFAULT, RECENT_MAX)
        return await self._merged(request, WarningList, lambda answers: merging.warnings(answers, limit))

    async def chunk(self, request: Request) -> Response:
        async with self._place():
            found = self._workers.usable(await self._workers.all(asked_by(request)), self._workers.closed())
            return found[0].passed_on()

    async def chunks(self, request: Request) -> Response:
        lines = self._workers.lines(asked_by(request))
        await anext(lines)  # it has begun: refusals are raised here, and its end is looked after
        return StreamingResponse(lines, media_type=LINES)

    # Changing

    async def scale(self, request: Request) -> Response:
        """The worker that has the most of the segments does it: it alone knows their loads and what lies in them."""
        async with self._change(request) as asked, self._place():
            order = await self._by_bytes(asked)
            return (await self._workers.first(asked, {404, 409, 503}, order)).passed_on()

    async def move(self, request: Request) -> Response:
        """The worker that has both containers does it; the others have none such."""
        async with self._change(request) as asked, self._place():
            return (await self._workers.first(asked, {404})).passed_on()

    async def any_changes(self, request: Request) -> Response:
        """Any worker does it, if it knows the stream."""
        async with self._change(request) as asked, self._place():
            return (await self._workers.first(asked, {404, 503})).passed_on()

    async def records(self, request: Request) -> Response:
        """The worker of the partition does it: the others refuse, as they do not serve it.

        Records that may have been added are given to no other one, which may serve the partition by now: they would be
        there twice.
        """
        if request.method != "POST":
            self._guard.check_write(request.headers)
            async with _placed(self._record_places):
                return (await self._workers.first(asked_by(request), {404, 503})).passed_on()
        async with self._change(request) as asked, _placed(self._record_places):
            return (await self._workers.first(asked, {404, 503}, once=True)).passed_on()

    # Places, and what several tell

    def _place(self) -> contextlib.AbstractAsyncContextManager[None]:
        """A place among those whose answers are held in memory. Raises Problem."""
        return _placed(self._places)

    @contextlib.asynccontextmanager
    async def _change(self, request: Request) -> AsyncIterator[Asked]:
        """A change that the guard lets pass, with its body. Raises Problem."""
        self._guard.check_write(request.headers)
        async with _placed(self._change_places):
            yield asked_by(request, await read_body(request))

    async def _merged(self, request: Request, model: type[_M], merge: Callable[[Sequence[_M]], _M]) -> Response:
        async with self._place():
            found = self._workers.usable(await self._workers.all(asked_by(request)))
            if len(found) == 1:
                return found[0].passed_on()

            def whole() -> str:
                return merge([model.model_validate_json(answer.body) for answer in found]).model_dump_json()

            text = await bounded(sum(len(answer.body) for answer in found), whole)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(text, headers=headers, media_type="application/json")

    async def _by_bytes(self, scale: Asked) -> list[tuple[str, Dial]]:
        """The workers with the ways to them: first the one with the most bytes in the segments of a scale."""
        serving = self._workers.serving()
        stream = scale.target.partition(b"?")[0].removesuffix(b"/scale")
        answers = await self._workers.all(replace(scale, method="GET", target=stream + b"?epochs=1", body=b""))

        def counted() -> dict[str, int]:
            try:
                wanted = ScaleRequest.model_validate_json(scale.body)
            except ValueError:  # the workers refuse it, and tell why
                return {}
            numbers = set(wanted.merge or ()) | ({wanted.split.segment} if wanted.split else set())
            return {
                worker: sum(
                    segment.bytes
                    for epoch in StreamView.model_validate_json(answer.body).epochs
                    for segment in epoch.segments
                    if segment.id in numbers
                )
                for worker, answer in answers.items()
                if answer.status == 200
            }

        counts = await bounded(len(scale.body) + sum(len(answer.body) for answer in answers.values()), counted)
        return sorted(serving, key=lambda one: -counts.get(one[0], 0))


@contextlib.asynccontextmanager
async def _placed(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of these places. Raises Problem if there is none for long."""
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await places.acquire()
    except TimeoutError as late:
        raise Problem(503, "Busy", "too many requests at once; try again", {"Retry-After": "1"}) from late
    try:
        yield
    finally:
        places.release()


def _another_page(request: Request, offset: int, limit: int = LISTED_MAX, **others: str) -> Asked:
    """The request for another page of the same list."""
    whole = asked_by(request)
    query = {**request.query_params, **others, "offset": str(offset), "limit": str(limit)}
    return replace(whole, target=whole.target.partition(b"?")[0] + b"?" + urlencode(query).encode())


def _limit(request: Request, default: int, most: int) -> int:
    """The client's limit. One that is no number is refused by the workers."""
    text = request.query_params.get("limit", "")
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) <= 20 else default


def _status(good: bool, phase: str, concerns: Sequence[str] = ()) -> Response:
    detail = {"detail": list(concerns)} if concerns else {}
    return JSONResponse({"status": phase, **detail}, status_code=200 if good else 503)
