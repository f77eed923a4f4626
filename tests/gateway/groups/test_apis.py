"""The groups' APIs over real sockets, in every version that is served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis import discover, offset_delete
from gateway.broker import Broker
from gateway.groups.offsets.service import OffsetService
from gateway.wire.message import Message
from tests.gateway.groups.harness import subscription
from tests.gateway.groups.services import FAST, run
from tests.gateway.harness import Client, running_broker

pytestmark = pytest.mark.slow

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, JOIN, HEARTBEAT, LEAVE, SYNC = 8, 9, 10, 11, 12, 13, 14
DESCRIBE, LIST, DELETE, OFFSET_DELETE = 15, 16, 42, 47


def versions(key: int) -> range:
    api = discover().get(key)
    assert api is not None
    return api.versions


@asynccontextmanager
async def asking(directory: Path) -> AsyncIterator[tuple[Broker, Client]]:
    """A broker with the topic "t", and a client of it."""
    async with running_broker(directory, *FAST) as broker:
        client = await Client.connect(broker)
        try:
            await client.create("t", partitions=4)
            yield broker, client
        finally:
            client.close()


async def join(client: Client, version: int, group: str, **fields: Any) -> Message:
    """Join as a consumer of "t"."""
    body: dict[str, Any] = {
        "group_id": group,
        "session_timeout": 10_000,
        "rebalance_timeout": 60_000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": subscription("t")}],
    }
    return await client.ask(JOIN, version, body | fields)


async def stable_member(client: Client, group: str, version: int = 3) -> str:
    """A stable group of one; the member's id."""
    joined = await join(client, version, group)
    if joined.error_code == ErrorCode.member_id_required:
        joined = await join(client, version, group, member_id=joined.member_id)
    assert joined.error_code == 0
    shares = [{"member_id": joined.member_id, "assignment": b"share"}]
    body = {
        "group_id": group,
        "generation_id": joined.generation_id,
        "member_id": joined.member_id,
        "assignments": shares,
    }
    synced = await client.ask(SYNC, 4, body)
    assert synced.error_code == 0
    return str(joined.member_id)


def commit_body(broker: Broker, version: int, group: str, *offsets: tuple[str, int, int], **fields: Any) -> Any:
    """OffsetCommit of (topic, partition, offset)."""
    topics = [
        {
            **identity(broker, version, topic),
            "partitions": [
                {
                    "partition_index": partition,
                    "committed_offset": offset,
                    "committed_leader_epoch": 5,
                    "committed_metadata": "here",
                }
            ],
        }
        for topic, partition, offset in offsets
    ]
    return {"group_id": group, "member_id": "", "generation_id_or_member_epoch": -1, "topics": topics} | fields


def identity(broker: Broker, version: int, topic: str) -> dict[str, Any]:
    if version < 10:
        return {"name": topic}
    stream = broker.topics.get(topic)
    return {"topic_id": uuid4() if stream is None else stream.uuid}


def fetch_body(broker: Broker, version: int, group: str, topics: dict[str, list[int]] | None) -> dict[str, Any]:
    """OffsetFetch, of one group in the form that the version has."""
    wanted = None
    if topics is not None:
        wanted = [{**identity(broker, version, name), "partition_indexes": indexes} for name, indexes in topics.items()]
    if version < 8:
        return {"group_id": group, "topics": wanted}
    return {"groups": [{"group_id": group, "topics": wanted}], "require_stable": False}


def fetched(answer: Message, version: int) -> list[tuple[int, int, str, int]]:
    """(partition, offset, metadata, error) of all that was answered, one group's."""
    topics = answer.topics if version < 8 else answer.groups[0].topics
    return [
        (p.partition_index, p.committed_offset, p.metadata, p.error_code) for topic in topics for p in topic.partitions
    ]


def error_of(answer: Message) -> int:
    return int(answer.topics[0].partitions[0].error_code)


