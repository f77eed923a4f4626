"""Questions about consumer groups (KIP-848), in the order of a life: members join, are fenced, commit, leave."""

from __future__ import annotations

from typing import Any, Final

from tests.likeness.questions import SOME_ID, Question

BOTH: Final = range(2)
FIRST: Final = range(1)
SECOND: Final = range(1, 2)


def _beat(name: str, member: str, epoch: int, versions: range = BOTH, **said: Any) -> Question:
    body = {"group_id": "c", "member_id": member, "member_epoch": epoch, "topic_partitions": None, **said}
    some = ("member_id",) if not member else ("error_message",) if "subscribed_topic_regex" in said else ()
    return Question(name, "ConsumerGroupHeartbeat", body, versions, some)


def _join(name: str, member: str, versions: range = SECOND, **said: Any) -> Question:
    full = {"rebalance_timeout": 60_000, "topic_partitions": [], "subscribed_topic_names": ["known"]}
    return _beat(name, member, 0, versions, **(full | said))


def _commit(name: str, member: str, epoch: int, versions: range, **said: Any) -> Question:
    partition = {"partition_index": 0, "committed_offset": 7, "committed_metadata": "m"}
    topic = {"name": "known", "partitions": [partition]}
    body = {"group_id": "c", "generation_id_or_member_epoch": epoch, "member_id": member, "topics": [topic], **said}
    return Question(name, "OffsetCommit", body, versions)


def _fetch(name: str, member: str | None, epoch: int) -> Question:
    topics = [{"name": "known", "partition_indexes": [0]}]
    group = {"group_id": "c", "member_id": member, "member_epoch": epoch, "topics": topics}
    return Question(name, "OffsetFetch", {"groups": [group]}, range(9, 10))


CONSUMER_GROUPS: Final = [
    Question(
        "a topic",
        "CreateTopics",
        {"topics": [{"name": "known", "num_partitions": 2, "replication_factor": 1}], "timeout": 10_000},
        range(4, 5),
    ),
    _beat("a heartbeat to no group", "m", 1),
    _beat("leaving no group", "m", -1),
    _join("joining without topics", "m", subscribed_topic_names=None),
    _join("joining without a time-out", "m", rebalance_timeout=-1),
    _join("joining without owning nothing", "m", topic_partitions=None),
    _join("joining with partitions", "m", topic_partitions=[{"topic_id": SOME_ID, "partitions": [1]}]),
    _join("joining without an id", ""),
    _join("joining without an instance id", "m", instance_id=""),
    _join("joining without a rack", "m", rack_id=""),
    _join("joining without a group", "m", group_id=""),
    _join("an assignor of its own", "m", server_assignor="mine"),
    _join("a broken expression", "m", group_id="b", subscribed_topic_names=None, subscribed_topic_regex="a("),
    _beat("an epoch that means nothing", "m", -3),
    _beat("leaving for a while without an instance", "m", -2),
    Question("no such group", "ConsumerGroupDescribe", {"group_ids": ["c"]}),
    _join("the first member", "m"),
    _beat("its heartbeat", "m", 1),
    _beat("its heartbeat with all it has", "m", 1, rebalance_timeout=60_000, subscribed_topic_names=["known"]),
    _beat("an epoch ahead", "m", 9),
    _beat("a stranger", "x", 1),
    _beat("a stranger's leaving", "x", -1),
    Question("the group", "ConsumerGroupDescribe", {"group_ids": ["c"]}, some=("client_host",)),
    Question("the group among classic ones", "DescribeGroups", {"groups": ["c"]}),
    Question("groups", "ListGroups", {}, range(5, 6)),
    Question("consumer groups", "ListGroups", {"types_filter": ["Consumer"]}, range(5, 6)),
    Question("classic groups", "ListGroups", {"types_filter": ["classic"]}, range(5, 6)),
    Question("stable groups", "ListGroups", {"states_filter": ["Stable"]}, range(5, 6)),
    Question("dead groups", "ListGroups", {"states_filter": ["Dead"]}, range(5, 6)),
    _commit("a commit", "m", 1, range(9, 10)),
    _commit("a commit of an old version", "m", 1, range(8, 9)),
    _commit("a commit from the future", "m", 5, range(9, 10)),
    _commit("a commit of nobody", "", -1, range(9, 10)),
    _commit("a commit of a stranger", "x", 1, range(9, 10)),
    _fetch("offsets for the member", "m", 1),
    _fetch("offsets for the member of another epoch", "m", 7),
    _fetch("offsets for a stranger", "x", 1),
    _fetch("offsets for anybody", None, -1),
    Question("deletion with a member", "DeleteGroups", {"groups_names": ["c"]}, range(2, 3)),
    Question(
        "deletion of an offset in use",
        "OffsetDelete",
        {"group_id": "c", "topics": [{"name": "known", "partitions": [{"partition_index": 0}]}]},
    ),
    _join("a member that comes again", "m"),
    _join("a static member", "s", instance_id="i"),
    _join("another with its instance", "t", instance_id="i"),
    _beat("the instance with another id", "t", 2, instance_id="i"),
    _beat("the static member goes for a while", "s", -2, instance_id="i"),
    _beat("it goes on all the same", "s", 2, instance_id="i"),
    _join("the instance comes back", "t", instance_id="i"),
    _beat("the former one", "s", 2, instance_id="i"),
    _beat("the static member leaves", "t", -1, instance_id="i"),
    _beat("an unknown instance leaves", "t", -1, instance_id="j"),
    _beat("the first member goes", "m", -1, FIRST),
    Question("the empty group", "ConsumerGroupDescribe", {"group_ids": ["c"]}),
    Question("deletion", "DeleteGroups", {"groups_names": ["c"]}, range(2, 3)),
    Question("the group that was", "ConsumerGroupDescribe", {"group_ids": ["c"]}),
    _join("an old member without an id", "", FIRST, group_id="d"),
    _join("topics that are not there", "m", group_id="e", subscribed_topic_names=["nothing"]),
    _join("no topics at all", "m", group_id="f", subscribed_topic_names=[]),
    Question("groups without partitions", "ConsumerGroupDescribe", {"group_ids": ["e", "f"]}, some=("client_host",)),
]
