"""A request of an API that is not hot, or a long Fetch, as a task: decoded, let in turn, handled, encoded, answered.

Invariants: handlers of one connection begin in the order of their requests. No step of a task holds the loop in
proportion to a message's size: large ones are decoded and encoded in a thread. A large request is alone: its connection
starts nothing further before it is answered, as its handler gives way in between. An API with large answers makes one
for a connection at a time, and none before there is room for it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from core.errors import StoreError
from gateway.dispatch.authentication import authenticate
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import LongHandler, Registry
from gateway.dispatch.route import Route, took
from gateway.dispatch.time_quota import time_pause_ms
from gateway.metrics.counters import Metrics
from gateway.network.response_slot import Answerable, BareSlot, Part, ResponseSlot
from gateway.network.turns import is_out_of_turn
from gateway.refusals import Asked, Refusal, code_of
from gateway.security import sasl
from gateway.wire.error_codes import UNKNOWN_SERVER_ERROR
from gateway.wire.errors import MalformedRequest
from gateway.wire.headers import RequestHeader
from gateway.wire.message import Message

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.services import Services

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

ELEMENT_BYTES: Final = 200
"""Bytes that one decoded element is charged with: about the memory of a small Message."""
ASIDE_ITEMS_MIN: Final = 2_000
"""Answers with more items than this are encoded in a thread; on the loop these take 5 ms."""
AT_ONCE_BYTES: Final = 1024 * 1024
"""The same of answers with more bytes in their fields, such as what a group's members say: these take some 2 ms."""

_now: Final = time.perf_counter


