"""Whatever members do, records of one key are with one member at a time, and come in order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.groups.share.format import decode_partition, encode_partition
from gateway.groups.share.key_order import KeyOrder
from gateway.groups.share.partition import DEAD, Acquired, Judgement, Limits, SharePartition, Span, State, Verdict

LIMITS = Limits(lock_s=10.0, deliveries=3, in_flight=8, keeps_dead=True)
LOG_SIZE = 30
members = st.sampled_from(("a", "b", "c"))


class Reader:
    """A log whose records have keys, and members that read it."""

    def __init__(self, keys: list[int | None]) -> None:
        self.keys = keys
        self.partition = SharePartition(0)
        self.order = KeyOrder()

    def read(self, member: str, size: int, most: int, now_s: float) -> list[Acquired]:
        """One read of `size` records, as a delivery does it."""
        at = self.order.next_offset(self.partition, member, LIMITS)
        if at is None or at >= len(self.keys):
            return []
        last = min(at + size, len(self.keys)) - 1
        begin = max(at - 2, 0)  # a batch may begin before what is wanted of it
        keys = {offset: self.keys[offset] for offset in range(begin, last + 1)}
        spans = self.order.sift(self.partition, member, at, [Span(begin, last)], keys)
        got = self.partition.acquire(member, at, spans, most, LIMITS, now_s)
        self.order.forget_settled(self.partition)
        return got

    def states(self) -> dict[int, tuple[State, str]]:
        return {
            offset: (run.state, run.holder) for run in self.partition.runs for offset in range(run.first, run.last + 1)
        }


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.reader = Reader([])

    @initialize(keys=st.lists(st.sampled_from((None, 1, 2, 3)), min_size=LOG_SIZE, max_size=LOG_SIZE))
    def write(self, keys: list[int | None]) -> None:
        self.reader = Reader(keys)

    @rule(member=members, size=st.integers(1, 12), most=st.integers(1, 6))
    def read(self, member: str, size: int, most: int) -> None:
        got = self.reader.read(member, size, most, self.now_s)
        states, start, end = self.reader.states(), self.reader.partition.start, self.reader.partition.end
        for one in got:
            for offset in range(one.first, one.last + 1):
                key = self.reader.keys[offset]
                assert states[offset] == (State.HELD, member)
                if key is None:
                    continue
                for other in range(start, end):
                    state, holder = states[other]
                    if self.reader.keys[other] == key:
                        assert holder in ("", member), f"{other} and {offset} have the same key"
                        assert other > offset or state is not State.AVAILABLE, f"{other} was passed over by {offset}"

    @rule(member=members, verdict=st.sampled_from((Verdict.ACCEPT, Verdict.RELEASE, Verdict.REJECT)), data=st.data())
    def acknowledge(self, member: str, verdict: Verdict, data: st.DataObject) -> None:
        held = [offset for offset, (_, holder) in self.reader.states().items() if holder == member]
        if held:
            offset = data.draw(st.sampled_from(held))
            self.reader.partition.acknowledge(member, [Judgement(offset, offset, [verdict])], LIMITS, self.now_s)

    @rule(member=members)
    def leave(self, member: str) -> None:
        self.reader.partition.release(member, LIMITS)

    @rule()
    def wait(self) -> None:
        self.now_s += 4.0
        self.reader.partition.expire(LIMITS, self.now_s)

    @rule()
    def bury(self) -> None:
        dead = self.reader.partition.dead()
        if dead is not None:
            self.reader.partition.buried(dead.first, dead.last)

    @rule()
    def restart(self) -> None:
        """Keys are not stored: they are read again."""
        self.reader.partition = decode_partition(encode_partition(self.reader.partition))
        self.reader.order = KeyOrder()

    @invariant()
    def is_bounded(self) -> None:
        assert self.reader.partition.in_flight <= LIMITS.in_flight

    def teardown(self) -> None:
        """A member that is alone gets every record in the end."""
        self.now_s += LIMITS.lock_s
        for _ in range(4 * LOG_SIZE):
            self.reader.partition.expire(LIMITS, self.now_s)
            for one in self.reader.read("z", LOG_SIZE, LOG_SIZE, self.now_s):
                judged = [Judgement(one.first, one.last, [Verdict.ACCEPT])]
                self.reader.partition.acknowledge("z", judged, LIMITS, self.now_s)
            if (dead := self.reader.partition.dead()) is not None:
                self.reader.partition.buried(dead.first, dead.last)
        assert self.reader.partition.start == len(self.reader.keys)
        assert not self.reader.partition.runs


TestKeyOrder = Model.TestCase
TestKeyOrder.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_who_waits_for_whom() -> None:
    """The second member passes over the keys that the first one has, and gets the others."""
    reader = Reader([1, 2, 1, None, 2, 3])
    assert reader.read("a", 6, 1, 0.0) == [Acquired(0, 0, 1)]
    assert reader.read("b", 6, 10, 0.0) == [Acquired(1, 1, 1), Acquired(3, 5, 1)]
    assert reader.read("c", 6, 10, 0.0) == []

    reader.partition.acknowledge("a", [Judgement(0, 0, [Verdict.ACCEPT])], LIMITS, 1.0)

    assert reader.read("c", 6, 10, 1.0) == [Acquired(2, 2, 1)]


def test_a_group_that_becomes_ordered() -> None:
    """What was given away before the group was ordered has to be settled first: nobody knows its keys."""
    reader = Reader([1, 2, 1])
    reader.partition.acquire("a", 0, [Span(0, 0)], 1, LIMITS, 0.0)
    assert reader.read("b", 3, 10, 0.0) == []

    reader.partition.release("a", LIMITS)

    assert reader.read("b", 3, 10, 0.0) == [Acquired(0, 0, 2), Acquired(1, 2, 1)]


@pytest.mark.parametrize("state", sorted(DEAD))
def test_the_dead_hold_up_nobody(state: State) -> None:
    """A record on its way to the dead-letter topic does not hold up the next one of its key."""
    reader = Reader([1, 1])
    reader.read("a", 1, 1, 0.0)
    rejects = state is State.REJECTED
    for _ in range(1 if rejects else LIMITS.deliveries):
        how = Verdict.REJECT if rejects else Verdict.RELEASE
        reader.partition.acknowledge("a", [Judgement(0, 0, [how])], LIMITS, 0.0)
        if not rejects and reader.partition.dead() is None:
            reader.read("a", 1, 1, 0.0)
    assert reader.partition.dead() is not None

    assert reader.read("b", 2, 10, 0.0) == [Acquired(1, 1, 1)]
