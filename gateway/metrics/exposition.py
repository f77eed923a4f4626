"""The process's counters in Prometheus' text format, made on a scrape.

Keeps: names and labels come from this code and from fixed lists (APIs, pools), so the number of series is bounded;
`gateway.metrics.streams` makes and bounds those that name topics and groups, `gateway.telemetry.series` those that
clients push. Making the text yields to the loop every few milliseconds, and takes at most a fifth of the time, whatever
the number of scrapes: scrapes that arrive before a text is begun share it, and no scrape gets a text that was begun
before it arrived.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core.log.interface import SYNC_BUCKETS_S
from core.turns import Turn
from gateway import __version__
from gateway.metrics.counters import HELD_S, LATENCY_BOUNDS_S, Metrics
from gateway.metrics.sources import Sources
from gateway.metrics.streams import StreamCollector
from tier2.metered import BUCKETS_S as REQUEST_BUCKETS_S
from tier2.metered import MeteredStorage

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
REST: Final = 4
"""The rest between two texts, as a multiple of the time of the last one."""
REST_S_MAX: Final = 2.0


class Exposition:
    """The answer of `/metrics`."""

    def __init__(
        self,
        metrics: Metrics,
        api_names: Mapping[int, str],
        sources: Callable[[], Sources | None],
        of_clients: Callable[[Turn], AsyncIterator[bytes] | None],
    ) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_GatewayCollector(metrics, api_names))
        self._streams = StreamCollector(sources)
        self._of_clients = of_clients
        self._making = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None  # not begun yet
        self._rests_until_s = 0.0

    async def text(self) -> bytes:
        """The text of a moment at or after the call."""
        if self._next is None:
            self._next = asyncio.create_task(self._make(), name="exposition")
        return await asyncio.shield(self._next)

    async def _make(self) -> bytes:
        async with self._making:
            await asyncio.sleep(max(0.0, self._rests_until_s - time.monotonic()))
            self._next = None
            began_s = time.monotonic()
            try:
                return await self._text()
            finally:
                now_s = time.monotonic()
                self._rests_until_s = now_s + min(REST_S_MAX, REST * (now_s - began_s))

    async def _text(self) -> bytes:
        turn, parts = Turn(), []
        for metric in self._registry.collect():
            parts.append(generate_latest(_One(metric)))
            await turn.breathe()
        async for metric in self._streams.metrics(turn):
            parts.append(generate_latest(_One(metric)))
            await turn.breathe()
        of_clients = self._of_clients(turn)
        if of_clients is not None:
            parts += [some async for some in of_clients]
        return b"".join(parts)


class _One(Collector):
    """A registry of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        yield self._metric


