"""The metrics of topics, segments, scales and groups.

Keeps: at most `TOPICS_MAX` topics, `SEGMENTS_MAX` segments, `LAGS_MAX` groups with topics, and a few partitions that
hold back the log have a label with the name that a client chose; the rest counts under `other`, which no client's name
becomes. A name keeps its label while a topic of that name exists, even if it is deleted and made again, so that a
counter neither falls nor stands still. Nor does it when a container goes to another node or comes from one: each node
counts what was appended while it had the container, so that sums over nodes are sums.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from core.turns import Turn
from gateway.metrics.activity import StreamBytes
from gateway.metrics.sources import Sources
from gateway.metrics.visible import visible

if TYPE_CHECKING:
    from core.hosted import HostedContainer
    from core.streams.live import Stream
    from gateway.groups.lag import GroupLag

TOPICS_MAX: Final = 200
SEGMENTS_MAX: Final = 500
LAGS_MAX: Final = 500
DAMAGED_MAX: Final = 100
OTHER: Final = "other"
_LIKE_OTHER: Final = re.compile(rf"{OTHER}(?: \(name\))*")
KINDS: Final = ("split", "merge", "manual", "grown")


@dataclass(slots=True)
class _Counted:
    bytes: int = 0
    events: int = 0


class _Counters:
    """Cumulative counters of topics, by label, and of scales. `other` keeps the counts of deleted topics."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}  # by name of the topic
        self.counted: dict[str, _Counted] = defaultdict(_Counted)
        self.scales: Counter[str] = Counter()
        self._parts: WeakKeyDictionary[HostedContainer, dict[int, _Counted]] = WeakKeyDictionary()
        """The part of each stream in a container that is counted already."""
        self._scaled: WeakKeyDictionary[HostedContainer, Counter[str]] = WeakKeyDictionary()

    def label(self, stream: Stream) -> str:
        if stream.name not in self.labels and len(self.labels) < TOPICS_MAX:
            self.labels[stream.name] = own_label(stream.name)
        return self.labels.get(stream.name, OTHER)

    def forget(self, alive: set[int], names: set[str]) -> None:
        """Free the labels of deleted topics."""
        for name in self.labels.keys() - names:
            self.counted.pop(self.labels.pop(name), None)
        for parts in self._parts.values():
            for gone in parts.keys() - alive:
                del parts[gone]

    def arrived(self, containers: Sequence[HostedContainer]) -> set[int]:
        """Those that have come from another node since the last call: what they have was counted there."""
        found = {hosted.id for hosted in containers if hosted.claim_epoch is not None and hosted not in self._parts}
        for hosted in containers:
            self._parts.setdefault(hosted, {})
        return found

    def count(self, stream: Stream, parts: Sequence[tuple[HostedContainer, StreamBytes]], arrived: set[int]) -> None:
        """A slot that has gone from one of these containers to another has added nothing."""
        size = events = 0
        for hosted, now in parts:
            known = self._parts[hosted]
            before = known.get(stream.id) or (_Counted(now.bytes, now.events) if hosted.id in arrived else _Counted())
            size, events = size + now.bytes - before.bytes, events + now.events - before.events
            known[stream.id] = _Counted(now.bytes, now.events)
        total = self.counted[self.label(stream)]
        total.bytes += max(0, size)
        total.events += max(0, events)

    def count_scales(self, containers: Sequence[HostedContainer]) -> None:
        for hosted in containers:
            now = Counter(hosted.scaler.counts)
            self.scales += now - self._scaled.get(hosted, Counter())
            self._scaled[hosted] = now


def own_label(name: str) -> str:
    """The label for a client's name: the name, unless it could be taken for the sum of all others."""
    return f"{name} (name)" if _LIKE_OTHER.fullmatch(name) else name


