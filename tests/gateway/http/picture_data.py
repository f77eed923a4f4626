"""What the pages of the pictures show: a shop's day, as answers of the REST API, at one fixed moment.

Keeps: every answer is one of the API's own models, so what the API does not tell cannot be in a picture. Nothing is
random, and nothing depends on the time at which a picture is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Final

from pydantic import BaseModel

from gateway.http.group_models import GroupDetail, GroupPartition, LagHistory, MemberView
from gateway.http.health_models import (
    DiskView,
    FailedRequests,
    HealthReport,
    LogHealth,
    PinView,
    ThroughputHistory,
    WarningList,
    WarningView,
)
from gateway.http.models import (
    EventList,
    GroupList,
    GroupTopic,
    GroupView,
    HeatHistory,
    MapSegment,
    Overview,
    RecordHeader,
    RecordPage,
    RecordView,
    ScaleEventView,
    Scaling,
    SegmentHeat,
    StreamList,
    StreamMap,
    StreamSummary,
    Tiers,
)
from gateway.http.node_models import ContainerView, NodeList, NodeView
from gateway.http.topic_models import ConfigList, ConfigRow, PartitionList, PartitionRow, TopicList, TopicRow

NOW_MS: Final = int(datetime(2026, 3, 2, 14, 30, tzinfo=UTC).timestamp() * 1000)
TOPIC: Final = "orders"
GROUP: Final = "billing"
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TARGET: Final = 8 * MIB
PERIOD_MS: Final = 20_000
PARTITIONS: Final = 16
LAGS: Final = (41_220, 2_310, 1_875, 940, 310, 118, 64, 12)
SCALING: Final = Scaling(policy="bytes", target_rate=TARGET, factor=4, min_segments=1)

LIVES: Final[Sequence[tuple[float, float, float, float | None, float, float]]] = (
    # Key range; opened and sealed, minutes ago; load at either end as parts of the target. One row is one segment.
    (0.0, 1.0, 12.0, 8.6, 0.25, 1.0),
    (0.0, 0.25, 8.6, None, 0.30, 0.52),
    (0.25, 0.5, 8.6, 4.9, 0.35, 1.0),
    (0.5, 0.75, 8.6, 2.2, 0.38, 0.05),
    (0.75, 1.0, 8.6, 2.2, 0.22, 0.08),
    (0.25, 0.375, 4.9, None, 0.55, 0.97),
    (0.375, 0.5, 4.9, None, 0.45, 0.28),
    (0.5, 1.0, 2.2, None, 0.12, 0.20),
)
CONTAINERS: Final = (0, 0, 1, 2, 2, 1, 1, 2)


def answers() -> dict[str, Iterator[str]]:
    """The answers by path, each one after another: the overview's second is a second later, and then time stands."""
    once: dict[str, BaseModel] = {
        "streams": StreamList(streams=[_summary()], total=1),
        f"streams/{TOPIC}/map": _map(),
        f"streams/{TOPIC}/heat": _heat(),
        "topics": _topics(),
        f"topics/{TOPIC}/partitions": _partitions(),
        f"topics/{TOPIC}/configs": _configs(),
        f"topics/{TOPIC}/records": _records(),
        "groups": _groups(),
        f"groups/{GROUP}": _group(),
        **{f"groups/{group.name}/history": _lags(group.name, group.lag) for group in _groups().groups},
        "events": _events(),
        "history": _history(),
        "health": _health(),
        "nodes": _nodes(),
        "warnings": _warnings(),
    }
    told = {path: for_ever(model) for path, model in once.items()}
    return told | {"overview": (_overview(min(n, 1)).model_dump_json() for n in count())}


def for_ever(model: BaseModel) -> Iterator[str]:
    """The same answer, however often it is asked for."""
    text = model.model_dump_json()
    while True:
        yield text


def _ago(minutes: float) -> int:
    return NOW_MS - int(minutes * 60_000)


