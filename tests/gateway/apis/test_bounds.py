"""Everything that clients can make has a bound, and the refusal names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin

POLICY_VIOLATION = 44
UNKNOWN_TOPIC = 3


def created(admin: Admin, *topics: tuple[str, int], validate_only: bool = False) -> list[Message]:
    wanted: list[dict[str, Any]] = [
        {"name": name, "num_partitions": partitions, "replication_factor": -1, "assignments": [], "configs": []}
        for name, partitions in topics
    ]
    answer = admin.ask("CreateTopics", 5, topics=wanted, timeout_ms=10_000, validate_only=validate_only)
    return list(answer.topics)


def test_topics(tmp_path: Path) -> None:
    """The topics of one request beyond topics.max are refused, and deleting makes room."""
    admin = Admin(tmp_path, ["topics.max=3"])
    try:
        answers = created(admin, *((f"t{n}", 1) for n in range(5)))
        assert [a.error_code for a in answers] == [0, 0, 0, POLICY_VIOLATION, POLICY_VIOLATION]
        assert "topics.max=3" in answers[3].error_message

        admin.ask("DeleteTopics", 5, topic_names=["t0"], timeout_ms=10_000)

        assert [a.error_code for a in created(admin, ("new", 1))] == [0]
    finally:
        admin.close()


def test_partitions(tmp_path: Path) -> None:
    """New topics and growth count towards partitions.max, also after a restart."""
    admin = Admin(tmp_path, ["partitions.max=10"])
    try:
        assert [a.error_code for a in created(admin, ("a", 4), ("b", 7), ("c", 6))] == [0, POLICY_VIOLATION, 0]
        admin.restart()

        def grown(name: str, count: int) -> int:
            topics = [{"name": name, "count": count, "assignments": None}]
            answer = admin.ask("CreatePartitions", 3, topics=topics, timeout_ms=10_000, validate_only=False)
            return int(answer.results[0].error_code)

        assert grown("a", 5) == POLICY_VIOLATION
        admin.ask("DeleteTopics", 5, topic_names=["c"], timeout_ms=10_000)
        assert grown("a", 10) == 0
        assert grown("a", 11) == POLICY_VIOLATION
    finally:
        admin.close()


def test_auto_creation(tmp_path: Path) -> None:
    """Asking for topics creates no more than auto.create.topics.max; creating them by request still works."""
    admin = Admin(tmp_path, ["auto.create.topics.max=2"])
    try:

        def ask_for(name: str) -> int:
            topics = [{"topic_id": None, "name": name}]
            for _ in range(100):
                answer = admin.ask("Metadata", 9, topics=topics, allow_auto_topic_creation=True)
                code = int(answer.topics[0].error_code)
                if code == 0 or len(admin.broker.topics) >= 2:
                    return code
            return code

        assert [ask_for("a"), ask_for("b"), ask_for("c")][2] == UNKNOWN_TOPIC
        assert sorted(stream.name for stream in admin.broker.topics) == ["a", "b"]
        assert [a.error_code for a in created(admin, ("c", 1))] == [0]
    finally:
        admin.close()


def test_transactional_ids(tmp_path: Path) -> None:
    """A transactional id too many is refused; those that are known go on."""
    admin = Admin(tmp_path, ["transactional.ids.max=2"])
    try:

        def init(name: str) -> int:
            answer = admin.ask("InitProducerId", 2, transactional_id=name, transaction_timeout=10_000)
            return int(answer.error_code)

        assert [init("a"), init("b"), init("c"), init("a")] == [0, 0, POLICY_VIOLATION, 0]
    finally:
        admin.close()


def test_told_in_metrics(tmp_path: Path) -> None:
    """Each bound is reported beside the present number, by its key."""
    admin = Admin(tmp_path, ["topics.max=77"])
    try:
        admin.create(3)
        numbers = {(n.name, dict(n.labels).get("key")): n.read() for n in admin.broker.metrics.numbers}

        assert numbers["penstock_limit", "topics.max"] == 77
        assert numbers["penstock_limit_used", "topics.max"] == 1
        assert numbers["penstock_limit_used", "partitions.max"] == 3
        assert {key for name, key in numbers if name == "penstock_limit"} == {
            key for name, key in numbers if name == "penstock_limit_used"
        }
    finally:
        admin.close()
