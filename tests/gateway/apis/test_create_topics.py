"""CreateTopics as observed in Kafka 4.3, except that any number of replicas is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin, admin_of, code_and_message, new_name

pytestmark = pytest.mark.slow


def topic(name: str, partitions: int = 1, replicas: int = 1, **rest: Any) -> dict[str, Any]:
    return {"name": name, "num_partitions": partitions, "replication_factor": replicas, **rest}


def assigned(name: str, *assignments: tuple[int, list[int]], **rest: Any) -> dict[str, Any]:
    listed = [{"partition_index": index, "broker_ids": ids} for index, ids in assignments]
    return topic(name, -1, -1, assignments=listed) | rest


def configured(name: str, **configs: str | None) -> dict[str, Any]:
    listed = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
    return topic(name, configs=listed)


def create(admin: Admin, *topics: dict[str, Any], version: int = 7, **rest: Any) -> list[Message]:
    answer = admin.ask("CreateTopics", version, topics=list(topics), timeout=5_000, **rest)
    return list(answer.topics)


def refused(admin: Admin, wanted: dict[str, Any]) -> tuple[int, str | None]:
    (result,) = create(admin, wanted)
    return code_and_message(result)


def test_created(admin: Admin) -> None:
    """A created topic is answered with its id, size, one replica, and can be used at once."""
    name = new_name()
    (result,) = create(admin, topic(name, 3))

    stream = admin.stream(name)
    assert (*code_and_message(result), result.num_partitions, result.replication_factor) == (0, None, 3, 1)
    assert (stream.uuid, 3) == (result.topic_id, stream.slot_count)


def test_configs_are_told(admin: Admin) -> None:
    """From v5 on the answer lists every config with its value and where it comes from."""
    (result,) = create(admin, configured(new_name(), retention_ms="1000"))

    told = {c.name: (c.value, c.config_source) for c in result.configs}
    assert len(told) == 42
    assert told["retention.ms"] == ("1000", 1)
    assert told["cleanup.policy"] == ("delete", 5)


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_defaults(admin: Admin, version: int) -> None:
    """-1 partitions and replication factor are the broker's defaults, in every version."""
    name = new_name()
    (result,) = create(admin, topic(name, -1, -1), version=version)

    assert (result.error_code, admin.stream(name).slot_count) == (0, 16)


def test_validate_only(admin: Admin) -> None:
    """validate_only answers as if and creates nothing."""
    name = new_name()
    (result,) = create(admin, topic(name, 5), validate_only=True)

    assert (result.error_code, result.num_partitions, result.topic_id) == (0, 5, None)
    assert admin.broker.topics.get(name) is None


def test_existing(admin: Admin) -> None:
    """A name that is taken is refused with TOPIC_ALREADY_EXISTS."""
    name = admin.create()

    assert (36, f"Topic '{name}' already exists.") == refused(admin, topic(name))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "the empty string is not allowed"),
        (".", "'.' is not allowed"),
        ("..", "'..' is not allowed"),
        ("x" * 250, f"the length of '{'x' * 250}' is longer than the max allowed length 249"),
        ("a b", "'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("a\n", "'a\n' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("ä", "'ä' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
    ],
)
def test_bad_names(admin: Admin, name: str, why: str) -> None:
    """A name that no topic can have is refused with INVALID_TOPIC_EXCEPTION and the reason."""
    assert (17, f"Topic name is invalid: {why}") == refused(admin, topic(name))


def test_longest_name(admin: Admin) -> None:
    """A name may have 249 characters."""
    assert refused(admin, topic("x" * 249)) == (0, None)


def test_collision(admin: Admin) -> None:
    """Names that differ only by . and _ collide, also within one request."""
    admin.create(name="a.b_c")
    assert refused(admin, topic("a_b.c")) == (17, "Topic 'a_b.c' collides with existing topic: a.b_c")

    results = create(admin, topic("d.e"), topic("d_e"))
    assert [result.error_code for result in results] == [0, 17]


def test_deleted_name_is_free(admin: Admin) -> None:
    """After its deletion a name, and what looks like it, can be used again."""
    admin.create(name="f.g")
    admin.ask("DeleteTopics", 5, topic_names=["f.g"], timeout=5_000)

    assert refused(admin, topic("f_g")) == (0, None)


def test_twice_in_one_request(admin: Admin) -> None:
    """A name that is there twice is refused once with INVALID_REQUEST, the others are created."""
    twice, other = new_name(), new_name()
    results = {r.name: code_and_message(r) for r in create(admin, topic(twice), topic(other), topic(twice))}

    assert {twice: (42, "Duplicate topic name."), other: (0, None)} == results


@pytest.mark.parametrize("partitions", [0, -2])
def test_no_partitions(admin: Admin, partitions: int) -> None:
    """Fewer than one partition, -1 apart, is INVALID_PARTITIONS."""
    expected = (37, "Number of partitions was set to an invalid non-positive value.")
    assert expected == refused(admin, topic(new_name(), partitions))


