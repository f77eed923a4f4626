"""One step of a member of a streams group: what it says of the member's own tasks is what its record says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.groups.streams.checks import check_owned
from gateway.groups.streams.group import own_tasks
from gateway.groups.streams.held import Held
from gateway.groups.streams.messages import CurrentRecord, Holdings, MemberState, Task, Tasks, extents_of
from gateway.groups.streams.reconciliation import Role, next_step
from gateway.refusals import Refusal

TASKS = st.sampled_from([Task(name, number) for name in "ab" for number in range(3)])
SETS = st.frozensets(TASKS)


@st.composite
def currents(draw: st.DrawFn) -> CurrentRecord:
    """A member on its way: no task is both assigned in a role and given up in it."""
    active, standby = draw(SETS), draw(SETS)
    revoking = Holdings()
    if is_giving_up := draw(st.booleans()):
        revoking = Holdings(Held({1: draw(SETS) - active}), draw(SETS) - standby)
    assigned = Holdings(Held.of([(task, draw(st.integers(1, 3))) for task in sorted(active)]), standby)
    states = [MemberState.STABLE, MemberState.UNRELEASED_TASKS]
    state = MemberState.UNREVOKED_TASKS if is_giving_up else draw(st.sampled_from(states))
    return CurrentRecord(epoch=3, previous_epoch=2, state=state, assigned=assigned, revoking=revoking)


@given(currents(), st.builds(Tasks, SETS, SETS), st.none() | st.builds(Tasks, SETS, SETS), SETS)
def test_gains_and_releases(
    current: CurrentRecord, target: Tasks, owned: Tasks | None, others: frozenset[Task]
) -> None:
    """Who has what follows from them alone, without a look at all that the member had and has."""

    def taken(role: Role, tasks: frozenset[Task]) -> frozenset[Task]:
        return tasks & others

    step = next_step(current, 4, target, owned, taken)
    before, after = own_tasks(current), own_tasks(step.current)
    for had, has, gained, released in zip(before, after, step.gained, step.released, strict=True):
        assert released <= had
        assert gained.isdisjoint(had - released)
        assert (had - released) | gained == has


@given(currents(), st.builds(Tasks, SETS, SETS))
def test_a_task_keeps_its_epoch(current: CurrentRecord, target: Tasks) -> None:
    """What a member keeps, or must give up, it has since it got it; what it gets, since the target's epoch."""
    step = next_step(current, 4, target, None, lambda role, tasks: frozenset())
    for holdings in (step.current.assigned, step.current.revoking):
        for task, epoch in holdings.active.pairs():
            known = (current.assigned.active.epoch_of(task), current.revoking.active.epoch_of(task))
            assert epoch == next((one for one in known if one is not None), 4)


@given(SETS, SETS)
def test_extents(active: frozenset[Task], standby: frozenset[Task]) -> None:
    found = extents_of(Tasks(active, standby))
    numbers = {name: [n for other, n in (*active, *standby) if other == name] for name in "ab"}

    assert found == {name: (min(some), max(some)) for name, some in numbers.items() if some}


@pytest.mark.parametrize("wrong", [Task("b", 0), Task("a", 3), Task("a", -1)])
def test_a_task_that_the_topology_lacks(wrong: Task) -> None:
    right = [Task("a", number) for number in range(3)]
    check_owned(extents_of(Tasks(frozenset(right))), {"a": 3})
    with pytest.raises(Refusal):
        check_owned(extents_of(Tasks(frozenset(right), frozenset({wrong}))), {"a": 3})
