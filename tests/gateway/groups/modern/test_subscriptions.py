"""What the members of a group want, and what there is of it: looked up in bounded pieces, always of this moment."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.groups.modern import subscriptions
from gateway.groups.modern.subscriptions import Subscriptions, ids_of
from gateway.groups.modern.topics import Topic
from tests.gateway.groups.consumer.harness import FakeTopics

NONE: frozenset[str] = frozenset()


class CountedTopics(FakeTopics):
    """Counts the questions that it is asked."""

    questions = 0

    def topic(self, name: str) -> Topic | None:
        self.questions += 1
        return super().topic(name)


def seen(wanted: Subscriptions) -> Subscriptions:
    while not wanted.is_seen:
        wanted.look()
    return wanted


def test_one_look_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many topics a member brings, a look goes through so many; each is looked up once."""
    monkeypatch.setattr(subscriptions, "LOOKS_AT_ONCE", 10)
    topics = CountedTopics(**{f"t{n}": 1 for n in range(35)})
    wanted = Subscriptions(topics)
    wanted.add(frozenset(f"t{n}" for n in range(35)), "")
    wanted.look()
    assert topics.questions == 10
    assert not wanted.is_seen

    assert len(seen(wanted).topics) == wanted.partition_count == 35
    assert topics.questions == 35


def test_what_others_want_stays() -> None:
    """A topic is known as long as one member wants it, by name or by regular expression."""
    topics = FakeTopics(a=2, b=3)
    wanted = Subscriptions(topics)
    wanted.add(frozenset("a"), "")
    wanted.add(frozenset("ab"), "[ab]")
    wanted.resolve("[ab]", frozenset("ab"))
    assert seen(wanted).partition_count == 5

    wanted.remove(frozenset("a"), "")
    assert seen(wanted).wants("a")
    assert wanted.remove(frozenset("ab"), "[ab]"), "the last member with it"
    assert not seen(wanted).topics
    assert (wanted.partition_count, wanted.signature) == (0, 0)


def test_a_topic_made_anew_is_another() -> None:
    """A topic that was deleted and made again between two looks has another id, and another signature."""
    topics = FakeTopics(a=2)
    wanted = Subscriptions(topics)
    wanted.add(frozenset("a"), "")
    before = seen(wanted).signature
    old = wanted.topics["a"].id
    topics.delete("a")
    topics.make("a", 2)
    wanted.topics_changed(["a", "never wanted"])
    is_wanted = seen(wanted).is_wanted(frozenset("a"), "")

    assert wanted.signature != before
    assert is_wanted(wanted.topics["a"].id)
    assert not is_wanted(old)


NAMES = st.frozensets(st.sampled_from("abcdef"))


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["", "x", "y"])), max_size=5),
    st.lists(st.tuples(st.sampled_from("xy"), NAMES), max_size=4),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=8),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_pieces_add_up(
    members: list[tuple[frozenset[str], str]],
    resolved: list[tuple[str, frozenset[str]]],
    changes: list[tuple[str, int]],
    leaving: int,
) -> None:
    """In whatever order members, expressions and topics come, change and go: all adds up to what is wanted now."""
    topics = FakeTopics(a=1, b=1, c=1)
    wanted = Subscriptions(topics)
    for names, regex in members:
        wanted.add(names, regex)
        wanted.look()
    for regex, found in resolved:
        if wanted.regexes[regex]:
            wanted.resolve(regex, found)
    for name, count in changes:
        if count == 0 and name in topics:
            topics.delete(name)
        elif count and name in topics:
            topics.grow(name, count)
        elif count:
            topics.make(name, count)
        wanted.topics_changed([name])
        wanted.look()
    for names, regex in members[:leaving]:
        wanted.remove(names, regex)

    left = members[leaving:]
    every = frozenset().union(*(wanted.names_of(names, regex)[part] for names, regex in left for part in (0, 1)))
    existing = {name: topic for name in every if (topic := topics.topic(name)) is not None}
    assert seen(wanted).topics == existing
    assert wanted.partition_count == sum(topic.partition_count for topic in existing.values())
    fresh = Subscriptions(topics)
    fresh.add(every, "")
    assert wanted.signature == seen(fresh).signature
    for names, regex in left:
        is_wanted = wanted.is_wanted(names, regex)
        ids = ids_of(wanted.topics, wanted.names_of(names, regex))
        assert {topic.id for topic in existing.values() if is_wanted(topic.id)} == ids
