"""One client's connection: its life, who its peer is, and requests, which begin in the order in which they come.

When it is not read is in `pausing`, how answers leave is in `answering`.

Invariants:
- Every input ends in answers, or in one log line and a closed connection.
- A connection that is gone has given back all that it took, and told everybody who waited for that.
"""

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from gateway.network.answering import Answering
from gateway.network.outgoing import Outgoing
from gateway.network.pausing import IN_FLIGHT
from gateway.network.receiver import Receiver
from gateway.network.response_slot import ResponseSlot
from gateway.network.tls import SealedOutgoing, TlsTransport
from gateway.security.principal import ANONYMOUS, NODE, Principal
from gateway.security.sasl import SaslSession
from gateway.security.sasl_listener import SaslListener

if TYPE_CHECKING:
    from gateway.network.binding import Binding
    from gateway.network.host import Host
    from gateway.security.rights import Rights
    from gateway.services import Services

logger = logging.getLogger(__name__)

PEER_LEFT: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR

_T = TypeVar("_T")


class Dispatching(Protocol):
    """Starts the handler of each request."""

    services: "Services"

    def dispatch(self, connection: "Connection", frame: bytearray, charge: int) -> None: ...

    def admit(self, connection: "Connection", frame: bytearray, charge: int) -> None:
        """Dispatch the request if the connection's SASL session allows it now."""
        ...

    def aside(self, function: Callable[..., _T], *args: object) -> Awaitable[_T]:
        """Run a function in the thread of large messages."""
        ...


class Owner(Protocol):
    """Accepts the connection; learns of its beginning and its end."""

    host: "Host"

    @property
    def dispatcher(self) -> Dispatching: ...

    def opened(self, connection: "Connection") -> str | None: ...

    def lost(self, connection: "Connection") -> None: ...


