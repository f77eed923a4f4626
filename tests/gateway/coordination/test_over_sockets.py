"""Requests about groups and transactions to a broker of four containers, as clients send them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.apis import offset_delete
from gateway.dispatch.context import RequestContext
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import OffsetKey
from tests.core.support import until
from tests.gateway.apis.harness import Admin, admin_of, new_name
from tests.gateway.transactions.client import Producer

CONTAINERS = 4
NOT_COORDINATOR = 16
COORDINATOR_NOT_AVAILABLE = 15
NONE = 0
GROUPS_SINCE = 8


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker"), f"containers={CONTAINERS}") as admin:
        yield admin


def names(admin: Admin, prefix: str) -> list[str]:
    """A name with its home in each container."""
    found: dict[int, str] = {}
    while len(found) < CONTAINERS:
        name = f"{prefix}-{new_name()}"
        found.setdefault(admin.broker.groups.homes.of(name), name)
    return [found[number] for number in range(CONTAINERS)]


def commit(admin: Admin, group: str, topic: str, offset: int, number: int = 0) -> None:
    partition = {
        "partition_index": number,
        "committed_offset": offset,
        "committed_leader_epoch": -1,
        "committed_metadata": "",
    }
    answer = admin.ask(
        "OffsetCommit",
        9,
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        group_instance_id=None,
        topics=[{"name": topic, "partitions": [partition]}],
    )
    assert answer.topics[0].partitions[0].error_code == NONE


def fetched(admin: Admin, groups: list[str]) -> dict[str, tuple[int, dict[str, int]]]:
    """Error and offsets of each group, in one request."""
    wanted = [{"group_id": group, "member_id": None, "member_epoch": -1, "topics": None} for group in groups]
    answer = admin.ask("OffsetFetch", 9, groups=wanted, require_stable=True)
    return {
        group.group_id: (
            group.error_code,
            {topic.name: topic.partitions[0].committed_offset for topic in group.topics},
        )
        for group in answer.groups
    }


def coordinators(admin: Admin, keys: list[str], key_type: int) -> dict[str, tuple[int, int]]:
    """Error and node of each key."""
    answer = admin.ask("FindCoordinator", 4, key_type=key_type, coordinator_keys=keys)
    return {found.key: (found.error_code, found.node_id) for found in answer.coordinators}


def test_several_groups_in_a_request(admin: Admin) -> None:
    """Groups of all containers are found, fetched, described, listed and deleted together."""
    topic, groups = admin.create(4), names(admin, "g")
    for number, group in enumerate(groups):
        commit(admin, group, topic, number)
    node = admin.broker.node_id

    assert coordinators(admin, groups, 0) == dict.fromkeys(groups, (NONE, node))
    assert fetched(admin, groups) == {group: (NONE, {topic: number}) for number, group in enumerate(groups)}
    listed = admin.ask("ListGroups", 4, states_filter=[])
    assert {group.group_id for group in listed.groups} >= set(groups)
    described = admin.ask("DescribeGroups", 5, groups=groups, include_authorized_operations=False)
    assert [(group.group_id, group.group_state) for group in described.groups] == [(name, "Empty") for name in groups]
    deleted = admin.ask("DeleteGroups", 2, groups_names=groups)
    assert {result.group_id: result.error_code for result in deleted.results} == dict.fromkeys(groups, NONE)
    assert fetched(admin, groups) == {group: (NONE, {}) for group in groups}


def test_a_transaction_over_all(admin: Admin) -> None:
    """Whichever container its coordinator is in: partitions and a group of all others take part."""
    topic = admin.create(CONTAINERS)
    homes = {admin.slot(topic, partition).container_id for partition in range(CONTAINERS)}
    assert len(homes) == CONTAINERS
    for number, (name, group) in enumerate(zip(names(admin, "t"), reversed(names(admin, "g")), strict=True)):
        producer = Producer(admin, name)
        for version in (12, 11):
            if version < 12:
                assert producer.add(*((topic, partition) for partition in range(CONTAINERS))) == [NONE] * CONTAINERS
            for partition in range(CONTAINERS):
                assert producer.write(topic, b"v", partition=partition, version=version) == NONE
            assert producer.add_group(group) == NONE
            assert producer.commit_offsets(group, (topic, 0, number)) == [NONE]
            assert producer.end() == NONE
        assert fetched(admin, [group])[group] == (NONE, {topic: number})
    ends = {(slot.stable_end, slot.durable_end) for slot in (admin.slot(topic, p) for p in range(CONTAINERS))}
    assert ends == {(4 * CONTAINERS, 4 * CONTAINERS)}  # two records and two markers of each


def test_a_container_that_is_being_opened(admin: Admin) -> None:
    """A member's heartbeat is no error, as in Kafka: clients would begin another session over it. All else is to be
    asked again."""
    groups, group = admin.broker.groups, names(admin, "g")[0]
    home = groups.homes.of(group)
    member: dict[str, Any] = {"group_id": group, "member_id": "m", "group_instance_id": None}

    async def reopened() -> None:
        await groups.load_in(home)
        await groups.start_in(home)

    admin.run(groups.release(home))
    groups.expect(home)
    beat = admin.ask("Heartbeat", 4, **member, generation_id=1)
    left = admin.ask("LeaveGroup", 5, group_id=group, members=[{"member_id": "m", "group_instance_id": None}])
    admin.run(reopened())
    assert (beat.error_code, left.error_code) == (NONE, ErrorCode.coordinator_load_in_progress)
    assert admin.ask("Heartbeat", 4, **member, generation_id=1).error_code == ErrorCode.unknown_member_id


def test_a_container_that_goes_between_two_parts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets that its coordinator has forgotten by then are not told as deleted, also if the container has come back:
    the client asks again."""
    topic, (group, *_) = admin.create(2), names(admin, "g")
    for partition in range(2):
        commit(admin, group, topic, 7, partition)
    delete, kinds = OffsetService.delete, (admin.broker.groups, admin.broker.transactions)
    deleted: list[tuple[str, int]] = []

    async def and_goes(service: OffsetService, group_id: str, places: Collection[tuple[str, int]]) -> ErrorCode:
        code = await delete(service, group_id, places)
        deleted.extend(places)
        home = admin.broker.groups.homes.of(group_id)
        for kind in reversed(kinds):
            await kind.release(home)
        await until(lambda: not service.of_group(group_id))
        for kind in kinds:
            await kind.load_in(home)
        for kind in kinds:
            await kind.start_in(home)
        return code

    asked = {"name": topic, "partitions": [{"partition_index": number} for number in range(2)]}
    told: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(offset_delete, "AT_ONCE", 1)
        patch.setattr(OffsetService, "delete", and_goes)
        patch.setattr(RequestContext, "tell", lambda ctx, what, *, name, topic: told.append((what, topic)))
        answer = admin.ask("OffsetDelete", 0, group_id=group, topics=[asked])
    assert told == [("offsets deleted", topic)]  # the audit log hears of the part that was
    assert (answer.error_code, deleted) == (ErrorCode.coordinator_load_in_progress, [(topic, 0)])
    assert admin.broker.groups.of(group).offsets.get(OffsetKey(group, topic, 1)) is not None


