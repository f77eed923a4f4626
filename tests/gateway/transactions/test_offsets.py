"""Offsets that transactions commit, in every version (SEMANTICS 31, 35)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.topics.topics import CONSUMER_OFFSETS
from gateway.transactions.group_writes import GroupWrites
from tests.gateway.apis.harness import Admin, new_name
from tests.gateway.transactions.client import (
    ILLEGAL_GENERATION,
    INVALID_GROUP_ID,
    INVALID_TXN_STATE,
    NONE,
    OFFSET_METADATA_TOO_LARGE,
    TRANSACTION_ABORTABLE,
    UNKNOWN_MEMBER_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSTABLE_OFFSET_COMMIT,
    Producer,
    offset,
)


@pytest.mark.parametrize("version", range(6))
def test_offsets(admin: Admin, topic: str, version: int) -> None:
    """They are seen once the transaction has committed; until then a reader of stable ones must ask again."""
    producer, group = Producer(admin, new_name()), new_name()
    assert producer.add_group(group) == NONE
    assert producer.commit_offsets(group, (topic, 0, 7), ("not-there", 0, 1), (topic, 3, 1), version=version) == [
        NONE,
        UNKNOWN_TOPIC_OR_PARTITION,
        UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert offset(admin, group, topic) == (NONE, -1)
    assert offset(admin, group, topic, stable=True) == (UNSTABLE_OFFSET_COMMIT, -1)
    assert producer.end() == NONE
    assert offset(admin, group, topic) == offset(admin, group, topic, stable=True) == (NONE, 7)


@pytest.mark.parametrize("version", range(6))
def test_offsets_without_the_group(admin: Admin, topic: str, version: int) -> None:
    """From version 5 on a group takes part by having offsets committed."""
    producer, group = Producer(admin, new_name()), new_name()
    codes = {3: INVALID_TXN_STATE, 4: TRANSACTION_ABORTABLE, 5: NONE}
    code = codes[max(version, 3)]

    assert producer.commit_offsets(group, (topic, 0, 7), version=version) == [code]
    producer.add_group(new_name())
    assert producer.commit_offsets(group, (topic, 0, 7), version=version) == [code]


def test_aborted_offsets(admin: Admin, topic: str, producer: Producer) -> None:
    """Nothing is left of them, and earlier committed offsets stay."""
    group = new_name()
    producer.commit_offsets(group, (topic, 0, 3))
    producer.end()
    producer.commit_offsets(group, (topic, 0, 7))
    assert offset(admin, group, topic) == (NONE, 3)
    producer.end(committed=False)

    assert offset(admin, group, topic, stable=True) == (NONE, 3)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"generation_id": 1}, ILLEGAL_GENERATION),
        ({"member_id": "nobody", "generation_id": 1}, ILLEGAL_GENERATION),
    ],
)
def test_offsets_of_members_of_no_group(topic: str, producer: Producer, options: dict[str, Any], code: int) -> None:
    """A member of a group that does not exist commits nothing."""
    assert producer.commit_offsets(new_name(), (topic, 0, 7), **options) == [code]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_offsets_of_members(admin: Admin, topic: str, version: int) -> None:
    """A member is checked with its generation; a request without a member is trusted: its producer is fenced."""
    producer, group = Producer(admin, new_name()), new_name()
    producer.add_group(group)
    protocols = [{"name": "range", "metadata": b""}]
    asked = {
        "group_id": group,
        "session_timeout": 10_000,
        "rebalance_timeout": 10_000,
        "member_id": "",
        "group_instance_id": None,
        "protocol_type": "consumer",
        "protocols": protocols,
    }
    member_id = admin.ask("JoinGroup", 5, **asked).member_id
    joined = admin.ask("JoinGroup", 5, **{**asked, "member_id": member_id})
    member = {"member_id": member_id, "generation_id": joined.generation_id}

    def commit(**options: Any) -> int:
        return producer.commit_offsets(group, (topic, 0, 7), version=version, **options)[0]

    assert commit(**member) == NONE
    assert commit(**{**member, "generation_id": joined.generation_id + 1}) == ILLEGAL_GENERATION
    assert commit(**{**member, "generation_id": -1}) == ILLEGAL_GENERATION
    assert commit(**{**member, "member_id": "nobody"}) == UNKNOWN_MEMBER_ID
    assert commit() == NONE


def test_offsets_with_too_much_metadata(admin: Admin, topic: str, producer: Producer) -> None:
    """As outside transactions."""
    assert producer.commit_offsets(new_name(), (topic, 0, 7), metadata="x" * 4_097) == [OFFSET_METADATA_TOO_LARGE]
    assert producer.commit_offsets(new_name(), (topic, 0, 7), metadata="x" * 4_096) == [NONE]


@pytest.mark.parametrize("version", range(5))
def test_add_group(producer: Producer, version: int) -> None:
    """A group needs a name."""
    assert producer.add_group("", version) == INVALID_GROUP_ID
    assert producer.add_group("g", version) == NONE


def test_pending_offsets_in_all_of_a_group(admin: Admin, topic: str, producer: Producer) -> None:
    """A group's fetch of all offsets reports the pending ones as unstable, if it asks for stable ones."""
    group = new_name()
    producer.commit_offsets(group, (topic, 0, 7))

    def told(stable: bool) -> list[tuple[int, int]]:
        (answer,) = admin.ask(
            "OffsetFetch", 8, groups=[{"group_id": group, "topics": None}], require_stable=stable
        ).groups
        return [(p.partition_index, p.error_code) for t in answer.topics for p in t.partitions]

    assert told(False) == []
    assert told(True) == [(0, UNSTABLE_OFFSET_COMMIT)]


