"""Metrics of topics, segments, scales and groups; and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.clock import SystemClock
from gateway.cluster.nodes import Nodes
from gateway.cluster.picture import Picture
from gateway.metrics import streams as stream_metrics
from gateway.metrics.cluster import offer_cluster
from gateway.metrics.counters import Metrics
from tests.gateway.forking import serving
from tests.gateway.http.calls import call, create_topic, delete_topic, produce, until
from tests.gateway.launching import http_get

pytestmark = pytest.mark.slow

DASHBOARD = Path(__file__).parents[3] / "deploy/grafana/penstock.json"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "info": ("_info",)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        yield ready["kafka"][0], ready["http"]


def families(http: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(http_get(http, "/metrics")[1])}


def values(http: str, name: str) -> dict[tuple[str, ...], float]:
    """Samples of a family by the values of their labels, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(s.labels.items())): s.value
        for s in families(http)[name].samples
        if not s.name.endswith("_created")
    }


def test_topics_segments_and_scales(gateway: tuple[str, str]) -> None:
    """The activity of a topic is shown by its name."""
    kafka, http = gateway
    create_topic(kafka, "orders", 4)
    produce(kafka, "orders", 0, 10)
    assert call(http, "POST", "/api/v1/streams/orders/scale", {"split": {"segment": 0}})[0] == 200

    def rates() -> dict[tuple[str, ...], float]:
        produce(kafka, "orders", 0, 10)
        return {labels: rate for labels, rate in values(http, "penstock_segment_bytes_per_second").items() if rate > 0}

    assert until(rates).keys() == {("1", "orders")}
    records = values(http, "penstock_topic_appended_records")["orders",]
    assert records >= 20
    assert values(http, "penstock_topic_appended_bytes")["orders",] > 100 * records
    assert values(http, "penstock_topic_segments")["orders",] == 2
    assert values(http, "penstock_topic_bytes")["log", "orders"] > 0
    assert values(http, "penstock_scale_events")["manual",] == 1

    assert call(http, "POST", "/api/v1/streams/orders/seal")[0] == 200
    assert values(http, "penstock_topic_segments")["orders",] == 0
    assert "orders" not in {topic for _, topic in values(http, "penstock_segment_bytes_per_second")}


def test_lag(gateway: tuple[str, str]) -> None:
    """A group's lag, by topic."""
    kafka, http = gateway
    create_topic(kafka, "read", 1)
    produce(kafka, "read", 0, 10)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "readers"})
    consumer.commit(offsets=[TopicPartition("read", 0, 4)], asynchronous=False)
    consumer.close()

    assert until(lambda: values(http, "penstock_group_lag").get(("readers", "read"))) == 6


def test_bounded(gateway: tuple[str, str]) -> None:
    """A bounded number of topics have a label of their own; the others are counted together, and none is lost."""
    kafka, http = gateway
    for number in range(stream_metrics.TOPICS_MAX + 5):
        create_topic(kafka, f"many-{number}", 1)
    values(http, "penstock_topic_segments")  # labels are given
    for number in range(stream_metrics.TOPICS_MAX - 10, stream_metrics.TOPICS_MAX + 5):
        produce(kafka, f"many-{number}", 0, 1)

    segments = values(http, "penstock_topic_segments")
    records = values(http, "penstock_topic_appended_records")

    assert len(segments) == stream_metrics.TOPICS_MAX + 1
    assert segments["other",] >= 5
    assert records["other",] >= 5
    told = json.loads(http_get(http, "/api/v1/overview")[1])
    assert sum(records.values()) == told["produced_records"]


def test_every_metric_of_the_dashboard_exists(gateway: tuple[str, str]) -> None:
    """Every query names metrics and labels that a gateway has, or a node of a cluster."""
    _, http = gateway
    known = {name + suffix for name, f in families(http).items() for suffix in SUFFIXES.get(f.type, ("",))}
    of_a_node = Metrics()
    offer_cluster(of_a_node, Picture(Nodes(1, lambda _: True), dict, None, SystemClock().wall_ms), lambda: 0)
    known |= {number.name for number in of_a_node.numbers}
    dashboard = json.loads(DASHBOARD.read_text())

    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    named = {name for query in queries for name in re.findall(r"\b(?:penstock|process)_\w+", query)}

    assert len(named) > 20
    assert named - known == set()


def test_what_is_made_again(tmp_path: Path) -> None:
    """A topic that was deleted and made again keeps its label beyond the bound, and its counters go on."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        admin = AdminClient({"bootstrap.servers": kafka})
        names = [f"t{number}" for number in range(stream_metrics.TOPICS_MAX + 5)]
        for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
            made.result(30)
        labels = set(values(http, "penstock_topic_segments"))
        ((again,), (gone,)) = sorted(labels - {("other",)})[:2]
        produce(kafka, again, 0, 3)
        before = values(http, "penstock_topic_appended_records")[again,]

        delete_topic(kafka, again)
        create_topic(kafka, again, 1)
        delete_topic(kafka, gone)
        produce(kafka, again, 0, 2)
        counted = values(http, "penstock_topic_appended_records")

        assert counted[again,] == before + 2
        assert (gone,) not in counted
        assert len(values(http, "penstock_topic_segments")) == stream_metrics.TOPICS_MAX + 1
        produce(kafka, again, 0, 2)
        assert values(http, "penstock_topic_appended_records")[again,] == before + 4


def test_named_like_the_sum(tmp_path: Path) -> None:
    """A topic or group that is called `other` is not added to what has no name."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "other", 1)
        produce(kafka, "other", 0, 7)
        reader = Consumer({"bootstrap.servers": kafka, "group.id": "other", "enable.auto.commit": False})
        reader.commit(offsets=[TopicPartition("other", 0, 3)], asynchronous=False)
        reader.close()
        other = Consumer({"bootstrap.servers": kafka, "group.id": "other (name)", "enable.auto.commit": False})
        other.commit(offsets=[TopicPartition("other", 0, 5)], asynchronous=False)
        other.close()

        lags = until(lambda: len(found := values(http, "penstock_group_lag")) == 2 and found)
        assert lags == {("other (name)", "other (name)"): 4, ("other (name) (name)", "other (name)"): 2}
        assert values(http, "penstock_topic_appended_records") == {("other (name)",): 7}