def _load(number: int, ago_min: float) -> int:
    """The load of a segment at a time: from its first value to its last, not quite evenly."""
    _, _, opened, sealed, first, last = LIVES[number]
    part = (opened - ago_min) / (opened - (sealed or 0.0))
    return int(TARGET * max(0.0, first + (last - first) * part + 0.04 * math.sin(7 * ago_min + number)))


# Streams


def _summary() -> StreamSummary:
    loads = [_load(number, 0.0) for number, life in enumerate(LIVES) if life[3] is None]
    return StreamSummary(
        name=TOPIC,
        state="open",
        slots=PARTITIONS,
        epoch=4,
        segments=len(loads),
        appended_bytes=61 * GIB,
        appended_events=58_204_113,
        tiers=Tiers(log=900 * MIB, chunks=47 * GIB),
        rate_bytes=sum(loads),
        rate_events=sum(loads) / 1_100,
    )


def _map() -> StreamMap:
    segments = [
        MapSegment(
            id=number,
            key_range=(low, high),
            slots=int((high - low) * PARTITIONS),
            container=CONTAINERS[number],
            node=CONTAINERS[number] + 1 if sealed is None else None,
            opened_ms=_ago(opened),
            sealed_ms=None if sealed is None else _ago(sealed),
            bytes=int(TARGET * (first + last) / 2 * (opened - (sealed or 0.0)) * 60),
            rate_bytes=_load(number, 0.0) if sealed is None else 0,
            rate_events=_load(number, 0.0) / 1_100 if sealed is None else 0,
        )
        for number, (low, high, opened, sealed, first, last) in enumerate(LIVES)
    ]
    return StreamMap(
        name=TOPIC,
        state="open",
        sealed_ms=None,
        time_ms=NOW_MS,
        slots=PARTITIONS,
        epoch=4,
        truncated=False,
        scaling=SCALING,
        limits=[],
        segments=segments,
    )


def _heat() -> HeatHistory:
    samples = [(n * PERIOD_MS) / 60_000 for n in range(40, -1, -1)]  # minutes ago
    segments = [
        SegmentHeat(
            id=number,
            loads=[_load(number, ago) if (sealed or 0.0) <= ago <= opened else None for ago in samples],
        )
        for number, (_, _, opened, sealed, _, _) in enumerate(LIVES)
    ]
    return HeatHistory(name=TOPIC, policy="bytes", period_ms=PERIOD_MS, end_ms=NOW_MS, segments=segments)


def _events() -> EventList:
    told = (
        (
            2.2,
            "merge",
            4,
            [3, 4],
            [7],
            "819 KiB/s together over 20 minutes, each less than half of the target of 8,192 KiB/s",
        ),
        (4.9, "split", 3, [2], [5, 6], "16.6 MiB/s over 5 minutes, more than 2 times the target of 8,192 KiB/s"),
        (8.6, "split", 2, [0], [1, 2, 3, 4], "41.2 MiB/s over 2 minutes, more than 5 times the target of 8,192 KiB/s"),
    )
    events = [
        ScaleEventView(
            time_ms=_ago(ago), stream=TOPIC, epoch=epoch, kind=kind, reason=why, sealed=sealed, opened=opened
        )
        for ago, kind, epoch, sealed, opened, why in told
    ]
    return EventList(events=events, limits=[])


# The whole


def _overview(second: int) -> Overview:
    rate = int(_summary().rate_bytes)
    return Overview(
        version="1.0",
        cluster_id="kR4n0yJfQ0yH2b7dQJtT1A",
        phase="serving",
        time_ms=NOW_MS - 1_000 * (1 - second),
        topics=12,
        groups=5,
        connections=38,
        produced_bytes=64 * GIB + second * rate,
        produced_records=58_204_113 + second * rate // 1_100,
        fetched_bytes=171 * GIB + second * 2 * rate,
        log_bytes=1_430 * MIB,
        log_limit_bytes=4 * GIB,
        chunk_bytes=52 * GIB,
        long_term=True,
        cache_bytes=610 * MIB,
        cache_limit_bytes=GIB,
        events_total=3,
    )


