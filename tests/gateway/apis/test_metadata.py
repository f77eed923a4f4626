"""Metadata, DescribeCluster and DescribeTopicPartitions: what there is, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateway.wire.message import Message
from gateway.wire.primitives import EncodedItems
from tests.gateway.apis.harness import Admin, admin_of, code_and_message, new_name

NOBODY = UUID(int=7)
NOT_ASKED = -(2**31)


def by_name(*names: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "topic_id": None} for name in names]


def by_id(*ids: UUID) -> list[dict[str, Any]]:
    return [{"name": None, "topic_id": topic_id} for topic_id in ids]


def topics(admin: Admin, version: int, wanted: list[dict[str, Any]] | None, **rest: Any) -> list[Message]:
    options = {"allow_auto_topic_creation": False, **rest}
    return list(admin.ask("Metadata", version, topics=wanted, **options).topics)


@pytest.mark.parametrize("version", range(14))
def test_known_topic(admin: Admin, version: int) -> None:
    """In every version a topic is listed with its partitions, which this node leads and keeps alone."""
    name = admin.create(3)
    (topic,) = topics(admin, version, by_name(name))

    assert (0, name, False) == (topic.error_code, topic.name, topic.is_internal)
    expected = [(0, index, 1, [1], [1], []) for index in range(3)]
    assert expected == [
        (p.error_code, p.partition_index, p.leader_id, p.replica_nodes, p.isr_nodes, p.offline_replicas)
        for p in topic.partitions
    ]


@pytest.mark.parametrize("version", range(14))
def test_cluster(admin: Admin, version: int) -> None:
    """The one broker is listed with the address of the listener that the client used."""
    answer = admin.ask("Metadata", version, topics=by_name("x"), allow_auto_topic_creation=False)
    binding = admin.broker._kafka[0]

    assert [(1, "127.0.0.1", binding.port)] == [(b.node_id, b.host, b.port) for b in answer.brokers]
    if version >= 2:
        assert (admin.broker.cluster_id, 1) == (answer.cluster_id, answer.controller_id)


def test_node_id(tmp_path: Path) -> None:
    """The node id is the configured one, everywhere."""
    with admin_of(tmp_path, "node.id=7") as admin:
        answer = admin.ask("Metadata", 12, topics=by_name(admin.create()))
        (partition,) = answer.topics[0].partitions

        assert (answer.controller_id, answer.brokers[0].node_id) == (7, 7)
        assert (partition.leader_id, partition.replica_nodes, partition.isr_nodes) == (7, [7], [7])


def test_leader_epoch(admin: Admin) -> None:
    """The leader epoch that is advertised is the one that partitions carry."""
    name = admin.create()
    (topic,) = topics(admin, 7, by_name(name))

    assert [admin.slot(name).leader_epoch] == [p.leader_epoch for p in topic.partitions]


def test_leader_epoch_follows_an_unclean_start(tmp_path: Path) -> None:
    """An answer encoded for another epoch or size of a topic is not sent again."""
    with admin_of(tmp_path) as admin:
        name = admin.create(1)
        topics(admin, 12, by_name(name))
        for hosted in admin.broker.store.containers.values():
            hosted.container.epoch += 5
        admin.ask("CreatePartitions", 3, topics=[{"name": name, "count": 2}], timeout=5_000)
        (topic,) = topics(admin, 12, by_name(name))

        assert [admin.slot(name).leader_epoch] * 2 == [p.leader_epoch for p in topic.partitions]


def test_all_topics(tmp_path: Path) -> None:
    """Null lists all topics and empty none; in v0, which has no null, empty lists all."""
    with admin_of(tmp_path) as admin:
        names = {admin.create(), admin.create()}

        assert names == {t.name for t in topics(admin, 0, [])}
        assert names == {t.name for t in topics(admin, 1, None)}
        assert names == {t.name for t in topics(admin, 12, None)}
        assert topics(admin, 1, []) == []


def test_twice(admin: Admin) -> None:
    """A topic that is asked for twice is listed once."""
    name = admin.create()

    assert [name] == [t.name for t in topics(admin, 12, by_name(name, name))]


def test_ids(admin: Admin) -> None:
    """From v12 on topics are found by id; an unknown id is UNKNOWN_TOPIC_ID without a name."""
    name = admin.create()
    uuid = admin.stream(name).uuid
    found, unknown = topics(admin, 12, by_id(uuid, NOBODY))

    assert (0, name, uuid) == (found.error_code, found.name, found.topic_id)
    assert (unknown.error_code, unknown.name, unknown.topic_id, unknown.partitions) == (100, None, NOBODY, [])


def test_the_id_of_a_deleted_topic(admin: Admin) -> None:
    """A deleted topic is UNKNOWN_TOPIC_ID under the name that it had: Java consumers of a regular expression ask for it
    until their group has told them, and lose answers over one without a name."""
    name = admin.create()
    uuid = admin.stream(name).uuid
    admin.ask("DeleteTopics", 6, topics=by_name(name), timeout=5_000)
    (gone,) = topics(admin, 12, by_id(uuid))

    assert (gone.error_code, gone.name, gone.topic_id, gone.partitions) == (100, name, uuid, [])


def test_the_id_of_a_topic_that_was_made_anew(admin: Admin) -> None:
    """The topic that has the name now comes after the one that had it: who keeps one id for a name keeps the living."""
    name = admin.create()
    former = admin.stream(name).uuid
    admin.ask("DeleteTopics", 6, topics=by_name(name), timeout=5_000)
    admin.create(name=name)
    told = topics(admin, 12, by_id(admin.stream(name).uuid, former))

    assert [(100, name, former), (0, name, admin.stream(name).uuid)] == [
        (topic.error_code, topic.name, topic.topic_id) for topic in told
    ]


def test_id_decides(admin: Admin) -> None:
    """A topic with name and id is looked for by its id."""
    name = admin.create()
    wanted = [{"name": name, "topic_id": NOBODY}]

    assert [t.error_code for t in topics(admin, 12, wanted)] == [100]


@pytest.mark.parametrize(
    ("version", "wanted"),
    [(10, by_name(None)), (11, [{"name": "x", "topic_id": NOBODY}]), (12, by_name(None))],
)
def test_malformed(admin: Admin, version: int, wanted: list[dict[str, Any]]) -> None:
    """A topic without name and id, or with an id before v12, is INVALID_REQUEST."""
    answer = admin.ask("Metadata", version, topics=wanted)

    assert ([t.error_code for t in answer.topics], answer.brokers) == ([42], [])


def test_auto_creation(admin: Admin) -> None:
    """An unknown topic is UNKNOWN_TOPIC_OR_PARTITION first, and there when the client asks again."""
    name = new_name()
    (first,) = topics(admin, 12, by_name(name), allow_auto_topic_creation=True)
    admin.wait_for_topic(name)
    (second,) = topics(admin, 12, by_name(name), allow_auto_topic_creation=True)

    assert (first.error_code, first.topic_id) == (3, None)
    assert (second.error_code, len(second.partitions)) == (0, 16)


def test_auto_creation_by_old_clients(admin: Admin) -> None:
    """Before v4 clients cannot forbid auto-creation."""
    name = new_name()
    admin.ask("Metadata", 1, topics=by_name(name))

    assert admin.wait_for_topic(name).slot_count == 16


def test_auto_creation_at_once(tmp_path: Path) -> None:
    """Several clients that ask for the same new topic make one."""
    with admin_of(tmp_path) as admin:
        for _ in range(5):
            topics(admin, 12, by_name("wanted", "wanted"), allow_auto_topic_creation=True)
        admin.wait_for_topic("wanted")

        assert len(admin.broker.topics) == 1


def test_no_auto_creation(admin: Admin, tmp_path: Path) -> None:
    """Neither where the client forbids it, nor where the broker does."""
    (forbidden,) = topics(admin, 12, by_name("never"), allow_auto_topic_creation=False)
    assert (forbidden.error_code, forbidden.name) == (3, "never")

    with admin_of(tmp_path, "auto.create.topics.enable=false") as closed:
        topics(closed, 12, by_name("never"), allow_auto_topic_creation=True)
        topics(closed, 12, by_name("never"), allow_auto_topic_creation=True)
        assert len(closed.broker.topics) == 0


def test_names_that_cannot_be(admin: Admin) -> None:
    """A bad name, or one that collides, is INVALID_TOPIC_EXCEPTION and creates nothing."""
    admin.create(name="like.this")
    wanted = by_name("a b", "", "like_this")
    codes = [t.error_code for t in topics(admin, 12, wanted, allow_auto_topic_creation=True)]

    assert codes == [17, 17, 17]
    assert admin.broker.topics.get("like_this") is None


@pytest.mark.parametrize(("name", "code"), [("__consumer_offsets", 0), ("__share_group_state", 3)])
def test_internal_names(admin: Admin, name: str, code: int) -> None:
    """Kafka's internal topics are shown as such and never made by asking; those that are views are there."""
    (topic,) = topics(admin, 12, by_name(name), allow_auto_topic_creation=True)

    assert (topic.error_code, topic.is_internal) == (code, True)
    assert admin.broker.topics.get(name) is None


