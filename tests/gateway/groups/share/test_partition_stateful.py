"""Whatever members do with a share-partition, it agrees with a list of single records."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.groups.share.format import decode_partition, encode_partition
from gateway.groups.share.partition import Judgement, Limits, Run, SharePartition, Span, State, Verdict
from gateway.refusals import Refusal

pytestmark = pytest.mark.slow

LIMITS = Limits(lock_s=10.0, deliveries=3, in_flight=12, keeps_dead=True)
MEMBERS = ("a", "b", "c")
members = st.sampled_from(MEMBERS)


class Record:
    """One record as the model sees it."""

    def __init__(self) -> None:
        self.count = 0
        self.holder = ""
        self.until_s = math.inf
        self.dead: State | None = None
        self.settled = ""

    def give_back(self) -> None:
        self.holder, self.until_s = "", math.inf
        if self.count >= LIMITS.deliveries:
            self.dead = State.EXHAUSTED

    @property
    def state(self) -> State:
        if self.settled:
            return State.SETTLED
        return self.dead or (State.HELD if self.holder else State.AVAILABLE)


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.partition = SharePartition(5)
        self.records: dict[int, Record] = {}
        self.end = 5
        self.now_s = 0.0

    def open_records(self) -> list[Record]:
        return [record for record in self.records.values() if not record.settled]

    @rule(
        member=members,
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
        most=st.integers(1, 10),
        whole=st.booleans(),
    )
    def acquire(self, member: str, sizes: list[int], most: int, whole: bool) -> None:
        first = self.partition.next_offset(LIMITS)
        if first is None:
            assert len(self.open_records()) >= LIMITS.in_flight
            return
        spans, at = [], first
        for size in sizes:
            spans.append(Span(at, at + size - 1))
            at += size
        got = self.partition.acquire(member, first, spans, most, LIMITS, self.now_s, whole=whole)
        assert got, "the first offset that can be had was read, so something is given"
        given = sum(one.last - one.first + 1 for one in got)
        (reached,) = [span for span in spans if span.first <= got[-1].last <= span.last]
        before = sum(max(0, min(one.last, reached.first - 1) - one.first + 1) for one in got)
        assert before < most if whole else given <= most
        for one in got:
            for offset in range(one.first, one.last + 1):
                record = self.records.setdefault(offset, Record())
                assert not record.holder
                assert record.state is State.AVAILABLE
                record.count += 1
                assert record.count == one.deliveries <= LIMITS.deliveries
                record.holder, record.until_s = member, self.now_s + LIMITS.lock_s
                self.end = max(self.end, offset + 1)

    @rule(hole=st.integers(0, 8), size=st.integers(1, 5))
    def read_what_nobody_gets(self, hole: int, size: int) -> None:
        """A hole in the log, then a marker: they cover what is available, and what was never delivered."""
        at = self.partition.next_offset(LIMITS)
        if at is None:
            return
        last = at + hole + size - 1
        assert self.partition.acquire("a", at, [Span(at + hole, last, is_data=False)], 9, LIMITS, self.now_s) == []
        for offset in range(at, last + 1):
            record = self.records.setdefault(offset, Record())
            if record.state is State.AVAILABLE:
                record.settled = "gap"
        self.end = max(self.end, last + 1)

    @rule(data=st.data(), member=members)
    def acknowledge(self, data: st.DataObject, member: str) -> None:
        first = data.draw(st.integers(min(self.partition.start, self.end) - 1, self.end))
        last = data.draw(st.integers(first, first + 5))
        verdict = st.sampled_from(list(Verdict))
        size = last - first + 1
        verdicts = data.draw(
            st.one_of(st.lists(verdict, min_size=1, max_size=1), st.lists(verdict, min_size=size, max_size=size))
        )
        start = self.partition.start  # what is said of records below it is passed over
        wanted = {offset: self.records.get(offset) for offset in range(max(first, start), last + 1)}
        is_held = all(one is not None and one.holder == member and one.until_s > self.now_s for one in wanted.values())
        judgement = [Judgement(first, last, verdicts)]
        if not is_held:
            before = encode_partition(self.partition)
            with pytest.raises(Refusal):
                self.partition.acknowledge(member, judgement, LIMITS, self.now_s)
            assert encode_partition(self.partition) == before
            return
        self.partition.acknowledge(member, judgement, LIMITS, self.now_s)
        for offset, record in wanted.items():
            assert record is not None
            said = verdicts[offset - first if len(verdicts) > 1 else 0]
            if said is Verdict.RENEW:
                record.until_s = self.now_s + LIMITS.lock_s
            elif said is Verdict.RELEASE:
                record.give_back()
            elif said is Verdict.REJECT:
                record.holder, record.until_s, record.dead = "", math.inf, State.REJECTED
            else:
                record.holder, record.until_s, record.settled = "", math.inf, said.name

    @rule(member=members)
    def leave(self, member: str) -> None:
        self.partition.release(member, LIMITS)
        for record in self.records.values():
            if record.holder == member:
                record.give_back()

    @rule(member=members, most=st.integers(1, 4))
    def get_and_never_hear_of_it(self, member: str, most: int) -> None:
        """A member's session ends while records are read for it: what it was given is taken back, and no more."""
        first = self.partition.next_offset(LIMITS)
        if first is None:
            return
        got = self.partition.acquire(member, first, [Span(first, first + 3)], most, LIMITS, self.now_s)
        self.partition.take_back(member, got, LIMITS)
        for one in got:
            for offset in range(one.first, one.last + 1):
                record = self.records.setdefault(offset, Record())
                record.count += 1
                assert record.count == one.deliveries
                record.give_back()
                self.end = max(self.end, offset + 1)

    @rule(passed_s=st.floats(0.5, 12.0))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.partition.expire(LIMITS, self.now_s)
        for record in self.records.values():
            if record.until_s <= self.now_s:
                record.give_back()

    @rule(most=st.integers(1, 3))
    def bury(self, most: int) -> None:
        """The first dead records get their place in the dead-letter topic."""
        dead = self.partition.dead()
        waiting = [offset for offset, record in sorted(self.records.items()) if record.dead and not record.settled]
        assert (dead is None) == (not waiting)
        if dead is None:
            return
        last = min(dead.last, dead.first + most - 1)
        assert waiting[0] == dead.first
        self.partition.buried(dead.first, last)
        for offset in range(dead.first, last + 1):
            record = self.records[offset]
            assert (record.dead, record.count) == (dead.state, dead.deliveries)
            record.settled = "buried"

    @rule(more=st.integers(0, 6))
    def truncate(self, more: int) -> None:
        start = self.partition.start + more
        self.partition.move_start(start)
        for offset in range(5, start):
            self.records.setdefault(offset, Record()).settled = "gone"
            self.records[offset].holder, self.records[offset].until_s = "", math.inf
        self.end = max(self.end, start)

    @rule()
    def restart(self) -> None:
        """Nobody holds anything any more; deliveries that ended stay counted."""
        self.partition = decode_partition(encode_partition(self.partition))
        for record in self.records.values():
            record.count -= bool(record.holder)
            record.holder, record.until_s = "", math.inf

    @invariant()
    def agrees_with_the_model(self) -> None:
        seen: dict[int, Run] = {}
        for run in self.partition.runs:
            for offset in range(run.first, run.last + 1):
                seen[offset] = run
        assert self.partition.end == self.end
        assert sorted(seen) == list(range(self.partition.start, self.end))
        for offset, record in self.records.items():
            if offset not in seen:
                assert record.settled
                assert offset < self.partition.start
                continue
            run = seen[offset]
            assert (run.state, run.holder, run.until_s) == (record.state, record.holder, record.until_s)
            assert record.settled or run.count == record.count
        assert self.partition.next_expiry_s() == min((r.until_s for r in self.records.values()), default=math.inf)

    @invariant()
    def is_bounded(self) -> None:
        unsettled = self.partition.in_flight
        assert unsettled == len(self.open_records()) <= LIMITS.in_flight
        assert len(self.partition.runs) <= 2 * unsettled
        assert not self.partition.runs or self.partition.runs[0].state is not State.SETTLED

    def teardown(self) -> None:
        """Every record is settled in the end, if members only come back often enough."""
        for _ in range(LIMITS.deliveries * (LIMITS.in_flight + 1)):
            if not self.partition.runs:
                break
            if (dead := self.partition.dead()) is not None:
                self.partition.buried(dead.first, dead.last)
            first = self.partition.next_offset(LIMITS)
            if first is not None and first < self.end:
                self.partition.acquire("a", first, [Span(first, self.end - 1)], 100, LIMITS, self.now_s)
            self.now_s += LIMITS.lock_s
            self.partition.expire(LIMITS, self.now_s)
        assert not self.partition.runs
        assert self.partition.start == self.end


TestSharePartition = Model.TestCase
TestSharePartition.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