def test_find_coordinator(tmp_path: Path) -> None:
    """Groups and transactions are kept here, at the listener that the client used; share groups nowhere."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            for version in versions(FIND_COORDINATOR):
                for key_type, error in ((0, 0), (1, 0), (2, 42), (7, 42)):
                    if version == 0 and key_type:
                        continue
                    body = {"key": "k", "key_type": key_type, "coordinator_keys": ["k", "l"]}
                    answer = await client.ask(FIND_COORDINATOR, version, body)
                    found = [answer] if version < 4 else answer.coordinators
                    assert [c.error_code for c in found] == [error] * len(found)
                    if version >= 4:
                        assert [c.key for c in found] == ["k", "l"]
                    here = (broker.node_id, "127.0.0.1", broker._kafka[0].port)
                    expected = (-1, "", -1) if error else here
                    assert {(c.node_id, c.host, c.port) for c in found} == {expected}

    run(scenario())


def test_membership_in_every_version(tmp_path: Path) -> None:
    """A member joins, syncs, heartbeats and leaves, in each version of each of the four APIs."""

    async def scenario() -> None:
        async with asking(tmp_path) as (_, client):
            for version in versions(JOIN):
                group = f"g{version}"
                joined = await join(client, version, group)
                if version >= 4:
                    assert joined.error_code == ErrorCode.member_id_required
                    assert joined.protocol_name == (None if version >= 7 else "")
                    joined = await join(client, version, group, member_id=joined.member_id)
                member = joined.member_id
                assert (joined.error_code, joined.generation_id, joined.leader) == (0, 1, member)
                assert [(m.member_id, m.metadata) for m in joined.members] == [(member, subscription("t"))]
                about = {"group_id": group, "generation_id": 1, "member_id": member}
                shares = [{"member_id": member, "assignment": b"share"}]
                protocol = {"protocol_type": "consumer", "protocol_name": "range"}
                body = {**about, **protocol, "assignments": shares}
                synced = await client.ask(SYNC, min(version, 5), body)
                assert (synced.error_code, synced.assignment) == (0, b"share")
                heard = await client.ask(HEARTBEAT, min(version, 4), about)
                assert heard.error_code == 0
                leaving = {"group_id": group, "member_id": member, "members": [{"member_id": member}]}
                left = await client.ask(LEAVE, min(version, 5), leaving)
                assert left.error_code == 0
                if version >= 3:
                    assert [(m.member_id, m.error_code) for m in left.members] == [(member, 0)]
                again = await client.ask(LEAVE, min(version, 5), leaving)
                unknown = again.error_code if version < 3 else again.members[0].error_code
                assert unknown == ErrorCode.unknown_member_id

    run(scenario())


def test_join_without_rebalance_timeout(tmp_path: Path) -> None:
    """JoinGroup v0 has the session's time-out for both."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            await join(client, 0, "g")

            (member,) = broker.groups.of("g").get("g").roster  # type: ignore[union-attr]
            assert (member.rebalance_timeout_ms, member.client_host) == (10_000, "/127.0.0.1")

    run(scenario())


def test_sync_must_name_its_protocol(tmp_path: Path) -> None:
    """SyncGroup v5 without protocol type or name is refused with 23."""

    async def scenario() -> None:
        async with asking(tmp_path) as (_, client):
            member = await stable_member(client, "g")
            body = {"group_id": "g", "generation_id": 1, "member_id": member, "assignments": []}

            answer = await client.ask(SYNC, 5, {**body, "protocol_type": "consumer"})

            assert answer.error_code == ErrorCode.inconsistent_group_protocol

    run(scenario())


def test_returning_static_leader_in_both_forms(tmp_path: Path) -> None:
    """JoinGroup v9 tells a returning leader to skip assignment; v8 shows it another leader."""

    async def scenario() -> None:
        async with asking(tmp_path) as (_, client):
            joined = await join(client, 9, "g", group_instance_id="i")
            about = {"group_id": "g", "generation_id": 1, "member_id": joined.member_id}
            await client.ask(SYNC, 4, {**about, "assignments": []})

            new = await join(client, 9, "g", group_instance_id="i")
            old = await join(client, 8, "g", group_instance_id="i")

            assert (new.skip_assignment, new.leader, len(new.members)) == (True, new.member_id, 1)
            assert (old.leader, list(old.members)) == (new.member_id, [])

    run(scenario())


