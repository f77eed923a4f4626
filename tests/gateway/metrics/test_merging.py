"""The metrics of several processes become one exposition, each sample with its process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics.merging import merged


def exposition(value: float, topic: str = "orders") -> str:
    """What one process tells: a gauge, a counter with a label, a histogram."""
    registry = CollectorRegistry()
    Gauge("penstock_topics", "Topics", registry=registry).set(value)
    Counter("penstock_bytes", "Bytes", ["topic"], registry=registry).labels(topic).inc(value)
    Histogram("penstock_wait_seconds", "Waits", buckets=(1, 2), registry=registry).observe(value)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels, as Prometheus' own parser reads it."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def test_each_sample_once_with_its_process() -> None:
    """No sample is lost or summed: each is there with the label of its process."""
    told = {"0": exposition(1), "1": exposition(2)}
    both = samples(merged(told, "worker"))
    for worker, text in told.items():
        for (name, labels), value in samples(text).items():
            assert both.pop((name, labels | {("worker", worker)})) == value
    assert both == {}


def test_a_family_stands_together() -> None:
    """A family has one HELP and one TYPE, and its samples follow one another: some readers refuse anything else."""
    text = merged({"0": exposition(1), "1": exposition(2)}, "worker")
    for start in ("# HELP penstock_topics ", "# TYPE penstock_topics ", "# TYPE penstock_wait_seconds "):
        assert sum(line.startswith(start) for line in text.splitlines()) == 1
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_names_that_begin_alike() -> None:
    """A family whose name begins with another's keeps its own lines."""
    text = "# HELP a A\n# TYPE a gauge\na 1.0\n# HELP a_b B\n# TYPE a_b gauge\na_b 2.0\n"
    assert merged({"0": text, "1": text}, "worker").count("# HELP") == 2


def test_a_process_that_tells_nothing() -> None:
    """A worker that is away leaves the others' samples as they are."""
    assert merged({"0": "", "1": "a 1\n"}, "worker") == 'a{worker="1"} 1\n'
    assert merged({}, "worker") == ""


@given(st.text(min_size=0, max_size=30), st.floats(allow_nan=False))
def test_whatever_a_label_says(topic: str, value: float) -> None:
    """Quotes, braces, backslashes and line ends in the value of a label do no harm."""
    topic = topic.replace("\r", "")
    registry = CollectorRegistry()
    Gauge("penstock_lag", "Lag", ["topic"], registry=registry).labels(topic).set(value)
    told = merged({"3": generate_latest(registry).decode()}, "worker")
    assert list(samples(told)) == [("penstock_lag", frozenset({("topic", topic), ("worker", "3")}))]
