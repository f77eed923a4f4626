"""Bytes of one connection in, whole requests out, in order.

Small requests are cut out of one scratch buffer that all connections share (the loop fills it and
hands it over in one step, so it is never in use twice). A large one is received straight into its
own buffer, which grows with the bytes that arrive, whatever length was declared.

Invariants:
- The buffer of an incomplete request is at most twice the bytes that have arrived (or the size of an earlier
  request of this connection), and is charged to the receive budget. An idle connection holds nothing.
- A request is handed on only while its connection is not blocked; bytes that arrive meanwhile wait here.
"""

import struct
from typing import Final, Protocol

from gateway.network.host import SCRATCH_BYTES, Host
from tier2.memory import uninitialized

OWN_BUFFER_FROM_BYTES: Final = 32 * 1024
"""A request of this size gets a buffer of its own, so that its bytes are copied at most in part."""
PEEK_BYTES: Final = 4 * 1024
"""Bytes received first after a large request: another is expected, and its rest is received in place."""
TRUST_BYTES_MAX: Final = 1024 * 1024
"""Largest buffer that a connection gets at once, for requests as large as one that it sent before."""
PROGRESS_BYTES: Final = 64 * 1024
"""Bytes that restart the time in which a request must arrive: a large one may take that time for each of these."""
ROUTE_BYTES: Final = 8
"""Length, API key and version: enough to know how large a request may be."""
PRODUCE_KEY: Final = 0
TLS_HANDSHAKE: Final = 0x1603
"""The first two bytes of a client that speaks TLS. As the beginning of a length: 369 MB."""
HTTP_METHODS: Final = frozenset(
    int.from_bytes(method, "big") for method in (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI ")
)
"""The first four bytes of a browser, a probe or a scrape that has the wrong port. As a length: more than 1.1 GB."""

assert OWN_BUFFER_FROM_BYTES + ROUTE_BYTES < SCRATCH_BYTES, "a rest always leaves room to read into"

NOTHING: Final = bytearray()
"""No rest. Nobody changes a rest."""

_length: Final = struct.Struct(">i").unpack_from
_length_key: Final = struct.Struct(">ih").unpack_from


class Sink(Protocol):
    """A taker of whole requests that can be blocked."""

    blocked: int
    closed: bool
    requests: int

    def start(self, frame: bytearray, size: int) -> None: ...

    def refuse(self, reason: str) -> None: ...

    def wait_for_request_bytes(self) -> None: ...

    def wait_for_receive_bytes(self) -> None: ...


class Receiver:
    """See the module. `since_s`: when the incomplete request began or last made progress worth the
    name; 0 when there is none."""

    __slots__ = (
        "_expects_large",
        "_frame",
        "_frame_bytes",
        "_host",
        "_received",
        "_rest",
        "_sink",
        "_trusted_bytes",
        "since_s",
        "unproved_bytes_max",
    )

    def __init__(self, host: Host, sink: Sink) -> None:
        self._host = host
        self._sink = sink
        self._rest = NOTHING  # bytes that arrived: no whole request yet, or one that must wait
        self._frame: bytearray | None = None  # a large request's own buffer, without the length
        self._frame_bytes = 0  # its declared length
        self._received = 0
        self._trusted_bytes = SCRATCH_BYTES
        self._expects_large = False
        self.since_s = 0.0
        self.unproved_bytes_max: int | None = None  # a bound until the client has proved who it is

    def __repr__(self) -> str:
        if self._frame is None:
            return f"<Receiver holds {len(self._rest)} bytes>"
        return f"<Receiver has {self._received} of {self._frame_bytes} bytes>"

    @property
    def holds_bytes(self) -> int:
        return len(self._rest) if self._frame is None else len(self._frame)

    # --- From the loop ------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """The buffer for the next bytes. A kept rest is put back in front of them."""
        frame = self._frame
        if frame is None:
            rest, scratch = self._rest, self._host.scratch_view
            if not rest:
                return scratch[:PEEK_BYTES] if self._expects_large else scratch
            scratch[: len(rest)] = rest
            return scratch[len(rest) :]
        if self._received == len(frame):
            self._grow(frame)
        return memoryview(frame)[self._received :]

    def add(self, count: int) -> None:
        """`count` bytes were put into the last `buffer()`."""
        frame = self._frame
        if frame is not None:
            self._add_to_frame(frame, count)
            return
        rest = self._rest
        if not rest:
            self._take(self._host.scratch, count)
            return
        since_s, requests = self.since_s, self._sink.requests
        self._drop_rest()
        self._take(self._host.scratch, len(rest) + count)
        if self._rest and self._sink.requests == requests:
            self.since_s = since_s  # the same request, still incomplete

    def resume(self) -> None:
        """Hand on the requests that had to wait; called when nothing blocks the connection any more."""
        frame, rest = self._frame, self._rest
        if frame is not None:
            if self._received == self._frame_bytes:
                self._complete(frame)
        elif rest:
            self._drop_rest()
            self._take(rest, len(rest))
        if self.since_s:
            self.since_s = self._host.now_s  # the time of the block does not count

    def drop(self) -> None:
        """The connection is gone."""
        self._host.receive_budget.finished(self, self.holds_bytes)
        self._frame, self._rest = None, NOTHING

    # --- Small requests -----------------------------------------------------------------------

    def _take(self, buffer: bytearray, end: int) -> None:
        """Start every whole request in buffer[:end]; keep the rest."""
        connection = self._sink
        budget = self._host.request_budget
        position = 0
        while end - position >= 4:
            (size,) = _length(buffer, position)
            stop = position + 4 + size
            if stop > end or size < 0:
                if not self._may_come(buffer, position, end, size):
                    return
                if size >= OWN_BUFFER_FROM_BYTES and end - position >= ROUTE_BYTES:
                    self._begin_frame(buffer, position + 4, end, size)
                    return
                break
            if budget.used >= budget.limit:
                connection.wait_for_request_bytes()
            if connection.blocked:
                break
            self._expects_large = False
            connection.start(buffer[position + 4 : stop], size)
            if connection.closed:
                return
            position = stop
        if position < end:
            self._keep_rest(buffer[position:end])

    def _may_come(self, buffer: bytearray, position: int, end: int, size: int) -> bool:
        """Whether a request of this declared length may come; refuses it if not."""
        limits = self._host.limits
        unproved_max = self.unproved_bytes_max
        if size in HTTP_METHODS and size > (limits.request_bytes_max if unproved_max is None else unproved_max):
            self._sink.refuse("it speaks HTTP, and this listener serves Kafka's clients; http.listen names HTTP's port")
            return False
        if unproved_max is not None and size > unproved_max and size >> 16 != TLS_HANDSHAKE:
            self._sink.refuse(too_large_to_come_unproved(size, unproved_max))
            return False
        if 0 <= size <= limits.small_request_bytes_max:
            return True
        if size >> 16 == TLS_HANDSHAKE:
            self._sink.refuse("it speaks TLS, and this listener does not")
            return False
        if size < 0 or size > limits.request_bytes_max:
            self._sink.refuse(f"a request of {size} bytes, at most {limits.request_bytes_max} are read")
            return False
        if end - position < ROUTE_BYTES:
            return True
        _, key = _length_key(buffer, position)
        if key == PRODUCE_KEY:
            return True
        self._sink.refuse(
            f"a request of {size} bytes with API key {key}, "
            f"only Produce may have more than {limits.small_request_bytes_max}"
        )
        return False

    def _keep_rest(self, rest: bytearray) -> None:
        self._rest = rest
        self.since_s = self._host.now_s
        self._host.receive_budget.charge(len(rest))
        if not self._sink.blocked:
            self._admit_more()

    def _drop_rest(self) -> None:
        size = len(self._rest)
        self._rest = NOTHING
        self.since_s = 0.0
        self._host.receive_budget.finished(self, size)

    # --- Large requests -----------------------------------------------------------------------

    def _begin_frame(self, buffer: bytearray, start: int, end: int, size: int) -> None:
        """A large request begins; its first bytes are here already."""
        frame = uninitialized(None, min(size, self._trusted_bytes))
        have = end - start
        frame[:have] = memoryview(buffer)[start:end]
        self._frame, self._frame_bytes, self._received = frame, size, have
        self.since_s = self._host.now_s
        self._host.receive_budget.charge(len(frame))
        self._admit_more()

    def _add_to_frame(self, frame: bytearray, count: int) -> None:
        before = self._received
        self._received += count
        if self._received // PROGRESS_BYTES > before // PROGRESS_BYTES:
            self.since_s = self._host.now_s
        if self._received == self._frame_bytes:
            self._complete(frame)
        elif self._received == len(frame):
            self._admit_more()

    def _grow(self, frame: bytearray) -> None:
        """Twice the size, never more than declared: memory follows what has really arrived."""
        more = min(self._frame_bytes, 2 * len(frame)) - len(frame)
        self._host.receive_budget.charge(more)
        frame += bytes(more)

    def _complete(self, frame: bytearray) -> None:
        budget = self._host.request_budget
        if budget.used >= budget.limit:
            self._sink.wait_for_request_bytes()
        if self._sink.blocked:  # `resume` comes back here
            return
        size = self._frame_bytes
        self._frame, self._frame_bytes, self._received = None, 0, 0
        self.since_s = 0.0
        if size > self._trusted_bytes:
            self._trusted_bytes = min(size, TRUST_BYTES_MAX)
        self._expects_large = True
        self._host.receive_budget.finished(self, len(frame))
        self._sink.start(frame, size)

    # --- The bound on all incomplete requests -------------------------------------------------

    def _admit_more(self) -> None:
        """Wait, when the incomplete requests of all connections have reached their bound."""
        budget = self._host.receive_budget
        if not budget.admits(self):
            self._sink.wait_for_receive_bytes()

    def admitted(self) -> bool:
        """There is room now: may this connection go on?"""
        return self._host.receive_budget.admits(self)


def too_large_to_come_unproved(size: int, most: int) -> str:
    """Why a request ends its connection, before that has proved who is there."""
    return f"a request of {size} bytes before it has authenticated, at most {most} are read"