class _GatewayCollector(Collector):
    def __init__(self, metrics: Metrics, api_names: Mapping[int, str]) -> None:
        self._metrics = metrics
        self._api_names = api_names

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("penstock_build", "This release", {"version": __version__})
        yield from self._requests()
        yield from self._turns()
        yield from self._connections()
        yield from self._throughput()
        yield from self._log_syncs()
        yield from self._numbers()
        yield from self._storage()

    def _requests(self) -> Iterable[Metric]:
        latency = HistogramMetricFamily(
            "penstock_request_seconds",
            "Time from a request's last byte to its response's first, by API",
            labels=["api"],
        )
        for key, histogram in sorted(self._metrics.requests.items()):
            buckets = _cumulative(LATENCY_BOUNDS_S, histogram.buckets)
            latency.add_metric([self._name(key)], buckets, histogram.seconds)
        yield latency
        failures = CounterMetricFamily(
            "penstock_request_failures", "Requests whose handler failed, by API", labels=["api"]
        )
        for key, count in sorted(self._metrics.request_failures.items()):
            failures.add_metric([self._name(key)], count)
        yield failures

    def _turns(self) -> Iterable[Metric]:
        longest = GaugeMetricFamily(
            "penstock_loop_turn_longest_seconds",
            "Longest time since the start that one request kept the event loop from all others, by API",
            labels=["api"],
        )
        held = CounterMetricFamily(
            "penstock_loop_turns_held",
            f"Times that one request kept the event loop for more than {HELD_S * 1000:.0f} ms, by API",
            labels=["api"],
        )
        for key, turns in sorted(self._metrics.turns.items()):
            longest.add_metric([self._name(key)], turns.longest_s)
            held.add_metric([self._name(key)], turns.held)
        yield longest
        yield held

    def _connections(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield GaugeMetricFamily("penstock_connections", "Connections open now", metrics.connections_open)
        yield CounterMetricFamily("penstock_connections_accepted", "Connections taken", metrics.connections_accepted)
        refused = CounterMetricFamily(
            "penstock_connections_refused",
            "Connections closed by the gateway, by reason",
            labels=["reason"],
        )
        for reason, count in sorted(metrics.connections_refused.items()):
            refused.add_metric([reason], count)
        yield refused

    def _throughput(self) -> Iterable[Metric]:
        metrics = self._metrics
        for name, doc, count in (
            ("received_bytes", "Bytes read from clients", metrics.received_bytes),
            ("sent_bytes", "Bytes written to clients", metrics.sent_bytes),
            ("produced_batches", "Record batches appended", metrics.produced_batches),
            ("produced_records", "Records appended", metrics.produced_records),
            ("produced_bytes", "Bytes of record batches appended", metrics.produced_bytes),
            ("fetched_bytes", "Bytes of record batches sent", metrics.fetched_bytes),
            ("throttled_requests", "Produce requests whose client was held up", metrics.throttled_requests),
            ("abandoned_requests", "Requests not worked on as their peer had left", metrics.abandoned_requests),
        ):
            yield CounterMetricFamily(f"penstock_{name}", doc, count)

    def _log_syncs(self) -> Iterable[Metric]:
        syncs = HistogramMetricFamily(
            "penstock_log_sync_seconds", "Time of one sync of the durable log", labels=["container"]
        )
        written = CounterMetricFamily(
            "penstock_log_written_bytes", "Bytes written to the durable log", labels=["container"]
        )
        for number, stats in sorted(self._metrics.log_syncs.items()):
            buckets = _cumulative(SYNC_BUCKETS_S, stats.buckets)
            syncs.add_metric([str(number)], buckets, stats.seconds)
            written.add_metric([str(number)], stats.bytes_written)
        yield syncs
        yield written

    def _storage(self) -> Iterable[Metric]:
        """Requests to long-term storage, each try by itself."""
        storage = self._metrics.storage
        if storage is None or not isinstance(metered := storage.inner, MeteredStorage):
            return
        seconds = HistogramMetricFamily(
            "penstock_tier2_request_seconds", "Time of one request to long-term storage", labels=["operation"]
        )
        size = CounterMetricFamily(
            "penstock_tier2_request_bytes", "Bytes put to and got from long-term storage", labels=["operation"]
        )
        failures = CounterMetricFamily(
            "penstock_tier2_request_failures", "Requests to long-term storage that failed", labels=["operation", "kind"]
        )
        for name, operation in metered.operations.items():
            seconds.add_metric([name], _cumulative(REQUEST_BUCKETS_S, operation.buckets), operation.seconds)
            if name in ("put", "get"):
                size.add_metric([name], operation.bytes)
            for kind, count in operation.failures.items():
                failures.add_metric([name, kind.name.lower()], count)
        yield from (seconds, size, failures)
        yield CounterMetricFamily(
            "penstock_tier2_retries", "Requests to long-term storage that were sent again", storage.counters.retries
        )

    def _numbers(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for number in self._metrics.numbers:
            family = families.get(number.name)
            if family is None:
                kind = CounterMetricFamily if number.only_rises else GaugeMetricFamily
                names = [name for name, _ in number.labels]
                family = families[number.name] = kind(number.name, number.doc, labels=names)
            family.add_metric([value for _, value in number.labels], number.read())
        yield from families.values()

    def _name(self, api_key: int) -> str:
        return self._api_names.get(api_key, str(api_key))


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets: each includes the ones below, and the last has no bound."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
