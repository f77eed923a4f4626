"""Which member gets which task: even shares, few moves, standbys elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.groups.streams.assignor import GroupSpec, MemberSpec, assign
from gateway.groups.streams.messages import NO_TASKS, Task, Tasks
from tests.gateway.groups.streams.harness import tasks

pytestmark = pytest.mark.slow


def spec(
    members: Mapping[str, tuple[str, Tasks]], counts: Mapping[str, int], standbys: int = 0, stateful: str = "s"
) -> GroupSpec:
    """Members with their processes and former tasks; subtopologies whose names begin with `stateful` keep state."""
    some = tuple(MemberSpec(name, process, had) for name, (process, had) in members.items())
    return GroupSpec(some, counts, frozenset(name for name in counts if name.startswith(stateful)), standbys)


def again(before: Mapping[str, Tasks], *members: str) -> dict[str, tuple[str, Tasks]]:
    """Members, each a process of its own, with what they had."""
    return {name: (name, before.get(name, NO_TASKS)) for name in members}


def test_nobody_gets_nothing() -> None:
    assert assign(spec({}, {"s": 4})) == {}


def test_shares_are_even() -> None:
    """Members differ by one task at most."""
    made = assign(spec(again({}, "a", "b", "c"), {"s": 7}))
    assert sorted(len(one.active) for one in made.values()) == [2, 2, 3]


def test_tasks_with_state_are_shared_out_first() -> None:
    """Whoever is alone has all; with a second member each has its share of those with state, and of the others."""
    before = assign(spec(again({}, "a"), {"s": 4, "x": 4}))
    after = assign(spec(again(before, "a", "b"), {"s": 4, "x": 4}))
    assert {sum(task.subtopology == "s" for task in one.active) for one in after.values()} == {2}
    assert {len(one.active) for one in after.values()} == {4}


def test_who_stays_keeps_its_tasks() -> None:
    """A newcomer gets its share, and nothing moves between the others."""
    before = assign(spec(again({}, "a", "b"), {"s": 8}))
    after = assign(spec(again(before, "a", "b", "c", "d"), {"s": 8}))
    for name in "ab":
        assert after[name].active < before[name].active
    assert {len(one.active) for one in after.values()} == {2}
    last = assign(spec(again(after, "a", "b", "c"), {"s": 8}))
    assert all(after[name].active <= last[name].active for name in "abc")


def test_a_standby_takes_over() -> None:
    """Whoever has a copy of the state gets the task of a member that is gone."""
    members = {"a": ("a", Tasks(tasks("s_0", "s_1"))), "b": ("b", Tasks(tasks("s_2"), tasks("s_0")))}
    before = {**members, "c": ("c", Tasks(tasks("s_3"), tasks("s_1")))}
    del before["a"]
    after = assign(spec(before, {"s": 4}, standbys=1))
    assert after["b"].active == tasks("s_2", "s_0")
    assert after["c"].active == tasks("s_3", "s_1")


def test_standbys_are_on_other_processes() -> None:
    """Two members of one process are no safety for each other; stateless tasks need none."""
    members = {"a": ("p", NO_TASKS), "b": ("p", NO_TASKS), "c": ("q", NO_TASKS)}
    made = assign(spec(members, {"s": 6, "x": 3}, standbys=2))
    of_p, of_q = made["a"].active | made["b"].active, made["c"].active
    assert made["a"].standby | made["b"].standby == {task for task in of_q if task.subtopology == "s"}
    assert made["c"].standby == {task for task in of_p if task.subtopology == "s"}


HAD = st.frozensets(st.builds(Task, st.sampled_from(["s", "s2", "x"]), st.integers(0, 9)), max_size=8)
MEMBERS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.sampled_from("pqrst"), st.builds(Tasks, HAD, HAD)), min_size=1
)


@settings(max_examples=300, deadline=None)
@given(
    members=MEMBERS,
    counts=st.dictionaries(st.sampled_from(["s", "s2", "x"]), st.integers(1, 9)),
    standbys=st.integers(0, 3),
)
def test_whatever_members_had(members: dict[str, tuple[str, Tasks]], counts: dict[str, int], standbys: int) -> None:
    """Every task is active once, has its standbys on processes of their own, and a second look changes nothing."""
    made = assign(spec(members, counts, standbys))
    every = {Task(name, number) for name, count in counts.items() for number in range(count)}
    active = [task for one in made.values() for task in one.active]
    assert sorted(active) == sorted(every)
    processes = {process for process, _ in members.values()}
    places = [(members[name][0], task) for name, one in made.items() for task in (*one.active, *one.standby)]
    assert len(places) == len(set(places)), "no process has a task twice"
    for task in every:
        copies = sum(task in one.standby for one in made.values())
        assert copies == (min(standbys, len(processes) - 1) if task.subtopology.startswith("s") else 0)
    assert assign(spec(dict(reversed(members.items())), counts, standbys)) == made


@settings(max_examples=300, deadline=None)
@given(members=st.dictionaries(st.sampled_from("abcdefgh"), HAD, min_size=1), count=st.integers(1, 30))
def test_shares_stay_even(members: dict[str, frozenset[Task]], count: int) -> None:
    """Whatever members had, they differ by one task at most; and then nothing moves any more."""
    made = assign(spec({name: (name, Tasks(had)) for name, had in members.items()}, {"s": count}))
    shares = [len(one.active) for one in made.values()]
    assert max(shares) - min(shares) <= 1
    assert assign(spec(again(made, *members), {"s": count})) == made


def test_targets_share_their_tasks() -> None:
    """Sets of very many tasks are compared, which is fast where equal tasks are one object."""
    before = assign(GroupSpec((MemberSpec("a", "a", NO_TASKS),), {"0": 4}, frozenset(), 0))
    members = (MemberSpec("a", "a", before["a"]), MemberSpec("b", "b", NO_TASKS))
    after = assign(GroupSpec(members, {"0": 5}, frozenset(), 0))

    known = {id(task) for task in before["a"].active}
    told = [task for target in after.values() for task in target.active]
    assert [task for task in told if id(task) not in known] == [Task("0", 4)]
