"""The HTTP server: uvicorn on our own loop and sockets, bounded against idle and slow strangers.

Keeps: the server installs no signal handlers (the process has its own). It holds at most CONNECTIONS_MAX connections,
of one address at most CONNECTIONS_PER_ADDRESS_MAX; a further connection replaces the one that has been idle for the
longest, so a probe that sends its request at once is always answered. Every request, head and body, must arrive within
REQUEST_S_MAX of its first byte, and the first request within that time of the connection. A request comes from the
address of its connection, whatever its headers say: ACLs name addresses. A certificate counts by the authorities of
now, in a resumed session, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import ssl
from collections.abc import Iterator, Sequence
from socket import socket
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.http.handshakes import Handshakes
from gateway.http.sessions import BoundedSession, TooManyRecords
from gateway.security.tls import ListenerTls

logger = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 256
"""Scrapers, probes and a few people; each costs some 64 KiB at most."""
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
REQUEST_S_MAX: Final = 10.0
KEEP_ALIVE_S: Final = 75
STOP_S_MAX: Final = 1
CERTIFICATE: Final = "penstock.certificate"
"""Where a request's scope has its client's certificate, in DER."""
STRICT: Final = ("Strict-Transport-Security", "max-age=31536000")
"""With TLS: browsers come back by https only (RFC 6797)."""


class _Protocol(H11Protocol):
    """uvicorn's protocol, with a bound on connections and on the time in which each request arrives."""

    connections_max = CONNECTIONS_MAX
    tls: ListenerTls | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._is_answering = False
        self._since_s = self.loop.time()
        self._address = _network_of(self.client)
        session = transport.get_extra_info("ssl_object")
        if session is not None and self.tls is not None:
            self.app = _with_certificate(self.app, session.getpeercert(binary_form=True))
        if (other := self._without_place()) is not None:
            other.give_way()
        self._watch()

    def _without_place(self) -> _Protocol | None:
        """The connection to close: an idle one before one that is being answered, and the oldest of these."""
        others: list[Any] = [other for other in self.connections if other is not self]
        near = [other for other in others if other._address == self._address]
        if len(near) >= CONNECTIONS_PER_ADDRESS_MAX:
            others = near
        elif len(others) < self.connections_max:
            return None
        oldest: _Protocol = min(others, key=lambda other: (other._is_answering, other._since_s))
        return oldest

    def give_way(self) -> None:
        """Close this connection for a new one."""
        self.connections.discard(self)
        self.transport.abort()
        logger.warning("http connections are at their bound: those that ask for nothing are closed for others")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Set the deadline of an incomplete request, even of one that is only an empty line so far."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering != self._is_answering:
            self._is_answering, self._since_s = answering, self.loop.time()
        body_is_due = self.conn.their_state is h11.SEND_BODY
        is_between = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        head_is_due = self.conn.their_state is h11.IDLE and not answering and not is_between
        if not (body_is_due or head_is_due):
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(REQUEST_S_MAX, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, TooManyRecords):
            logger.warning("http connection closed: %s", exc, extra={"peer": "{}:{}".format(*self.client or ("", 0))})
        self._stop_timer()
        super().connection_lost(exc)


def _network_of(client: tuple[str, int] | None) -> str:
    """An IPv4 address; of an IPv6 address, its /64 network, of which one customer has many addresses."""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0]) if client is not None else None
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False).network_address
    return str(address)


def _with_certificate(app: ASGIApp, der: bytes | None) -> ASGIApp:
    """An application whose requests name the certificate of their client."""

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, CERTIFICATE: der}, receive, send)

    return app if der is None else known


def _bounded(context: ssl.SSLContext) -> ssl.SSLContext:
    context.sslobject_class = BoundedSession
    return context


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


class HttpServer:
    """Serves one application on bound sockets until it is stopped."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket],
        connections_max: int = CONNECTIONS_MAX,
        tls: ListenerTls | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`context`: in place of `tls`, one that is never renewed. It lets nobody in but nodes."""
        config: Any = uvicorn.Config(
            app,
            http=type("_Bounded", (_Protocol,), {"connections_max": min(connections_max, CONNECTIONS_MAX), "tls": tls}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S_MAX,
            headers=[STRICT] if tls is not None else [],
        )
        config.load()  # import the named modules now, not on the loop while serving
        self._server = _Server(config)
        self._handshakes: Handshakes | None = None
        if tls is not None:  # a changed file makes another context, in which no earlier session goes on
            self._handshakes = Handshakes(lambda: _bounded(tls.context), self._protocol)
        elif context is not None:
            self._handshakes = Handshakes(lambda: context, self._protocol)
        self._sockets = list(sockets)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once requests are answered."""
        listening = self._sockets if self._handshakes is None else []
        self._task = asyncio.create_task(self._server.serve(listening), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise AssertionError("the HTTP server ended before it served")
            await asyncio.sleep(0.001)
        if self._handshakes is not None:
            self._handshakes.start(self._sockets)

    def _protocol(self) -> asyncio.Protocol:
        """As the server makes it for connections that it takes itself."""
        config, server = self._server.config, self._server
        make: Any = config.http_protocol_class
        made: asyncio.Protocol = make(config=config, server_state=server.server_state, app_state=server.lifespan.state)
        return made

    async def stop(self) -> None:
        """Finish the answers under way, for at most STOP_S_MAX seconds. Why it did not start, `start` has said."""
        if self._handshakes is not None:
            await self._handshakes.stop(self._sockets)
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task])
