"""Tools' requests about a cluster: log directories, elections, reassignments."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.apis.harness import NOW, Admin


def log_dirs(admin: Admin, version: int, topics: list[dict[str, Any]] | None) -> dict[str, dict[int, int]]:
    (result,) = admin.ask("DescribeLogDirs", version, topics=topics).results
    assert (0, str(admin.broker.config.data_dir.absolute())) == (result.error_code, result.log_dir)
    if version >= 4:
        assert 0 < result.usable_bytes <= result.total_bytes
    return {t.name: {p.partition_index: p.partition_size for p in t.partitions} for t in result.topics}


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_sizes(admin: Admin, version: int) -> None:
    """Partitions are listed with their bytes; unknown ones are left out."""
    name = admin.create(3)
    admin.produce(name, NOW, partition=1)
    asked = [{"topic": name, "partitions": [0, 1, 9]}, {"topic": "nope", "partitions": [0]}]

    assert {name: {0: 0, 1: admin.slot(name, 1).size_bytes}} == log_dirs(admin, version, asked)
    assert admin.slot(name, 1).size_bytes > 0


def test_all_sizes(admin: Admin) -> None:
    """Null means all topics and all of their partitions, empty means none."""
    name = admin.create(2)

    assert log_dirs(admin, 4, None)[name] == {0: 0, 1: 0}
    assert log_dirs(admin, 4, []) == {}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_elections(admin: Admin, version: int) -> None:
    """Every partition has its leader already; unknown ones get an error."""
    name = admin.create()
    asked = [{"topic": name, "partitions": [0, 9]}, {"topic": "nope", "partitions": [0]}]
    answer = admin.ask("ElectLeaders", version, topic_partitions=asked, timeout=5_000)

    results = [
        (p.partition_id, p.error_code, p.error_message)
        for topic in answer.replica_election_results
        for p in topic.partition_result
    ]
    assert [
        (0, 84, "Leader election not needed for topic partition."),
        (9, 3, f"No such partition as {name}-9"),
        (0, 3, "No such topic as nope"),
    ] == results


def test_other_elections(admin: Admin) -> None:
    """A kind of election that does not exist is INVALID_REQUEST; for all partitions there is nothing to tell."""
    unknown = admin.ask("ElectLeaders", 2, election_type=7, topic_partitions=[], timeout=5_000)
    everywhere = admin.ask("ElectLeaders", 2, election_type=0, topic_partitions=None, timeout=5_000)

    assert (unknown.error_code, everywhere.error_code) == (42, 0)
    assert everywhere.replica_election_results == []


def test_reassignments(admin: Admin) -> None:
    """No partition is ever moved."""
    for topics in (None, [{"name": admin.create(), "partition_indexes": [0]}]):
        answer = admin.ask("ListPartitionReassignments", 0, topics=topics, timeout=5_000)

        assert (answer.error_code, answer.topics) == (0, [])
