"""What the audit log tells of changes: who made them, of what, and no value that may be a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.gateway.apis.harness import Admin, admin_of
from tests.gateway.apis.test_quotas import set_quota
from tests.gateway.security.harness import STANDARD


def told(admin: Admin, path: Path) -> list[dict[str, Any]]:
    """The lines of changes, without their times."""
    assert admin.broker.authorizer is not None
    admin.broker.authorizer.audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert line.pop("time")
        assert (line.pop("principal"), line.pop("host")) == ("User:ANONYMOUS", "127.0.0.1")
    return lines


def test_changes(tmp_path: Path) -> None:
    """Configs by name, quotas by value, credentials by user; neither failures nor mere checks are changes."""
    path = tmp_path / "audit.log"
    with admin_of(tmp_path / "data", STANDARD, "super.users=User:ANONYMOUS", f"audit.log={path}") as admin:
        topic = admin.create()
        value = {"name": "retention.ms", "config_operation": 0, "value": "1234567"}
        wrong = value | {"value": "never"}
        for config, only_checked in ((value, False), (value, True), (wrong, False)):
            resource = {"resource_type": 2, "resource_name": topic, "configs": [config]}
            admin.ask("IncrementalAlterConfigs", 1, resources=[resource], validate_only=only_checked)
        set_quota(admin, {"user": "a"}, "producer_byte_rate", 1_000.0)
        credential = {"name": "a", "mechanism": 1, "iterations": 4096, "salt": b"salt", "salted_password": bytes(32)}
        admin.ask("AlterUserScramCredentials", 0, deletions=[], upsertions=[credential])
        gone = {"name": "a", "mechanism": 1}
        admin.ask("AlterUserScramCredentials", 0, deletions=[gone], upsertions=[])
        lines = told(admin, path)

    assert lines == [
        {"event": "topic created", "name": topic, "partitions": 1},
        {"event": "configs changed", "resource": "TOPIC", "name": topic, "configs": ["retention.ms"]},
        {"event": "quota changed", "entity": {"user": "a"}, "quotas": {"producer_byte_rate": 1_000.0}},
        {"event": "credential set", "user": "a", "mechanism": "SCRAM-SHA-256"},
        {"event": "credential deleted", "user": "a", "mechanism": "SCRAM-SHA-256"},
    ]
