"""Members of a share group: they join, get partitions that others may have too, fall silent, and leave."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from gateway.groups.classic.allowance import Allowance
from gateway.groups.modern import subscriptions
from gateway.groups.modern.topics import Topic
from gateway.groups.share import group as share_group
from gateway.groups.share.group import Heartbeat, Settings, ShareGroup
from gateway.refusals import Refusal

SETTINGS = Settings(session_timeout_ms=10_000, heartbeat_interval_ms=3_000, max_size=4)


class Topics:
    def __init__(self, **counts: int) -> None:
        self.counts = counts

    def topic(self, name: str) -> Topic | None:
        count = self.counts.get(name)
        return None if count is None else Topic(id_of(name), count)

    def name_of(self, topic_id: UUID) -> str | None:
        return next((name for name in self.counts if id_of(name) == topic_id), None)


def id_of(name: str) -> UUID:
    return UUID(bytes=name.encode().ljust(16, b"\0"))


def group(topics: Topics) -> ShareGroup:
    return ShareGroup("g", 0, topics, lambda _: SETTINGS, Allowance(1_000_000, 10_000_000))


def beat(member: str, epoch: int, *names: str) -> Heartbeat:
    wanted = frozenset(names) if names else None
    return Heartbeat(member_id=member, epoch=epoch, rack_id=None, names=wanted, client_id="c", client_host="/h")


def refused(shared: ShareGroup, request: Heartbeat) -> ErrorCode:
    with pytest.raises(Refusal) as caught:
        shared.heartbeat(request, 0.0)
    return caught.value.code


def test_one_member_gets_everything() -> None:
    shared = group(Topics(t=3))
    answer = shared.heartbeat(beat("a", 0, "t"), 0.0)

    assert (answer.epoch, answer.interval_ms) == (1, 3_000)
    assert answer.assignment == {id_of("t"): frozenset({0, 1, 2})}
    assert shared.heartbeat(beat("a", 1), 1.0).assignment is None, "it knows already"


def test_more_members_than_partitions() -> None:
    """Every member gets a partition, which others get too."""
    shared = group(Topics(t=1))
    for member in ("a", "b", "c"):
        shared.heartbeat(beat(member, 0, "t"), 0.0)

    assert [shared.target_of(member) for member in ("a", "b", "c")] == [{id_of("t"): frozenset({0})}] * 3


def test_a_member_hears_of_others() -> None:
    """The next heartbeat after another joined has a new epoch and another assignment."""
    shared = group(Topics(t=2))
    shared.heartbeat(beat("a", 0, "t"), 0.0)
    shared.heartbeat(beat("b", 0, "t"), 0.0)
    answer = shared.heartbeat(beat("a", 1), 0.0)

    assert (answer.epoch, answer.assignment) == (2, {id_of("t"): frozenset({0})})
    again = shared.heartbeat(beat("a", 1), 0.0)
    assert again == answer, "the answer may have been lost"


def test_topics_come_and_grow() -> None:
    topics = Topics()
    shared = group(topics)
    assert shared.heartbeat(beat("a", 0, "t"), 0.0).assignment == {}
    topics.counts["t"] = 1
    shared.topics_changed(["t"])
    answer = shared.heartbeat(beat("a", 1), 0.0)
    assert (answer.epoch, answer.assignment) == (2, {id_of("t"): frozenset({0})})
    topics.counts["t"] = 2
    shared.topics_changed(["t"])
    assert shared.heartbeat(beat("a", 2), 0.0).assignment == {id_of("t"): frozenset({0, 1})}


def test_silent_members_are_removed() -> None:
    shared = group(Topics(t=2))
    shared.heartbeat(beat("a", 0, "t"), 0.0)
    shared.heartbeat(beat("b", 0, "t"), 5.0)
    assert shared.next_expiry_s() == 10.0
    shared.expire(10.0)

    assert list(shared.members) == ["b"]
    assert shared.target_of("b") == {id_of("t"): frozenset({0, 1})}
    assert refused(shared, beat("a", 1)) is ErrorCode.unknown_member_id


def test_leaving() -> None:
    shared = group(Topics(t=2))
    shared.heartbeat(beat("a", 0, "t"), 0.0)
    answer = shared.heartbeat(beat("a", -1), 0.0)

    assert answer.epoch == -1
    assert shared.is_empty
    assert shared.next_expiry_s() is None


def test_refusals() -> None:
    shared = group(Topics(t=2))
    for member in ("a", "b", "c", "d"):
        shared.heartbeat(beat(member, 0, "t"), 0.0)

    assert refused(shared, beat("e", 0, "t")) is ErrorCode.group_max_size_reached
    assert refused(shared, beat("e", 3)) is ErrorCode.unknown_member_id
    assert refused(shared, beat("e", -1)) is ErrorCode.unknown_member_id
    assert refused(shared, beat("a", 9)) is ErrorCode.fenced_member_epoch


@given(
    counts=st.dictionaries(st.sampled_from("tuv"), st.integers(1, 7), min_size=1),
    members=st.integers(1, 4),
)
def test_shares_are_even(counts: dict[str, int], members: int) -> None:
    """Every partition has a reader, every member a partition, and no partition two readers more than another."""
    shared = group(Topics(**counts))
    for number in range(members):
        shared.heartbeat(beat(f"m{number}", 0, *counts), 0.0)
    readers = dict.fromkeys(((id_of(name), number) for name, count in counts.items() for number in range(count)), 0)
    for member in shared.members:
        target = shared.target_of(member)
        assert target
        for topic, numbers in target.items():
            for number in numbers:
                readers[topic, number] += 1

    assert min(readers.values()) >= 1
    assert max(readers.values()) - min(readers.values()) <= 1


def test_many_topics_are_looked_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member with many topics waits for its target: topics are looked up piece by piece, targets computed elsewhere;
    a heartbeat of others goes through none of it."""
    monkeypatch.setattr(subscriptions, "LOOKS_AT_ONCE", 10)
    monkeypatch.setattr(share_group, "AT_ONCE_MAX", 20)
    names = [f"t{number}" for number in range(25)]
    shared = group(Topics(**dict.fromkeys(names, 1)))
    assert shared.heartbeat(beat("a", 0, *names), 0.0).epoch == 0
    assert shared.awaits_target("a")
    while not shared.subscriptions.is_seen:
        shared.look()
    assert shared.wanted is not None
    shared.heartbeat(beat("b", 0, *names), 0.0)
    shared.assigned(shared.wanted.compute())
    told = shared.answer(beat("a", 0, *names))

    assert told.assignment is not None
    assert len(told.assignment) == 25
    assert shared.awaits_target("b"), "it came after the draft"
    assert shared.wanted is not None
    shared.assigned(shared.wanted.compute())
    assert sum(len(shared.target_of(member)) for member in "ab") == 25


def test_a_members_topics_count_for_the_allowance() -> None:
    """Who brings more names than all members may hold is refused, and leaves nothing behind."""
    allowance = Allowance(2_000, 3_000)
    shared = ShareGroup("g", 0, Topics(t=1), lambda _: SETTINGS, allowance)
    shared.heartbeat(beat("a", 0, "t"), 0.0)
    used = allowance.used

    assert refused(shared, beat("b", 0, *(f"topic-{number}" for number in range(30)))) is (
        ErrorCode.group_max_size_reached
    )
    assert refused(shared, beat("a", 1, *(f"topic-{number}" for number in range(30)))) is (
        ErrorCode.group_max_size_reached
    )
    assert (list(shared.members), allowance.used) == (["a"], used)
    shared.heartbeat(beat("a", -1), 0.0)
    assert allowance.used == 0
