"""The lazy heap of deadlines against the plainest thing that could work."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from gateway.groups.deadlines import DEAD_ENTRIES_MIN, Deadline, Deadlines

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 4), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("pass"), st.just(0), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_fires_what_is_due_and_nothing_else(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is set, moved and cancelled, exactly the passed deadlines come up, once."""
    deadlines: Deadlines[int] = Deadlines()
    held = [Deadline(owner) for owner in range(5)]
    model: dict[int, float] = {}
    now = 0.0
    for what, which, amount in steps:
        match what:
            case "set":
                deadlines.set(held[which], now + amount)
                model[which] = now + amount
            case "cancel":
                deadlines.cancel(held[which])
                model.pop(which, None)
            case _:
                now += amount
        fired = set()
        while (deadline := deadlines.pop_due(now)) is not None:
            fired.add(deadline.owner)
        due = {owner for owner, at_s in model.items() if at_s <= now}
        assert fired == due
        for owner in due:
            del model[owner]
        next_s = deadlines.next_s()
        assert not model or (next_s is not None and next_s <= min(model.values()))


def test_heartbeats_do_not_grow_the_heap() -> None:
    """Moving a deadline back, as each heartbeat does, leaves one entry."""
    deadlines: Deadlines[int] = Deadlines()
    deadline = Deadline(1)
    for second in range(1_000):
        deadlines.set(deadline, second + 10)

    assert len(deadlines) == 1


def test_cancelled_deadlines_do_not_pile_up() -> None:
    """Members that come and go leave a bounded number of dead entries."""
    deadlines: Deadlines[int] = Deadlines()
    for second in range(10 * DEAD_ENTRIES_MIN):
        deadline = Deadline(second)
        deadlines.set(deadline, second + 1_800)
        deadlines.cancel(deadline)

    assert len(deadlines) <= DEAD_ENTRIES_MIN + 1
