"""The public HTTP port of a gateway of several workers: it asks each worker's own HTTP server, and answers for all.

Workers serve the same application, each at a unix socket that this process alone reaches. What a change may do is
decided here by the `Guard`, and there by the ACLs, which see the client's address in `X-Forwarded-For`.

Invariants:

- A change passes the guard before its body is read and before a worker hears of it.
- A worker that does not answer within `ANSWER_S_MAX` holds up nobody for longer; what it would have told is left out.
  Where an answer says of itself that it is whole, it is whole.
- At most `AT_ONCE` requests hold answers of workers in memory, and `RECORD_CALLS_AT_ONCE` one answer with records, each
  worker's of at most `ANSWER_BYTES_MAX`.
- No connection to a worker outlives its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar
from urllib.parse import quote

import h11
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.http import merging
from gateway.http.access import PRINCIPAL
from gateway.http.api import BODY_BYTES_MAX, EVENTS_DEFAULT, EVENTS_MAX, LISTED_MAX
from gateway.http.console import Console
from gateway.http.entrance import CERTIFIED_AS
from gateway.http.guard import Guard
from gateway.http.models import EventList, GroupList, Overview, ScaleRequest, StreamList, StreamMap, StreamView
from gateway.http.problems import Problem, answer_problem, answer_refusal, not_ready
from gateway.metrics.exposition import CONTENT_TYPE
from gateway.security.principal import Principal

logger = logging.getLogger(__name__)

ANSWER_S_MAX: Final = 10.0
"""Longest wait for one worker's answer; of a stream of lines, for its next piece."""
ANSWER_BYTES_MAX: Final = 32 << 20
STATUS_BYTES_MAX: Final = 64 << 10
AT_ONCE: Final = 4
RECORD_CALLS_AT_ONCE: Final = 16
"""Requests for records, which may wait for some; each holds one answer, or one body."""
LARGE_BYTES: Final = 64 << 10
"""Answers of more than this are merged in a thread."""
CONCERNS_MAX: Final = 100
CONCERN_CHARS_MAX: Final = 300
READ_BYTES: Final = 64 << 10
COMPLETE: Final = b'{"complete": true}\n'
"""The last line of a whole listing of chunks."""
LINES: Final = "application/x-ndjson"
_OF_THE_CONNECTION: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "strict-transport-security", "transfer-encoding"}
)
"""Headers of a worker's answer that this process's own server sets."""

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")