def test_offset_commit(tmp_path: Path) -> None:
    """Offsets of topics that exist are stored, in each version; others are refused one by one."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            for version in versions(OFFSET_COMMIT):
                body = commit_body(broker, version, f"g{version}", ("t", 1, 42), ("t", 9, 1), ("nowhere", 0, 1))

                answer = await client.ask(OFFSET_COMMIT, version, body)

                unknown = ErrorCode.unknown_topic_id if version >= 10 else ErrorCode.unknown_topic_or_partition
                errors = [p.error_code for topic in answer.topics for p in topic.partitions]
                assert errors == [0, ErrorCode.unknown_topic_or_partition, unknown]
                committed = broker.groups.of("g").offsets.of_group(f"g{version}")["t"]
                epoch = 5 if version >= 6 else -1
                assert {p: (c.offset, c.leader_epoch, c.metadata) for p, c in committed.items()} == {
                    1: (42, epoch, "here")
                }

    run(scenario())


def test_offset_commit_of_strangers(tmp_path: Path) -> None:
    """A generation of a group that is not there: 22, from v9 69. A member's commit needs its generation."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            stranger = {"member_id": "m", "generation_id_or_member_epoch": 1}
            for version, error in ((8, ErrorCode.illegal_generation), (9, ErrorCode.group_id_not_found)):
                body = commit_body(broker, version, "nobody's", ("t", 0, 1), **stranger)
                assert error_of(await client.ask(OFFSET_COMMIT, version, body)) == error
            member = await stable_member(client, "g")
            for generation, error in ((1, ErrorCode.none), (2, ErrorCode.illegal_generation)):
                mine = {"member_id": member, "generation_id_or_member_epoch": generation}
                body = commit_body(broker, 8, "g", ("t", 0, 1), **mine)
                assert error_of(await client.ask(OFFSET_COMMIT, 8, body)) == error
            body = commit_body(broker, 8, "g", ("t", 0, 1))
            assert error_of(await client.ask(OFFSET_COMMIT, 8, body)) == ErrorCode.unknown_member_id

    run(scenario())


def test_empty_group_id(tmp_path: Path) -> None:
    """Offsets may belong to the group "", as ever; members may not: 24."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            committed = await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "", ("t", 0, 7)))
            answer = await client.ask(OFFSET_FETCH, 5, fetch_body(broker, 5, "", {"t": [0]}))
            joined = await join(client, 5, "")

            assert error_of(committed) == 0
            assert fetched(answer, 5) == [(0, 7, "here", 0)]
            assert joined.error_code == ErrorCode.invalid_group_id

    run(scenario())


def test_offset_fetch(tmp_path: Path) -> None:
    """Every partition that is asked for is answered; null asks for all; unknown ones have -1 and no error."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "g", ("t", 1, 42)))

            async def fetch(version: int, group: str, topics: dict[str, list[int]] | None) -> list[Any]:
                body = fetch_body(broker, version, group, topics)
                return fetched(await client.ask(OFFSET_FETCH, version, body), version)

            for version in versions(OFFSET_FETCH):
                some = await fetch(version, "g", {"t": [0, 1, 9]})
                assert some == [(0, -1, "", 0), (1, 42, "here", 0), (9, -1, "", 0)]
                unknown = ErrorCode.unknown_topic_id if version >= 10 else ErrorCode.none
                assert await fetch(version, "g", {"nowhere": [0]}) == [(0, -1, "", unknown)]
                assert await fetch(version, "nobody's", {"t": [1]}) == [(1, -1, "", 0)]
                if version >= 2:
                    assert await fetch(version, "g", None) == [(1, 42, "here", 0)]

    run(scenario())


def test_offset_fetch_of_several_groups(tmp_path: Path) -> None:
    """From v8 several groups are asked for at once, each in its own way."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            for group, offset in (("a", 1), ("b", 2)):
                await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, group, ("t", 0, offset)))
            groups = [
                {"group_id": "a", "topics": None},
                {"group_id": "b", "topics": [{"name": "t", "partition_indexes": [0, 1]}]},
            ]

            answer = await client.ask(OFFSET_FETCH, 8, {"groups": groups, "require_stable": True})

            offsets = [
                (g.group_id, p.partition_index, p.committed_offset)
                for g in answer.groups
                for topic in g.topics
                for p in topic.partitions
            ]
            assert offsets == [("a", 0, 1), ("b", 0, 2), ("b", 1, -1)]

    run(scenario())


def test_answers_do_not_multiply(tmp_path: Path) -> None:
    """Naming one group many times does not multiply its answer."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "g", ("t", 0, 1)))
            many = [{"group_id": "g", "topics": None}] * 1_000

            fetched_all = await client.ask(OFFSET_FETCH, 8, {"groups": many, "require_stable": False})
            described = await client.ask(DESCRIBE, 5, {"groups": ["g"] * 1_000})

            assert len(fetched_all.groups) == len(described.groups) == 1

    run(scenario())


