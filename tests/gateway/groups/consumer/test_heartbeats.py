"""Heartbeats of a consumer group's members, one rule after another, as Kafka decides."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.consumer.messages import ConsumerState, MemberState
from gateway.refusals import Refusal
from tests.gateway.groups.consumer.harness import (
    INTERVAL_MS,
    REBALANCE_MS,
    SESSION_MS,
    Client,
    Driver,
    FakeTopics,
    flat,
)


@pytest.fixture
def driver() -> Driver:
    return Driver(FakeTopics(a=4, b=2))


def consumer(name: str, *names: str, **more: str) -> Client:
    return Client(name, frozenset(names) if names else None, **more)


def test_the_first_member_has_everything(driver: Driver) -> None:
    """The first member gets all partitions with its first answer."""
    answer = driver.join("m", "a")

    assert answer.epoch == 2
    assert answer.assignment is not None
    assert flat(driver.topics, answer.assignment) == {("a", p) for p in range(4)}
    assert driver.group.state is ConsumerState.STABLE


def test_nothing_new_is_not_told(driver: Driver) -> None:
    """A heartbeat of a member that has what it should is answered without an assignment, and changes no row."""
    driver.join("m", "a")
    driver.group.changed.clear()

    assert driver.heartbeat("m", 2).assignment is None
    assert not driver.group.changed


def test_revoked_before_assigned(driver: Driver) -> None:
    """A second member waits until the first has given up; the first keeps half, and is told at once."""
    driver.join("m", "a")
    second = driver.join("n", "a")
    assert second.assignment == {}
    assert driver.state_of("n") is MemberState.UNRELEASED_PARTITIONS

    told = driver.heartbeat("m", 2)
    assert told.assignment is not None
    assert told.epoch == 2
    assert driver.state_of("m") is MemberState.UNREVOKED_PARTITIONS
    assert driver.heartbeat("n", 3).assignment is None
    assert driver.heartbeat("m", 2, owned=told.assignment).epoch == 3
    given = driver.heartbeat("n", 3).assignment
    assert given is not None
    assert len(flat(driver.topics, given) | flat(driver.topics, told.assignment)) == 4


def test_not_revoked_in_time(driver: Driver) -> None:
    """A member that does not give up its partitions within its rebalance time-out is removed."""
    driver.join("m", "a")
    driver.join("n", "a")
    driver.heartbeat("m", 2)
    for _ in range(3):
        driver.advance(REBALANCE_MS / 3_000 - 1)
        driver.heartbeat("m", 2)
        driver.heartbeat("n", 3)
    driver.advance(4)

    assert driver.refusal("m", 2) is ErrorCode.unknown_member_id
    driver.heartbeat("n", 3)
    assert len(driver.owned("n")) == 4


def test_silent_for_too_long(driver: Driver) -> None:
    """A member that is silent for longer than the session time-out is removed; its partitions are free at once."""
    driver.join("m", "a")
    driver.advance(SESSION_MS / 1_000 + 1)
    assert driver.refusal("m", 2) is ErrorCode.unknown_member_id
    assert driver.group.state is ConsumerState.EMPTY
    assert len(flat(driver.topics, driver.join("n", "a").assignment or {})) == 4


@pytest.mark.parametrize(
    ("epoch", "owned", "code"),
    [
        (3, "none", ErrorCode.none),
        (4, "none", ErrorCode.fenced_member_epoch),
        (2, "kept", ErrorCode.none),  # the answer with the new epoch may be lost
        (2, "all", ErrorCode.fenced_member_epoch),
        (2, "none", ErrorCode.fenced_member_epoch),
        (1, "kept", ErrorCode.fenced_member_epoch),
        (0, "nothing", ErrorCode.none),
    ],
)
def test_epochs(driver: Driver, epoch: int, owned: str, code: ErrorCode) -> None:
    """An epoch that is not the member's fences it; the one before passes with no more than it should have."""
    everything = driver.join("m", "a").assignment
    driver.join("n", "a")
    kept = driver.heartbeat("m", 2).assignment
    driver.heartbeat("m", 2, owned=kept)
    says = {"none": None, "nothing": {}, "kept": kept, "all": everything}[owned]

    assert driver.refusal("m", epoch, owned=says, rebalance_timeout_ms=REBALANCE_MS) is code