def test_a_container_that_is_gone(admin: Admin) -> None:
    """Its groups and transactional ids are refused one by one; those of the others in the same request are served."""
    topic, groups, ids = admin.create(1), names(admin, "g"), names(admin, "t")
    for group in groups:
        commit(admin, group, topic, 7)
    gone = CONTAINERS - 1
    admin.run(admin.broker.transactions.release(gone))
    admin.run(admin.broker.groups.release(gone))
    node = admin.broker.node_id
    for key_type, keys in ((0, groups), (1, ids)):
        expected = dict.fromkeys(keys, (NONE, node)) | {keys[gone]: (COORDINATOR_NOT_AVAILABLE, -1)}
        assert coordinators(admin, keys, key_type) == expected
    expected_offsets = {group: (NONE, {topic: 7}) for group in groups} | {groups[gone]: (NOT_COORDINATOR, {})}
    assert fetched(admin, groups) == expected_offsets
    deleted = admin.ask("DeleteGroups", 2, groups_names=groups)
    assert [result.error_code for result in deleted.results] == [NONE] * gone + [NOT_COORDINATOR]
    described = admin.ask("DescribeTransactions", 0, transactional_ids=[ids[gone]])
    assert described.transaction_states[0].error_code == NOT_COORDINATOR
    beat = admin.ask("Heartbeat", 4, group_id=groups[gone], generation_id=1, member_id="m", group_instance_id=None)
    assert beat.error_code == NOT_COORDINATOR
    assert Producer(admin, ids[0]).write(topic, b"v") == NONE