class StreamCollector:
    """Topics, segments, scales and groups. `sources`: None until clients are served."""

    def __init__(self, sources: Callable[[], Sources | None]) -> None:
        self._sources = sources
        self._counters = _Counters()

    async def metrics(self, turn: Turn) -> AsyncIterator[Metric]:
        """All these metrics, made in turns."""
        sources = self._sources()
        if sources is None:
            return
        streams = list(sources.store.streams)
        async for metric in self._of_topics(streams, sources, turn):
            yield metric
        async for metric in _of_segments(streams, sources, turn):
            yield metric
        for metric in (*_of_pins(sources), *self._of_scales(sources), *_of_groups(sources.lags.found)):
            yield metric

    async def _of_topics(self, streams: list[Stream], sources: Sources, turn: Turn) -> AsyncIterator[Metric]:
        topics, containers = self._counters, list(sources.store.containers.values())
        topics.forget({stream.id for stream in streams}, {stream.name for stream in streams})
        arrived = topics.arrived(containers)
        segments: Counter[str] = Counter()
        log: Counter[str] = Counter()
        chunks: Counter[str] = Counter()
        for stream in streams:
            slots = [  # at once: one that moves while they are counted is with one container only
                (hosted, list(stream.slots_in(hosted.id)))
                for hosted in containers
                if stream.id in hosted.container.streams
            ]
            parts = [(hosted, await StreamBytes.counted(found, turn)) for hosted, found in slots]
            topics.count(stream, parts, arrived)
            label = topics.label(stream)
            segments[label] += sources.activity.segments_here(stream)
            log[label] += sum(part.tiers.log for _, part in parts)
            chunks[label] += sum(part.tiers.chunks for _, part in parts)
        appended = CounterMetricFamily("penstock_topic_appended_bytes", "Bytes appended, by topic", labels=["topic"])
        records = CounterMetricFamily("penstock_topic_appended_records", "Records appended, by topic", labels=["topic"])
        for label, counted in topics.counted.items():
            appended.add_metric([label], counted.bytes)
            records.add_metric([label], counted.events)
        yield appended
        yield records
        active = GaugeMetricFamily("penstock_topic_segments", "Active segments, by topic", labels=["topic"])
        for label, count in segments.items():
            active.add_metric([label], count)
        yield active
        sizes = GaugeMetricFamily(
            "penstock_topic_bytes", "Bytes that are stored, by topic and where they lie", labels=["topic", "tier"]
        )
        for label in segments:
            sizes.add_metric([label, "log"], log[label])
            sizes.add_metric([label, "chunk"], chunks[label])
        yield sizes

    def _of_scales(self, sources: Sources) -> Iterator[Metric]:
        self._counters.count_scales(list(sources.store.containers.values()))
        scales = CounterMetricFamily("penstock_scale_events", "Scales of streams, by kind", labels=["kind"])
        for kind in KINDS:
            scales.add_metric([kind], self._counters.scales[kind])
        yield scales
        limits = len(sources.activity.limits())
        yield GaugeMetricFamily("penstock_segments_at_limit", "Hot segments of one slot, which cannot split", limits)


async def _of_segments(streams: list[Stream], sources: Sources, turn: Turn) -> AsyncIterator[Metric]:
    names = ["topic", "segment"]
    size = GaugeMetricFamily("penstock_segment_bytes_per_second", "Load of the busiest segments", labels=names)
    events = GaugeMetricFamily("penstock_segment_records_per_second", "Load of the busiest segments", labels=names)
    found: list[tuple[float, float, str, str]] = []
    for stream in streams:
        await turn.breathe()
        label = own_label(stream.name)
        found += ((rate.bytes_s, rate.events_s, label, str(n)) for n, rate in sources.activity.rates_here(stream))
    named = heapq.nlargest(SEGMENTS_MAX, found)
    for bytes_s, events_s, topic, number in named:
        size.add_metric([topic, number], bytes_s)
        events.add_metric([topic, number], events_s)
    if len(found) > len(named):
        size.add_metric([OTHER, OTHER], sum(row[0] for row in found) - sum(row[0] for row in named))
        events.add_metric([OTHER, OTHER], sum(row[1] for row in found) - sum(row[1] for row in named))
    yield size
    yield events


def _of_pins(sources: Sources) -> Iterator[Metric]:
    """The partitions that hold back the most in the durable log, and the bytes that are damaged for good."""
    held = GaugeMetricFamily(
        "penstock_partition_held_bytes",
        "Bytes that a partition holds back in the log, by cause, for the partitions that hold most",
        labels=["topic", "partition", "reason"],
    )
    damaged = GaugeMetricFamily(
        "penstock_partition_damaged_bytes", "Bytes of a partition that are damaged", labels=["topic", "partition"]
    )
    lost: Counter[tuple[str, str]] = Counter()
    for hosted in sources.store.containers.values():
        container = hosted.container
        for pin in hosted.tier.pins.named if hosted.tier is not None else ():
            held.add_metric([own_label(pin.slot.stream.name), str(pin.slot.number), pin.reason], pin.bytes)
        for one in container.damage:
            if (stream := container.streams.get(one.stream_id)) is not None:
                lost[own_label(stream.name), str(one.slot)] += one.size
    named = lost.most_common(DAMAGED_MAX)
    for (topic, partition), size in named:
        damaged.add_metric([topic, partition], size)
    if len(lost) > len(named):
        damaged.add_metric([OTHER, OTHER], sum(lost.values()) - sum(size for _, size in named))
    yield from (held, damaged)


def _of_groups(found: list[GroupLag]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "penstock_group_lag",
        "Records that a group has not committed, or a share group not settled, by topic",
        labels=["group", "topic"],
    )
    rows = [
        (topic.lag, own_label(group.name), own_label(name)) for group in found for name, topic in group.topics.items()
    ]
    named = rows if len(rows) <= LAGS_MAX else heapq.nlargest(LAGS_MAX, rows)
    for records, group, topic in named:
        lag.add_metric([visible(group), topic], records)
    if len(rows) > len(named):
        lag.add_metric([OTHER, OTHER], sum(row[0] for row in rows) - sum(row[0] for row in named))
    yield lag
    members = GaugeMetricFamily("penstock_group_members", "Members of consumer groups, by state", labels=["state"])
    states: Counter[str] = Counter()
    for one in found:
        states[one.state] += one.members
    for state, count in states.items():
        members.add_metric([state], count)
    yield members
