"""Counters of the running gateway, cheap enough for every request.

Keeps: counting is an integer addition on the event loop: no lock, no label look-up, no text. Names and
labels are made at scrape time, in `gateway.metrics.exposition`; sizes that a component already keeps
are not counted twice but read at that time (`gauge`, `counter`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.log.interface import SyncStats

if TYPE_CHECKING:
    from tier2.retrying import RetryingStorage

LATENCY_BUCKETS: Final = 21
"""Bucket i counts up to 64 µs * 2^i, from 64 µs to 67 s; one more holds the rest."""
_FIRST_BUCKET_BITS: Final = 6

LATENCY_BOUNDS_S: Final = tuple((1 << (_FIRST_BUCKET_BITS + i)) / 1e6 for i in range(LATENCY_BUCKETS))

HELD_S: Final = 0.100
"""A turn that takes longer is logged and counted: all other requests waited for it."""


@dataclass(slots=True)
class TurnCounters:
    """The turns of one API."""

    longest_s: float = 0.0
    held: int = 0
    """Turns that took longer than HELD_S."""


class LatencyHistogram:
    """Times of requests, in buckets of powers of two."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = array("Q", bytes(8 * (LATENCY_BUCKETS + 1)))
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        whole = int(seconds * 1e6) - 1 >> _FIRST_BUCKET_BITS
        index = whole.bit_length() if whole > 0 else 0
        self.buckets[index if index < LATENCY_BUCKETS else LATENCY_BUCKETS] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that another component keeps, read at scrape time."""

    name: str
    doc: str
    labels: tuple[tuple[str, str], ...]
    read: Callable[[], float]
    only_rises: bool


class Metrics:
    """One process's counters. Handlers and connections add to its attributes directly."""

    def __init__(self) -> None:
        self.requests: dict[int, LatencyHistogram] = {}  # by API key
        self.turns: dict[int, TurnCounters] = {}  # by API key
        self.request_failures: dict[int, int] = {}  # by API key: handlers that raised
        self.received_bytes = 0
        self.sent_bytes = 0
        self.connections_open = 0
        self.connections_accepted = 0
        self.connections_refused: dict[str, int] = {}  # by reason: a word from our code
        self.produced_batches = 0
        self.produced_records = 0
        self.produced_bytes = 0
        self.fetched_bytes = 0
        self.log_syncs: dict[int, SyncStats] = {}  # by container
        self.throttled_requests = 0
        self.abandoned_requests = 0
        self.numbers: list[Number] = []
        self.storage: RetryingStorage | None = None  # if there is long-term storage

    def latency(self, api_key: int) -> LatencyHistogram:
        """The histogram of an API, for a caller that keeps it."""
        histogram = self.requests.get(api_key)
        if histogram is None:
            histogram = self.requests[api_key] = LatencyHistogram()
        return histogram

    def turn(self, api_key: int) -> TurnCounters:
        """The turns of an API on the event loop, for a caller that keeps them."""
        return self.turns.setdefault(api_key, TurnCounters())

    def request_failed(self, api_key: int) -> None:
        self.request_failures[api_key] = self.request_failures.get(api_key, 0) + 1

    def connection_refused(self, reason: str) -> None:
        self.connections_refused[reason] = self.connections_refused.get(reason, 0) + 1

    def gauge(self, name: str, doc: str, read: Callable[[], float], **labels: str) -> None:
        """Offer a number to scrapes. All numbers of one name have the same label names."""
        self.numbers.append(Number(name, doc, tuple(labels.items()), read, only_rises=False))

    def counter(self, name: str, doc: str, read: Callable[[], float], **labels: str) -> None:
        """Offer a number that only rises."""
        self.numbers.append(Number(name, doc, tuple(labels.items()), read, only_rises=True))

    def forget(self, container_id: int) -> None:
        """Offer no numbers of a container any more, nor keep it in memory: it is another node's."""
        self.log_syncs.pop(container_id, None)
        mine = {("container", str(container_id)), ("pool", f"tail cache {container_id}")}
        mine.add(("pool", f"index cache {container_id}"))
        self.numbers = [number for number in self.numbers if mine.isdisjoint(number.labels)]

    def memory(self, pool: str, read: Callable[[], float]) -> None:
        """Offer the bytes that a bounded pool holds now."""
        self.gauge("penstock_memory_bytes", "Bytes held by a bounded pool", read, pool=pool)
