"""Pushed metrics read and shown: deltas add up, names and labels are made safe, everything has a bound."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from prometheus_client.parser import text_string_to_metric_families

from core.turns import Turn
from gateway.records.compression import compress
from gateway.telemetry import otlp
from gateway.telemetry.otlp import read
from gateway.telemetry.points import BadMetrics, Read
from gateway.telemetry.series import ClientSeries
from gateway.telemetry.subscriptions import Properties
from gateway.wire.errors import InvalidBatch

CLIENT = Properties("id-1", 'my "app"', "java", "4.3.1", "10.0.0.7", "1")
BYTES_MAX = 2**20
DELTA, CUMULATIVE = 1, 2


def otlp_of(*metrics: dict[str, Any]) -> bytes:
    """Metrics as a client encodes them. Each: name, value, and what else it has."""
    data = MetricsData()
    scope = data.resource_metrics.add().scope_metrics.add()
    for given_metric in metrics:
        metric = scope.metrics.add(name=given_metric["name"])
        if "temporality" in given_metric:
            metric.sum.aggregation_temporality = given_metric["temporality"]
            metric.sum.is_monotonic = True
            point = metric.sum.data_points.add()
        elif given_metric.get("histogram"):
            metric.histogram.data_points.add(count=1)
            continue
        else:
            point = metric.gauge.data_points.add()
        value = given_metric["value"]
        if isinstance(value, int):
            point.as_int = value
        else:
            point.as_double = value
        for name, text in given_metric.get("labels", {}).items():
            point.attributes.add(key=name).value.string_value = text
    return bytes(data.SerializeToString())


def shown(series: ClientSeries) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples by name, as Prometheus' own parser reads them."""

    async def text() -> bytes:
        return b"".join([some async for some in series.text(Turn())])

    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(asyncio.run(text()).decode())
    }


def pushed(series: ClientSeries, *metrics: dict[str, Any], instance_id: UUID, codec: int = 0) -> Read:
    found = read(compress(codec, otlp_of(*metrics)), codec, BYTES_MAX, lambda name: True)
    series.add(instance_id, CLIENT, found.points)
    return found


@pytest.mark.parametrize("codec", range(5))
def test_shown(codec: int) -> None:
    """A gauge has its last value, a delta adds up, a cumulative sum replaces; with each codec."""
    series, who = ClientSeries(100), uuid4()
    for value in (3, 4):
        pushed(
            series,
            {"name": "org.apache.kafka.producer.queue.time", "value": float(value), "labels": {"node.id": "1"}},
            {"name": "org.apache.kafka.producer.sent.total", "value": value, "temporality": DELTA},
            {"name": "org.apache.kafka.producer.bytes.total", "value": value, "temporality": CUMULATIVE},
            instance_id=who,
            codec=codec,
        )

    own = {
        "client_instance_id": "id-1",
        "client_id": 'my "app"',
        "client_software_name": "java",
        "client_software_version": "4.3.1",
    }
    found = shown(series)
    assert found["penstock_client_producer_queue_time"] == [(own | {"node_id": "1"}, 4.0)]
    assert found["penstock_client_producer_sent"] == [(own, 7.0)]
    assert found["penstock_client_producer_bytes"] == [(own, 4.0)]


def test_bound() -> None:
    """Series beyond the bound are left out and counted; known ones go on; a client that is gone makes room."""
    series, first, second = ClientSeries(2), uuid4(), uuid4()
    metrics = [{"name": name, "value": 1} for name in "abc"]
    pushed(series, *metrics, instance_id=first)
    pushed(series, *metrics, instance_id=second)

    assert (series.count, series.left_out) == (2, 4)
    pushed(series, {"name": "a", "value": 9}, instance_id=first)
    assert shown(series)["penstock_client_a"][0][1] == 9.0

    series.forget(first)
    pushed(series, *metrics, instance_id=second)
    assert series.count == 2


def test_points_of_a_push(monkeypatch: pytest.MonkeyPatch) -> None:
    """One push gives no more than a number of points; histograms and infinite numbers are left out, too."""
    monkeypatch.setattr(otlp, "POINTS_MAX", 3)
    metrics = [{"name": f"m{n}", "value": n} for n in range(5)]
    odd = [{"name": "h", "histogram": True}, {"name": "inf", "value": float("inf")}]
    found = pushed(ClientSeries(100), *metrics, *odd, instance_id=uuid4())

    assert (len(found.points), found.left_out) == (3, 4)


def test_unwanted_names() -> None:
    """Metrics that nobody subscribes to are not read."""
    data = otlp_of({"name": "wanted.a", "value": 1}, {"name": "other", "value": 1})

    assert [point.name for point in read(data, 0, BYTES_MAX, lambda name: name.startswith("wanted.")).points] == [
        "wanted.a"
    ]


def test_bombs() -> None:
    """Compressed metrics that grow over the bound are refused before they are held."""
    for codec in (1, 2, 3, 4):
        with pytest.raises(InvalidBatch, match="more than"):
            read(compress(codec, bytes(8 * 2**20)), codec, BYTES_MAX, lambda name: True)


@given(st.binary(max_size=200), st.sampled_from(range(5)))
def test_any_bytes(data: bytes, codec: int) -> None:
    """Whatever a client sends is read or refused by a named error."""
    with contextlib.suppress(BadMetrics, InvalidBatch):
        read(data, codec, BYTES_MAX, lambda name: True)


NAMES = st.text(max_size=20)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, NAMES, max_size=4)), min_size=1, max_size=6))
def test_any_names(metrics: list[tuple[str, dict[str, str]]]) -> None:
    """Whatever names and labels a client makes up, Prometheus can read the text."""
    series = ClientSeries(100)
    for name, labels in metrics:
        found = read(otlp_of({"name": name, "value": 1.5, "labels": labels}), 0, BYTES_MAX, lambda name: True)
        series.add(uuid4(), CLIENT, found.points)

    samples = [value for found_samples in shown(series).values() for _, value in found_samples]
    assert samples == [1.5] * len(metrics)
