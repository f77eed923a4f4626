"""Features' levels: raised and lowered by UpdateFeatures, shown by ApiVersions, kept over restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.apis.harness import Admin, admin_of

UPGRADE, SAFE_DOWNGRADE = 1, 2
INVALID_UPDATE_VERSION = 95


def change(level: int, kind: int, feature: str = "transaction.version") -> dict[str, Any]:
    return {"feature": feature, "max_version_level": level, "upgrade_type": kind}


def update(admin: Admin, *changes: dict[str, Any], version: int = 2, **more: Any) -> int:
    answer = admin.ask("UpdateFeatures", version, timeout=1_000, feature_updates=list(changes), **more)
    return int(answer.error_code)


def shown(admin: Admin) -> tuple[int, dict[str, int]]:
    """The epoch of the levels in effect, and the levels."""
    answer = admin.ask("ApiVersions", 4, client_software_name="x", client_software_version="1")
    assert all(f.min_version_level == f.max_version_level for f in answer.finalized_features)
    return answer.finalized_features_epoch, {f.name: f.max_version_level for f in answer.finalized_features}


def test_lowered_and_kept(tmp_path: Path) -> None:
    """A lowered level is in effect at once and after a restart, with a higher epoch; it can be raised again."""
    with admin_of(tmp_path) as admin:
        before, levels = shown(admin)
        assert levels["transaction.version"] == 2

        assert update(admin, change(1, SAFE_DOWNGRADE)) == 0
        epoch, lowered = shown(admin)
        assert lowered == levels | {"transaction.version": 1}
        assert epoch > before

        admin.restart()
        assert shown(admin) == (epoch, lowered)
        assert update(admin, change(2, UPGRADE)) == 0
        assert shown(admin) == (epoch + 1, levels)


def test_off(admin: Admin) -> None:
    """A feature at level 0 is not told of: producers then keep to the first version of transactions."""
    assert update(admin, change(0, SAFE_DOWNGRADE)) == 0
    assert "transaction.version" not in shown(admin)[1]

    assert update(admin, change(2, UPGRADE)) == 0


@pytest.mark.parametrize("version", [0, 1, 2])
def test_all_or_nothing(admin: Admin, version: int) -> None:
    """One level that cannot be set leaves all as they are."""
    kind = {"allow_downgrade": True} if version == 0 else {}
    good = change(1, SAFE_DOWNGRADE) | kind
    bad = change(99, UPGRADE) | kind

    before = shown(admin)
    assert update(admin, good, bad, version=version) == INVALID_UPDATE_VERSION
    assert shown(admin) == before


def test_only_checked(admin: Admin) -> None:
    """A change that is only to be checked changes nothing."""
    before = shown(admin)
    assert update(admin, change(1, SAFE_DOWNGRADE), validate_only=True) == 0
    assert shown(admin) == before


def test_groups_by_feature(admin: Admin) -> None:
    """Without its feature the protocol of consumer groups is refused, and served again when it is raised."""
    joining = {"group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout": 5_000, "topic_partitions": []}
    joining |= {"subscribed_topic_names": [admin.create()]}

    assert update(admin, change(0, SAFE_DOWNGRADE, "group.version")) == 0
    assert admin.ask("ConsumerGroupHeartbeat", 1, **joining).error_code == 35
    assert update(admin, change(1, UPGRADE, "group.version")) == 0
    assert admin.ask("ConsumerGroupHeartbeat", 1, **joining).error_code == 0
