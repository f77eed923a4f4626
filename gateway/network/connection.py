"""One client's connection: requests are started in order, answers leave in the same order.

Invariants:
- Nothing is read while any reason in `blocked` stands: too many requests in flight here, the bytes of
  all requests at their bound, a peer that does not take its answers, a throttled client, a stop, a party that
  had its share of this round of the loop, a large request that is decoded in a thread.
- Every input ends in answers, or in one log line and a closed connection.
- Every byte that waits for the socket is charged to the output budget once the socket has refused it.
- Answers that wait are in `Host.with_views`, which has them copied when the log needs the memory behind them.
"""

import asyncio
import contextlib
import logging
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from gateway.network.outgoing import LARGE_BYTES_MIN, Outgoing, copied
from gateway.network.receiver import Receiver
from gateway.network.response_slot import Part, ResponseSlot
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

READING_BYTES: Final = 1024 * 1024
"""Bytes that an answer counts as while it is read: what most clients ask of a partition."""

LAST_WORDS_S: Final = 0.1
"""Time for a peer to read why its connection ends: some clients drop what comes together with the end."""

PEER_LEFT: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR

_T = TypeVar("_T")

# Reasons for not reading a connection:
IN_FLIGHT, REQUEST_BYTES, RECEIVE_BYTES, OUTPUT, MUTED, STOPPING, TURN, ASIDE, HELD, ROOM = (
    1 << bit for bit in range(10)
)
REASONS: Final = {
    IN_FLIGHT: "in-flight-limit",
    REQUEST_BYTES: "request-bytes",
    RECEIVE_BYTES: "receive-bytes",
    OUTPUT: "peer-does-not-read",
    MUTED: "muted",
    STOPPING: "stopping",
    TURN: "others-first",
    ASIDE: "large-request",
    HELD: "batches-are-opened",
    ROOM: "waits-for-room-for-an-answer",
}


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


