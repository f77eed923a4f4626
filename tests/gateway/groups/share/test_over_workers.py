"""A share group's positions over two workers: its coordinator tells, sets and deletes those of the other one too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from confluent_kafka.admin import AdminClient
from kio.schema.errors import ErrorCode

from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import WITHIN_S, Member, configured, topic, write
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

PARTITIONS: Final = 8
WORKERS: Final = ("--set", "workers=2", "--set", "containers=4", "--set", "log.file.bytes=4194304")


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A member at its group's coordinator that has joined and left; each partition has three records."""
    with serving(tmp_path, *WORKERS) as gateway:
        address = gateway.ready()["kafka"][0]
        topic_id = topic(address, "t", PARTITIONS)
        for partition in range(PARTITIONS):
            write(address, "t", "a", "b", "c", partition=partition)
        found = Server(address, own={}).said("FindCoordinator", 4, {"key_type": 0, "coordinator_keys": ["g"]})
        brokers = AdminClient({"bootstrap.servers": address}).list_topics(timeout=WITHIN_S).brokers
        coordinator = brokers[found["coordinators"][0]["node_id"]]
        server = Server(f"{coordinator.host}:{coordinator.port}", own={})
        made = Member(server, topic_id)
        assert made.join()["error_code"] == ErrorCode.none
        made.leave()
        yield made
        server.close()


def positions(member: Member, numbers: list[int] | None = None) -> dict[int, tuple[int, int]]:
    """Start and lag by partition."""
    topics = None if numbers is None else [{"topic_name": "t", "partitions": numbers}]
    (group,) = member.ask("DescribeShareGroupOffsets", 1, groups=[{"group_id": "g", "topics": topics}])["groups"]
    assert group["error_code"] == ErrorCode.none
    told = [partition for told in group["topics"] for partition in told["partitions"]]
    assert {one["error_code"] for one in told} <= {ErrorCode.none}
    return {one["partition_index"]: (one["start_offset"], one["lag"]) for one in told}


def begin_at(member: Member, start: int) -> set[int]:
    """The error codes of setting all positions."""
    partitions = [{"partition_index": number, "start_offset": start} for number in range(PARTITIONS)]
    answer: dict[str, Any] = member.ask(
        "AlterShareGroupOffsets", 0, topics=[{"topic_name": "t", "partitions": partitions}]
    )
    return {one["error_code"] for told in answer["responses"] for one in told["partitions"]}


def test_a_group_begins_as_another_worker_was_told(tmp_path: Path) -> None:
    """A group's config says where it begins, in every partition: also in one whose worker has not heard of it yet."""
    with serving(tmp_path, *WORKERS) as gateway:
        address = gateway.ready()["kafka"][0]
        topic_id = topic(address, "t", PARTITIONS)
        for partition in range(PARTITIONS):
            write(address, "t", "a", partition=partition)
        servers = [Server(one, own={}) for one in gateway.ready()["kafka"]]
        gateway.process.send_signal(signal.SIGSTOP)  # it passes on what workers tell each other
        try:
            configured(servers[0], share_auto_offset_reset="earliest")
            begun = [records_of(server, topic_id, number) for server in servers for number in range(PARTITIONS)]
        finally:
            gateway.process.send_signal(signal.SIGCONT)
            for server in servers:
                server.close()

    assert sorted(begun) == [-1] * PARTITIONS + [1] * PARTITIONS, "each partition gives its record at one worker"


def records_of(server: Server, topic_id: UUID, number: int) -> int:
    """How many records a new member gets of a partition; -1 at a worker that has not got it."""
    asked = {"topic_id": topic_id, "partitions": [{"partition_index": number, "acknowledgement_batches": []}]}
    limits = {"max_wait": 0, "min_bytes": 1, "max_bytes": 1_000_000, "max_records": 100, "batch_size": 100}
    said = {"group_id": "g", "member_id": f"m{number}", "share_session_epoch": 0, "topics": [asked], **limits}
    ((partition,),) = [told["partitions"] for told in server.said("ShareFetch", 1, said)["responses"]]
    if partition["error_code"]:
        return -1
    return sum(one["last_offset"] - one["first_offset"] + 1 for one in partition["acquired_records"] or ())


def test_positions(member: Member) -> None:
    """All partitions are told, set and deleted, whichever worker has them, and go with their group."""
    everywhere = list(range(PARTITIONS))
    assert positions(member) == {}
    assert positions(member, everywhere) == dict.fromkeys(everywhere, (-1, -1))

    assert begin_at(member, 1) == {ErrorCode.none}
    assert positions(member) == positions(member, everywhere) == dict.fromkeys(everywhere, (1, 2))

    (told,) = member.ask("DeleteShareGroupOffsets", 0, topics=[{"topic_name": "t"}])["responses"]
    assert told["error_code"] == ErrorCode.none
    assert positions(member) == {}

    begin_at(member, 0)
    assert member.ask("DeleteGroups", 2, groups_names=["g"])["results"][0]["error_code"] == ErrorCode.none
    member.join()
    assert positions(member) == {}, "a group of the same name begins anew"
