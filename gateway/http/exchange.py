"""The own HTTP server of one worker, or node, asked by a front of all of them: a request, its answer, its lines.

Keeps: one that gives no answer that can be used is `Silent` within `ANSWER_S_MAX`, and no answer takes more than
`ANSWER_BYTES_MAX`. No connection to a worker outlives its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import h11
from starlette.requests import Request
from starlette.responses import Response

from gateway.http.access import PRINCIPAL
from gateway.http.entrance import CERTIFIED_AS
from gateway.http.problems import Problem
from gateway.security.principal import Principal

logger = logging.getLogger(__name__)

ANSWER_S_MAX: Final = 10.0
"""Longest wait for one worker's answer; of a stream of lines, for its next piece."""
ANSWER_BYTES_MAX: Final = 32 << 20
STATUS_BYTES_MAX: Final = 64 << 10
CONCERN_CHARS_MAX: Final = 300
READ_BYTES: Final = 64 << 10
COMPLETE: Final = b'{"complete": true}\n'
"""The last line of a whole listing of chunks."""
_OF_THE_CONNECTION: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "strict-transport-security", "transfer-encoding"}
)
"""Headers of a worker's answer that this process's own server sets."""


Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""The way to one server. Raises OSError, ValueError."""


def at_socket_file(path: str) -> Dial:
    """The way to a server on this machine."""
    return lambda: asyncio.open_unix_connection(path)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a worker gets it."""

    method: str
    target: bytes
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def passed_on(self) -> Response:
        kept = {name: value for name, value in self.headers.items() if name not in _OF_THE_CONNECTION}
        return Response(self.body, self.status, kept)


class Silent(Exception):
    """A worker gave no answer that can be used. `was_reached`: it may have done what it was asked for."""

    was_reached = True


@contextlib.asynccontextmanager
async def exchange(dial: Dial, asked: Asked) -> AsyncIterator[tuple[h11.Response, AsyncIterator[bytes]]]:
    """The head of a server's answer, and the pieces of its body.

    Raises OSError, ValueError, h11.ProtocolError; so do the pieces, for a body that ends early.
    """
    reader, writer = await dial()
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


async def ask(dial: Dial, asked: Asked, bytes_max: int = ANSWER_BYTES_MAX, within_s: float | None = None) -> Answer:
    """The whole answer, within `ANSWER_S_MAX` unless another time is given. Raises Silent."""
    within_s = ANSWER_S_MAX if within_s is None else within_s
    was_reached = False

    async def dialled() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        nonlocal was_reached
        streams = await dial()
        was_reached = True
        return streams

    try:
        async with asyncio.timeout(within_s), exchange(dialled, asked) as (head, pieces):
            body = bytearray()
            async for piece in pieces:
                body += piece
                if len(body) > bytes_max:
                    raise Silent(f"its answer has more than {bytes_max} bytes")
    except (OSError, ValueError, h11.ProtocolError) as error:  # a time-out is one
        silent = Silent(f"{type(error).__name__}: {str(error) or 'no answer in time'}"[:CONCERN_CHARS_MAX])
        silent.was_reached = was_reached
        raise silent from error
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
    return Answer(head.status_code, headers, bytes(body))


def asked_by(request: Request, body: bytes = b"") -> Asked:
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
    return Asked(method, target, headers, body)


class Refused(Problem):
    """A worker's refusal, passed on as it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status, "Refused", "by a worker")
        self._answer = answer

    def response(self, instance: str) -> Response:
        return self._answer.passed_on()


async def blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, without the mark of the end. Raises Silent if there is none, OSError, h11.ProtocolError."""
    rest = b""
    while True:
        async with asyncio.timeout(ANSWER_S_MAX):
            piece = await anext(pieces, None)
        if piece is None:
            raise Silent("its lines ended without the mark of the end")
        lines, end, rest = (rest + piece).rpartition(b"\n")
        block = lines + end
        if (b"\n" + block).endswith(b"\n" + COMPLETE):
            yield block.removesuffix(COMPLETE)
            return
        if block:
            yield block
        if len(rest) > ANSWER_BYTES_MAX:
            raise Silent(f"a line has more than {ANSWER_BYTES_MAX} bytes")


def concerns_of(worker: str, answer: Answer) -> list[str]:
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


def unanswered() -> Problem:
    return Problem(
        503,
        "Not answered",
        "a worker that would know did not answer; look whether a change was made, then try again",
        {"Retry-After": "1"},
    )


def tell_silent(worker: str, error: Exception) -> None:
    extra = {"worker": worker, "error": f"{type(error).__name__}: {error}"[:CONCERN_CHARS_MAX]}
    logger.warning("a worker's http server gave no answer", extra=extra)
