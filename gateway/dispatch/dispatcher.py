"""From a request's bytes to the handler that answers it.

Invariant: every request that got a slot is answered, or its connection is closed with a
log line, whatever the handler does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.dispatch.registry import Registry
from gateway.dispatch.request_tasks import RequestTasks, report_failure
from gateway.dispatch.route import Route, took
from gateway.metrics.counters import Metrics
from gateway.network.receiver import too_large_to_come_unproved
from gateway.network.response_slot import ResponseSlot
from gateway.network.turns import is_out_of_turn
from gateway.wire.codec import response_codec
from gateway.wire.errors import MalformedRequest
from gateway.wire.headers import (
    FIXED,
    HEADER_TAGS_MAX,
    RequestHeader,
    decode_client_id,
)
from gateway.wire.primitives import skip_tags

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.services import Services

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

CLIENT_FIELD_END_MAX: Final = 256
"""A client id that ends beyond this byte of the header is not remembered: an idle connection should hold little."""

_fixed = FIXED.unpack_from
_new_header = tuple.__new__
_now: Final = time.perf_counter


def _read_header(connection: "Connection", frame: bytearray, flexible: bool) -> tuple[str | None, int]:
    """The client id, which the connection remembers if it is short, and the start of the body."""
    client_id, position = decode_client_id(frame)
    if client_id != connection.party.client_id:
        connection.identify(client_id)
    if client_id is not None and position <= CLIENT_FIELD_END_MAX:
        connection.client_field, connection.client_id = bytes(frame[8:position]), client_id
    if flexible:
        position = skip_tags(memoryview(frame), position, len(frame), [HEADER_TAGS_MAX], "header.tags")
    return client_id, position


class Dispatcher:
    """Finds the route of each request and starts its handler, in order of arrival."""

    def __init__(self, services: "Services", apis: Registry, metrics: Metrics) -> None:
        self.services = services
        self.apis = apis
        self.metrics = metrics
        self._routes: dict[int, Route] = {}
        self._tasks = RequestTasks(services, apis, metrics)

    def __repr__(self) -> str:
        return f"<Dispatcher {len(self.apis)} APIs, {self._tasks!r}>"

    def dispatch(self, connection: "Connection", frame: bytearray, charge: int) -> None:
        """Start the request in `frame`; `charge` bytes of the request budget are released with its
        answer."""
        if len(frame) < FIXED.size:
            self._refuse(connection, charge, f"a request of {len(frame)} bytes")
            return
        key, version, correlation_id, id_length = _fixed(frame)
        route = self._routes.get((key << 16) + version)
        if route is None:
            route = self._new_route(connection, key, version, correlation_id, charge)
            if route is None:
                return
        field, is_early = connection.client_field, False
        position = 8 + len(field)
        if (
            id_length == len(field) - 2
            and frame.startswith(field, 8)
            and (not route.flexible_request or (position < len(frame) and not frame[position]))
        ):
            client_id = connection.client_id  # the same as in the request before: the usual case
            position += route.flexible_request
        else:
            try:
                client_id, position = _read_header(connection, frame, route.flexible_request)
            except MalformedRequest as error:
                self._refuse(connection, charge, str(error))
                return
            is_early = is_out_of_turn(connection.party)  # only the header told whose connection this is
        body = memoryview(frame)[position:]
        header = _new_header(RequestHeader, (key, version, correlation_id, client_id))
        slot = ResponseSlot(connection, route, correlation_id, charge)
        connection.slots.append(slot)
        if route.raw is None or len(body) >= route.aside_from:
            self._tasks.start(connection, route, header, body, slot)
        elif connection.starting or is_early:
            connection.starting += 1
            loop = asyncio.get_running_loop()
            loop.call_soon(self._call_raw_later, connection, route, header, body, slot)
        else:
            self._call_raw(connection, route, header, body, slot, slot.started_s)

    def admit(self, connection: "Connection", frame: bytearray, charge: int) -> None:
        """Start the request if the connection's SASL session allows it now; else close the connection."""
        session = connection.sasl_session
        assert session is not None
        most = connection.receiver.unproved_bytes_max
        if most is not None and len(frame) > most:
            self._refuse(connection, charge, too_large_to_come_unproved(len(frame), most))
            return
        if session.takes_bare_tokens:
            self._tasks.start_bare_token(connection, bytes(frame), charge)
            return
        if len(frame) >= FIXED.size:
            refusal = session.refusal(_fixed(frame)[0], self.services.clock.wall_ms())
            if refusal is not None:
                if session.principal is not None and connection.sasl is not None:
                    connection.sasl.expired += 1
                self._refuse(connection, charge, refusal)
                return
        self.dispatch(connection, frame, charge)

    def _call_raw_later(
        self,
        connection: "Connection",
        route: Route,
        header: RequestHeader,
        body: memoryview,
        slot: ResponseSlot,
    ) -> None:
        """Begin a request after those before it have begun; a party that has had its share waits for its turn."""

        def call() -> bool:
            connection.starting -= 1
            if not connection.closed:
                self._call_raw(connection, route, header, body, slot, _now())
            return False

        if is_out_of_turn(connection.party):
            connection.turns.wait(connection.party, call)
        else:
            call()

    def _call_raw(
        self,
        connection: "Connection",
        route: Route,
        header: RequestHeader,
        body: memoryview,
        slot: ResponseSlot,
        began_s: float,
    ) -> None:
        assert route.raw is not None
        connection.party.began_s = began_s
        try:
            route.raw(connection, header, body, slot)
        except MalformedRequest as error:
            slot.close(f"malformed: {error}")
        except Exception:
            report_failure(self.metrics, connection, route, f"a request of {len(body)} bytes")
            if not slot.answered:
                slot.close("the handler failed")
        took(connection, route, _now() - began_s, len(body))

    def _new_route(
        self, connection: "Connection", key: int, version: int, correlation_id: int, charge: int
    ) -> Route | None:
        """The route at its first use; None when the request has been answered or refused instead."""
        api = self.apis.get(key)
        if api is None:
            self._refuse(connection, charge, f"API key {key} is not served")
            return None
        if version in api.versions:
            route = self._routes[(key << 16) + version] = Route(api, version, self.metrics)
            return route
        if api.unsupported_version is None:
            versions = f"{api.versions.start} to {api.versions.stop - 1}"
            reason = f"{api.name} v{version} is not served, only {versions}"
            self._refuse(connection, charge, reason)
            return None
        oldest = Route(api, api.versions.start, self.metrics)
        slot = ResponseSlot(connection, oldest, correlation_id, charge)
        connection.slots.append(slot)
        slot.send((response_codec(key, 0).encode(api.unsupported_version()),))
        return None

    def _refuse(self, connection: "Connection", charge: int, reason: str) -> None:
        connection.release(charge)
        connection.refuse(reason)

    def aside(self, function: Callable[..., _T], *args: object) -> Awaitable[_T]:
        """Run a function in the thread of large messages."""
        return self._tasks.aside(function, *args)

    async def finish(self, grace_s: float) -> None:
        """Wait for the handlers that run; cancel those that take longer."""
        await self._tasks.finish(grace_s)
