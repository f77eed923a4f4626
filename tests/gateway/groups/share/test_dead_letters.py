"""Dead letters (KIP-1191): where the records go that a share group has given up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import (
    REJECT,
    RELEASE,
    WITHIN_S,
    Member,
    acquired,
    configured,
    records,
    topic,
    write,
)
from tests.gateway.launching import Running
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

TAKES: dict[str, str] = {"errors_deadletterqueue_group_enable": "true"}


def letter(message: Any) -> dict[str, str]:
    """What a letter's headers say."""
    return {name.removeprefix("__dlq.errors."): value.decode() for name, value in message.headers()}


def is_settled(member: Member, within_s: float = WITHIN_S) -> bool:
    """Whether the group has nothing left, within some time."""
    asked = {"groups": [{"group_id": "g", "topics": None}]}
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        (group,) = member.ask("DescribeShareGroupOffsets", 1, **asked)["groups"]
        if [one["lag"] for told in group["topics"] for one in told["partitions"]] == [0]:
            return True
        time.sleep(0.05)
    return False


def test_a_letter_says_what_died(server: Server, address: str, member: Member) -> None:
    """A record that was rejected, and one that came too often, each have a letter with place, count and reason."""
    topic(address, "dlq.g", **TAKES)
    configured(server, errors_deadletterqueue_topic_name="dlq.g", share_delivery_count_limit="2")
    assert acquired(member.fetch(0, most=2)) == [(0, 1, 1)]
    assert acquired(member.fetch(1, (0, 0, REJECT), (1, 1, RELEASE), most=1)) == [(1, 1, 2)]
    member.settle(2, (1, 1, RELEASE))

    rejected, exhausted = records(address, "dlq.g", 2)

    where = {"topic": "t", "partition": "0", "group": "g"}
    assert (rejected.key(), rejected.value()) == (None, None)
    assert letter(rejected) == {
        **where,
        "offset": "0",
        "delivery.count": "1",
        "message": "Offset rejected by client.",
    }
    assert letter(exhausted) == {
        **where,
        "offset": "1",
        "delivery.count": "2",
        "message": "Offset delivery count exceeded the threshold.",
    }


def test_copies(server: Server, address: str, member: Member) -> None:
    """If the group wants it, a letter has the record's key and value; one that is too large for its topic has not."""
    topic(address, "dlq.g", max_message_bytes="3000", **TAKES)
    configured(
        server,
        errors_deadletterqueue_topic_name="dlq.g",
        errors_deadletterqueue_copy_record_enable="true",
    )
    write(address, "t", "x" * 4_000, "small", keys="ab")
    assert acquired(member.fetch(0, most=12)) == [(0, 11, 1)]
    member.settle(1, (0, 11, REJECT))

    found = records(address, "dlq.g", 12)

    assert [message.value() for message in found[:10]] == [str(number).encode() for number in range(10)]
    assert [(message.key(), message.value()) for message in found[10:]] == [(None, None), (b"b", b"small")]
    assert [letter(message)["offset"] for message in found] == [str(number) for number in range(12)]
    assert is_settled(member)


@pytest.mark.parametrize(
    ("name", "configs", "reason"),
    [
        ("dlq.g", {}, "its config errors.deadletterqueue.group.enable is not true"),
        ("other", TAKES, "its name does not begin with errors.deadletterqueue.topic.name.prefix=dlq."),
    ],
    ids=["a topic for other things", "another beginning"],
)
def test_a_topic_that_takes_none(
    server: Server, address: str, member: Member, tmp_path: Path, name: str, configs: dict[str, str], reason: str
) -> None:
    """Nothing is written to a topic that is not for letters; the record waits, and goes if none are wanted any more."""
    topic(address, name, **configs)
    configured(server, errors_deadletterqueue_topic_name=name)
    member.fetch(0)
    member.settle(1, (0, 9, REJECT))
    ends_s = time.monotonic() + WITHIN_S
    while reason not in (tmp_path / "err").read_text():
        assert time.monotonic() < ends_s
        time.sleep(0.05)
    assert not is_settled(member, within_s=0.5)
    assert records(address, name, 1, within_s=0.5) == []

    configured(server, errors_deadletterqueue_topic_name="")

    assert is_settled(member)
    assert records(address, name, 1, within_s=0.5) == []


def test_a_kill_loses_no_letter(tmp_path: Path) -> None:
    """What was rejected before a kill, and had no letter yet, has it after the restart, without a member's help."""
    with serving(tmp_path, "--set", "log.file.bytes=4194304") as gateway:
        address = gateway.ready()["kafka"][0]
        server = Server(address, own={})
        member = Member(server, topic(address, "t"))
        write(address, "t", *map(str, range(10)))
        configured(server, share_auto_offset_reset="earliest", errors_deadletterqueue_topic_name="dlq.g")
        member.join()
        member.fetch(0)
        assert member.settle(1, (0, 9, REJECT))["error_code"] == 0
        server.close()
        gateway.process.kill()
        gateway.end()
    creates = "errors.deadletterqueue.auto.create.topics.enable=true"
    with serving(tmp_path, "--set", "log.file.bytes=4194304", "--set", creates) as again:
        found = _letters_of(again)

    assert sorted(int(letter(message)["offset"]) for message in found) == list(range(10))


def _letters_of(gateway: Running) -> list[Any]:
    """The letters of ten records, once their topic is there."""
    address = gateway.ready()["kafka"][0]
    ends_s = time.monotonic() + WITHIN_S
    while "dlq.g" not in _topics(address):
        assert time.monotonic() < ends_s
        time.sleep(0.05)
    return records(address, "dlq.g", 10)


def _topics(address: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": address}).list_topics(timeout=WITHIN_S).topics)
