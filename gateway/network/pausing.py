"""The reasons for which a connection is not read just now, and the lines in which it waits until they are gone.

Too many requests in flight here, the bytes of all requests at their bound, a peer that does not take its answers, a
throttled client, a stop, a party that had its share of this round of the loop, a large request that is decoded in a
thread: each is one bit.

**Invariant**: nothing is read, and no request begins, while any reason in `blocked` stands. When the last one goes,
bytes that have arrived come before those in the socket.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from gateway.network.receiver import Receiver

if TYPE_CHECKING:
    from gateway.network.host import Host

logger = logging.getLogger(__name__)

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


class Pausing(asyncio.BufferedProtocol):
    """See the module. A part of `Connection`, which sets `receiver`."""

    __slots__ = (
        "_host",
        "_mute_handle",
        "_muted_until_s",
        "_transport",
        "_turn_is_due",
        "_wants_turn",
        "blocked",
        "closed",
        "half_closed",
        "held",
        "party",
        "receiver",
        "turns",
    )

    receiver: Receiver

    def __init__(self, host: "Host", peer_host: str) -> None:
        self._host = host
        self.turns = host.turns
        self.party = host.turns.join(peer_host, None)
        self.blocked = 0
        self.closed = False
        self.half_closed = False
        self.held: deque[Callable[[], None]] | None = None  # requests in flight that wait for one before them
        self._mute_handle: asyncio.Handle | None = None
        self._muted_until_s = 0.0  # the loop's time
        self._wants_turn = False  # it waits for a turn to have something decrypted
        self._turn_is_due = False  # that has come, and was not taken yet
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any use

    @property
    def reasons(self) -> list[str]:
        return [name for flag, name in REASONS.items() if self.blocked & flag]

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
        try:
            self.receiver.resume()  # bytes that have arrived come first
            if not (self.blocked or self.closed or self.half_closed):
                self._transport.resume_reading()
        except Exception:
            # Unlike one in `buffer_updated`, it would end nothing: the connection would not be read any more.
            logger.exception("a defect: a request does not begin, and its connection ends. Please report it")
            self.abort()

    def abort(self) -> None:
        """Close now, whatever is due."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    def stop_reading(self) -> None:
        """For a clean stop: begin nothing new."""
        self._block(STOPPING)

    # --- Bytes of all connections at their bound ------------------------------------------------

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

    # --- Others first ---------------------------------------------------------------------------

    def _wait_turn(self) -> None:
        if not self.blocked & TURN and not self.closed:
            self._block(TURN)
            self._host.turns.wait(self.party, self._turn_came)

    def _turn_came(self) -> bool:
        """Go on. Whether something is decrypted in this turn, later: then nobody else of the party has one before."""
        self._unblock(TURN)
        self._turn_is_due = self._wants_turn and not (self.blocked or self.closed)
        self._wants_turn = False
        return self._turn_is_due

    def has_turn(self) -> bool:
        """May more be done for the peer in this round? If not, it is not read until it may.

        A turn that it waited for is its own. Decryption goes on a round later, and by then others of its party, or of
        its address, may have had the share of every round."""
        if self._turn_is_due:
            self._turn_is_due = False
            return True
        party = self.party
        if party.over or party.address.over:
            self._wants_turn = True
            self._wait_turn()
            return False
        return True

    def mute(self, duration_ms: int) -> None:
        """Throttle: start no new request of this client for `duration_ms`; requests in flight are answered."""
        if self.closed or duration_ms <= 0:
            return
        ends_s = self._host.loop.time() + duration_ms / 1000
        if self.blocked & MUTED and self._muted_until_s >= ends_s:
            return  # of two reasons to pause, the longer one holds
        if self._mute_handle is not None:
            self._mute_handle.cancel()
        # The handle cannot be asked for its time: uvloop's has none if the time came while it was made.
        self._muted_until_s = ends_s
        self._block(MUTED)
        self._mute_handle = self._host.loop.call_at(ends_s, self._unblock, MUTED)

    # --- A request before others ----------------------------------------------------------------

    def set_aside(self) -> None:
        """Start nothing further until the large request that begins now is answered."""
        self._block(ASIDE)

    def set_free(self) -> None:
        self._unblock(ASIDE)

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
