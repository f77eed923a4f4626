"""Shared by all connections of a process: limits, budgets, the scratch buffer, the fair turns and the time.

Invariants: a connection gives back all that it took from a budget, at the latest when it is lost. A defect in one
connection ends that one, and keeps nobody else's answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.metrics.counters import Metrics
from gateway.network.budgets import Budget, ReceiveBudget
from gateway.network.connection_limits import INT_MAX
from gateway.network.turns import FairTurns

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
SCRATCH_BYTES: Final = 64 * 1024
"""Small requests of all connections are received into one buffer of this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds on the cost of connections; INT_MAX-like values mean no limit."""

    request_bytes_max: int = 100 * MIB  # socket.request.max.bytes
    small_request_bytes_max: int = 16 * MIB  # of every API but Produce
    queued_request_bytes_max: int = 256 * MIB  # half being received, half being handled
    queued_response_bytes_max: int = 256 * MIB
    connection_output_bytes_max: int = 1 * MIB  # of unsent answers, from which on it is not read
    in_flight_requests_max: int = 1_000  # per connection
    tasks_max: int = 32  # per connection: handlers running at a time (hot APIs do not count)
    connections_max: int = 10_000
    connections_per_ip_max: int = INT_MAX
    connections_per_ip_overrides: Mapping[str, int] = field(default_factory=dict)  # by address
    connections_per_s_max: int = INT_MAX
    connections_of_listeners: Mapping[str, int] = field(default_factory=dict)  # by name: only those with a bound
    connections_per_s_of_listeners: Mapping[str, int] = field(default_factory=dict)  # likewise
    idle_ms: int = 600_000  # -1: never
    receive_progress_ms: int = 30_000  # for a request, or the next part of a large one, to arrive
    first_request_ms: int = 60_000  # after connecting
    sweep_ms: int = 1_000


COPIED_AT_ONCE: Final = 8 * MIB
"""Views that are copied in one turn when the log needs the memory behind them: a millisecond or two."""


class HasViews(Protocol):
    """An owner of answers that wait, some of them views of the log's memory."""

    def copy_views(self) -> int: ...


class Flushed(Protocol):
    """An owner of answers that are due."""

    def flush(self) -> None: ...

    def abort(self) -> None: ...


class Host:
    """See the module. `now_s` is the monotonic time of the last sweep: near enough for time-outs of seconds."""

    def __init__(self, limits: ServerLimits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self.scratch = bytearray(SCRATCH_BYTES)
        self.scratch_view = memoryview(self.scratch)
        half = limits.queued_request_bytes_max // 2
        self.receive_budget = ReceiveBudget(half, self.loop)
        self.request_budget = Budget(half, self.loop)
        self.output_budget = Budget(limits.queued_response_bytes_max, self.loop)
        self.reading_budget = Budget(limits.queued_response_bytes_max // 4, self.loop)
        """Bytes of answers that are being read from disk or from long-term storage."""
        self.turns = FairTurns(self.loop)
        self.now_s = time.monotonic()
        self.with_views: dict[HasViews, None] = {}
        """Who has answers that wait, those first that have waited for longest."""
        self._to_flush: list[Flushed] = []

    def __repr__(self) -> str:
        return (
            f"<Host receiving {self.receive_budget!r}, handling {self.request_budget!r}, "
            f"sending {self.output_budget!r}>"
        )

    def copy_views(self) -> None:
        """The log needs memory of which answers that wait have views: have some of these copied, the oldest first."""
        copied = 0
        for owner in list(self.with_views):
            if copied >= COPIED_AT_ONCE:
                return
            copied += owner.copy_views()
            del self.with_views[owner]

    def flush_soon(self, connection: Flushed) -> None:
        """One write per connection for all answers that became due in this turn of the loop."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            try:
                connection.flush()
            except Exception:
                logger.exception("a defect: answers cannot be sent, and their connection ends. Please report it")
                connection.abort()