def front(
    workers: Callable[[], Mapping[str, str]],
    guard: Guard,
    phase: Callable[[], str],
    count: Callable[[], int] | None = None,
) -> Starlette:
    """The application.

    `workers` gives the socket files of the workers that serve now, by number; `phase` is starting, serving or
    stopping; `count` is the number of all workers, whether they serve or not. Without it, those that serve are all.
    """
    console = Console()
    whole = _Front(workers, guard, phase, count)
    application = Starlette(
        routes=[
            Route("/healthz", whole.healthz),
            Route("/readyz", whole.readyz),
            Route("/metrics", whole.metrics),
            Route("/api/v1/overview", whole.overview),
            Route("/api/v1/streams", whole.streams),
            Route("/api/v1/streams/{name}", whole.stream),
            Route("/api/v1/streams/{name}/map", whole.stream_map),
            Route("/api/v1/streams/{name}/scale", whole.scale, methods=["POST"]),
            Route("/api/v1/streams/{name}/seal", whole.seal, methods=["POST"]),
            Route("/api/v1/topics/{name}/records", whole.records, methods=["GET", "POST"]),
            Route("/api/v1/groups", whole.groups),
            Route("/api/v1/events", whole.events),
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


# One worker


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as a worker gets it."""

    method: str
    target: bytes
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A worker's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def passed_on(self) -> Response:
        kept = {name: value for name, value in self.headers.items() if name not in _OF_THE_CONNECTION}
        return Response(self.body, self.status, kept)


class _Silent(Exception):
    """A worker gave no answer that can be used."""


@contextlib.asynccontextmanager
async def _exchange(path: str, asked: _Asked) -> AsyncIterator[tuple[h11.Response, AsyncIterator[bytes]]]:
    """The head of the answer of the server at a socket file, and the pieces of its body.

    Raises OSError, h11.ProtocolError; so do the pieces, for a body that ends early.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(
            method=asked.method,
            target=asked.target,
            headers=[
                ("Host", "localhost"),  # ours by every guard; the client's own was looked at before
                ("Connection", "close"),
                ("Content-Length", str(len(asked.body))),
                *asked.headers,
            ],
        )
        data = [h11.Data(data=asked.body)] if asked.body else []
        with contextlib.suppress(ConnectionError):  # a refusal may come before the body is read
            for event in (head, *data, h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
        events = _events(connection, reader)
        answer = await anext(events)
        while isinstance(answer, h11.InformationalResponse):
            answer = await anext(events)
        if not isinstance(answer, h11.Response):
            raise h11.RemoteProtocolError("the connection was closed before the answer")
        yield answer, (bytes(event.data) async for event in events if isinstance(event, h11.Data))
    finally:
        writer.transport.abort()


async def _events(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncGenerator[h11.Event, None]:
    """The events of one answer, up to its end."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Event):
            yield event
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return


async def _ask(path: str, asked: _Asked, bytes_max: int = ANSWER_BYTES_MAX) -> _Answer:
    """The whole answer. Raises _Silent."""
    try:
        async with asyncio.timeout(ANSWER_S_MAX), _exchange(path, asked) as (head, pieces):
            body = bytearray()
            async for piece in pieces:
                body += piece
                if len(body) > bytes_max:
                    raise _Silent(f"its answer has more than {bytes_max} bytes")
    except TimeoutError as late:
        raise _Silent(f"no answer within {ANSWER_S_MAX:g} s") from late
    except (OSError, h11.ProtocolError) as error:
        raise _Silent(f"{type(error).__name__}: {error}"[:CONCERN_CHARS_MAX]) from error
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
    return _Answer(head.status_code, headers, bytes(body))


def _asked_by(request: Request, body: bytes = b"") -> _Asked:
    """The client's request, with the headers that a worker needs of it."""
    target: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    if query := request.scope["query_string"]:
        target += b"?" + query
    names = ("Authorization", "Content-Type")
    headers = [(name, value) for name in names if (value := request.headers.get(name)) is not None]
    if request.client is not None:
        headers.append(("X-Forwarded-For", request.client.host))
    certified: Principal | None = request.scope.get(PRINCIPAL)
    if certified is not None:
        headers.append((CERTIFIED_AS, quote(certified.name)))
    method = "GET" if request.method == "HEAD" else request.method
    return _Asked(method, target, headers, body)


# All workers


class _Front:
    """The operations."""

    def __init__(
        self,
        workers: Callable[[], Mapping[str, str]],
        guard: Guard,
        phase: Callable[[], str],
        count: Callable[[], int] | None,
    ) -> None:
        self._sockets = workers
        self._guard = guard
        self._phase = phase
        self._count = count
        self._places = asyncio.Semaphore(AT_ONCE)
        self._record_places = asyncio.Semaphore(RECORD_CALLS_AT_ONCE)

    # The process

    async def healthz(self, _: Request) -> Response:
        phase = self._phase()
        return _status(phase != "failed", phase)

    async def readyz(self, _: Request) -> Response:
        phase = self._phase()
        if phase != "serving":
            return _status(False, phase)
        answers = await self._all(_Asked("GET", b"/readyz"), STATUS_BYTES_MAX)
        away = self._missing(answers)
        concerns = [f"{away} of the workers do not answer"] if away else []
        for worker, answer in answers.items():
            concerns += _concerns(worker, answer)
        ready = not away and bool(answers) and all(answer.status == 200 for answer in answers.values())
        return _status(ready, phase, concerns[:CONCERNS_MAX])

    async def metrics(self, request: Request) -> Response:
        async with self._place():
            answers = await self._all(_asked_by(request))
            for answer in answers.values():
                if answer.status == 401:
                    raise _Refused(answer)
            texts = {worker: one.body for worker, one in answers.items() if one.status == 200}
            silent = self._missing(texts)
            text = await _bounded(sum(map(len, texts.values())), lambda: merging.exposition(texts, silent))
            return Response(text, media_type=CONTENT_TYPE)

    async def same_everywhere(self, request: Request) -> Response:
        """What every worker tells alike."""
        async with self._place():
            return (await self._first(_asked_by(request), {404, 503})).passed_on()

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

    async def groups(self, request: Request) -> Response:
        limit = _limit(request, LISTED_MAX, LISTED_MAX)
        return await self._merged(request, GroupList, lambda answers: merging.groups(answers, limit))

    async def events(self, request: Request) -> Response:
        limit = _limit(request, EVENTS_DEFAULT, EVENTS_MAX)
        return await self._merged(request, EventList, lambda answers: merging.events(answers, limit))

    async def chunk(self, request: Request) -> Response:
        async with self._place():
            found = self._usable(await self._all(_asked_by(request)))
            return found[0].passed_on()

    async def chunks(self, request: Request) -> Response:
        lines = self._lines(_asked_by(request))
        await anext(lines)  # it has begun: refusals are raised here, and its end is looked after
        return StreamingResponse(lines, media_type=LINES)

    # Changing

    async def scale(self, request: Request) -> Response:
        """The worker that has the most of the segments does it: it alone knows their loads and what lies in them."""
        self._guard.check_write(request.headers)
        async with self._place():
            asked = _asked_by(request, await _body(request))
            order = await self._by_bytes(asked)
            return (await self._first(asked, {404, 409, 503}, order)).passed_on()

    async def seal(self, request: Request) -> Response:
        """Any worker does it, if it knows the stream."""
        self._guard.check_write(request.headers)
        async with self._place():
            return (await self._first(_asked_by(request, await _body(request)), {404, 503})).passed_on()

    async def records(self, request: Request) -> Response:
        """The worker of the partition does it: the others refuse, as they do not serve it."""
        self._guard.check_write(request.headers)
        async with self._record_places:
            return (await self._first(_asked_by(request, await _body(request)), {404, 503})).passed_on()

    # Asking

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """A place among those whose answers are held in memory. Raises Problem."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._places.acquire()
        except TimeoutError as late:
            raise Problem(503, "Busy", "too many requests at once; try again", {"Retry-After": "1"}) from late
        try:
            yield
        finally:
            self._places.release()

    def _serving(self) -> list[tuple[str, str]]:
        """The workers by number, with their sockets. Raises Problem."""
        found = sorted(self._sockets().items(), key=lambda one: (len(one[0]), one[0]))
        if not found:
            phase = self._phase()
            raise not_ready("starting its workers" if phase == "serving" else phase)
        return found

    def _missing(self, answers: Mapping[str, Any]) -> int:
        """The number of workers that have not answered."""
        known = len(self._sockets()) if self._count is None else self._count()
        return max(0, known - len(answers))

    async def _all(self, asked: _Asked, bytes_max: int = ANSWER_BYTES_MAX) -> dict[str, _Answer]:
        """The answers of all that answer, by worker."""

        async def one(worker: str, path: str) -> tuple[str, _Answer] | None:
            try:
                return worker, await _ask(path, asked, bytes_max)
            except _Silent as silent:
                _tell_silent(worker, silent)
                return None

        sockets = sorted(self._sockets().items(), key=lambda one: (len(one[0]), one[0]))
        found = await asyncio.gather(*(one(worker, path) for worker, path in sockets))
        return dict(answer for answer in found if answer is not None)

    def _usable(self, answers: Mapping[str, _Answer]) -> list[_Answer]:
        """The answers with what was asked for; at least one. Raises Problem, or _Refused for a worker's refusal."""
        self._serving()
        found = list(answers.values())
        for answer in found:
            if 400 <= answer.status < 500 and answer.status != 404:
                raise _Refused(answer)
        if good := [answer for answer in found if answer.status == 200]:
            return good
        if found and not self._missing(answers) and all(answer.status == 404 for answer in found):
            raise _Refused(found[0])
        raise _unanswered()

    async def _merged(self, request: Request, model: type[_M], merge: Callable[[Sequence[_M]], _M]) -> Response:
        async with self._place():
            found = self._usable(await self._all(_asked_by(request)))
            if len(found) == 1:
                return found[0].passed_on()

            def whole() -> str:
                return merge([model.model_validate_json(answer.body) for answer in found]).model_dump_json()

            text = await _bounded(sum(len(answer.body) for answer in found), whole)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(text, headers=headers, media_type="application/json")

    async def _by_bytes(self, scale: _Asked) -> list[tuple[str, str]]:
        """The workers with their sockets: first the one with the most bytes in the segments of a scale."""
        serving = self._serving()
        stream = scale.target.partition(b"?")[0].removesuffix(b"/scale")
        answers = await self._all(replace(scale, method="GET", target=stream + b"?epochs=1", body=b""))

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

        counts = await _bounded(len(scale.body) + sum(len(answer.body) for answer in answers.values()), counted)
        return sorted(serving, key=lambda one: -counts.get(one[0], 0))

    async def _first(self, asked: _Asked, others: set[int], order: Sequence[tuple[str, str]] | None = None) -> _Answer:
        """The answer of the first worker whose status is none of `others`; else the one that says most."""
        refusals: list[_Answer] = []
        silent = False
        for worker, path in order or self._serving():
            try:
                answer = await _ask(path, asked)
            except _Silent as error:
                _tell_silent(worker, error)
                silent = True
                continue
            if answer.status not in others:
                return answer
            refusals.append(answer)
        if silent or not refusals:  # a change may have been made: no other worker's refusal tells of it
            raise _unanswered()
        return min(refusals, key=lambda answer: (409, 503, 404).index(answer.status))

    async def _lines(self, asked: _Asked) -> AsyncGenerator[bytes, None]:
        """The lines of all workers after an empty piece, with one mark of the end. Raises Problem before that piece."""
        async with contextlib.AsyncExitStack() as stack:
            opened: dict[str, AsyncIterator[bytes]] = {}
            for worker, path in self._serving():
                try:
                    async with asyncio.timeout(ANSWER_S_MAX):
                        head, pieces = await stack.enter_async_context(_exchange(path, asked))
                    if head.status_code in (401, 403):
                        raise _Refused(await _ask(path, asked, STATUS_BYTES_MAX))
                    if head.status_code == 200:
                        opened[worker] = pieces
                except (OSError, h11.ProtocolError, _Silent) as error:
                    _tell_silent(worker, error)
            if not opened:
                raise _unanswered()
            complete = not self._missing(opened)
            yield b""
            for worker, pieces in opened.items():
                try:
                    async for block in _blocks(pieces):
                        yield block
                except (OSError, h11.ProtocolError, _Silent) as error:
                    _tell_silent(worker, error)
                    complete = False
            if complete:
                yield COMPLETE


class _Refused(Problem):
    """A worker's refusal, passed on as it is."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(answer.status, "Refused", "by a worker")
        self._answer = answer

    def response(self, instance: str) -> Response:
        return self._answer.passed_on()


async def _blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, without the mark of the end. Raises _Silent if there is none, OSError, h11.ProtocolError."""
    rest = b""
    while True:
        async with asyncio.timeout(ANSWER_S_MAX):
            piece = await anext(pieces, None)
        if piece is None:
            raise _Silent("its lines ended without the mark of the end")
        lines, end, rest = (rest + piece).rpartition(b"\n")
        block = lines + end
        if (b"\n" + block).endswith(b"\n" + COMPLETE):
            yield block.removesuffix(COMPLETE)
            return
        if block:
            yield block
        if len(rest) > ANSWER_BYTES_MAX:
            raise _Silent(f"a line has more than {ANSWER_BYTES_MAX} bytes")


async def _bounded(size: int, work: Callable[[], _T]) -> _T:
    """Do it in a thread if there is much to do. Raises Problem for an answer that cannot be read."""
    try:
        return await asyncio.to_thread(work) if size > LARGE_BYTES else work()
    except ValueError as error:
        logger.error("a worker's answer was not understood", extra={"error": str(error)[:CONCERN_CHARS_MAX]})
        raise Problem(503, "Not understood", "a worker's answer could not be read; the log has more") from error


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise Problem(413, "Too large", f"a body has at most {BODY_BYTES_MAX} bytes")
    except ClientDisconnect as gone:
        raise Problem(400, "Cut off", "the body ended early") from gone
    return bytes(body)


def _limit(request: Request, default: int, most: int) -> int:
    """The client's limit. One that is no number is refused by the workers."""
    text = request.query_params.get("limit", "")
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) <= 20 else default


def _concerns(worker: str, answer: _Answer) -> list[str]:
    """The lines of a worker's /readyz; its phase if it is not ready."""
    try:
        told = json.loads(answer.body)
        lines = [str(line) for line in told.get("detail", ())]
        phase = str(told["status"])
    except (ValueError, KeyError, TypeError, AttributeError):
        lines, phase = [], f"status {answer.status}"
    if answer.status != 200:
        lines = [phase, *lines]
    return [f"worker {worker}: {line[:CONCERN_CHARS_MAX]}" for line in lines]


def _status(good: bool, phase: str, concerns: Sequence[str] = ()) -> Response:
    detail = {"detail": list(concerns)} if concerns else {}
    return JSONResponse({"status": phase, **detail}, status_code=200 if good else 503)


def _unanswered() -> Problem:
    return Problem(
        503,
        "Not answered",
        "a worker that would know did not answer; look whether a change was made, then try again",
        {"Retry-After": "1"},
    )


def _tell_silent(worker: str, error: Exception) -> None:
    extra = {"worker": worker, "error": f"{type(error).__name__}: {error}"[:CONCERN_CHARS_MAX]}
    logger.warning("a worker's http server gave no answer", extra=extra)