@pytest.mark.parametrize("replicas", [0, -2])
def test_no_replicas(admin: Admin, replicas: int) -> None:
    """Fewer than one replica, -1 apart, is INVALID_REPLICATION_FACTOR."""
    expected = (38, "Replication factor must be larger than 0, or -1 to use the default value.")
    assert expected == refused(admin, topic(new_name(), 1, replicas))


def test_more_replicas(admin: Admin) -> None:
    """A replication factor for a cluster is accepted, and shown as the one that there is."""
    (result,) = create(admin, topic(new_name(), 1, 3))

    assert (result.error_code, result.replication_factor) == (0, 1)


def test_assignments(admin: Admin) -> None:
    """Assignments to brokers of a cluster are accepted; their number is that of partitions."""
    name = new_name()

    assert refused(admin, assigned(name, (1, [3, 1]), (0, [1, 2]))) == (0, None)
    assert admin.stream(name).slot_count == 2


@pytest.mark.parametrize(
    ("wanted", "code", "why"),
    [
        (
            assigned("z", (0, [1]), num_partitions=1),
            42,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            assigned("z", (0, [1]), replication_factor=1),
            42,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
        (assigned("z", (0, [1]), (2, [1])), 39, "partitions should be a consecutive 0-based integer sequence"),
        (assigned("z", (-1, [1])), 39, "partitions should be a consecutive 0-based integer sequence"),
        (assigned("z", (0, [1]), (0, [1])), 39, "Found multiple manual partition assignments for partition 0"),
        (assigned("z", (0, [1, 1])), 39, "The manual partition assignment includes the broker 1 more than once."),
        (assigned("z", (0, [])), 39, "The manual partition assignment includes an empty replica list."),
        (
            assigned("z", (0, [1]), (1, [1, 2])),
            39,
            "The manual partition assignment includes a partition with 2 replica(s), but this is not "
            "consistent with previous partitions, which have 1 replica(s).",
        ),
    ],
)
def test_bad_assignments(admin: Admin, wanted: dict[str, Any], code: int, why: str) -> None:
    """Assignments that are wrong in themselves are refused as Kafka refuses them."""
    assert (code, why) == refused(admin, wanted)


def test_bad_config(admin: Admin) -> None:
    """A bad config is INVALID_CONFIG and creates nothing."""
    name = new_name()
    expected = (40, "Invalid value x for configuration retention.ms: Not a number of type LONG")

    assert expected == refused(admin, configured(name, retention_ms="x"))
    assert admin.broker.topics.get(name) is None


def test_order_of_checks(admin: Admin) -> None:
    """As in Kafka, the name is looked at first, then configs, replicas, partitions."""
    wanted = configured("", nope="x") | {"num_partitions": 0, "replication_factor": 0}
    codes = []
    for repaired in ({"name": new_name()}, {"configs": []}, {"replication_factor": 1}, {"num_partitions": 1}):
        codes.append(refused(admin, wanted)[0])
        wanted |= repaired

    assert codes == [17, 40, 38, 37]
    assert refused(admin, wanted) == (0, None)


def test_too_many_partitions(admin: Admin) -> None:
    """A request for more partitions than one may make is refused as a whole, POLICY_VIOLATION."""
    results = create(admin, topic(new_name(), 60_000), topic(new_name(), 60_000), validate_only=True)

    assert [code_and_message(result) for result in results] == [
        (44, "Excessively large number of partitions per request.")
    ] * 2


def test_cluster_metadata(admin: Admin) -> None:
    """The name of Kafka's metadata log is prohibited."""
    expected = (42, "Creation of internal topic __cluster_metadata is prohibited.")
    assert expected == refused(admin, topic("__cluster_metadata"))


def test_survives_a_restart(tmp_path: Path) -> None:
    """Topics come back with id, partitions and configs."""
    with admin_of(tmp_path) as admin:
        name = admin.create(5, retention_ms="1234")
        uuid = admin.stream(name).uuid
        admin.restart()

        stream = admin.stream(name)
        assert (uuid, 5, {"retention.ms": "1234"}) == (stream.uuid, stream.slot_count, dict(stream.config))


def test_ten_thousand_partitions(tmp_path: Path) -> None:
    """10,000 partitions, one topic or many, are made in one request, and Metadata lists them all."""
    with admin_of(tmp_path) as admin:
        wanted = [topic(f"many-{number}", 10) for number in range(500)] + [topic("one", 5_000)]
        assert {0} == {result.error_code for result in create(admin, *wanted)}

        listed = admin.ask("Metadata", 12, topics=None).topics
        assert (len(listed), sum(len(t.partitions) for t in listed)) == (501, 10_000)
