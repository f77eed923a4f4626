"""What a heartbeat of a streams group does and answers: tables of Kafka's rules, one by one."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.streams.checks import check_heartbeat
from gateway.groups.streams.committing import check_commit, check_fetch
from gateway.groups.streams.messages import (
    NO_TASKS,
    Endpoint,
    EndpointParts,
    Heartbeat,
    HeartbeatAnswer,
    MemberState,
    StreamsState,
    Tasks,
    TopicPart,
)
from gateway.groups.streams.statuses import StatusCode
from gateway.refusals import Refusal
from tests.gateway.groups.consumer.harness import FakeTopics
from tests.gateway.groups.streams.harness import (
    COUNT,
    INTERVAL_MS,
    REBALANCE_MS,
    SESSION_MS,
    STATELESS,
    Client,
    Driver,
    repartition,
    subtopology,
    tasks,
    topology,
)


def statuses(answer: HeartbeatAnswer) -> set[StatusCode]:
    return {status.code for status in answer.statuses}


def stateless(partitions: int = 2, **values: int) -> Driver:
    return Driver(FakeTopics(**{"in": partitions}), STATELESS, **values)


# Topics


def test_internal_topics_come_first() -> None:
    """A member is told what is missing, and gets tasks when it is there."""
    driver = Driver(FakeTopics(**{"in": 2}))
    answer = driver.join("a")
    assert [topic.name for topic in answer.missing] == ["app-by-word", "app-count"]
    assert statuses(answer) == {StatusCode.MISSING_INTERNAL_TOPICS}
    assert answer.tasks == NO_TASKS
    assert answer.interval_ms == 1_000, "it comes back soon"
    assert str(driver.group.state) == "NotReady"
    for name in ("app-by-word", "app-count"):
        driver.topics.make(name, 2)
    driver.group.topics_changed()
    answer = driver.heartbeat("a", answer.epoch)
    assert answer.tasks == Tasks(tasks("0_0", "0_1", "1_0", "1_1"))
    assert (answer.statuses, answer.missing, answer.interval_ms) == ((), (), INTERVAL_MS)
    assert str(driver.group.state) == "Stable"


def test_tasks_end_with_their_topic() -> None:
    """When a source is deleted, its tasks are given up; when it comes again, they come again."""
    driver, client = stateless(), Client("a")
    driver.settle(client)
    assert client.owned.active == tasks("0_0", "0_1")
    driver.topics.delete("in")
    driver.group.topics_changed()
    assert statuses(driver.beat(client)) == {StatusCode.MISSING_SOURCE_TOPICS}
    driver.settle(client)
    assert (client.owned, driver.group.state) == (NO_TASKS, StreamsState.NOT_READY)
    driver.topics.make("in", 3)
    driver.group.topics_changed()
    driver.settle(client)
    assert client.owned.active == tasks("0_0", "0_1", "0_2")


def test_topics_that_do_not_fit_are_named() -> None:
    joined = topology(subtopology("0", "a", "b", together=(frozenset({"a", "b"}),)))
    answer = Driver(FakeTopics(a=1, b=2), joined).join("m")
    assert statuses(answer) == {StatusCode.INCORRECTLY_PARTITIONED_TOPICS}
    assert answer.missing == ()


# Topologies


def test_one_topology_for_all() -> None:
    """The first member brings it; another one is refused, an older one is told that it is stale."""
    driver = Driver(FakeTopics(**{"in": 1}), topology(subtopology("0", "in"), epoch=1))
    driver.join("a")
    other = topology(subtopology("0", "in", "in2"), epoch=1)
    with pytest.raises(Refusal, match=r"Topology updates are not supported yet\."):
        driver.join("b", topology=other)
    assert list(driver.group.members) == ["a"]
    answer = driver.join("c", topology=topology(subtopology("0", "in2")))
    assert StatusCode.STALE_TOPOLOGY in statuses(answer)
    assert StatusCode.STALE_TOPOLOGY in statuses(driver.heartbeat("c", answer.epoch))


def test_a_topology_that_cannot_be_makes_no_member() -> None:
    driver = Driver(FakeTopics(**{"in": 1}), topology(subtopology("0", reads=(repartition("r"),), writes=("r",))))
    with pytest.raises(Refusal) as refused:
        driver.join("a")
    assert refused.value.code is ErrorCode.streams_invalid_topology
    assert driver.group.is_new


# Members and epochs


def test_scaling_out_gives_up_before_it_gets() -> None:
    """The newcomer waits until the other has given up what it is to get."""
    driver, first, second = stateless(2), Client("a"), Client("b")
    driver.settle(first)
    driver.beat(second)
    assert second.owned == NO_TASKS
    assert driver.group.members["b"].current.state is MemberState.UNRELEASED_TASKS
    driver.beat(first)  # it is told to give up
    assert len(first.owned.active) == 1
    driver.beat(second)
    assert second.owned == NO_TASKS, "the other has not said yet that it gave up"
    driver.beat(first)
    driver.beat(second)
    assert len(second.owned.active) == 1
    assert first.owned.active | second.owned.active == tasks("0_0", "0_1")


def test_scaling_in_gives_all_to_who_stays() -> None:
    driver, first, second = stateless(4), Client("a"), Client("b")
    driver.settle(first, second)
    driver.heartbeat("b", -1)
    driver.settle(first)
    assert first.owned.active == tasks("0_0", "0_1", "0_2", "0_3")


def test_silent_members_are_removed() -> None:
    """After the session's time-out its tasks belong to others."""
    driver, first, second = stateless(2), Client("a"), Client("b")
    driver.settle(first, second)
    driver.advance(SESSION_MS / 1_000 / 2)
    driver.beat(first)
    driver.advance(SESSION_MS / 1_000 / 2)
    assert list(driver.group.members) == ["a"]
    assert driver.refusal("b", second.epoch) is ErrorCode.unknown_member_id