def test_offsets_of_a_deleted_group(admin: Admin, topic: str, producer: Producer) -> None:
    """Pending offsets go with the group: the transaction's end does not restore them; other groups' are kept."""
    group, other = new_name(), new_name()
    for name in (group, other):
        producer.commit_offsets(name, (topic, 0, 7))
    (deleted,) = admin.ask("DeleteGroups", 2, groups_names=(group,)).results
    assert deleted.error_code == NONE
    assert offset(admin, group, topic, stable=True) == (NONE, -1)
    assert producer.end() == NONE

    assert offset(admin, group, topic) == (NONE, -1)
    assert offset(admin, other, topic) == (NONE, 7)


def test_offsets_of_internal_topics(admin: Admin, producer: Producer) -> None:
    """A consumer of groups' offsets commits its own ones in transactions, too. A restart in the middle of one drops
    neither these nor those that other groups have committed."""
    groups, other = [new_name() for _ in range(2)], new_name()
    assert producer.commit_offsets(groups[0], (CONSUMER_OFFSETS, 0, 7)) == [NONE]
    assert producer.end() == NONE
    commit = {"committed_offset": 3, "committed_leader_epoch": -1, "committed_metadata": ""}
    topics = [{"name": CONSUMER_OFFSETS, "partitions": [{"partition_index": 0, **commit}]}]
    admin.ask("OffsetCommit", 8, group_id=other, generation_id_or_member_epoch=-1, member_id="", topics=topics)
    assert producer.commit_offsets(groups[1], (CONSUMER_OFFSETS, 0, 8)) == [NONE]
    admin.restart()
    assert producer.end() == NONE

    assert [offset(admin, group, CONSUMER_OFFSETS) for group in (*groups, other)] == [(NONE, 7), (NONE, 8), (NONE, 3)]


def test_a_topic_that_goes_while_the_coordinator_is_asked(
    admin: Admin, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new topic of its name gets none of its offsets, and the others are committed."""
    (gone, stays), group = (admin.create(), admin.create()), new_name()
    admit = GroupWrites.admit

    async def meanwhile(writes: GroupWrites, *, adds: bool) -> bool:
        assert await admin.broker.topics.delete([admin.stream(gone)]) == [None]
        return await admit(writes, adds=adds)

    with monkeypatch.context() as slow:
        slow.setattr(GroupWrites, "admit", meanwhile)
        told = producer.commit_offsets(group, (gone, 0, 7), (stays, 0, 8))
    assert told == [UNKNOWN_TOPIC_OR_PARTITION, NONE]
    admin.create(name=gone)
    assert producer.end() == NONE
    assert [offset(admin, group, topic) for topic in (gone, stays)] == [(NONE, -1), (NONE, 8)]