def _history() -> ThroughputHistory:
    rates = [(6 + 4 * n / 300 + 1.2 * math.sin(n / 9) + 0.5 * math.sin(n / 2.3)) * 2 * MIB for n in range(300)]
    return ThroughputHistory(
        period_ms=2_000,
        end_ms=NOW_MS,
        bytes_in=[int(rate) for rate in rates],
        bytes_out=[int(2 * rate) for rate in (rates[0], *rates[:-1])],
        records_in=[int(rate / 1_100) for rate in rates],
    )


def _health() -> HealthReport:
    logs = [
        LogHealth(
            container=number,
            log_bytes=size * MIB,
            log_limit_bytes=4 * GIB,
            held_bytes=held * MIB,
            pins=[PinView(topic=TOPIC, partition=7, reason="transaction", bytes=held * MIB)] if held else [],
            held_up_s=0.0,
            long_term=True,
            untiered_bytes=size * MIB // 3,
            storage_full=False,
            put_failures=0,
            snapshot_age_s=age,
            snapshot_failures=0,
        )
        for number, size, held, age in ((0, 610, 0, 122.0), (1, 3_380, 2_710, 64.0), (2, 430, 0, 190.0))
    ]
    return HealthReport(
        time_ms=NOW_MS,
        concerns=[],
        logs=logs,
        disks=[DiskView(path="/var/lib/penstock", size_bytes=200 * GIB, free_bytes=151 * GIB)],
        failed_requests=[FailedRequests(api=1, count=0)],
    )


def _nodes() -> NodeList:
    node = NodeView(id=1, state="serving", concerns=[], connections=12, gone_s=None)
    container = ContainerView(id=0, node=1, epoch=3, stage="serving", going_to=-1)
    return NodeList(time_ms=NOW_MS, certain=True, nodes=[node], containers=[container])


def _warnings() -> WarningList:
    told = (
        (
            3.0,
            "warning",
            "partitions hold back entries that cannot go to long-term storage, while the log is filling up",
        ),
        (
            41.0,
            "warning",
            "authentication failed: wrong password peer=10.0.3.17 listener=CLIENTS mechanism=SCRAM-SHA-512",
        ),
    )
    return WarningList(
        warnings=[WarningView(time_ms=_ago(ago), level=level, text=text) for ago, level, text in told], total=2
    )


# Topics


def _topics() -> TopicList:
    rows = [
        TopicRow(
            name=name,
            state="open",
            partitions=partitions,
            segments=segments,
            bytes=size * MIB,
            rate_bytes=rate * 1_024,
            rate_events=rate,
            retention_ms=604_800_000,
            retention_bytes=-1,
            compacted=name == "customers",
            groups=groups,
        )
        for name, partitions, segments, size, rate, groups in (
            (TOPIC, PARTITIONS, 4, 48_000, 11_000, 5),
            ("customers", 8, 1, 2_300, 14, 2),
            ("shipments-of-a-warehouse-with-a-rather-long-name", 6, 1, 910, 120, 1),
        )
    ]
    return TopicList(topics=rows, found=3, total=3, truncated=False)


def _partitions() -> PartitionList:
    rows = [
        PartitionRow(
            partition=number,
            segment=(7, 1, 7, 6, 7, 1, 7, 5)[number % 8],
            start_offset=1_000 * number,
            end_offset=3_637_757 + 2_113 * number,
            stable_offset=3_637_757 + 2_113 * number - (40_118 if number == 7 else 0),
            bytes=3 * GIB - 11 * MIB * number,
            chunk_bytes=3 * GIB - (70 + 11 * number) * MIB,
            here=True,
        )
        for number in range(PARTITIONS)
    ]
    return PartitionList(topic=TOPIC, partitions=rows, total=PARTITIONS)