def test_who_gives_nothing_up_is_fenced() -> None:
    """After its own time-out for rebalances, although it is alive."""
    driver, first, second = stateless(2), Client("a"), Client("b")
    driver.settle(first)
    driver.beat(second)
    driver.beat(first)
    for _ in range(13):
        if driver.refusal("a", first.epoch, owned=Tasks(tasks("0_0", "0_1"))):
            break
        driver.beat(second)
        driver.advance(REBALANCE_MS / 1_000 / 12)
    else:
        pytest.fail("the member that kept its tasks is still there")
    driver.settle(second)
    assert second.owned.active == tasks("0_0", "0_1")


def test_epochs_of_members_are_checked() -> None:
    """The present one, or the one before from whoever may have missed the answer."""
    driver, first, second = stateless(2), Client("a"), Client("b")
    driver.settle(first)
    before = first.epoch
    driver.settle(first, second)
    assert before < first.epoch
    assert driver.refusal("a", first.epoch + 1) is ErrorCode.fenced_member_epoch
    assert driver.refusal("a", first.epoch - 1) is ErrorCode.fenced_member_epoch, "it does not say what it has"
    previous = driver.group.members["a"].current.previous_epoch
    assert driver.refusal("a", previous, owned=first.owned) is ErrorCode.none
    assert driver.refusal("a", previous, owned=Tasks(tasks("0_0", "0_1"))) is ErrorCode.fenced_member_epoch
    assert driver.refusal("x", 3) is ErrorCode.unknown_member_id
    assert driver.refusal("x", -1) is ErrorCode.unknown_member_id


def test_a_lost_answer_is_given_again() -> None:
    """Whoever comes with the epoch before is told its tasks."""
    driver = stateless()
    driver.join("a")
    driver.join("b")
    joined = driver.group.members["b"].epoch
    driver.heartbeat("a", driver.group.members["a"].epoch)
    driver.heartbeat("a", driver.group.members["a"].epoch, owned=Tasks(tasks("0_0")))
    lost = driver.heartbeat("b", joined)
    again = driver.heartbeat("b", joined, owned=NO_TASKS, rebalance_timeout_ms=REBALANCE_MS)
    assert lost.tasks is not None
    assert again.tasks == lost.tasks
    assert driver.heartbeat("b", again.epoch).tasks is None, "it has been told"


def test_unknown_tasks_are_refused() -> None:
    driver = stateless()
    epoch = driver.join("a").epoch
    with pytest.raises(Refusal, match=r"Subtopology 7 does not exist in the topology\."):
        driver.heartbeat("a", epoch, owned=Tasks(tasks("7_0")))
    with pytest.raises(Refusal, match=r"Task 2 for subtopology 0 is invalid\. Number of tasks for this subtopology: 2"):
        driver.heartbeat("a", epoch, owned=Tasks(tasks("0_2")))


def test_a_full_group_takes_nobody() -> None:
    driver = stateless(max_size=1)
    driver.join("a")
    assert driver.refusal("b", 0, topology=STATELESS, owned=NO_TASKS) is ErrorCode.group_max_size_reached
    assert driver.join("a").epoch > 0, "whoever is in it may join again"


# When targets are made


