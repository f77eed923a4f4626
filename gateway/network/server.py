"""The Kafka listeners: they accept connections, bound their memory together, and end those that stall.

Invariants: whatever strangers do, memory stays within the limits' sum, and every connection without
progress ends. One sweep over all connections finds requests that do not arrive, answers that peers do
not take, and idle connections. No connection has a timer of its own.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from gateway.metrics.counters import Metrics
from gateway.network.acceptor import INNER_PEER, Acceptor
from gateway.network.binding import Binding
from gateway.network.connection import Connection, Dispatching
from gateway.network.connection_limits import AddressRates, ConnectionCounts, CreationRate, counts_of_nodes
from gateway.network.host import Host, ServerLimits
from gateway.network.tls import ServerTls, TlsTransport, TlsWorkers
from gateway.security.listeners import SecuredListener

logger = logging.getLogger(__name__)

SWEEP_SLICES: Final = 10
"""Ticks in which a sweep visits all connections, so that no tick holds the loop for long."""
STALLED_UNDER_PRESSURE_S: Final = 10.0
"""While the bytes of answers are at their bound, a peer that took nothing for this time is closed."""
HALF_CLOSED_S: Final = 1.0
"""Time for a peer that stopped sending to take its last answers; most such peers are gone."""
STOP_POLL_S: Final = 0.01
"""Pause between two looks of a stop; an event would cost every request something."""


REFUSAL_TOLD_EVERY_S: Final = 10.0


class Dispatcher(Dispatching, Protocol):
    """Starts the handlers of requests, and waits for them at a stop."""

    async def finish(self, grace_s: float) -> None: ...


class Server:
    """Accepts connections on bound sockets, ends those that stall, and stops."""

    def __init__(
        self,
        limits: ServerLimits,
        dispatcher: Dispatcher,
        metrics: Metrics,
        secured: Mapping[str, SecuredListener] | None = None,
        rate_of: Callable[[str], int | None] = lambda host: None,
        inner: ServerTls | None = None,
    ) -> None:
        """`secured`: listeners that encrypt or ask who is there, by name. `rate_of`: connections a second that an
        address may make, None without a bound. `inner`: how nodes on other machines prove to be nodes."""
        self.host = Host(limits, metrics)
        self.dispatcher = dispatcher
        self.tls = TlsWorkers()
        self._secured = secured or {}
        self._inner = inner
        self.counts = ConnectionCounts(
            limits.connections_max,
            limits.connections_per_ip_max,
            limits.connections_per_ip_overrides,
            limits.connections_of_listeners,
        )
        self._counts_of_nodes = counts_of_nodes(INNER_PEER[0])
        self._rate = CreationRate(limits.connections_per_s_max, time.monotonic)
        self._rates_at = {
            name: CreationRate(most_s, time.monotonic) for name, most_s in limits.connections_per_s_of_listeners.items()
        }
        self._by_address = AddressRates(rate_of, time.monotonic)
        self._held: dict[socket.socket, tuple[str, str, asyncio.TimerHandle]] = {}
        self.acceptor = Acceptor(self.host.loop, self._take, self._rate.wait_s, self._wait_at_s)
        self._arriving: set[asyncio.Task[None]] = set()
        self._connections: dict[Connection, None] = {}
        self._refusal_told_s: dict[str, float] = {}  # by reason: a word from our code
        self._to_sweep: list[Connection] = []
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Server {len(self._connections)} connections, {self.host!r}>"

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All open connections; a repr shows its connection's state."""
        return tuple(self._connections)

    # --- Start and stop -----------------------------------------------------------------------

    async def start(self, bindings: Sequence[Binding]) -> None:
        """Accept connections on these sockets from now on; on a port for nodes, with their certificates only."""
        if self._inner is None and any(map(_asks_for_nodes, bindings)):
            raise ValueError("a port for nodes of other machines, and no certificates by which to know them")
        self.acceptor.start(bindings)
        self._sweep()

    async def stop(self, grace_s: float) -> None:
        """Accept and start nothing further, let running requests answer within the grace, then close."""
        self._stopping = True
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        self.acceptor.stop()
        for held, (host, listener, timer) in self._held.items():
            timer.cancel()
            held.close()
            self.counts.remove(host, listener)
        self._held.clear()
        for connection in self._connections:
            connection.stop_reading()
        deadline = self.host.loop.time() + grace_s
        while self._busy() and self.host.loop.time() < deadline:  # noqa: ASYNC110  see STOP_POLL_S
            await asyncio.sleep(STOP_POLL_S)
        await self.dispatcher.finish(max(0.0, deadline - self.host.loop.time()))
        for connection in list(self._connections):
            connection.close()
        while self._connections and self.host.loop.time() < deadline + grace_s:  # noqa: ASYNC110
            await asyncio.sleep(STOP_POLL_S)
        self.tls.close()

    def _busy(self) -> bool:
        return any(c.in_flight or c.unsent_bytes() for c in self._connections)

    # --- Arrivals -------------------------------------------------------------------------------

    def _take(self, accepted: socket.socket, address: tuple[str, int], binding: Binding) -> None:
        """Serve an accepted connection, or close it before anything is made for it."""
        self.host.metrics.connections_accepted += 1
        host = address[0]
        counts = self._counts_at(binding)
        if (refusal := counts.refusal(host, binding.name)) is not None:
            accepted.close()
            self._refused(*refusal, address)
            return
        hold_s = 0.0 if binding.inner else self._by_address.hold_s(host)
        if hold_s is None:
            accepted.close()
            self._refused("connection_creation_rate", "its address' connection_creation_rate is exceeded", address)
            return
        if not binding.inner:
            self._rate.count()
        if (rate := self._rates_at.get(binding.name)) is not None:
            rate.count()
        counts.add(host, binding.name)
        if hold_s > 0:
            self.acceptor.waiting_s += hold_s
            timer = self.host.loop.call_later(hold_s, self._due, accepted, address, binding)
            self._held[accepted] = host, binding.name, timer
        else:
            self._begin(accepted, address, binding)

    def _counts_at(self, binding: Binding) -> ConnectionCounts:
        return self._counts_of_nodes if binding.inner else self.counts

    def _wait_at_s(self, listener: str) -> float:
        """Seconds that a listener's next connection must wait for the listener's own rate."""
        rate = self._rates_at.get(listener)
        return 0.0 if rate is None else rate.wait_s()

    def _due(self, accepted: socket.socket, address: tuple[str, int], binding: Binding) -> None:
        """A connection was held for long enough."""
        del self._held[accepted]
        self._begin(accepted, address, binding)

    def _begin(self, accepted: socket.socket, address: tuple[str, int], binding: Binding) -> None:
        task = self.host.loop.create_task(self._serve(accepted, address, binding))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _serve(self, accepted: socket.socket, address: tuple[str, int], binding: Binding) -> None:
        secured = None if binding.inner else self._secured.get(binding.name)
        sasl = None if secured is None else secured.sasl
        connection = Connection(self, binding, address, sasl)
        protocol: asyncio.BufferedProtocol = connection
        tls: ServerTls | None = None if secured is None else secured.tls
        if _asks_for_nodes(binding):
            tls = self._inner
        if tls is not None:
            protocol = TlsTransport(connection, tls, self.host, self.tls, names_users=sasl is None)
        try:
            accepted.setblocking(False)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.host.loop.connect_accepted_socket(lambda: protocol, accepted)
        except Exception as error:  # the peer is gone already, or there is no memory for it
            if not connection.was_made:
                accepted.close()
                self._counts_at(binding).remove(address[0], binding.name)
            logger.debug("connection not taken", extra={"peer": f"{address[0]}:{address[1]}", "error": str(error)})

    def _refused(self, key: str, reason: str, address: tuple[str, int]) -> None:
        """Count a refusal. Refused clients come back at once, so one log line in a while stands for many."""
        self.host.metrics.connection_refused(key)
        if self.host.now_s - self._refusal_told_s.get(key, -REFUSAL_TOLD_EVERY_S) >= REFUSAL_TOLD_EVERY_S:
            self._refusal_told_s[key] = self.host.now_s
            logger.warning("connection closed: %s", reason, extra={"peer": f"{address[0]}:{address[1]}"})

    # --- Reports of connections -----------------------------------------------------------------

    def opened(self, connection: Connection) -> str | None:
        """Register a connection, which is counted already; returns the reason if it must be closed all the same."""
        self._connections[connection] = None
        self.host.metrics.connections_open = len(self._connections)
        return "stopping" if self._stopping else None

    def lost(self, connection: Connection) -> None:
        if self._connections.pop(connection, self) is self:
            return
        self._counts_at(connection.listener).remove(connection.peer_host, connection.listener.name)
        self.host.metrics.connections_open = len(self._connections)

    # --- Time-outs ------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self.host.now_s = time.monotonic()
        if not self._to_sweep:
            self._to_sweep = list(self._connections)
        share = max(1, -(-len(self._connections) // SWEEP_SLICES))
        due, self._to_sweep = self._to_sweep[:share], self._to_sweep[share:]
        for connection in due:
            if connection.closed:
                continue
            if connection.half_closed and self.host.now_s - connection.active_s > HALF_CLOSED_S:
                connection.close()
            elif (reason := self._overdue(connection)) is not None:
                connection.refuse(reason)
        tick_s = self.host.limits.sweep_ms / 1000 / SWEEP_SLICES
        self._sweep_handle = self.host.loop.call_later(tick_s, self._sweep)

    def _overdue(self, connection: Connection) -> str | None:
        """The reason why this connection has to end now, or None."""
        limits, now_s = self.host.limits, self.host.now_s
        unsent = connection.unsent_bytes()
        if unsent:
            if unsent != connection.unsent_seen:
                connection.unsent_seen = unsent
                connection.active_s = now_s
            elif self.host.output_budget.exhausted and (now_s - connection.active_s > STALLED_UNDER_PRESSURE_S):
                return f"{unsent} bytes of answers are not taken, and others need the room"
        if not connection.blocked:
            since_s = connection.receiver.since_s
            if since_s and (now_s - since_s) * 1000 > limits.receive_progress_ms:
                return f"a request does not arrive within {limits.receive_progress_ms} ms"
            waited_ms = (now_s - connection.active_s) * 1000
            unproved_ms = (now_s - connection.made_s) * 1000
            if connection.is_unproved and connection.requests and unproved_ms > limits.first_request_ms:
                return f"it does not authenticate within {limits.first_request_ms} ms"
            if not connection.requests and waited_ms > limits.first_request_ms:
                awaited = "no TLS handshake" if connection.is_handshaking else "no request"
                return f"{awaited} within {limits.first_request_ms} ms of connecting"
        idle = limits.idle_ms >= 0 and (now_s - connection.active_s) * 1000 > limits.idle_ms
        if idle and (unsent or not connection.in_flight):
            return f"idle for connections.max.idle.ms={limits.idle_ms}"
        return None


def _asks_for_nodes(binding: Binding) -> bool:
    """Whether strangers reach it, who must prove to be nodes: a socket file only nodes reach."""
    return binding.inner and binding.sockets[0].family != socket.AF_UNIX