def test_comes_again(driver: Driver) -> None:
    """A member that joins anew with its id is told all it has; the group does not change."""
    first = driver.join("m", "a")
    again = driver.join("m", "a")
    assert (again.epoch, again.assignment) == (first.epoch, first.assignment)


def test_full_group() -> None:
    """A group that is full refuses further members, and none of its own."""
    driver = Driver(FakeTopics(a=4), max_size=1)
    driver.join("m", "a")
    with pytest.raises(Refusal) as refused:
        driver.join("n", "a")
    assert refused.value.code is ErrorCode.group_max_size_reached
    assert driver.join("m", "a").epoch == 2


def test_too_much_text(driver: Driver) -> None:
    """A member whose texts are larger than a member may hold is refused, and leaves nothing behind."""
    used = driver.rules.allowance.used
    with pytest.raises(Refusal) as refused:
        driver.join("m", *(f"{n:0200}" for n in range(6_000)))
    assert refused.value.code is ErrorCode.group_max_size_reached
    assert driver.rules.allowance.used == used
    assert not driver.group.members


def test_memory_is_given_back(driver: Driver) -> None:
    """Members that leave hold no memory; neither does a group that is deleted."""
    before = driver.rules.allowance.used
    driver.join("m", "a")
    driver.join("n", regex="a|b")
    assert driver.rules.allowance.used > before
    driver.heartbeat("n", -1)
    driver.group.die()
    assert driver.rules.allowance.used == before
    assert len([entry for entry in driver.deadlines._heap if entry[2].entry is entry]) == 0


def test_assignment_interval() -> None:
    """Members that come within the assignment interval share one target, which needs no heartbeat to be made."""
    driver = Driver(FakeTopics(a=4), assignment_interval_ms=1_000)
    driver.join("m", "a")
    for name in "nop":
        assert driver.join(name, "a").assignment == {}
    assert driver.group.target_epoch == 2
    driver.advance(1)
    assert driver.group.target_epoch == driver.group.epoch == 5


def test_large_group() -> None:
    """A group's target that would take long is wanted of the caller; members that come meanwhile are in the next."""
    driver = Driver(FakeTopics(a=2_000))
    clients = [consumer(f"m{n}", "a") for n in range(4)]
    driver.settle(clients)
    assert sorted(len(driver.owned(client.member_id)) for client in clients) == [500] * 4


def test_waiting_members_come_back_sooner(driver: Driver) -> None:
    """A member that waits for partitions beats every second until it has them; the others at the usual interval."""
    assert driver.join("m", "a").interval_ms == INTERVAL_MS
    assert driver.join("n", "a").interval_ms == 1_000
    kept = driver.heartbeat("m", 2)
    assert kept.interval_ms == INTERVAL_MS
    driver.heartbeat("m", 2, owned=kept.assignment)
    assert driver.heartbeat("n", 3).interval_ms == INTERVAL_MS


# Subscriptions


def test_other_topics_are_given_up_at_once(driver: Driver) -> None:
    """A member that no longer wants a topic gives it up with the same heartbeat."""
    driver.join("m", "a", "b")
    told = driver.heartbeat("m", 2, names=frozenset({"b"})).assignment
    assert told is not None
    assert flat(driver.topics, told) == {("b", 0), ("b", 1)}


def test_topics_that_do_not_exist_yet(driver: Driver) -> None:
    """A subscribed topic that is created later is assigned."""
    driver.join("m", "later")
    assert driver.owned("m") == set()
    driver.topics.make("later", 2)
    driver.group.topics_changed(driver.now)
    driver.heartbeat("m", 2)
    assert driver.owned("m") == {("later", 0), ("later", 1)}