def test_the_first_target_waits_for_others() -> None:
    """The members of a new group come one by one; each gets its share at once when the delay is over."""
    driver, first, second = stateless(2, initial_delay_ms=3_000), Client("a"), Client("b")
    answer = driver.beat(first)
    assert (first.owned, first.epoch, statuses(answer)) == (NO_TASKS, 1, {StatusCode.ASSIGNMENT_DELAYED})
    assert "initial rebalance delay" in answer.statuses[0].detail
    driver.advance(2.9)
    driver.beat(second)
    driver.advance(0.1)
    driver.beat(first)
    driver.beat(second)
    assert {len(first.owned.active), len(second.owned.active)} == {1}


def test_targets_do_not_follow_each_other_too_soon() -> None:
    driver = stateless(2, assignment_interval_ms=1_000)
    driver.join("a")
    answer = driver.join("b")
    assert statuses(answer) == {StatusCode.ASSIGNMENT_DELAYED}
    assert "assignment interval" in answer.statuses[0].detail
    assert driver.group.state is StreamsState.ASSIGNING
    driver.advance(1.0)
    assert driver.group.epoch == driver.group.target_epoch


def test_large_targets_are_computed_elsewhere() -> None:
    """Members go on meanwhile."""
    driver = stateless(2_000)
    answer = driver.group.heartbeat(
        Heartbeat(member_id="a", epoch=0, rebalance_timeout_ms=1, topology=STATELESS, owned=NO_TASKS, process_id="a"),
        driver.now,
    )
    assert driver.group.wanted is not None
    assert (answer.tasks, answer.statuses, answer.interval_ms) == (NO_TASKS, (), 1_000)
    driver.compute()
    told = driver.heartbeat("a", answer.epoch).tasks
    assert told is not None
    assert len(told.active) == 2_000


def test_standbys_follow_the_groups_config() -> None:
    """A change takes effect with the next heartbeat."""
    topics = FakeTopics(**{"in": 2, "app-by-word": 2, "app-count": 2})
    driver, first, second = Driver(topics), Client("a", "p"), Client("b", "q")
    driver.settle(first, second)
    assert first.owned.standby | second.owned.standby == frozenset()
    driver.settings = driver.settings._replace(standbys=1)
    driver.settle(first, second)
    assert first.owned.standby | second.owned.standby == tasks("1_0", "1_1")
    assert first.owned.standby == {task for task in second.owned.active if task.subtopology == "1"}


# Shutting down, endpoints


def test_one_member_may_end_the_application() -> None:
    """All members are told, until the group is empty."""
    driver = stateless()
    driver.join("a")
    epoch = driver.join("b").epoch
    driver.heartbeat("a", -1, shuts_down=True)
    answer = driver.heartbeat("b", epoch)
    assert StatusCode.SHUTDOWN_APPLICATION in statuses(answer)
    assert "Streams group member a encountered a fatal error" in answer.statuses[-1].detail
    driver.heartbeat("b", -1)
    assert StatusCode.SHUTDOWN_APPLICATION not in statuses(driver.join("c"))


def test_who_processes_what_is_told_when_it_changes() -> None:
    """Partitions by endpoint, once for each state of the world."""
    topics = FakeTopics(**{"in": 2, "app-by-word": 2, "app-count": 2})
    driver = Driver(topics)
    answer = driver.join("a", endpoint=Endpoint("h", 80))
    both = (0, 1)
    parts = (TopicPart("app-by-word", both), TopicPart("in", both))
    assert answer.endpoints is not None
    assert answer.endpoints.parts() == (EndpointParts(Endpoint("h", 80), parts, ()),)
    seen = answer.endpoint_epoch
    assert driver.heartbeat("a", answer.epoch, endpoint_epoch=seen).endpoints is None
    joined = driver.join("b", endpoint_epoch=seen)
    assert joined.endpoints is None, "it has no endpoint, and nothing moved yet"
    driver.heartbeat("a", driver.group.members["a"].epoch, endpoint_epoch=seen)
    assert driver.heartbeat("b", joined.epoch, endpoint_epoch=seen).endpoints is not None


def test_only_partitions_that_a_topic_has_are_told() -> None:
    """A small topic beside a large one has no partition for every task."""
    driver = Driver(FakeTopics(small=1, large=3), topology(subtopology("0", "large", "small")))
    told = driver.join("a", endpoint=Endpoint("h", 80)).endpoints
    assert told is not None
    assert told.parts()[0].active == (TopicPart("large", (0, 1, 2)), TopicPart("small", (0,)))


# Requests that make no sense