def test_the_id_of_a_topic_whose_name_another_has(tmp_path: Path) -> None:
    """Another process makes a deleted topic's name anew, and this one hears of the new topic first: the old id stands
    for no offset of the new one."""
    by_id = 10

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            old = broker.topics.get("t")
            assert old is not None
            new = Stream(replace(old.state, id=77, uuid=uuid4()), old.policy, lambda stream, number: old.slot(number))
            broker.store.streams.name(new)
            stale = {"topic_id": old.uuid}
            commit, fetch = commit_body(broker, by_id, "g", ("t", 1, 42)), fetch_body(broker, by_id, "g", {"t": [1]})
            own = await client.ask(OFFSET_COMMIT, by_id, commit)
            late = await client.ask(OFFSET_COMMIT, by_id, commit | {"topics": [commit["topics"][0] | stale]})
            asked = fetch["groups"][0]["topics"][0] | stale
            told = await client.ask(OFFSET_FETCH, by_id, fetch | {"groups": [{"group_id": "g", "topics": [asked]}]})
            assert own.topics[0].partitions[0].error_code == 0
            assert late.topics[0].partitions[0].error_code == ErrorCode.unknown_topic_id
            assert fetched(told, by_id) == [(1, -1, "", ErrorCode.unknown_topic_id)]
            broker.store.streams.remove(new)
            broker.store.streams.name(old)

    run(scenario())


def test_topic_ids_are_told_back(tmp_path: Path) -> None:
    """OffsetCommit and OffsetFetch v10 name topics by id alone."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            answer = await client.ask(OFFSET_COMMIT, 10, commit_body(broker, 10, "g", ("t", 0, 1)))
            whole = await client.ask(OFFSET_FETCH, 10, fetch_body(broker, 10, "g", None))

            topic_id: UUID = broker.topics.get("t").uuid  # type: ignore[union-attr]
            assert [topic.topic_id for topic in answer.topics] == [topic_id]
            assert [topic.topic_id for topic in whole.groups[0].topics] == [topic_id]

    run(scenario())


def test_offset_delete(tmp_path: Path) -> None:
    """Offsets of topics that are not subscribed go; those of subscribed ones stay: 86."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            await client.create("u")
            member = await stable_member(client, "g")
            mine = {"member_id": member, "generation_id_or_member_epoch": 1}
            body = commit_body(broker, 8, "g", ("t", 0, 1), ("u", 0, 1), **mine)
            await client.ask(OFFSET_COMMIT, 8, body)
            places = [("t", 0), ("u", 0), ("u", 9), ("nowhere", 0)]
            topics = [{"name": name, "partitions": [{"partition_index": index}]} for name, index in places]

            answer = await client.ask(OFFSET_DELETE, 0, {"group_id": "g", "topics": topics})
            nobody = await client.ask(OFFSET_DELETE, 0, {"group_id": "nobody's", "topics": topics})

            unknown = ErrorCode.unknown_topic_or_partition
            errors = [topic.partitions[0].error_code for topic in answer.topics]
            assert (answer.error_code, errors) == (0, [ErrorCode.group_subscribed_to_topic, 0, unknown, unknown])
            assert list(broker.groups.of("g").offsets.of_group("g")) == ["t"]
            assert nobody.error_code == ErrorCode.group_id_not_found

    run(scenario())


def test_a_member_comes_while_many_offsets_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told to have committed stays: its topic is subscribed to from then on."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            member = await Client.connect(broker)
            await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "g", *(("t", index, 1) for index in range(3))))
            delete = OffsetService.delete
            parts: list[Collection[tuple[str, int]]] = []

            async def deleted(offsets: OffsetService, group_id: str, places: Collection[tuple[str, int]]) -> ErrorCode:
                error = await delete(offsets, group_id, places)
                parts.append(places)
                if len(parts) == 1:
                    mine = {"member_id": await stable_member(member, "g"), "generation_id_or_member_epoch": 1}
                    committed = await member.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "g", ("t", 1, 7), **mine))
                    assert error_of(committed) == 0
                return error

            monkeypatch.setattr(offset_delete, "AT_ONCE", 1)
            monkeypatch.setattr(OffsetService, "delete", deleted)
            topics = [{"name": "t", "partitions": [{"partition_index": index} for index in range(3)]}]
            answer = await client.ask(OFFSET_DELETE, 0, {"group_id": "g", "topics": topics})
            left = fetched(await client.ask(OFFSET_FETCH, 7, fetch_body(broker, 7, "g", None)), 7)
            member.close()

            subscribed = ErrorCode.group_subscribed_to_topic
            assert [p.error_code for p in answer.topics[0].partitions] == [0, subscribed, subscribed]
            assert [(partition, offset) for partition, offset, *_ in left] == [(1, 7), (2, 1)]
            assert parts == [[("t", 0)], [], []]

    run(scenario())


