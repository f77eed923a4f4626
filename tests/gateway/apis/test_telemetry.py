"""Clients' metrics over the wire: subscribed to by an administrator, pushed by a client, shown by `/metrics`."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import pytest

from gateway.records.compression import compress
from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin
from tests.gateway.telemetry.test_series import otlp_of

CLIENT_METRICS: Final = 16
ZSTD: Final = 4
INVALID_RECORD, UNKNOWN_SUBSCRIPTION_ID, TELEMETRY_TOO_LARGE = 87, 117, 118


def subscribe(admin: Admin, name: str, **texts: str) -> None:
    """Set a subscription's configs; without any it is deleted."""
    configs = [{"name": key, "config_operation": 0, "value": value} for key, value in texts.items()]
    if not texts:
        configs = [{"name": key, "config_operation": 1} for key in ("metrics", "match", "interval.ms")]
    resource = {"resource_type": CLIENT_METRICS, "resource_name": name, "configs": configs}
    (done,) = admin.ask("IncrementalAlterConfigs", 1, resources=[resource]).responses
    assert done.error_code == 0


def push(admin: Admin, subscription: Message, metrics: bytes, **more: Any) -> int:
    answer = admin.ask(
        "PushTelemetry",
        0,
        client_instance_id=subscription.client_instance_id,
        subscription_id=subscription.subscription_id,
        metrics=metrics,
        **more,
    )
    return int(answer.error_code)


def exposed(admin: Admin) -> str:
    return admin.run(admin.broker._observers._expose().text()).decode()


def test_pushed_metrics_are_shown(admin: Admin) -> None:
    """Metrics of a subscribed name are shown with the client's name, others are not."""
    subscribe(admin, "queues", metrics="org.apache.kafka.producer.queue", **{"interval.ms": "100"})
    subscription = admin.ask("GetTelemetrySubscriptions", 0)
    assert subscription.requested_metrics == ["org.apache.kafka.producer.queue"]
    assert (subscription.push_interval, subscription.telemetry_max_bytes) == (100, 2**20)
    assert list(subscription.accepted_compression_types) == [4, 3, 1, 2]

    metrics = otlp_of(
        {"name": "org.apache.kafka.producer.queue.time", "value": 2.5},
        {"name": "org.apache.kafka.producer.batch.size", "value": 7.5},
    )
    assert push(admin, subscription, compress(ZSTD, metrics), compression_type=ZSTD) == 0

    text = exposed(admin)
    (line,) = [line for line in text.splitlines() if line.startswith("penstock_client_producer_queue_time{")]
    assert line.endswith("} 2.5")
    assert 'client_id="test"' in line
    assert "batch_size" not in text
    assert "penstock_telemetry_clients 1.0" in text
    subscribe(admin, "queues")


def test_subscriptions_are_listed(admin: Admin) -> None:
    """A subscription is listed while it has configs; deleting them ends it, and clients learn of it."""
    subscribe(admin, "listed", metrics="*")
    before = admin.ask("GetTelemetrySubscriptions", 0)
    resources = admin.ask("ListConfigResources", 0).config_resources
    assert [resource.resource_name for resource in resources] == ["listed"]
    assert before.requested_metrics == ["*"]

    subscribe(admin, "listed")
    assert admin.ask("ListConfigResources", 1, resource_types=[CLIENT_METRICS]).config_resources == []
    assert push(admin, before, b"") == UNKNOWN_SUBSCRIPTION_ID
    after = admin.ask("GetTelemetrySubscriptions", 0, client_instance_id=before.client_instance_id)
    assert (after.error_code, after.requested_metrics) == (0, [])


@pytest.mark.parametrize(
    ("metrics", "codec", "code"),
    [
        (b"no metrics at all", 0, INVALID_RECORD),
        (b"no compressed metrics", ZSTD, INVALID_RECORD),
        (bytes(2**20 + 1), 0, TELEMETRY_TOO_LARGE),
        (compress(ZSTD, bytes(2**20 + 1)), ZSTD, TELEMETRY_TOO_LARGE),
    ],
)
def test_refused_metrics(admin: Admin, metrics: bytes, codec: int, code: int) -> None:
    """What is no OTLP, or too much as it comes or opened, has an error of its own, and the connection stays."""
    subscription = admin.ask("GetTelemetrySubscriptions", 0)

    assert push(admin, subscription, metrics, compression_type=codec) == code


def test_reserved_ids(admin: Admin) -> None:
    """A push without a client's instance id is INVALID_REQUEST."""
    for reserved in (None, UUID(int=1)):
        assert admin.ask("PushTelemetry", 0, client_instance_id=reserved).error_code == 42