def _configs() -> ConfigList:
    told = (
        (
            "penstock.scaling.target.rate",
            str(TARGET),
            str(TARGET),
            "default",
            "double",
            "The load that one segment should get",
        ),
        ("retention.ms", "1209600000", "604800000", "topic", "long", "Records older than this are deleted"),
        ("max.message.bytes", "2097152", "1048588", "topic", "int", "The largest batch that is taken"),
    )
    rows = [
        ConfigRow(name=name, value=value, inherited=inherited, source=source, type=type_, doc=doc)
        for name, value, inherited, source, type_, doc in told
    ]
    return ConfigList(topic=TOPIC, configs=rows)


def _records() -> RecordPage:
    end = 3_637_757
    states = ("paid", "placed", "shipped", "paid", "cancelled", "placed")
    records = [
        RecordView(
            offset=end - n,
            timestamp_ms=NOW_MS - 1_730 * n,
            key=f"customer-{(17 * n) % 89}",
            value=json.dumps(
                {"id": 910_442 - n, "state": states[n % 6], "amount": 12.5 + 3 * (n % 11), "currency": "EUR"}
            ),
            headers=[
                RecordHeader(name="source", value="till-4"),
                RecordHeader(name="trace", value=f"{0x5A17C0 + n:08x}"),
            ],
        )
        for n in range(6, 0, -1)
    ]
    return RecordPage(topic=TOPIC, partition=0, start_offset=end - 6, end_offset=end, next_offset=end, records=records)


# Groups


def _groups() -> GroupList:
    told = (
        (GROUP, "consumer", "Stable", 4, sum(LAGS)),
        ("search-index", "classic", "Stable", 8, 1_904),
        ("warehouse", "streams", "Stable", 3, 77),
        ("mail", "share", "Stable", 2, 12),
        ("audit", "classic", "Empty", 0, 0),
    )
    groups = [
        GroupView(
            name=name,
            type=kind,
            state=state,
            members=members,
            lag=lag,
            topics=[GroupTopic(topic=TOPIC, partitions=PARTITIONS, lag=lag)],
            topics_total=1,
            coordinator=1 + n % 3,
        )
        for n, (name, kind, state, members, lag) in enumerate(told)
    ]
    return GroupList(groups=groups, found=len(groups), total=len(groups), measured_ms=NOW_MS)


def _group() -> GroupDetail:
    members = [
        MemberView(
            id=f"qX{n}7pWzkS0KcR2m{n}d3Yb9g",
            client_id=f"billing-{n}",
            host=f"10.0.3.{20 + n}",
            instance_id=None,
            partitions={TOPIC: [n, n + 4]},
            count=2,
        )
        for n in range(4)
    ]
    partitions = [
        GroupPartition(
            topic=TOPIC,
            partition=number,
            offset=3_637_757 + 2_113 * number - lag,
            start_offset=1_000 * number,
            end_offset=3_637_757 + 2_113 * number,
            lag=lag,
        )
        for number, lag in zip((3, 7, 1, 0, 2, 6, 5, 4), LAGS, strict=True)
    ]
    return GroupDetail(
        name=GROUP,
        type="consumer",
        state="Stable",
        coordinator=1,
        epoch=9,
        protocol="uniform",
        lag=sum(LAGS),
        members=members,
        members_total=len(members),
        partitions=partitions,
        partitions_total=len(partitions),
        measured_ms=NOW_MS,
    )


def _lags(group: str, lag: int) -> LagHistory:
    """Steady; but one group's lag rises, since the reader of one partition stands."""
    usual = 5_600 if group == GROUP else lag
    lags: list[int | None] = [int(usual * (1 + math.sin(n / 11) / 6)) for n in range(250)]
    last = [int(usual + (lag - usual) * n / 109) for n in range(110)]
    return LagHistory(group=group, period_ms=10_000, end_ms=NOW_MS, lags=[*lags, *last])