def test_offset_delete_of_other_protocols(tmp_path: Path) -> None:
    """While members of another protocol than consumers' are in the group, no offset is deleted: 68."""

    async def scenario() -> None:
        async with asking(tmp_path) as (_, client):
            await join(client, 3, "g", protocol_type="connect")

            answer = await client.ask(OFFSET_DELETE, 0, {"group_id": "g", "topics": []})

            assert answer.error_code == ErrorCode.non_empty_group

    run(scenario())


def test_list_groups(tmp_path: Path) -> None:
    """All groups are listed; filters of states and types ignore case, and find nothing for unknown ones."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            await stable_member(client, "busy")
            await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, "simple", ("t", 0, 1)))

            async def listed(version: int, **filters: list[str]) -> set[tuple[str, str]]:
                answer = await client.ask(LIST, version, filters)
                assert answer.error_code == 0
                return {(group.group_id, group.protocol_type) for group in answer.groups}

            both = {("busy", "consumer"), ("simple", "")}
            for version in versions(LIST):
                assert await listed(version) == both
                if version >= 4:
                    assert await listed(version, states_filter=["sTable"]) == {("busy", "consumer")}
                    assert await listed(version, states_filter=["Empty", "Dead"]) == {("simple", "")}
                    assert await listed(version, states_filter=["nonsense"]) == set()
                if version >= 5:
                    assert await listed(version, types_filter=["Classic"]) == both
                    assert await listed(version, types_filter=["consumer"]) == set()

    run(scenario())


def test_describe_groups(tmp_path: Path) -> None:
    """Members with metadata and assignment; a group that is not there is Dead, from v6 with 69."""

    async def scenario() -> None:
        async with asking(tmp_path) as (_, client):
            for version in versions(DESCRIBE):
                member = await stable_member(client, f"g{version}")
                body = {"groups": [f"g{version}", "nobody's"], "include_authorized_operations": version >= 3}

                answer = await client.ask(DESCRIBE, version, body)

                stable, dead = answer.groups
                assert (stable.group_state, stable.protocol_type, stable.protocol_data) == (
                    "Stable",
                    "consumer",
                    "range",
                )
                (described,) = stable.members
                assert (described.member_id, described.client_id, described.client_host) == (
                    member,
                    "test",
                    "/127.0.0.1",
                )
                assert (described.member_metadata, described.member_assignment) == (subscription("t"), b"share")
                assert dead.group_state == "Dead"
                assert dead.error_code == (ErrorCode.group_id_not_found if version >= 6 else 0)
                if version >= 3:
                    assert stable.authorized_operations == 3_400

    run(scenario())


def test_delete_groups(tmp_path: Path) -> None:
    """Empty groups go; 68 while there are members, 69 for groups that are not there."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            for version in versions(DELETE):
                await stable_member(client, f"busy{version}")
                await client.ask(OFFSET_COMMIT, 8, commit_body(broker, 8, f"simple{version}", ("t", 0, 1)))
                names = [f"busy{version}", f"simple{version}", "nobody's", f"simple{version}"]

                answer = await client.ask(DELETE, version, {"groups_names": names})

                assert {r.group_id: r.error_code for r in answer.results} == {
                    f"busy{version}": ErrorCode.non_empty_group,
                    f"simple{version}": 0,
                    "nobody's": ErrorCode.group_id_not_found,
                }
                assert broker.groups.of("g").get(f"simple{version}") is None

    run(scenario())


def test_pipelined_commits_land_in_order(tmp_path: Path) -> None:
    """Commits that one connection sends without waiting are stored in the order in which it sent them."""

    async def scenario() -> None:
        async with asking(tmp_path) as (broker, client):
            sent = [
                client.send(OFFSET_COMMIT, 8, commit_body(broker, 8, "g", ("t", 0, offset))) for offset in range(100)
            ]
            for request in sent:
                assert error_of(await client.receive(request)) == 0

            assert broker.groups.of("g").offsets.of_group("g")["t"][0].offset == 99

    run(scenario())


@pytest.mark.parametrize("key", [8, 9, 10, 11, 12, 13, 14, 15, 16, 42, 47])
def test_failures_have_an_answer(key: int) -> None:
    """Each API tells an unexpected failure in each version, for everything that was asked."""
    from gateway.wire.codec import request_codec, response_codec

    api = discover().get(key)
    assert api is not None
    assert api.error_response is not None
    for version in api.versions:
        request_bytes = bytes(request_codec(key, version).encode({}))
        request = request_codec(key, version).decode(memoryview(request_bytes), 0)
        answer = api.error_response(request, version, ErrorCode.unknown_server_error)

        assert response_codec(key, version).encode(answer)