def test_a_topic_that_is_made_anew(driver: Driver) -> None:
    """A topic that is deleted and created is another one: partitions of the former are given up."""
    driver.join("m", "b")
    driver.topics.delete("b")
    driver.topics.make("b", 1)
    driver.group.topics_changed(driver.now)
    client = consumer("m", "b")
    client.epoch = 2
    driver.settle([client])
    assert driver.owned("m") == {("b", 0)}


def test_other_topics_do_not_matter(driver: Driver) -> None:
    """A topic that nobody wants changes nothing."""
    driver.join("m", "a")
    driver.topics.make("c", 5)
    driver.group.topics_changed(driver.now)
    assert driver.group.epoch == 2


def test_regular_expressions(driver: Driver) -> None:
    """A regular expression stands for the topics that it matches as a whole; it goes with its last member."""
    assert len(flat(driver.topics, driver.join("m", regex="[ab]").assignment or {})) == 6
    driver.join("n", regex="[ab]")
    driver.heartbeat("m", -1)
    assert "[ab]" in driver.group.subscriptions.resolved
    driver.heartbeat("n", -1)
    assert not driver.group.subscriptions.resolved


def test_unseen_topics(driver: Driver) -> None:
    """A regular expression stands only for topics that its member may see."""
    answer = driver.join("m", regex="[ab]", may_see=lambda name: name == "b")
    assert flat(driver.topics, answer.assignment or {}) == {("b", 0), ("b", 1)}
    assert driver.group.subscriptions.resolved == {"[ab]": {"b"}}


def test_resolved_later() -> None:
    """A regular expression over many topics is resolved by the caller; until then it matches nothing."""
    driver = Driver(FakeTopics(a=2), resolves=False)
    answer = driver.join("m", regex="a")
    assert answer.assignment == {}
    assert not driver.group.subscriptions.is_resolved
    driver.group.resolved({"a": frozenset({"a"})}, driver.now)
    assert driver.heartbeat("m", answer.epoch).assignment is not None


def test_broken_expression(driver: Driver) -> None:
    """A regular expression that is none refuses the member, which leaves nothing behind."""
    with pytest.raises(Refusal) as refused:
        driver.join("m", regex="a(")
    assert refused.value.code is ErrorCode.invalid_regular_expression
    assert driver.group.is_new


# Static members


def test_a_static_member_returns(driver: Driver) -> None:
    """A static member that said so may come back with another id: it has its partitions, and no other moves."""
    x, y = consumer("x1", "a", instance_id="x"), consumer("y", "a")
    driver.settle([x, y])
    had, epoch = driver.owned("x1"), driver.group.epoch
    driver.heartbeat("x1", -2, instance_id="x")

    answer = driver.join("x2", "a", instance_id="x")

    assert flat(driver.topics, answer.assignment or {}) == had
    assert driver.group.epoch == epoch
    assert driver.refusal("x1", epoch, instance_id="x") is ErrorCode.fenced_instance_id


def test_an_instance_in_use(driver: Driver) -> None:
    """An instance id whose member has not left is refused to others."""
    driver.join("x1", "a", instance_id="x")
    with pytest.raises(Refusal) as refused:
        driver.join("x2", "a", instance_id="x")
    assert refused.value.code is ErrorCode.unreleased_instance_id


def test_an_instance_that_stays_away(driver: Driver) -> None:
    """A static member that does not come back within its session is removed."""
    driver.join("x1", "a", instance_id="x")
    driver.heartbeat("x1", -2, instance_id="x")
    driver.advance(SESSION_MS / 1_000 + 1)
    assert driver.group.is_empty


def test_return_while_a_target_is_computed() -> None:
    """A static member that returns while a target is computed elsewhere gets its share: the target is made again."""
    driver = Driver(FakeTopics(a=2_000))
    x, y = consumer("x1", "a", instance_id="x"), consumer("y", "a")
    driver.settle([x, y])
    driver.heartbeat("x1", -2, instance_id="x")
    driver.topics.grow("a", 3_000)
    driver.group.topics_changed(driver.now)
    assert driver.group.wanted is not None
    returned = consumer("x2", "a", instance_id="x")
    driver.settle([returned, y])
    assert [len(driver.owned(name)) for name in ("x2", "y")] == [1_500, 1_500]
