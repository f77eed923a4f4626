"""Requests that would have no effect are refused with a reason, after all that Kafka would refuse."""

from __future__ import annotations

from typing import Any

from tests.gateway.apis.harness import Admin, code_and_message


def quota(name: str, key: str, value: float, *, remove: bool = False) -> dict[str, Any]:
    entity = [{"entity_type": "ip", "entity_name": name}]
    return {"entity": entity, "ops": [{"key": key, "value": value, "remove": remove}]}


def test_quotas(admin: Admin) -> None:
    """A quota that Kafka would enforce is refused, even if only validated; no later answer shows it."""
    key = "connection_creation_rate"
    entries = [quota("10.0.0.1", key, 50), quota("10.0.0.2", key, 50, remove=True)]
    for only in (False, True):
        kept, gone = admin.ask("AlterClientQuotas", 1, entries=entries, validate_only=only).entries
        assert code_and_message(kept) == (
            44,
            f"Penstock does not enforce {key} yet, so it does not take it.",
        )
        assert gone.error_code == 0
    assert admin.ask("DescribeClientQuotas", 1, components=[], strict=False).entries == []


def test_the_only_broker(admin: Admin) -> None:
    """The broker that is asked cannot be taken out of its cluster, nor can its release's feature be lowered."""
    lower = [{"feature": "metadata.version", "max_version_level": 7, "upgrade_type": 2}]

    assert admin.ask("UnregisterBroker", 0, broker_id=1).error_code == 44
    assert admin.ask("UpdateFeatures", 2, timeout=1_000, feature_updates=lower).error_code == 95
