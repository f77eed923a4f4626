"""A request that names very many partitions, or topics: others have their turn while it is gone through.

Each turn is over at once here, however fast the machine; what is counted is how often a handler gives way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StorageFull
from core.streams.state import new_stream
from gateway.apis import (
    alter_replica_log_dirs,
    alter_share_group_offsets,
    alter_user_scram_credentials,
    create_acls,
    create_topics,
    delete_acls,
    delete_groups,
    describe_quorum,
    describe_topic_partitions,
    elect_leaders,
    list_offsets,
    metadata,
    offset_commit,
    offset_delete,
    write_txn_markers,
)
from gateway.apis.shared.leaders import Leader
from gateway.dispatch import request_tasks
from gateway.dispatch.context import RequestContext
from gateway.groups import lag
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.offsets import committed as offsets
from gateway.groups.persistence import CommittedOffset
from gateway.groups.share.partitions import SharePartitions
from gateway.network import turns
from gateway.security.acls import ResourceType
from gateway.security.denial import denial_of
from gateway.security.scram_users import Change, ScramUsers
from tests.gateway.apis.harness import KEYS, Admin, new_name
from tests.gateway.harness import Client

_T = TypeVar("_T")
MANY = 60
NOBODY = UUID(int=9)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An element for each time that a handler gave way."""
    found: list[None] = []
    give_way = turns.Stint.give_way

    async def counted(stint: turns.Stint) -> None:
        found.append(None)
        await give_way(stint)

    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    monkeypatch.setattr(turns.Stint, "give_way", counted)
    return found


def commits(topic: str, count: int = MANY) -> list[dict[str, Any]]:
    partition = {"committed_offset": 1, "committed_leader_epoch": -1, "committed_metadata": ""}
    return [{"name": topic, "partitions": [{"partition_index": n, **partition} for n in range(count)]}]


def committed(admin: Admin, group: str, topic: str) -> None:
    answer = admin.ask(
        "OffsetCommit", 8, group_id=group, generation_id_or_member_epoch=-1, member_id="", topics=commits(topic)
    )
    assert {p.error_code for t in answer.topics for p in t.partitions} == {0}


# Topics and partitions by name

