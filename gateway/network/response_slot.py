"""A request's place in the line of its connection's answers.

Invariant: every slot is answered exactly once (`send`, `none` or `close`), at any time, from the loop;
its connection sends the answers in the order of the requests.
"""

import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from gateway.metrics.counters import LatencyHistogram, TurnCounters

Part = bytes | bytearray | memoryview

_length: Final = struct.Struct(">i").pack
_header_v0: Final = struct.Struct(">ii").pack
_header_v1: Final = struct.Struct(">iib").pack
_now: Final = time.perf_counter


class Answerable(Protocol):
    """The API and version that a slot answers."""

    name: str
    version: int
    flexible_answer: bool
    latency: "LatencyHistogram"
    turn: "TurnCounters"


class Line(Protocol):
    """The line of slots: it sends their answers in order."""

    closed: bool

    def answered(self, slot: "ResponseSlot") -> None: ...

    def refuse(self, reason: str) -> None: ...

    def charge(self, size: int) -> None: ...


class ResponseSlot:
    """See the module. `charge`: bytes of the request budget, held until the answer."""

    __slots__ = ("charge", "connection", "correlation_id", "parts", "route", "size", "started_s")

    def __init__(self, connection: Line, route: Answerable, correlation_id: int, charge: int) -> None:
        self.connection = connection
        self.route = route
        self.correlation_id = correlation_id
        self.charge = charge
        self.started_s = _now()
        self.parts: Sequence[Part] | None = None
        self.size = 0

    def __repr__(self) -> str:
        state = "waiting" if self.parts is None else f"answered with {self.size} bytes"
        return f"<{self.route.name} v{self.route.version} #{self.correlation_id}, {state}>"

    @property
    def answered(self) -> bool:
        return self.parts is not None

    def send(self, parts: Sequence[Part]) -> None:
        """Answer with this body, given in parts; length and header are put in front here. The parts
        are kept, not copied, until the socket has taken them."""
        size = 0
        for part in parts:
            size += len(part)
        route = self.route
        if route.flexible_answer:
            size += 9
            head = _header_v1(size - 4, self.correlation_id, 0)
        else:
            size += 8
            head = _header_v0(size - 4, self.correlation_id)
        assert self.parts is None, f"{self!r} is answered twice"
        self.parts = (head, *parts)
        self.size = size
        route.latency.observe(_now() - self.started_s)
        self.connection.answered(self)

    def none(self) -> None:
        """There is no answer to this request (acks=0)."""
        self._finish_empty()

    def close(self, reason: str) -> None:
        """Close the connection instead of answering, with one log line."""
        self._finish_empty()
        self.connection.refuse(f"{self.route.name} v{self.route.version}: {reason}")

    def _finish_empty(self) -> None:
        assert self.parts is None, f"{self!r} is answered twice"
        self.parts = ()
        self.route.latency.observe(_now() - self.started_s)
        self.connection.answered(self)


class BareSlot(ResponseSlot):
    """The place of a bare SASL token: its answer has a length in front and no header."""

    __slots__ = ()

    def send(self, parts: Sequence[Part]) -> None:
        assert self.parts is None, f"{self!r} is answered twice"
        size = sum(map(len, parts))
        self.parts = (_length(size), *parts)
        self.size = size + 4
        self.route.latency.observe(_now() - self.started_s)
        self.connection.answered(self)