JOIN = {"epoch": 0, "rebalance_timeout_ms": 1, "topology": COUNT, "owned": NO_TASKS}
CHANGELOG = topology(subtopology("0", "in"))
NONSENSE = [
    ({**JOIN, "member_id": " "}, "MemberId can't be empty."),
    ({**JOIN, "rack_id": ""}, "RackId can't be empty."),
    ({**JOIN, "rebalance_timeout_ms": -1}, "RebalanceTimeoutMs must be provided in first request."),
    ({**JOIN, "owned": None}, "ActiveTasks must be empty when (re-)joining."),
    ({**JOIN, "owned": Tasks(tasks("0_0"))}, "ActiveTasks must be empty when (re-)joining."),
    ({**JOIN, "owned": Tasks(standby=tasks("0_0"))}, "StandbyTasks must be empty when (re-)joining."),
    ({**JOIN, "topology": None}, "Topology must be non-null when (re-)joining."),
    ({**JOIN, "epoch": 3}, "Topology can only be provided when (re-)joining."),
    ({"epoch": -2}, "MemberEpoch is -2, but must be greater than or equal to -1."),
    (
        {**JOIN, "topology": topology(subtopology("0", "in"), subtopology("0", "in"))},
        "A subtopology id occurs more than once.",
    ),
    (
        {**JOIN, "topology": topology(subtopology("0", "in", reads=(repartition("r", -1),)))},
        "Repartition topic r has -1 partitions.",
    ),
]


@pytest.mark.parametrize(("said", "why"), NONSENSE, ids=[why for _, why in NONSENSE])
def test_nonsense_is_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_heartbeat(Heartbeat(**{"member_id": "m", **said}))  # type: ignore[arg-type]
    assert str(refused.value) == why


# Committed offsets


def test_commits_are_for_tasks_that_a_member_has() -> None:
    """With its own epoch for anything; with an older one for what it had then; never with a later one."""
    topics = FakeTopics(**{"in": 2, "app-by-word": 2, "app-count": 2})
    driver, first, second = Driver(topics), Client("a"), Client("b")
    driver.settle(first)
    before = first.epoch
    driver.settle(first, second)
    group = driver.group
    kept = next(task for task in first.owned.active if task.subtopology == "0")
    gone = next(task for task in second.owned.active if task.subtopology == "0")
    assert before < first.epoch

    def commit(member: str, epoch: int, topic: str | None, partition: int, **values: bool) -> ErrorCode:
        return check_commit(group, member, None, epoch, [(topic, partition)], **values)

    assert commit("a", first.epoch, "in", gone.partition) is ErrorCode.none
    assert commit("a", before, "in", kept.partition) is ErrorCode.none
    assert commit("a", before, "in", gone.partition) is ErrorCode.stale_member_epoch
    assert commit("a", before, "unread", 0) is ErrorCode.stale_member_epoch
    assert commit("a", before, None, 0) is ErrorCode.stale_member_epoch
    assert commit("a", first.epoch + 1, "in", kept.partition) is ErrorCode.stale_member_epoch
    assert commit("b", before, "in", gone.partition) is ErrorCode.stale_member_epoch, "it had it not yet"
    assert commit("x", first.epoch, "in", 0) is ErrorCode.unknown_member_id
    assert commit("a", first.epoch, "in", 0, modern=False) is ErrorCode.unsupported_version
    assert commit("", -1, "in", 0, transactional=True) is ErrorCode.none
    assert commit("", -1, "in", 0) is ErrorCode.unknown_member_id


def test_administrators_commit_to_an_empty_group() -> None:
    driver = stateless()
    driver.join("a")
    driver.heartbeat("a", -1)
    assert check_commit(driver.group, "", None, -1, [("in", 0)]) is ErrorCode.none


def test_offsets_are_fetched_with_the_members_epoch() -> None:
    driver = stateless()
    epoch = driver.join("a").epoch
    assert check_fetch(driver.group, None, -1) is ErrorCode.none
    assert check_fetch(driver.group, "a", epoch) is ErrorCode.none
    assert check_fetch(driver.group, "a", epoch + 1) is ErrorCode.stale_member_epoch
    assert check_fetch(driver.group, "x", epoch) is ErrorCode.unknown_member_id


# Bounds


def test_memory_of_members_and_topologies_is_bounded() -> None:
    """A topology beyond a member's bound is refused; what a group holds is given back when it ends."""
    driver = stateless()
    huge = topology(subtopology("0", *(f"t{number}" for number in range(10_000))))
    assert (
        driver.refusal("a", 0, topology=huge, owned=NO_TASKS, rebalance_timeout_ms=1)
        is ErrorCode.group_max_size_reached
    )
    assert driver.rules.allowance.used == 0
    driver.join("a")
    assert driver.rules.allowance.used > 0
    driver.group.die()
    assert driver.rules.allowance.used == 0
    assert driver.deadlines.pop_due(1e9) is None