NAMES = [f"no-topic-{number}" for number in range(MANY)]
INDEXES = list(range(MANY))
ASKED: dict[str, tuple[str, int, Mapping[str, Any]]] = {
    "offsets of many topics": (
        "OffsetFetch",
        7,
        {"group_id": "g", "topics": [{"name": name, "partition_indexes": [0]} for name in NAMES]},
    ),
    "offsets of an unknown topic": (
        "OffsetFetch",
        10,
        {"groups": [{"group_id": "g", "topics": [{"topic_id": NOBODY, "partition_indexes": INDEXES}]}]},
    ),
    "deleted offsets of many topics": (
        "OffsetDelete",
        0,
        {"group_id": "gives-way", "topics": [{"name": n, "partitions": [{"partition_index": 0}]} for n in NAMES]},
    ),
    "users that are none": (
        "AlterUserScramCredentials",
        0,
        {"deletions": [{"name": name, "mechanism": 1} for name in NAMES], "upsertions": []},
    ),
    "a leader's assignments": (
        "SyncGroup",
        3,
        {
            "group_id": "g",
            "generation_id": 1,
            "member_id": "m",
            "assignments": [{"member_id": name * 40, "assignment": b"x" * 300} for name in NAMES],
        },
    ),
    "a share session": (
        "ShareFetch",
        2,
        {
            "group_id": "g",
            "member_id": "m",
            "share_session_epoch": 0,
            "max_wait": 0,
            "min_bytes": 0,
            "max_bytes": 1,
            "max_records": 1,
            "batch_size": 1,
            "share_acquire_mode": 0,
            "is_renew_ack": False,
            "topics": [
                {
                    "topic_id": NOBODY,
                    "partitions": [{"partition_index": n, "acknowledgement_batches": []} for n in INDEXES],
                }
            ],
            "forgotten_topics_data": [{"topic_id": NOBODY, "partitions": INDEXES}],
        },
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_each_topic_and_partition(admin: Admin, given: list[None], what: str) -> None:
    committed(admin, "gives-way", admin.create(MANY))
    api, version, body = ASKED[what]
    given.clear()
    admin.ask(api, version, **body)

    assert len(given) >= MANY


def test_offsets_of_a_whole_group(admin: Admin, given: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is decoded in a turn of its own."""
    topic, group = admin.create(MANY), new_name()
    committed(admin, group, topic)
    turns_of: set[int] = set()
    decode = offsets.decode_offset

    def noted(data: bytes) -> CommittedOffset:
        turns_of.add(len(given))
        return decode(data)

    monkeypatch.setattr(offsets, "decode_offset", noted)
    (told,) = admin.ask("OffsetFetch", 9, groups=[{"group_id": group, "topics": None}]).groups

    assert [p.committed_offset for t in told.topics for p in t.partitions] == [1] * MANY
    assert len(turns_of) == MANY


def test_lag_is_counted_in_turns(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many offsets at a time, of one group with very many, too."""
    topic, group = admin.create(MANY), new_name()
    committed(admin, group, topic)
    services = admin.broker._server.dispatcher.services
    lags = lag.Lags(
        services.groups, services.topics, services.clock, services.nodes, services.elsewhere, services.share
    )
    decode, rounds = offsets.decode_offset, 0
    rounds_of: set[int] = set()

    def noted(data: bytes) -> CommittedOffset:
        rounds_of.add(rounds)
        return decode(data)

    async def counted() -> list[lag.GroupLag]:
        nonlocal rounds

        async def others() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(others())
        found = await lags.refresh()
        assert len(await lags.of_partitions(group)) == MANY
        running.cancel()
        return found

    monkeypatch.setattr(lag, "OFFSETS_AT_ONCE", 1)
    monkeypatch.setattr(offsets, "decode_offset", noted)
    (told,) = [one for one in admin.run(counted()) if one.name == group]

    assert told.topics[topic] == lag.TopicLag(MANY, 0)
    assert len(rounds_of) >= MANY


def test_sizes_of_a_topic(admin: Admin, given: list[None]) -> None:
    topic = admin.create(MANY)
    asked = [{"topic": topic, "partitions": INDEXES}]
    given.clear()
    (told,) = admin.ask("DescribeLogDirs", 4, topics=asked).results[0].topics

    assert len(told.partitions) == MANY
    assert len(given) >= MANY


def test_commits_in_parts(admin: Admin, given: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing comes of them, a commit of many partitions gives way after so many."""
    monkeypatch.setattr(offset_commit, "AT_ONCE", 5)
    given.clear()
    answer = admin.ask(
        "OffsetCommit",
        8,
        group_id=new_name(),
        generation_id_or_member_epoch=-1,
        member_id="",
        topics=commits("no-such-topic"),
    )

    assert {p.error_code for t in answer.topics for p in t.partitions} == {3}
    assert len(given) >= MANY // 5


def test_offsets_are_deleted_in_parts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offset_delete, "AT_ONCE", 7)
    topic, group = admin.create(MANY), new_name()
    committed(admin, group, topic)
    asked = [{"name": topic, "partitions": [{"partition_index": n} for n in range(MANY - 1)]}]
    answer = admin.ask("OffsetDelete", 0, group_id=group, topics=asked)
    (left,) = admin.ask("OffsetFetch", 9, groups=[{"group_id": group, "topics": None}]).groups

    assert {p.error_code for t in answer.topics for p in t.partitions} == {0}
    assert [p.partition_index for t in left.topics for p in t.partitions] == [MANY - 1]


def test_offsets_of_a_group_whose_deletion_begins(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told a part of them: who has looked at some of them by then asks again."""
    topic, group = admin.create(MANY), new_name()
    committed(admin, group, topic)
    kept = admin.broker.groups.of(group)
    turns_taken = 0
    deletions: list[asyncio.Task[ErrorCode]] = []

    async def begins(stint: turns.Stint) -> None:
        nonlocal turns_taken
        turns_taken += 1
        if turns_taken == MANY // 2:
            monkeypatch.setattr(turns, "GIVE_WAY_S", 1e9)
            deletions.append(asyncio.create_task(kept.delete_group(group)))
            while not kept.is_closed(group):  # noqa: ASYNC110 - it is after a turn of the loop
                await asyncio.sleep(0)

    monkeypatch.setattr("gateway.groups.offsets.service.OFFSETS_AT_ONCE", 10)
    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    monkeypatch.setattr(turns.Stint, "give_way", begins)
    (told,) = admin.ask("OffsetFetch", 9, groups=[{"group_id": group, "topics": None}]).groups
    assert (told.error_code, list(told.topics)) == (ErrorCode.coordinator_load_in_progress, [])

    async def ended() -> ErrorCode:
        return await deletions[0]

    assert admin.run(ended()) is ErrorCode.none


def test_groups_are_deleted_by_their_offsets(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them together than have so many offsets; one with more goes by itself."""
    running = most = 0
    delete = GroupCoordinator.delete_group

    async def counted(coordinator: GroupCoordinator, group_id: str) -> ErrorCode:
        nonlocal running, most
        running += 1
        most = max(most, running)
        error = await delete(coordinator, group_id)
        running -= 1
        return error

    monkeypatch.setattr(delete_groups, "OFFSETS_AT_ONCE", 2 * MANY)
    monkeypatch.setattr(GroupCoordinator, "delete_group", counted)
    topic, groups = admin.create(MANY), [new_name() for _ in range(7)]
    for group in groups:
        committed(admin, group, topic)
    told = admin.ask("DeleteGroups", 2, groups_names=[*groups, "no-such-group"]).results

    assert {one.group_id: one.error_code for one in told} == {**dict.fromkeys(groups, 0), "no-such-group": 69}
    assert most == 2


def test_look_ups_begin_a_few_at_a_time(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a task of the event loop, so those of a topic are not all begun at once."""
    running = most = 0
    run = list_offsets._Searches.run

    async def counted(searches: Any, search: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        found = await run(searches, search)
        running -= 1
        return found

    monkeypatch.setattr(list_offsets, "WAITING_AT_ONCE", 5)
    monkeypatch.setattr(list_offsets._Searches, "run", counted)
    topic = admin.create(MANY)
    partitions = [{"partition_index": n, "current_leader_epoch": -1, "timestamp": 7} for n in range(MANY)]
    (told,) = admin.ask("ListOffsets", 7, isolation_level=0, topics=[{"name": topic, "partitions": partitions}]).topics

    assert sorted(p.partition_index for p in told.partitions) == INDEXES
    assert most == 5


@pytest.mark.parametrize(("partitions", "together"), [(MANY, 1), (10, 6)])
def test_topics_are_looked_up_by_their_partitions(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, partitions: int, together: int
) -> None:
    """No more of them together than have so many; one with more goes by itself."""
    running = most = 0
    look_up = list_offsets._topic

    async def counted(*args: Any) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        found = await look_up(*args)
        running -= 1
        return found

    monkeypatch.setattr(list_offsets, "WAITING_AT_ONCE", MANY)
    monkeypatch.setattr(list_offsets, "_topic", counted)
    names = [admin.create(partitions) for _ in range(7)]
    asked = [{"partition_index": n, "current_leader_epoch": -1, "timestamp": -1} for n in range(partitions)]
    topics = [{"name": name, "partitions": asked} for name in names]
    told = admin.ask("ListOffsets", 7, isolation_level=0, topics=topics).topics

    assert [(topic.name, len(topic.partitions)) for topic in told] == [(name, partitions) for name in names]
    assert {partition.error_code for topic in told for partition in topic.partitions} == {0}
    assert most == together


def test_markers_are_written_in_parts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    end = Container.end_transactions

    def counted(container: Container, ends: Sequence[TransactionEnd], operations: Any) -> asyncio.Future[None]:
        sizes.append(len(ends))
        return end(container, ends, operations)

    monkeypatch.setattr(write_txn_markers, "ENDS_AT_ONCE", 25)
    monkeypatch.setattr(Container, "end_transactions", counted)
    topics = [{"name": admin.create(MANY), "partition_indexes": INDEXES}]
    marker = {"producer_id": 7, "producer_epoch": 1, "transaction_result": False, "coordinator_epoch": 1}
    (told,) = admin.ask("WriteTxnMarkers", 1, markers=[{**marker, "topics": topics}]).markers

    assert {partition.error_code for topic in told.topics for partition in topic.partitions} == {0}
    assert sizes == [25, 25, 10]


def test_credentials_are_changed_in_parts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one part comes to is told of its users alone."""
    sizes: list[int] = []
    change = ScramUsers.change

    async def counted(users: ScramUsers, changes: Collection[Change]) -> Collection[Change]:
        sizes.append(len(changes))
        if len(sizes) == 2:
            raise StorageFull("the disk is full")
        return await change(users, changes)

    monkeypatch.setattr(alter_user_scram_credentials, "AT_ONCE", 25)
    monkeypatch.setattr(ScramUsers, "change", counted)
    secret = {"mechanism": 1, "iterations": 4_096, "salt": b"s" * 16, "salted_password": b"p" * 32}
    upsertions = [{"name": f"user-{n:02}", **secret} for n in range(MANY)]
    told = admin.ask("AlterUserScramCredentials", 0, deletions=[], upsertions=upsertions).results
    asked = admin.ask("DescribeUserScramCredentials", 0, users=[{"name": one["name"]} for one in upsertions])

    refused = {f"user-{n:02}" for n in range(25, 50)}
    assert {one.user for one in told if one.error_code} == refused
    assert {one.user for one in asked.results if one.error_code} == refused
    assert sizes == [25, 25, 10]


def test_the_first_of_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe_topic_partitions, "SORTED_AT_ONCE", 3)

    async def paced(items: Iterable[_T]) -> Any:
        for item in items:
            yield item

    names = [f"t{number * 7 % 20:02}" for number in range(20)]
    ctx: Any = SimpleNamespace(paced=paced)
    for count in (1, 4, 20, 30):
        assert asyncio.run(describe_topic_partitions._first_of(ctx, count, names)) == sorted(names)[:count]


# What no request needs

TOO_MANY: dict[str, tuple[str, int, Mapping[str, Any]]] = {
    "configs of a topic": (
        "IncrementalAlterConfigs",
        1,
        {
            "resources": [
                {
                    "resource_type": 2,
                    "resource_name": "t",
                    "configs": [{"name": f"c{n}", "config_operation": 0, "value": ""} for n in range(2_001)],
                }
            ],
            "validate_only": False,
        },
    ),
    "configs of a topic, all of them": (
        "AlterConfigs",
        1,
        {
            "resources": [
                {
                    "resource_type": 2,
                    "resource_name": "t",
                    "configs": [{"name": f"c{n}", "value": ""} for n in range(2_001)],
                }
            ],
            "validate_only": False,
        },
    ),
    "quotas of a client": (
        "AlterClientQuotas",
        1,
        {
            "entries": [
                {
                    "entity": [{"entity_type": "user", "entity_name": "u"}],
                    "ops": [{"key": f"k{n}", "value": 1.0, "remove": True} for n in range(101)],
                }
            ],
            "validate_only": False,
        },
    ),
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_more_than_there_are(admin: Admin, what: str) -> None:
    """They are refused by their number: none is looked at."""
    api, version, body = TOO_MANY[what]
    answer = admin.ask(api, version, **body)
    (told,) = answer.entries if api == "AlterClientQuotas" else answer.responses

    assert told.error_code == ErrorCode.invalid_request
    assert "at most" in told.error_message


# What a thread does

APART: dict[str, tuple[Any, str, str, int, Mapping[str, Any]]] = {
    "a bad election": (
        elect_leaders,
        "_everywhere",
        "ElectLeaders",
        1,
        {"election_type": 9, "topic_partitions": [{"topic": "t", "partitions": INDEXES}], "timeout": 1},
    ),
    "moves between directories": (
        alter_replica_log_dirs,
        "_results",
        "AlterReplicaLogDirs",
        2,
        {"dirs": [{"path": "/x", "topics": [{"name": "t", "partitions": INDEXES}]}]},
    ),
    "ACLs where there are none": (
        create_acls,
        "_everywhere",
        "CreateAcls",
        3,
        {
            "creations": [
                {
                    "resource_type": 2,
                    "resource_name": "t",
                    "resource_pattern_type": 3,
                    "principal": "User:u",
                    "host": "*",
                    "operation": 3,
                    "permission_type": 3,
                }
            ]
        },
    ),
    "filters of ACLs where there are none": (
        delete_acls,
        "_everywhere",
        "DeleteAcls",
        3,
        {
            "filters": [
                {
                    "resource_type_filter": 2,
                    "resource_name_filter": "t",
                    "pattern_type_filter": 3,
                    "principal_filter": None,
                    "host_filter": None,
                    "operation": 3,
                    "permission_type": 3,
                }
            ]
        },
    ),
    "assignments of a new topic": (
        create_topics,
        "_wanted",
        "CreateTopics",
        5,
        {
            "topics": [
                {
                    "name": "assigned",
                    "num_partitions": -1,
                    "replication_factor": -1,
                    "assignments": [{"partition_index": n, "broker_ids": [0]} for n in range(1_001)],
                    "configs": [],
                }
            ],
            "timeout": 1_000,
            "validate_only": True,
        },
    ),
    "quorums that are none": (
        describe_quorum,
        "_unknown",
        "DescribeQuorum",
        1,
        {"topics": [{"topic_name": "t", "partitions": [{"partition_index": n} for n in INDEXES]}]},
    ),
}


@pytest.mark.parametrize("what", APART)
def test_the_same_for_every_partition(admin: Admin, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Such an answer is made in a thread."""
    module, name, api, version, body = APART[what]
    threads: set[int] = set()
    make = getattr(module, name)

    def noted(*args: Any) -> Any:
        threads.add(threading.get_ident())
        return make(*args)

    monkeypatch.setattr(module, name, noted)
    admin.ask(api, version, **body)

    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(("size", "is_apart"), [(100, False), (2_000, True)])
def test_an_answer_of_long_texts(admin: Admin, monkeypatch: pytest.MonkeyPatch, size: int, is_apart: bool) -> None:
    """It is put together in a thread, as one of many items: a leader may be told sixty megabytes of sixty members."""
    threads: list[int] = []
    encode = request_tasks._encoded

    def noted(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return encode(*args)

    monkeypatch.setattr(request_tasks, "AT_ONCE_BYTES", 1_000)
    monkeypatch.setattr(request_tasks, "_encoded", noted)
    answer = admin.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g" * size])

    assert [found.error_code for found in answer.coordinators] == [0]
    assert [one != threading.get_ident() for one in threads] == [is_apart]


@pytest.mark.parametrize(("count", "is_apart"), [(2, False), (MANY, True)])
def test_the_error_of_every_partition(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, count: int, is_apart: bool
) -> None:
    """The error of a request with many parts is made in a thread, too."""
    threads: list[int] = []
    error_response = offset_commit.API.error_response
    assert error_response is not None

    def noted(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return error_response(*args)

    def denied(*_: Any) -> None:
        raise denial_of(ResourceType.GROUP)

    monkeypatch.setattr(request_tasks, "ASIDE_ITEMS_MIN", MANY // 2)
    monkeypatch.setattr(RequestContext, "require", denied)
    object.__setattr__(offset_commit.API, "error_response", noted)
    try:
        answer = admin.ask(
            "OffsetCommit",
            8,
            group_id="g",
            generation_id_or_member_epoch=-1,
            member_id="",
            topics=commits("t", count),
        )
    finally:
        object.__setattr__(offset_commit.API, "error_response", error_response)

    assert [p.error_code for t in answer.topics for p in t.partitions] == [30] * count
    assert [one != threading.get_ident() for one in threads] == [is_apart]


def test_a_topic_of_many_partitions_is_encoded_once_in_a_thread(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who ask for it meanwhile wait for the same."""
    topic = admin.create(MANY)
    threads: list[int] = []
    asked = threading.Event()
    entry = metadata._entry

    def held(*args: Any) -> bytes:
        threads.append(threading.get_ident())
        assert asked.wait(20)
        return entry(*args)

    async def answers() -> list[Any]:
        clients = [await Client.connect(admin.broker) for _ in range(3)]
        body = {"topics": [{"name": topic, "topic_id": None}], "allow_auto_topic_creation": False}
        waiting = [asyncio.create_task(client.ask(KEYS["Metadata"], 12, body)) for client in clients]
        async with asyncio.timeout(20):
            while _asked(admin) < len(clients):  # noqa: ASYNC110 - nothing sets an event for a test
                await asyncio.sleep(0)
        asked.set()
        found = await asyncio.gather(*waiting)
        for client in clients:
            client.close()
        return found

    monkeypatch.setattr(metadata, "AT_ONCE", MANY - 1)
    monkeypatch.setattr(metadata, "_entry", held)
    found = admin.run(answers())

    assert [len(answer.topics[0].partitions) for answer in found] == [MANY] * 3
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert not metadata._being_made


def _asked(admin: Admin) -> int:
    """Requests that are being handled."""
    return len(admin.broker._server.dispatcher._tasks._running)


def test_a_partition_that_moves_is_told_anew() -> None:
    """Between containers of which both have partitions of its topic before and after: an answer that was encoded before
    is not sent again."""
    state = new_stream(
        stream_id=1, name="t", uuid=NOBODY, slots=4, created_ms=0, container=0, config={}, placement=(0, 1)
    )
    leaders = {0: Leader(1, 5), 1: Leader(2, 6)}
    moved = state.moved(0, 1, 0, "for a test")

    assert moved.containers == state.containers
    assert metadata._places(moved, leaders) != metadata._places(state, leaders)
    assert metadata._entry(12, moved, leaders, 0) != metadata._entry(12, state, leaders, 0)


def test_share_offsets_are_altered_in_parts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of a part are stored together: one by one, each would wait for a sync of its own."""
    running = most = 0
    begin_at = SharePartitions.begin_at

    async def counted(*args: Any) -> ErrorCode:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        error = await begin_at(*args)
        running -= 1
        return error

    monkeypatch.setattr(alter_share_group_offsets, "TOGETHER", 25)
    monkeypatch.setattr(SharePartitions, "begin_at", counted)
    topic = admin.create(MANY)
    partitions = [{"partition_index": n, "start_offset": 0} for n in (*INDEXES, MANY)]
    topics = [{"topic_name": topic, "partitions": partitions}]
    (told,) = admin.ask("AlterShareGroupOffsets", 0, group_id="shared", topics=topics).responses

    assert [(p.partition_index, p.error_code) for p in told.partitions] == [*((n, 0) for n in INDEXES), (MANY, 3)]
    assert most == 25
