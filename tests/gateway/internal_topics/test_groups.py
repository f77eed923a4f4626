"""Groups that read internal topics: they are listed, subscribed to and kept as any other topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin, admin_of
from tests.gateway.internal_topics.test_reading import TOPIC, TRANSACTIONS, commit

GROUP, TRANSACTION = 0, 1


def topics_listed(admin: Admin) -> set[str]:
    return {topic.name for topic in admin.ask("Metadata", 12, topics=None).topics}


def joined(admin: Admin, group: str, **subscription: Any) -> Message:
    admin.ask("FindCoordinator", 4, key_type=GROUP, coordinator_keys=[group])
    answer = admin.ask(
        "ConsumerGroupHeartbeat",
        1,
        group_id=group,
        member_id="a-member",
        member_epoch=0,
        rebalance_timeout=60_000,
        topic_partitions=[],
        **subscription,
    )
    assert (answer.error_code, answer.error_message) == (0, None)
    return answer


def partitions_by_name(admin: Admin, answer: Message) -> dict[str, int]:
    known = {topic.topic_id: topic.name for topic in admin.ask("Metadata", 12, topics=None).topics}
    return {known[each.topic_id]: len(each.partitions) for each in answer.assignment.topic_partitions}


def test_asking_for_a_coordinator_lists_its_topic(tmp_path: Path) -> None:
    """As Kafka makes the topic then: clients that match topics by themselves learn that it is internal."""
    with admin_of(tmp_path) as admin:
        assert not topics_listed(admin)
        admin.ask("FindCoordinator", 4, key_type=GROUP, coordinator_keys=["readers"])
        assert topics_listed(admin) == {TOPIC}
        admin.ask("FindCoordinator", 4, key_type=TRANSACTION, coordinator_keys=["writers"])
        assert topics_listed(admin) == {TOPIC, TRANSACTIONS}


def test_a_regular_expression_finds_internal_topics(admin: Admin) -> None:
    """The server resolves it over all topics that are listed, internal ones too, as Kafka does (KIP-848)."""
    name = admin.create(2)
    answer = joined(admin, "by-pattern", subscribed_topic_names=[], subscribed_topic_regex=f"{name}|__consumer.*")
    assert partitions_by_name(admin, answer) == {name: 2, TOPIC: 50}


def test_a_name_finds_an_internal_topic(admin: Admin) -> None:
    answer = joined(admin, "by-name", subscribed_topic_names=[TOPIC])
    assert partitions_by_name(admin, answer) == {TOPIC: 50}


def test_a_consumer_group_alone_keeps_the_topic_listed(tmp_path: Path) -> None:
    with admin_of(tmp_path) as admin:
        joined(admin, "by-name", subscribed_topic_names=[TOPIC])
        admin.restart()
        assert TOPIC in topics_listed(admin)


def test_offsets_in_internal_topics_outlive_a_restart(tmp_path: Path) -> None:
    """They are no offsets of a topic that was deleted."""
    with admin_of(tmp_path) as admin:
        commit(admin, "watcher", TOPIC, 17, partition=3)
        admin.restart()
        found = admin.ask(
            "OffsetFetch", 8, groups=[{"group_id": "watcher", "topics": [{"name": TOPIC, "partition_indexes": [3]}]}]
        )
        (group,) = found.groups
        assert [p.committed_offset for topic in group.topics for p in topic.partitions] == [17]