def test_authorized_operations(admin: Admin) -> None:
    """A client that asks for operations may do all of them; one that does not ask gets none."""
    name = admin.create()
    asked = admin.ask(
        "Metadata",
        8,
        topics=by_name(name),
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=True,
    )
    silent = admin.ask("Metadata", 8, topics=by_name(name))

    told = [(a.cluster_authorized_operations, a.topics[0].topic_authorized_operations) for a in (asked, silent)]
    assert told == [(8096, 3576), (NOT_ASKED, NOT_ASKED)]


def test_describe_cluster(admin: Admin) -> None:
    """DescribeCluster tells the broker, the controller and the cluster's id."""
    answer = admin.ask("DescribeCluster", 2, endpoint_type=1, include_cluster_authorized_operations=True)

    assert code_and_message(answer) == (0, None)
    assert (admin.broker.cluster_id, 1, 8096) == (
        answer.cluster_id,
        answer.controller_id,
        answer.cluster_authorized_operations,
    )
    assert [(b.broker_id, b.host, b.is_fenced) for b in answer.brokers] == [(1, "127.0.0.1", False)]


def test_describe_cluster_v0(admin: Admin) -> None:
    """The first version, which knows no kinds of endpoints, means brokers."""
    answer = admin.ask("DescribeCluster", 0)

    assert (answer.error_code, len(answer.brokers), answer.cluster_authorized_operations) == (0, 1, NOT_ASKED)