class RequestTasks:
    """The running handlers. See the module."""

    def __init__(self, services: "Services", apis: Registry, metrics: Metrics) -> None:
        self._services = services
        self._apis = apis
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._aside = ThreadPoolExecutor(1, "large-messages")
        self._bare_route = _BareTokens(metrics)

    def __repr__(self) -> str:
        return f"<RequestTasks {len(self._running)} running>"

    def start(
        self, connection: "Connection", route: Route, header: RequestHeader, body: memoryview, slot: ResponseSlot
    ) -> None:
        """Begin to answer a request; every outcome reaches `slot`."""
        is_alone = len(body) >= route.alone_from
        context = RequestContext(
            self._services,
            header.api_version,
            header.correlation_id,
            header.client_id,
            connection,
            self._apis,
            route.name,
            is_alone,
        )
        if is_alone:
            connection.set_aside()
            answering = self._read_aside(context, route, body, slot)
        else:
            began_s = _now()
            try:
                decoded = route.requests.decode_counted(body)
            except MalformedRequest as error:
                slot.close(f"malformed: {error}")
                return
            finally:
                took(connection, route, _now() - began_s, len(body))
            answering = self._answer(context, route, _charged(slot, decoded), slot)
        connection.starting += 1
        connection.tasks += 1
        task = asyncio.get_running_loop().create_task(timed(answering, connection, route, len(body)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def start_bare_token(self, connection: "Connection", token: bytes, charge: int) -> None:
        """A token without a request around it (SaslHandshake v0), answered likewise."""
        slot = BareSlot(connection, self._bare_route, 0, charge)
        connection.slots.append(slot)

        async def answer() -> None:
            try:
                outcome = await authenticate(connection, token, self._services)
            except Exception:
                logger.exception("a bare token could not be looked at")
                slot.close("the handler failed")
                return
            if isinstance(outcome, sasl.Denied):
                slot.none()  # its form has no place for an error
            else:
                slot.send((outcome.token,))

        task = asyncio.get_running_loop().create_task(answer())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _read_aside(self, context: RequestContext, route: Route, body: memoryview, slot: ResponseSlot) -> None:
        connection = context.connection
        loop = asyncio.get_running_loop()
        try:
            decoded = await loop.run_in_executor(self._aside, route.requests.decode_counted, body)
        except (Exception, asyncio.CancelledError) as error:
            connection.starting -= 1
            connection.task_ended()
            if isinstance(error, MalformedRequest):
                slot.close(f"malformed: {error}")
                return
            if isinstance(error, Exception):
                report_failure(self._metrics, connection, route, f"a request of {len(body)} bytes")
                slot.close("it could not be decoded")
                return
            slot.none()
            connection.close()
            raise
        try:
            await self._answer(context, route, _charged(slot, decoded), slot)
        finally:
            loop.call_soon(connection.set_free)

    async def _answer(self, context: RequestContext, route: Route, request: Message, slot: ResponseSlot) -> None:
        connection = context.connection
        try:
            if is_out_of_turn(connection.party):
                await connection.turns.turn(connection.party)
            connection.starting -= 1
            if route.api.large_answer:
                async with connection.large_answer(slot):
                    await self._handle(context, route, request, slot)
            else:
                await self._handle(context, route, request, slot)
        except asyncio.CancelledError:  # by a stop, which does not wait for ever
            if not slot.answered:
                slot.none()
            connection.close()
            raise
        finally:
            connection.task_ended()

    async def _handle(self, context: RequestContext, route: Route, request: Message, slot: ResponseSlot) -> None:
        handle, handle_long = route.api.handle, route.api.handle_long
        if route.api.large_answer and context.connection.peer_left():
            context.connection.abandon(slot)  # its peer left while it waited for its turn or for room
            return
        if handle_long is not None:
            await self._handle_long(handle_long, context, route, request, slot)
            return
        assert handle is not None
        try:
            held = [_with_pause(context.connection, await handle(context, request))]
            parts = await self._encoded(route, held)
        except Refusal as refused:
            await self._send_error(route, request, slot, refused.code)
        except Exception as error:
            report_failure(self._metrics, context.connection, route, repr(request))
            await self._send_error(route, request, slot, _code(error))
        else:
            slot.send(parts)

    async def _encoded(self, route: Route, held: list[Mapping[str, Any]]) -> list[Part]:
        """The answer's bytes; a large one's are made in the thread."""
        if _is_large(held[0]):
            return await asyncio.get_running_loop().run_in_executor(self._aside, _encoded, route, held)
        return _encoded(route, held)

    async def _send_error(self, route: Route, request: Message, slot: ResponseSlot, code: int) -> None:
        """Answer that the handler failed, or refused."""
        respond = route.api.error_response
        if respond is None:
            slot.close("the handler failed")
            return
        make = partial(respond, request, route.version, code)
        try:
            values = await self.aside(make) if slot.charge >= ASIDE_ITEMS_MIN * ELEMENT_BYTES else make()
            held = [values]
            del values
            parts = await self._encoded(route, held)
        except Exception:
            logger.exception("%s v%d: no error response", route.name, route.version)
            slot.close("the handler failed")
            return
        slot.send(parts)

    async def _handle_long(
        self, handle: LongHandler, context: RequestContext, route: Route, request: Message, slot: ResponseSlot
    ) -> None:
        try:
            await handle(context.connection, route.version, request, slot)
        except Exception:
            report_failure(self._metrics, context.connection, route, repr(request))
            if not slot.answered:
                slot.close("the handler failed")

    def aside(self, function: Callable[..., _T], *args: object) -> Awaitable[_T]:
        """Run a function in the thread of large messages."""
        return asyncio.get_running_loop().run_in_executor(self._aside, function, *args)

    async def finish(self, grace_s: float) -> None:
        """Wait for the handlers that run; cancel those that take longer."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=grace_s)
        self._aside.shutdown(wait=False)


class _BareTokens:
    """Tokens without requests around them count as SaslAuthenticate."""

    name = "SaslAuthenticate"
    version = 0
    flexible_answer = False

    def __init__(self, metrics: Metrics) -> None:
        self.latency = metrics.latency(sasl.SASL_AUTHENTICATE)
        self.turn = metrics.turn(sasl.SASL_AUTHENTICATE)


@coroutine
def timed(
    running: Coroutine[Any, Any, None], connection: "Connection", route: Answerable, size: int
) -> Generator[Any, Any, None]:
    """Run it, and count each of its steps as a turn of the connection's party."""
    step: Any = running.send
    argument: Any = None
    while True:
        connection.party.began_s = began_s = _now()
        try:
            awaited = step(argument)
        except StopIteration:
            return
        finally:
            took(connection, route, _now() - began_s, size)
        try:
            argument, step = (yield awaited), running.send
        except BaseException as error:
            argument, step = error, running.throw


def _charged(slot: ResponseSlot, decoded: tuple[Message, int]) -> Message:
    """The request; its memory after decoding is charged until it is answered."""
    request, elements = decoded
    charge_elements(slot, elements)
    return request


def charge_elements(slot: ResponseSlot, elements: int) -> None:
    """Charge the elements that a request was decoded into; they live until it is answered."""
    extra = elements * ELEMENT_BYTES
    if not slot.connection.closed:
        slot.charge += extra
        slot.connection.charge(extra)


def _with_pause(connection: "Connection", answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer, with the pause that its client must make if that is longer than what the answer says."""
    pause_ms = time_pause_ms(connection)
    return {**answer, "throttle_time": pause_ms} if pause_ms > answer.get("throttle_time", 0) else answer


def _encoded(route: Route, held: list[Mapping[str, Any]]) -> list[Part]:
    """The answer's bytes. Its parts are freed here, in the thread: freeing a million objects takes time too."""
    values = held.pop()
    return route.answers.encode_parts(values)


def _is_large(values: Mapping[str, Any]) -> bool:
    """Does an answer have more items than ASIDE_ITEMS_MIN, or more than AT_ONCE_BYTES? Looks at no more than these."""
    left, left_bytes = ASIDE_ITEMS_MIN, AT_ONCE_BYTES
    todo: list[Any] = [values]
    while todo:
        item = todo.pop()
        if isinstance(item, Mapping):
            for field in item.values():
                if isinstance(field, list | tuple | Mapping):
                    todo.append(field)
                elif isinstance(field, bytes | bytearray | str):
                    left_bytes -= len(field)
        else:
            left -= len(item)
            if left >= 0:
                todo += [entry for entry in item if isinstance(entry, Mapping)]
        if left < 0 or left_bytes < 0:
            return True
    return False


def report_failure(metrics: Metrics, connection: "Connection", route: Route, request: str) -> None:
    """Log and count the exception of a handler."""
    metrics.request_failed(route.api.key)
    logger.exception(
        "%s v%d failed",
        route.name,
        route.version,
        extra={
            "peer": f"{connection.peer_host}:{connection.peer_port}",
            "request": request,
        },
    )


def _code(error: Exception) -> int:
    return code_of(error, Asked.ANYTHING) if isinstance(error, StoreError) else UNKNOWN_SERVER_ERROR