class Connection(Answering):
    """See the module. Handlers use: services, peer_host, peer_port, principal, listener, client_software_name and
    _version, closed, peer_left, abandon, mute, output_room, takes_more, when_output_room, aside, on_close,
    forget_on_close."""

    __slots__ = (
        "_close_callbacks",
        "_owner",
        "client_field",
        "client_id",
        "client_software_name",
        "client_software_version",
        "guarded",
        "listener",
        "made_s",
        "peer_host",
        "peer_port",
        "principal",
        "records_s",
        "requests",
        "rights",
        "sasl",
        "sasl_session",
        "services",
        "starting",
        "unsent_seen",
    )

    def __init__(
        self, owner: Owner, listener: "Binding", peer: tuple[str, int], sasl: SaslListener | None = None
    ) -> None:
        super().__init__(owner.host, peer[0])
        self._owner = owner
        self.services = owner.dispatcher.services
        self.listener = listener
        self.receiver = Receiver(owner.host, self)
        self.peer_host, self.peer_port = peer
        self.principal: Principal = NODE if listener.inner else ANONYMOUS
        self.rights: Rights | None = None  # as the authorizer found them last
        self.client_software_name: str | None = None
        self.client_software_version: str | None = None
        self.sasl = sasl
        self.sasl_session: SaslSession | None = None
        self.guarded = False  # must each request be looked at before it is dispatched?
        if sasl is not None:
            self.sasl_session = sasl.session()
            self.await_proof(sasl)
        self.requests = 0
        self.starting = 0  # handler tasks that did not begin yet
        self.made_s = owner.host.now_s
        self.unsent_seen = 0  # bytes, at the last sweep: does the peer take anything?
        self._close_callbacks: dict[Callable[[], None], None] = {}
        self.records_s = 0.0  # of the loop, for records of TLS, that no request was charged with yet
        self.client_field = b"\xff\xff"  # the client id as in a header: length and text
        self.client_id: str | None = None

    def __repr__(self) -> str:
        software = f" {self.client_software_name}/{self.client_software_version}"
        reasons = ",".join(self.reasons)
        state = "closed" if self.closed else f"paused({reasons})" if reasons else "reading"
        return (
            f"<Connection {self.peer_host}:{self.peer_port}{software if self.client_software_name else ''} "
            f"{state} requests={self.requests} in_flight={len(self.slots)} "
            f"receiving={self.receiver!r} unsent={self._output_bytes}>"
        )

    # --- Life ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if isinstance(transport, TlsTransport):
            self._output = SealedOutgoing(transport)
        else:
            self._output = Outgoing(self._transport)
        # With marks of 0, `pause_writing` is called for every write that the socket did not take at once.
        self._transport.set_write_buffer_limits(high=0, low=0)
        refusal = self._owner.opened(self)
        if refusal is not None:
            self.refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        waiters = self._drop_answers()
        self.receiver.drop()
        if self._mute_handle is not None:
            self._mute_handle.cancel()
        callbacks = [*self._close_callbacks, *waiters]
        self._close_callbacks.clear()
        for callback in callbacks:
            callback()
        self._host.turns.leave(self.party)
        self._owner.lost(self)

    def refuse(self, reason: str) -> None:
        """Close for a fault of the peer's or of ours, with one log line."""
        if not self.closed:
            peer = f"{self.peer_host}:{self.peer_port}"
            logger.warning("connection closed: %s", reason, extra={"peer": peer, "client": self.client_id})
            self.close()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once when the connection is gone."""
        self._close_callbacks[callback] = None

    def forget_on_close(self, callback: Callable[[], None]) -> None:
        self._close_callbacks.pop(callback, None)

    @property
    def was_made(self) -> bool:
        """It has, or had, a transport, so `connection_lost` is called."""
        return self._transport is not None

    # --- The peer -----------------------------------------------------------------------------

    def await_proof(self, sasl: SaslListener) -> None:
        """The peer must say who it is, at first or again: little is read before, and one request at a time."""
        self.guarded = True
        self.in_flight_max = 1
        self.receiver.unproved_bytes_max = sasl.request_bytes_max

    def authenticated(self, principal: Principal, *, ends: bool) -> None:
        """The peer has proved who it is. `ends`: for a time only."""
        self.principal = principal
        self.guarded = ends
        self.in_flight_max = self._host.limits.in_flight_requests_max
        self.receiver.unproved_bytes_max = None

    def identify(self, client_id: str | None) -> None:
        """The client sent its id; connections of one address and id share one party's share of the loop."""
        turns = self._host.turns
        turns.leave(self.party)
        self.party = turns.join(self.peer_host, client_id)

    @property
    def is_handshaking(self) -> bool:
        return isinstance(self._transport, TlsTransport) and not self._transport.is_shaken

    @property
    def is_unproved(self) -> bool:
        """Must it still say who it is?"""
        return self.sasl_session is not None and self.sasl_session.principal is None

    def eof_received(self) -> bool:
        """A peer that only stopped sending still gets the answers that are due, except those of `abandon`."""
        self.half_closed = True
        return bool(self.slots) or self._output.has_views

    def peer_left(self) -> bool:
        """Will the peer send nothing more? While the connection is not read, or requests were sent at once, only the
        socket knows: its state shows the end even behind unread bytes."""
        if self.closed or self.half_closed:
            return True
        if not self.blocked and len(self.slots) <= 1:
            return False
        descriptor = self._transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return True
        state = select.poll()
        state.register(descriptor, PEER_LEFT)
        return bool(state.poll(0))

    def abandon(self, slot: ResponseSlot) -> None:
        """Drop a request that changes nothing, as its peer has left. No client stops sending and reads on."""
        self._host.metrics.abandoned_requests += 1
        slot.none()
        self.close()

    # --- Requests in --------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        host = self._host
        host.metrics.received_bytes += nbytes
        self.active_s = host.now_s
        party = self.party
        if party.over or party.address.over:
            self._wait_turn()
        self.receiver.add(nbytes)

    def spent(self, seconds: float) -> None:
        """What the peer sent held the loop for so long, before it was a request."""
        self.turns.spend(self.party, seconds)
        if self.services.quotas.is_timed:
            self.records_s += seconds

    def sealed(self, seconds: float) -> None:
        """An answer held the loop for so long to be encrypted. Within a turn that is the turn's time."""
        if self.services.quotas.is_timed and not self.party.began_s:
            self.records_s += seconds

    def start(self, frame: bytearray, size: int) -> None:
        """Start a whole request, which nothing blocks."""
        host = self._host
        self.requests += 1
        host.request_budget.used += size
        if self.guarded:
            self._owner.dispatcher.admit(self, frame, size)
        else:
            self._owner.dispatcher.dispatch(self, frame, size)
        if len(self.slots) >= self.in_flight_max or self.tasks >= host.limits.tasks_max:
            self._block(IN_FLIGHT)
        party = self.party
        if party.over or party.address.over:
            self._wait_turn()

    def charge(self, size: int) -> None:
        """Charge the request budget with the memory of a decoded request."""
        self._host.request_budget.charge(size)

    def release(self, size: int) -> None:
        self._host.request_budget.release(size)

    def aside(self, function: Callable[..., _T], *args: object) -> Awaitable[_T]:
        """Run a function that would keep the loop for long, in the thread of large messages."""
        return self._owner.dispatcher.aside(function, *args)
