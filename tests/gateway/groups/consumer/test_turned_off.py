"""Consumer groups can be turned off: by the operator's protocols, and by the level of their feature."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

from tests.gateway.forking import serving
from tests.likeness.asking import Server
from tests.likeness.questions import Question

pytestmark = pytest.mark.slow

DOWNGRADE: Final = 2
JOIN: Final = Question(
    "joining",
    "ConsumerGroupHeartbeat",
    {
        "group_id": "g",
        "member_id": "m",
        "member_epoch": 0,
        "rebalance_timeout": 5_000,
        "subscribed_topic_names": ["t"],
        "topic_partitions": [],
    },
)
LOWER: Final = Question(
    "lowering",
    "UpdateFeatures",
    {"feature_updates": [{"feature": "group.version", "max_version_level": 0, "upgrade_type": DOWNGRADE}]},
)


def test_lowered_feature(tmp_path: Path) -> None:
    """At group.version 0 members are refused, and told to use the classic protocol; before, they are served."""
    with serving(tmp_path, "--set", "log.file.bytes=4194304") as gateway:
        server = Server(gateway.ready()["kafka"][0])
        assert server.ask(JOIN, 1)["error_code"] == ErrorCode.none
        assert server.ask(LOWER, 1)["error_code"] == ErrorCode.none
        assert server.ask(JOIN, 1)["error_code"] == ErrorCode.unsupported_version
        gateway.await_line("set group.protocol=classic for its consumers")
        server.close()
