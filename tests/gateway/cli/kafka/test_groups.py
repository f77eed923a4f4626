"""`penstock groups`: groups of every protocol have a lag, what is left to read; a reset is rehearsed."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import Consumer

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.groups.share.speaking import topic, write
from tests.gateway.groups.streams.test_apis import heartbeat, subtopology
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow


def with_lag(tools: Tools, name: str) -> None:
    """A topic of two partitions with 3 and 1 records, of which a group has read one."""
    tools.say("topics", "create", name, "-p", "2")
    tools.say("produce", name, "--partition", "0", given="1\n2\n3\n")
    tools.say("produce", name, "--partition", "1", given="1\n")
    tools.say("groups", "reset", f"{name}-group", "--topic", name, "--to", "start", "--yes")
    tools.say("groups", "reset", f"{name}-group", "--topic", f"{name}:0", "--to", "1", "--yes")


def test_lag(tools: Tools) -> None:
    """Lag is shown by partition, the farthest behind first, and of all groups."""
    with_lag(tools, "lag")

    lags = tools.tell("groups", "lag", "lag-group")
    assert [(one["partition"], one["offset"], one["end"], one["lag"]) for one in lags] == [(0, 1, 3, 2), (1, 0, 1, 1)]
    assert {"group": "lag-group", "state": "Empty", "lag": 3} in tools.tell("groups", "lag")
    assert "lag-group" in tools.say("groups", "list")
    assert "lag 3" in tools.say("groups", "show", "lag-group")


def test_reset(tools: Tools) -> None:
    """A reset shows each offset first, and sets nothing when rehearsed or not confirmed."""
    with_lag(tools, "reset")

    plan = tools.tell("groups", "reset", "reset-group", "--to", "end", "--dry-run")
    assert [(one["now"], one["then"]) for one in plan["partitions"]] == [(1, 3), (0, 1)]
    assert "say --yes" in tools.run("groups", "reset", "reset-group", "--to", "end").stderr
    assert sum(one["lag"] for one in tools.tell("groups", "lag", "reset-group")) == 3

    tools.say("groups", "reset", "reset-group", "--to", "end", "--yes")

    assert sum(one["lag"] for one in tools.tell("groups", "lag", "reset-group")) == 0
    tools.say("groups", "reset", "reset-group", "--to", "-2", "--yes")
    assert [one["lag"] for one in tools.tell("groups", "lag", "reset-group")] == [2, 1]


def test_members_first(tools: Tools) -> None:
    """A group with members is shown with them, and its offsets are not set behind their backs."""
    with_lag(tools, "busy")
    consumer = Consumer({"bootstrap.servers": tools.address, "group.id": "busy-group", "auto.offset.reset": "earliest"})
    consumer.subscribe(["busy"])
    assert consumer.poll(20) is not None
    try:
        shown = tools.tell("groups", "show", "busy-group")
        refused = tools.run("groups", "reset", "busy-group", "--to", "end", "--yes")
        kept = tools.refuse("groups", "delete", "busy-group", "--yes")
    finally:
        consumer.close()

    assert [len(one["partitions"]) for one in shown["members"]] == [2]
    assert refused.returncode == 1
    assert "its members must stop first" in refused.stderr
    assert "NonEmptyGroup" in kept


def test_refusals(tools: Tools) -> None:
    """A name that is none is refused, and without offsets a reset asks for topics."""
    assert "there is no group 'nope'" in tools.refuse("groups", "show", "nope")
    assert "name topics with --topic" in tools.refuse("groups", "reset", "nope", "--to", "start", code=2)
    tools.say("topics", "create", "few", "-p", "1")
    assert "few has no partition '7'" in tools.refuse("groups", "reset", "nope", "--topic", "few:7", "--to", "end")


def test_one_of_several_is_not_deleted(tools: Tools) -> None:
    """The group that is there goes, and is told; of the one that is not, why."""
    with_lag(tools, "several")
    done = tools.run("groups", "delete", "several-group", "nobody", "several-group", "--yes", "--json")

    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["deleted"], list(told["refused"])) == (["several-group"], ["nobody"])
    assert done.stderr.startswith("penstock: group 'nobody': ")
    assert "several-group" not in tools.say("groups", "list")


def test_deleted_topic(tools: Tools) -> None:
    """Lag of a topic that is gone is unknown, and hides no other."""
    with_lag(tools, "gone")
    tools.say("topics", "delete", "gone", "--yes")

    assert "gone-group" in tools.say("groups", "lag")


def test_share_group(tools: Tools) -> None:
    """A share group has a start and a lag in each partition, and no committed offset that a reset could set."""
    topic(tools.address, "queue")
    write(tools.address, "queue", "1", "2", "3")
    places = [{"topic_name": "queue", "partitions": [{"partition_index": 0, "start_offset": 1}]}]
    joining = {"member_id": "m", "member_epoch": 0, "subscribed_topic_names": ["queue"]}
    server = Server(tools.address, own={})
    assert server.said("AlterShareGroupOffsets", 0, {"group_id": "workers", "topics": places})["error_code"] == 0
    assert server.said("ShareGroupHeartbeat", 1, {"group_id": "workers", **joining})["error_code"] == 0
    server.close()

    assert tools.tell("groups", "lag", "workers") == [{"topic": "queue", "partition": 0, "start": 1, "lag": 2}]
    assert {"group": "workers", "state": "Stable", "lag": 2} in tools.tell("groups", "lag")
    shown = tools.say("groups", "show", "workers")
    assert "workers: share group, Stable, 1 member, lag 2" in shown
    assert "queue-0" in shown
    assert "is a share group" in tools.refuse("groups", "reset", "workers", "--to", "end", "--yes")


def test_streams_group(tools: Tools) -> None:
    """Members of a streams group have tasks; its lag is of committed offsets."""
    topic(tools.address, "words", 2)
    write(tools.address, "words", "1", "2", "3")
    committed = [{"name": "words", "partitions": [{"partition_index": 0, "committed_offset": 1}]}]
    topology = {"epoch": 0, "subtopologies": [subtopology("0", source_topics=["words"])]}
    server = Server(tools.address, own={})
    server.said("OffsetCommit", 7, {"group_id": "counts", "topics": committed, "generation_id_or_member_epoch": -1})
    joined = server.said("StreamsGroupHeartbeat", 0, heartbeat(0, group_id="counts", topology=topology))
    assert joined["error_code"] == 0, joined
    server.close()

    told = tools.tell("groups", "show", "counts")
    assert (told["kind"], told["state"]) == ("streams", "Stable")
    assert [one["tasks"] for one in told["members"]] == [{"active": ["0_0", "0_1"]}]
    assert [(one["offset"], one["lag"]) for one in told["partitions"]] == [(1, 2)]
    assert "0_0 0_1" in tools.say("groups", "show", "counts")


def test_consumer_group(tools: Tools) -> None:
    """Members of a group that the server assigns are shown with their partitions."""
    topic(tools.address, "assigned", 2)
    write(tools.address, "assigned", "1")
    settings = {"bootstrap.servers": tools.address, "group.id": "readers", "group.protocol": "consumer"}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    consumer.subscribe(["assigned"])
    assert consumer.poll(20) is not None
    try:
        told = tools.tell("groups", "show", "readers")
    finally:
        consumer.close()

    assert (told["kind"], told["state"]) == ("consumer", "Stable")
    places = [{"topic": "assigned", "partition": 0}, {"topic": "assigned", "partition": 1}]
    assert [one["partitions"] for one in told["members"]] == [places]