@pytest.mark.parametrize(("kind", "code"), [(2, 114), (9, 115)])
def test_describe_controllers(admin: Admin, kind: int, code: int) -> None:
    """Controllers are not found behind a broker's listener, other kinds do not exist."""
    assert code == admin.ask("DescribeCluster", 1, endpoint_type=kind).error_code


Page = tuple[list[tuple[str, int, list[int]]], tuple[str, int] | None]


def page(admin: Admin, names: list[str], limit: int, cursor: tuple[str, int] | None = None) -> Page:
    where = None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]}
    answer = admin.ask(
        "DescribeTopicPartitions",
        0,
        topics=[{"name": name} for name in names],
        response_partition_limit=limit,
        cursor=where,
    )
    listed = [(t.name, t.error_code, [p.partition_index for p in t.partitions]) for t in answer.topics]
    rest = answer.next_cursor
    return listed, None if rest is None else (rest.topic_name, rest.partition_index)


def test_pages(admin: Admin) -> None:
    """Topics come by name, cut into pages; the cursor says where the next one begins."""
    admin.create(4, name="page-a")
    admin.create(1, name="page-b")
    names = ["page-b", "page-a"]

    assert page(admin, names, 3) == ([("page-a", 0, [0, 1, 2])], ("page-a", 3))
    assert page(admin, names, 3, ("page-a", 3)) == ([("page-a", 0, [3]), ("page-b", 0, [0])], None)
    assert page(admin, names, 4) == ([("page-a", 0, [0, 1, 2, 3])], ("page-b", 0))
    assert page(admin, names, 4, ("page-a", 9)) == ([("page-a", 0, []), ("page-b", 0, [0])], None)
    assert page(admin, names, 0) == ([("page-a", 0, [0])], ("page-a", 1))


def test_pages_of_everything(tmp_path: Path) -> None:
    """Without names all topics are listed, from the cursor on even if its topic is gone."""
    with admin_of(tmp_path) as admin:
        for name in ("a", "c", "d"):
            admin.create(1, name=name)

        assert page(admin, [], 2) == ([("a", 0, [0]), ("c", 0, [0])], ("d", 0))
        assert page(admin, [], 2, ("b", 5)) == ([("c", 0, [0]), ("d", 0, [0])], None)


def test_pages_with_unknown_topics(admin: Admin) -> None:
    """Unknown and impossible names have their error, and take no room."""
    name = admin.create(1)
    expected: Page = ([("!", 17, []), (name, 0, [0]), ("zzz", 3, [])], None)

    assert expected == page(admin, [name, "zzz", "!"], 100)


@pytest.mark.parametrize("cursor", [("elsewhere", 0), ("here", -1)])
def test_bad_cursor(admin: Admin, cursor: tuple[str, int]) -> None:
    """A cursor outside of the topics that were asked for, or before them, is INVALID_REQUEST."""
    assert page(admin, ["here"], 10, cursor) == ([("here", 42, [])], None)


def test_encoded_items() -> None:
    """An array that was encoded before goes out as if it had been encoded now, old and new style."""
    from gateway.wire.codec import response_codec

    for version in (8, 12):
        codec = response_codec(3, version)
        partitions = [{"partition_index": index, "leader_id": 4, "isr_nodes": [4]} for index in range(300)]
        pieces = [codec.encode_item(("topics", "partitions"), partition) for partition in partitions]
        plain = codec.encode({"topics": [{"name": "t", "partitions": partitions}]})
        encoded = EncodedItems(len(pieces), b"".join(pieces))

        assert plain == codec.encode({"topics": [{"name": "t", "partitions": encoded}]})
