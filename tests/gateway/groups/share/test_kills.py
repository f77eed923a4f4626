"""Share groups over kills of the gateway, deletions, and records that lie in long-term storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient
from kio.schema.errors import ErrorCode

from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import (
    ACCEPT,
    RELEASE,
    RENEW,
    WITHIN_S,
    Member,
    acquired,
    configured,
    refused,
    topic,
    write,
)
from tests.gateway.launching import Running
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

SMALL: Final = ("--set", "log.file.bytes=4194304")
CONTAINERS: Final = (*SMALL, "--set", "containers=3")
EARLIEST_LOCAL: Final = -4
LOCK_MS: Final = 6_000


@pytest.fixture(params=[SMALL, CONTAINERS], ids=["one container", "three"])
def arguments(request: pytest.FixtureRequest) -> tuple[str, ...]:
    given: tuple[str, ...] = request.param
    return given


def joined(gateway: Running, topic_id: object = None, name: str = "m") -> tuple[Server, Member]:
    """A member of a gateway that has joined; the topic is made and has ten records if it is not named."""
    address = gateway.ready()["kafka"][0]
    server = Server(address, own={})
    if topic_id is None:
        topic_id = topic(address, "t")
        write(address, "t", *map(str, range(10)))
        configured(server, share_auto_offset_reset="earliest")
    member = Member(server, topic_id, name)  # type: ignore[arg-type]
    assert member.join()["error_code"] == ErrorCode.none
    return server, member


@pytest.fixture
def lives(tmp_path: Path, arguments: tuple[str, ...]) -> Iterator[tuple[Running, Member]]:
    """A gateway's first life, and a member in it."""
    with serving(tmp_path, *arguments) as gateway:
        server, member = joined(gateway)
        yield gateway, member
        server.close()


def test_a_kill_cuts_deliveries_off(lives: tuple[Running, Member], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """After a kill: what was accepted is gone, what was released is counted, what was only held is not."""
    gateway, member = lives
    assert acquired(member.fetch(0)) == [(0, 9, 1)]
    assert refused(member.settle(1, (0, 2, ACCEPT), (3, 5, RELEASE))) == ErrorCode.none
    gateway.process.kill()
    gateway.end()

    with serving(tmp_path, *arguments) as again:
        server, after = joined(again, member.topic)
        assert acquired(after.fetch(0)) == [(3, 5, 2), (6, 9, 1)]
        server.close()


def test_a_kill_before_the_answer(lives: tuple[Running, Member], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """An acknowledgement without an answer has either happened or not: its records come all or not at all."""
    gateway, member = lives
    member.fetch(0)
    member.send_settled(1, (0, 9, ACCEPT))
    gateway.process.kill()
    gateway.end()

    with serving(tmp_path, *arguments) as again:
        server, after = joined(again, member.topic)
        assert acquired(after.fetch(0)) in ([], [(0, 9, 1)])
        write(again.ready()["kafka"][0], "t", "new")
        server.close()


def test_renewal(tmp_path: Path) -> None:
    """A member that renews keeps its records beyond their time; one that does not loses them to another."""
    shortest = ("--set", "group.share.min.record.lock.duration.ms=1000")
    with serving(tmp_path, *SMALL, *shortest) as gateway:
        server, member = joined(gateway)
        configured(server, share_record_lock_duration_ms=str(LOCK_MS))
        other = member.beside("other")
        assert acquired(member.fetch(0)) == [(0, 9, 1)]
        turn, got = 0, list[tuple[int, int, int]]()
        while not got:  # each turn takes a small part of the time that a renewal gives
            turn += 1
            assert refused(member.settle(turn, (0, 4, RENEW), version=2)) == ErrorCode.none
            got = acquired(other.fetch(turn - 1, wait_ms=LOCK_MS // 10))
        assert got == [(5, 9, 2)], "the time is over for what was not renewed"
        assert refused(member.settle(turn + 1, (0, 4, ACCEPT), version=2)) == ErrorCode.none
        assert refused(member.settle(turn + 2, (5, 9, ACCEPT), version=2)) == ErrorCode.invalid_record_state
        configured(server, share_renew_acknowledge_enable="false")
        assert refused(other.settle(turn, (5, 9, RENEW), version=2)) == ErrorCode.invalid_request
        server.close()


def test_a_beginning_by_duration(tmp_path: Path) -> None:
    """A group may begin with the records of the last hour, without those before."""
    with serving(tmp_path, *SMALL) as gateway:
        address = gateway.ready()["kafka"][0]
        topic_id = topic(address, "t")
        write(address, "t", "old", "older", ago_s=7_200)
        write(address, "t", "new")
        server = Server(address, own={})
        configured(server, share_auto_offset_reset="by_duration:PT1H")
        member = Member(server, topic_id)
        member.join()
        assert acquired(member.fetch(0)) == [(2, 2, 1)]
        server.close()


def test_a_topic_goes_while_its_records_are_held(tmp_path: Path) -> None:
    """Members of a deleted topic are told so; a new topic of the same name begins anew."""
    with serving(tmp_path, *SMALL) as gateway:
        address = gateway.ready()["kafka"][0]
        server, member = joined(gateway)
        assert acquired(member.fetch(0)) == [(0, 9, 1)]
        admin = AdminClient({"bootstrap.servers": address})
        admin.delete_topics(["t"])["t"].result(WITHIN_S)
        assert refused(member.settle(1, (0, 9, ACCEPT))) == ErrorCode.unknown_topic_id
        assert refused(member.fetch(2)) == ErrorCode.unknown_topic_id

        anew = Member(server, topic(address, "t"), "anew")
        write(address, "t", "first")
        anew.join()
        assert acquired(anew.fetch(0)) == [(0, 0, 1)]
        server.close()


def test_records_in_long_term_storage(tmp_path: Path) -> None:
    """A member gets records that have left the log, in their order and once."""
    moved = [f"tier2=file:{tmp_path / 'objects'}", "chunk.bytes=262144", "chunk.age.ms=200"]
    moved += ["tier2.verify.delay.ms=100", "tier2.snapshot.interval.ms=100", "checkpoint.interval.ms=100"]
    small = ["log.file.bytes=1048576", "log.cache.bytes=1048576"]
    with serving(tmp_path, *(word for key in (*small, *moved) for word in ("--set", key))) as gateway:
        address = gateway.ready()["kafka"][0]
        topic_id = topic(address, "t")
        write(address, "t", *(f"{number:0100000}" for number in range(60)))
        server = Server(address, own={})
        _until_moved(server)
        configured(server, share_auto_offset_reset="earliest")
        member = Member(server, topic_id)
        member.join()
        got: list[int] = []
        epoch, held = 0, []
        ends_s = time.monotonic() + WITHIN_S
        while len(got) < 60:
            assert time.monotonic() < ends_s
            held = acquired(member.fetch(epoch, *((first, last, ACCEPT) for first, last, _ in held)))
            assert {count for _, _, count in held} <= {1}
            got += [offset for first, last, _ in held for offset in range(first, last + 1)]
            epoch += 1
        assert got == list(range(60))
        server.close()


def _until_moved(server: Server) -> None:
    """The first records are in long-term storage alone."""
    asked = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": EARLIEST_LOCAL}
    body = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": "t", "partitions": [asked]}]}
    ends_s = time.monotonic() + WITHIN_S
    while server.said("ListOffsets", 8, body)["topics"][0]["partitions"][0]["offset"] < 1:
        assert time.monotonic() < ends_s, server.said("ListOffsets", 8, body)
        time.sleep(0.05)
