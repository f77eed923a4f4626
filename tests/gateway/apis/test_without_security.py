"""Requests that would have no effect are refused with a reason, after all that Kafka would refuse."""

from __future__ import annotations

from tests.gateway.apis.harness import Admin


def test_the_only_broker(admin: Admin) -> None:
    """The broker that is asked cannot be taken out of its cluster, nor can its release's feature be lowered."""
    lower = [{"feature": "metadata.version", "max_version_level": 7, "upgrade_type": 2}]

    assert admin.ask("UnregisterBroker", 0, broker_id=1).error_code == 44
    assert admin.ask("UpdateFeatures", 2, timeout=1_000, feature_updates=lower).error_code == 95
