"""Pushed metrics, as OpenTelemetry's protocol encodes them, read into plain points. For any thread.

Keeps: no more bytes than asked for are decompressed, no more than `POINTS_MAX` points are made of one push, and every
text in them is clipped. Numbers that are gauges or sums are read: Kafka's clients send no others; histograms and
summaries are counted as left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, MetricsData

from gateway.records.compression import decompress
from gateway.telemetry.points import BadMetrics, Point, Read

POINTS_MAX: Final = 2_000
"""Points of one push: some 10 ms of a thread. Kafka's own clients send a few hundred."""
NAME_CHARS_MAX: Final = 200
LABELS_MAX: Final = 10
LABEL_CHARS_MAX: Final = 100


def read(payload: bytes, codec: int, bytes_max: int, wants: Callable[[str], bool]) -> Read:
    """The points whose names are wanted. Raises BadMetrics, and InvalidBatch for bytes that cannot be opened."""
    data = decompress(codec, payload, bytes_max) if codec else payload
    try:
        message = MetricsData.FromString(bytes(data))
    except (DecodeError, RecursionError) as wrong:
        raise BadMetrics(str(wrong)) from None
    points: list[Point] = []
    left_out = 0
    for metric in _metrics(message):
        if not wants(metric.name):
            continue
        for point in _points(metric):
            if point is None or len(points) >= POINTS_MAX:
                left_out += 1
            else:
                points.append(point)
    return Read(points, left_out)


def _metrics(message: Any) -> Iterator[Metric]:
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def _points(metric: Any) -> Iterator[Point | None]:
    """One metric's points; None for one that cannot be read."""
    kind = metric.WhichOneof("data")
    if kind not in ("gauge", "sum"):
        yield None
        return
    found = getattr(metric, kind)
    is_sum = kind == "sum"
    only_rises = is_sum and found.is_monotonic
    is_delta = is_sum and found.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    name = metric.name[:NAME_CHARS_MAX]
    for point in found.data_points:
        value = float(point.as_int) if point.WhichOneof("value") == "as_int" else point.as_double
        if not math.isfinite(value):
            yield None
        else:
            yield Point(name, _labels(point.attributes), value, only_rises, is_delta)


def _labels(attributes: Iterable[KeyValue]) -> tuple[tuple[str, str], ...]:
    labels: dict[str, str] = {}
    for attribute in attributes:
        if len(labels) >= LABELS_MAX:
            break
        kind = attribute.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "bool_value", "double_value"):
            labels[attribute.key[:LABEL_CHARS_MAX]] = str(getattr(attribute.value, kind))[:LABEL_CHARS_MAX]
    return tuple(sorted(labels.items()))