class Connection(asyncio.BufferedProtocol):
    """See the module. Handlers use: services, peer_host, peer_port, principal, listener, client_software_name and
    _version, closed, peer_left, abandon, mute, output_room, takes_more, when_output_room, aside, on_close,
    forget_on_close."""

    __slots__ = (
        "_close_callbacks",
        "_flushing",
        "_held_bytes",
        "_host",
        "_large_answers",
        "_mute_handle",
        "_output",
        "_output_bytes",
        "_output_waiters",
        "_owner",
        "_room_waits",
        "_transport",
        "active_s",
        "blocked",
        "client_field",
        "client_id",
        "client_software_name",
        "client_software_version",
        "closed",
        "ends",
        "guarded",
        "half_closed",
        "held",
        "in_flight_max",
        "listener",
        "party",
        "peer_host",
        "peer_port",
        "principal",
        "receiver",
        "requests",
        "rights",
        "sasl",
        "sasl_session",
        "services",
        "slots",
        "starting",
        "tasks",
        "turns",
        "unsent_seen",
    )

    def __init__(
        self, owner: Owner, listener: "Binding", peer: tuple[str, int], sasl: SaslListener | None = None
    ) -> None:
        host = owner.host
        self._owner = owner
        self._host = host
        self.services = owner.dispatcher.services
        self.listener = listener
        self.receiver = Receiver(host, self)
        self.peer_host, self.peer_port = peer
        self.principal: Principal = NODE if listener.inner else ANONYMOUS
        self.rights: Rights | None = None  # as the authorizer found them last
        self.turns = host.turns
        self.party = host.turns.join(self.peer_host, None)
        self.client_software_name: str | None = None
        self.client_software_version: str | None = None
        self.sasl = sasl
        self.sasl_session: SaslSession | None = None
        self.guarded = False  # must each request be looked at before it is dispatched?
        self.in_flight_max = host.limits.in_flight_requests_max
        if sasl is not None:
            self.sasl_session = sasl.session()
            self.guarded = True
            self.in_flight_max = 1
            self.receiver.unproved_bytes_max = sasl.request_bytes_max
        self.closed = False
        self.ends = False  # it is closed once what is due is answered
        self.half_closed = False
        self.blocked = 0  # reasons, see above
        self.held: deque[Callable[[], None]] | None = None  # requests in flight that wait for one before them
        self.slots: deque[ResponseSlot] = deque()  # requests not answered, or whose turn has not come
        self.requests = 0
        self.starting = 0  # handler tasks that did not begin yet
        self.tasks = 0  # handler tasks that did not end yet
        self.active_s = host.now_s
        self.unsent_seen = 0  # bytes, at the last sweep: does the peer take anything?
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any use
        self._output: Outgoing = cast(Outgoing, None)  # set with the transport
        self._flushing = False
        self._held_bytes = 0  # of answers whose turn has not come
        self._output_bytes = 0  # charged to the output budget
        self._output_waiters: list[Callable[[], None]] = []
        self._room_waits = 0  # requests that wait for room for their answers
        self._close_callbacks: dict[Callable[[], None], None] = {}
        self._mute_handle: asyncio.TimerHandle | None = None
        self._large_answers: asyncio.Lock | None = None  # one is made at a time
        self.client_field = b"\xff\xff"  # the client id as in a header: length and text
        self.client_id: str | None = None

    def __repr__(self) -> str:
        software = f" {self.client_software_name}/{self.client_software_version}"
        reasons = ",".join(name for flag, name in REASONS.items() if self.blocked & flag)
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
        for slot in self.slots:
            self.release(slot.charge)
            slot.charge = 0
        self.slots.clear()
        self._output.drop()
        self._host.with_views.pop(self, None)
        self.receiver.drop()
        self._host.output_budget.release(self._output_bytes)
        self._output_bytes = self._held_bytes = 0
        if self._mute_handle is not None:
            self._mute_handle.cancel()
        callbacks = [*self._close_callbacks, *self._output_waiters]
        self._close_callbacks.clear()
        self._output_waiters.clear()
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

    def close(self) -> None:
        """Close now. Answers that are due are still offered to the socket; bytes that it does not take
        at once are lost."""
        if self.closed:
            return
        self._write_due()
        self.closed = True
        if self._output.waiting:
            self._transport.abort()
        else:
            self._transport.close()

    def end_after_answers(self) -> None:
        """Begin nothing new, and close when what is due is answered."""
        self.ends = True
        self._block(STOPPING)

    def authenticated(self, principal: Principal, *, ends: bool) -> None:
        """The peer has proved who it is. `ends`: for a time only."""
        self.principal = principal
        self.guarded = ends
        self.in_flight_max = self._host.limits.in_flight_requests_max
        self.receiver.unproved_bytes_max = None

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once when the connection is gone."""
        self._close_callbacks[callback] = None

    def forget_on_close(self, callback: Callable[[], None]) -> None:
        self._close_callbacks.pop(callback, None)

    def identify(self, client_id: str | None) -> None:
        """The client sent its id; connections of one address and id share one party's share of the loop."""
        turns = self._host.turns
        turns.leave(self.party)
        self.party = turns.join(self.peer_host, client_id)

    @property
    def was_made(self) -> bool:
        """It has, or had, a transport, so `connection_lost` is called."""
        return self._transport is not None

    @property
    def is_handshaking(self) -> bool:
        return isinstance(self._transport, TlsTransport) and not self._transport.is_shaken

    @property
    def is_unproved(self) -> bool:
        """Must it still say who it is?"""
        return self.sasl_session is not None and self.sasl_session.principal is None

    @property
    def in_flight(self) -> int:
        return len(self.slots)

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

    # --- Pausing ------------------------------------------------------------------------------

    def _block(self, reason: int) -> None:
        if not self.blocked and not self.closed:
            self._transport.pause_reading()
        self.blocked |= reason

    def _unblock(self, reason: int) -> None:
        if not self.blocked & reason or self.closed:
            return
        self.blocked &= ~reason
        if self.blocked:
            return
        self.receiver.resume()  # bytes that have arrived come first
        if not (self.blocked or self.closed or self.half_closed):
            self._transport.resume_reading()

    def wait_for_request_bytes(self) -> None:
        """The bytes of all requests in flight are at their bound."""
        self._block(REQUEST_BYTES)
        self._host.request_budget.wait(self._request_bytes_free)

    def _request_bytes_free(self) -> None:
        self._unblock(REQUEST_BYTES)

    def wait_for_receive_bytes(self) -> None:
        """The bytes of all incomplete requests are at their bound."""
        self._block(RECEIVE_BYTES)
        self._host.receive_budget.wait(self._receive_bytes_free)

    def _receive_bytes_free(self) -> None:
        if self.closed:
            return
        if self.receiver.admitted():
            self._unblock(RECEIVE_BYTES)
        else:
            self._host.receive_budget.wait(self._receive_bytes_free)

    def _wait_turn(self) -> None:
        if not self.blocked & TURN and not self.closed:
            self._block(TURN)
            self._host.turns.wait(self.party, self._turn_came)

    def _turn_came(self) -> bool:
        self._unblock(TURN)
        return False

    def set_aside(self) -> None:
        """Start nothing further until the large request that begins now is answered."""
        self._block(ASIDE)

    def set_free(self) -> None:
        self._unblock(ASIDE)

    def mute(self, duration_ms: int) -> None:
        """Throttle: start no new request of this client for `duration_ms`; requests in flight are answered."""
        if self.closed or duration_ms <= 0:
            return
        ends_s = self._host.loop.time() + duration_ms / 1000
        if self._mute_handle is not None:
            if self._mute_handle.when() >= ends_s:
                return  # of two reasons to pause, the longer one holds
            self._mute_handle.cancel()
        self._block(MUTED)
        self._mute_handle = self._host.loop.call_at(ends_s, self._unblock, MUTED)

    def hold(self) -> None:
        """A request needs time before its turn is over: begin nothing after it until `go_on`."""
        self.held = deque()
        self._block(HELD)

    def go_on(self) -> None:
        """Go on with held requests, one in a turn, until one of them holds the others up again."""
        held, self.held = self.held, None
        if held and not self.closed:
            held.popleft()()
            if self.held is not None:
                self.held.extend(held)
                return
            if held:
                self.held = held
                self.turns.wait(self.party, self._turn_of_held_came)
                return
        self._unblock(HELD)

    def _turn_of_held_came(self) -> bool:
        self.go_on()
        return False

    def stop_reading(self) -> None:
        """For a clean stop: begin nothing new."""
        self._block(STOPPING)

    def task_ended(self) -> None:
        self.tasks -= 1
        if self.blocked & IN_FLIGHT:
            self._check_in_flight()

    def _check_in_flight(self) -> None:
        few = len(self.slots) <= self.in_flight_max * 3 // 4
        if few and self.tasks < self._host.limits.tasks_max:
            self._unblock(IN_FLIGHT)

    # --- Answers out --------------------------------------------------------------------------

    def answered(self, slot: ResponseSlot) -> None:
        """Called by the slot. Its answer leaves when all before it have left."""
        self._host.request_budget.release(slot.charge)
        slot.charge = 0
        if self.closed:
            return
        if slot is not self.slots[0]:
            if slot.size:
                self._held_bytes += slot.size
                self._account_output()
            return
        if slot.size >= LARGE_BYTES_MIN:
            # At once: the next large answer of this turn is made only if there is room beside what is left of this one.
            self._write_due()
            if self._output.waiting:
                self._account_output()
        if not self._flushing:
            self._flushing = True
            self._host.flush_soon(self)

    def flush(self) -> None:
        """Send the answers that are due; begin the requests that waited for that."""
        self._flushing = False
        if self.closed:
            return
        self._write_due()
        if self._held_bytes or self._output_bytes:
            self._held_bytes = sum(slot.size for slot in self.slots)
            self._account_output()
        if self.blocked & IN_FLIGHT:
            self._check_in_flight()
        self._close_if_done()

    def _close_if_done(self) -> None:
        """A peer that stopped sending, or that is to end, has its last answer."""
        if self.slots or self.closed or self._output.has_views:
            return
        if self.half_closed:
            self._transport.close()
        elif self.ends:
            self.ends = False
            self._host.loop.call_later(LAST_WORDS_S, self.close)

    def _write_due(self) -> None:
        """Hand every answer at the head of the line to the socket, in one write."""
        slots = self.slots
        out: list[Part] = []
        size = 0
        while slots and (parts := slots[0].parts) is not None:
            out += parts
            size += slots.popleft().size
        if not out:
            return
        self._host.metrics.sent_bytes += size
        self.active_s = self._host.now_s
        self._output.send(out, size)

    # --- Answers that the peer does not take --------------------------------------------------

    def pause_writing(self) -> None:
        """The socket did not take all: count the rest."""
        self._account_output()

    def resume_writing(self) -> None:
        self._output.go_on()
        self._account_output()
        self._close_if_done()

    def copy_views(self) -> int:
        """Have copies of the answers that wait; returns how many bytes were copied."""
        size = self._output.copy_views()
        for slot in self.slots:
            if slot.parts:
                slot.parts, own = copied(slot.parts)
                size += own
        return size

    def _account_output(self) -> None:
        unsent = 0 if self.closed else self._output.waiting + self._held_bytes
        if unsent:
            self._host.with_views[self] = None
        else:
            self._host.with_views.pop(self, None)
        change = unsent - self._output_bytes
        self._output_bytes = unsent
        budget = self._host.output_budget
        if change > 0:
            budget.charge(change)
        elif change:
            budget.release(-change)
        if unsent > self._host.limits.connection_output_bytes_max or (unsent and budget.exhausted):
            self._block(OUTPUT)
        elif not unsent:
            self._unblock(OUTPUT)
        if self._output_waiters and not self._output.waiting:
            waiters, self._output_waiters = self._output_waiters, []
            for callback in waiters:
                callback()

    def output_room(self) -> int:
        """Bytes that an answer may have now. 0: make none before `when_output_room` calls back.

        A large answer (Fetch) asks before it reads anything, because bytes that a slow or silent peer
        does not take stay in our memory."""
        return 0 if self.blocked & OUTPUT else self._host.output_budget.room

    def takes_more(self) -> bool:
        """Has the socket taken all answers that were due? Then a small one may be made though others use all the room,
        while such answers have not used as much again, or where answers behind it wait for it. So whoever reads goes
        on, whatever others do."""
        budget = self._host.output_budget
        if self.closed or self._output.waiting:
            return False
        return budget.used < 2 * budget.limit or self._held_bytes > 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read bytes for an answer that are not in memory: when there is room for one more such answer in the process,
        and for its bytes while they wait for the peer."""
        budget = self._host.reading_budget
        while not self.closed:
            room = self._host.loop.create_future()
            came = partial(_came, room)
            if budget.exhausted:
                budget.wait(came)
            elif self.output_room() <= 0 and not self.takes_more():
                self.when_output_room(came)
            else:
                break
            await room
        budget.charge(READING_BYTES)
        try:
            yield
        finally:
            budget.release(READING_BYTES)

    def when_output_room(self, callback: Callable[[], object]) -> None:
        """Call back once, when output_room() may have grown or the connection is gone.

        No later request of the connection starts until then: its answer would take the room, and could not leave before
        this one."""
        if self.closed:
            self._host.loop.call_soon(callback)
            return
        self._room_waits += 1
        self._block(ROOM)

        def room_came() -> None:
            self._room_waits -= 1
            callback()
            if not self._room_waits:
                self._unblock(ROOM)

        if self.blocked & OUTPUT:
            self._output_waiters.append(room_came)
        else:
            self._host.output_budget.wait(room_came)

    @contextlib.asynccontextmanager
    async def large_answer(self, slot: ResponseSlot) -> AsyncIterator[None]:
        """Make a large answer: one of this connection at a time, in the order of requests, when there is room for it.

        An answer is charged when it is made. So a peer that does not read can keep alive only one large answer, and the
        bytes that were unsent when that one began. Answers behind it that wait for it never keep it from being made.
        """
        if self._large_answers is None:
            self._large_answers = asyncio.Lock()
        while True:
            async with self._large_answers:
                if self.closed or self.output_room() > 0 or self._holds_up_others(slot):
                    yield
                    return
            room = self._host.loop.create_future()
            self.when_output_room(partial(_came, room))
            await room

    def _holds_up_others(self, slot: ResponseSlot) -> bool:
        """Is it this answer's turn, and are there others behind it? Then room comes only once it has left."""
        return self._held_bytes > 0 and not self._output.waiting and self.slots[0] is slot

    def unsent_bytes(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.closed else self._output.waiting


def _came(room: asyncio.Future[None]) -> None:
    """The room that somebody waits for."""
    if not room.done():
        room.set_result(None)
