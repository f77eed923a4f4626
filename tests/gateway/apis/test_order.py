"""Requests of one connection take effect in the order in which they were sent, also where a handler gives way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.network import turns
from tests.gateway.apis.harness import KEYS, Admin, admin_of, new_name
from tests.gateway.harness import Client

MANY = 1_300
"""Partitions whose offsets are deleted in parts, by a request that is smaller than those which are decoded in a
thread."""


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with admin_of(tmp_path) as made:
        yield made


def commit(group: str, topic: str, numbers: Sequence[int], offset: int) -> tuple[int, int, dict[str, Any]]:
    partition = {"committed_offset": offset, "committed_leader_epoch": -1, "committed_metadata": ""}
    partitions = [{"partition_index": number, **partition} for number in numbers]
    body = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": ""}
    return KEYS["OffsetCommit"], 8, {**body, "topics": [{"name": topic, "partitions": partitions}]}


def delete(group: str, topic: str, count: int) -> tuple[int, int, dict[str, Any]]:
    partitions = [{"partition_index": number} for number in range(count)]
    body = {"group_id": group, "topics": [{"name": topic, "partitions": partitions}]}
    return KEYS["OffsetDelete"], 0, body


def sent_together(admin: Admin, *requests: tuple[int, int, dict[str, Any]]) -> None:
    """All are sent before the first is answered; all succeed."""

    async def answered() -> list[Any]:
        client = await Client.connect(admin.broker)
        sent = [client.send(*request) for request in requests]
        answers = [await client.receive(one) for one in sent]
        client.close()
        return answers

    for answer in admin.run(answered()):
        assert {partition.error_code for topic in answer.topics for partition in topic.partitions} == {0}


def offsets(admin: Admin, group: str) -> dict[int, int]:
    (told,) = admin.ask("OffsetFetch", 9, groups=[{"group_id": group, "topics": None}]).groups
    return {p.partition_index: p.committed_offset for topic in told.topics for p in topic.partitions}


def test_a_commit_behind_a_deletion_in_parts(admin: Admin) -> None:
    topic, group = admin.create(MANY), new_name()
    first, last = commit(group, topic, range(MANY), 1), commit(group, topic, [MANY - 1], 2)
    sent_together(admin, first, delete(group, topic, MANY), last)

    assert offsets(admin, group) == {MANY - 1: 2}


@pytest.mark.parametrize("count", [1, 50])
def test_a_commit_behind_a_small_deletion(admin: Admin, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Also where the machine is so slow that each turn is over at once."""
    topic, group = admin.create(count), new_name()
    first, last = commit(group, topic, range(count), 1), commit(group, topic, [count - 1], 2)
    sent_together(admin, first)
    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    sent_together(admin, delete(group, topic, count), last)

    assert offsets(admin, group) == {count - 1: 2}


def test_commits_of_a_transaction(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two for the same partition the second counts, however many the first is for."""
    topic, group, name = admin.create(50), new_name(), new_name()
    who = admin.ask("InitProducerId", 4, transactional_id=name, transaction_timeout=60_000)
    identity = {"producer_id": who.producer_id, "producer_epoch": who.producer_epoch}

    def transactional(numbers: Sequence[int], offset: int) -> tuple[int, int, dict[str, Any]]:
        partition = {"committed_offset": offset, "committed_leader_epoch": -1, "committed_metadata": ""}
        partitions = [{"partition_index": number, **partition} for number in numbers]
        member = {"generation_id": -1, "member_id": "", "group_instance_id": None}
        body = {"transactional_id": name, "group_id": group, **identity, **member}
        return KEYS["TxnOffsetCommit"], 5, {**body, "topics": [{"name": topic, "partitions": partitions}]}

    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    sent_together(admin, transactional(range(50), 1), transactional([49], 2))
    ended = admin.ask("EndTxn", 4, transactional_id=name, **identity, committed=True)

    assert ended.error_code == 0
    assert offsets(admin, group) == {**dict.fromkeys(range(49), 1), 49: 2}
