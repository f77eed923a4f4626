"""Random histories of one group: whatever clients, clocks and storage do, its promises hold."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.classic import rules
from gateway.groups.classic.messages import JoinResult, LeavingMember, Protocol, SyncResult
from gateway.groups.classic.states import GroupState
from tests.gateway.groups.harness import REBALANCE_MS, SESSION_MS, GroupDriver, subscription

pytestmark = pytest.mark.slow

PROTOCOLS = st.sampled_from(
    [
        (Protocol("range", subscription("t")),),
        (Protocol("range", subscription("t", "u")), Protocol("sticky", subscription("t"))),
        (Protocol("sticky", subscription("t")), Protocol("range", subscription("t"))),
    ]
)
INSTANCES = st.sampled_from([None, None, "x", "y"])

#: Nobody is kept waiting for longer: a rebalance time-out, a sync that never comes, a session.
WAIT_S_MAX = 3 * (REBALANCE_MS + SESSION_MS) / 1_000


MEMBERS_MAX = 5
"""One more than group.max.size: as many as one static member that is away."""
PROTOCOLS_MAX = 8


class GroupMachine(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(rules, "MEMBERS_MAX", MEMBERS_MAX)
        self.patch.setattr(rules, "PROTOCOLS_MAX", PROTOCOLS_MAX)
        self.driver = GroupDriver(initial_delay_ms=3_000, max_size=4, store_at_once=False)
        self.requests = 0
        self.since: dict[str, float] = {}
        self.generation_of: dict[str, int] = {}  # per waiting sync
        self.assigned: dict[int, dict[str, bytes]] = {}  # per generation, by what its leader said
        self.highest_generation = 0
        self.checked: set[str] = set()

    def teardown(self) -> None:
        self.patch.undo()

    # What clients do

    @rule(target=ids, protocols=PROTOCOLS, instance=INSTANCES, needs_id=st.booleans())
    def newcomer(self, protocols: tuple[Protocol, ...], instance: str | None, needs_id: bool) -> str:
        name = self._name()
        before = set(self._all_ids())
        self.driver.join(name, protocols=protocols, instance=instance, needs_id=needs_id)
        return next(iter(set(self._all_ids()) - before), "nobody")

    @rule(member=ids, protocols=PROTOCOLS)
    def rejoin(self, member: str, protocols: tuple[Protocol, ...]) -> None:
        self.driver.join(self._name(), member, protocols=protocols, instance=self._instance(member))

    @rule(member=ids, lag=st.sampled_from([0, 0, 0, 0, 1]))
    def sync(self, member: str, lag: int) -> None:
        name = self._name()
        generation = self.driver.group.generation - lag
        self.generation_of[name] = generation
        shares = {m.member_id: f"{generation}:{m.member_id}".encode() for m in self.driver.group.roster}
        if self.driver.group.roster.leader_id == member and self.driver.state is GroupState.COMPLETING_REBALANCE:
            self.assigned.setdefault(generation, shares)
        self.driver.sync(name, member, generation, shares)

    @rule()
    def all_rejoin(self) -> None:
        for member in list(self.driver.group.roster):
            request = self._name()
            self.driver.join(request, member.member_id, protocols=member.protocols, instance=member.instance_id)

    @rule(leader_too=st.booleans())
    def all_sync(self, leader_too: bool) -> None:
        for member in list(self.driver.group.roster):
            if leader_too or member.member_id != self.driver.group.roster.leader_id:
                self.sync(member.member_id, 0)

    @rule()
    def settle(self) -> None:
        """Events of well-behaved clients: join, wait, sync."""
        self.all_rejoin()
        self.pass_time(3)
        self.all_sync(True)
        self.storage_answers(False)

    @rule(target=ids, instance=st.sampled_from(["x", "y"]), protocols=PROTOCOLS, skips=st.booleans())
    def static_member_returns(self, instance: str, protocols: tuple[Protocol, ...], skips: bool) -> str:
        self.settle()
        self.driver.join(self._name(), instance=instance, protocols=protocols, skips=skips)
        return self.driver.group.roster.static_id(instance) or "nobody"

    @rule(member=ids)
    def heartbeat(self, member: str) -> None:
        self.driver.heartbeat(member)

    @rule(member=ids)
    def commit(self, member: str) -> None:
        error = self.driver.commit(member, self.driver.group.generation)
        if error is ErrorCode.none:
            assert member in self.driver.group.roster
            assert self.driver.state in (GroupState.STABLE, GroupState.PREPARING_REBALANCE)

    @rule(member=consumes(ids))
    def leave(self, member: str) -> None:
        self.driver.leave(member)
        assert member not in self.driver.group.roster

    @rule(instance=st.sampled_from(["x", "y"]))
    def put_out(self, instance: str) -> None:
        self.driver.leave_as(LeavingMember("", instance, None))
        assert self.driver.group.roster.static_id(instance) is None

    # What happens around it

    @rule(seconds=st.sampled_from([0, 0.5, 1, 3, 5, 9, 10, 30, 60]))
    def pass_time(self, seconds: float) -> None:
        self.driver.finish_stores()
        self.driver.pass_time(seconds)

    @rule(fails=st.sampled_from([False, False, False, True]))
    def storage_answers(self, fails: bool) -> None:
        self.driver.finish_stores(ErrorCode.coordinator_not_available if fails else ErrorCode.none)

    @rule(really=st.sampled_from([False, False, False, True]))
    def restart(self, really: bool) -> None:
        """Only the stored state comes back; all waiters have lost their connection."""
        if not really:
            return
        driver, old = GroupDriver(initial_delay_ms=3_000, max_size=4, store_at_once=False), self.driver
        stored = [store for store in old.stored if store not in old.stores]
        driver.now_s, driver.stored = old.now_s, old.stored
        driver.rules = old.rules
        driver.group._rules = old.rules
        if stored:
            at_once(driver.group.restore(stored[-1].record, driver.now))
            assert driver.group.generation <= self.highest_generation
        # A generation that was never stored may be used again: its members are told that they are unknown.
        self.highest_generation = driver.group.generation
        self.assigned = {g: told for g, told in self.assigned.items() if g <= self.highest_generation}
        self.driver = driver
        self.since.clear()

    # What must be true

    @invariant()
    def generations_only_grow(self) -> None:
        assert self.driver.group.generation >= self.highest_generation
        self.highest_generation = self.driver.group.generation

    @invariant()
    def roster_is_consistent(self) -> None:
        roster = self.driver.group.roster
        members = list(roster)
        instances = [m.instance_id for m in members if m.instance_id is not None]
        assert len(set(instances)) == len(instances)
        assert all(roster.static_id(m.instance_id) == m.member_id for m in members if m.instance_id is not None)
        assert ((roster.leader_id or "") in roster) == bool(members)
        assert roster.joined_count == sum(m.awaits_join for m in members)
        assert sum(roster.protocol_votes.values()) == sum(len(m.protocols) for m in members)
        assert not set(roster.pending) & {m.member_id for m in members}
        assert roster.protocol_count == sum(len(m.protocols) for m in members)
        assert roster._allowance.used == sum(m.size_bytes for m in members)

    @invariant()
    def group_stays_as_small_as_it_may_be(self) -> None:
        """Whoever was away, and whatever each member offers."""
        assert len(self.driver.group.roster) <= MEMBERS_MAX
        assert self.driver.group.roster.protocol_count <= PROTOCOLS_MAX

    @invariant()
    def states_fit_their_members(self) -> None:
        group = self.driver.group
        assert group.state is not GroupState.EMPTY or not len(group.roster)
        members = {member.member_id for member in group.roster}
        assert group._pending_sync <= members
        if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
            assert group.roster
            assert group.roster.select_protocol() is not None

    @invariant()
    def waiters_are_members_waiting(self) -> None:
        held = [m.join_waiter for m in self.driver.group.roster] + [m.sync_waiter for m in self.driver.group.roster]
        assert {waiter for waiter in held if waiter is not None} == self.driver.waiting

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        now_s = self.driver.now_s
        for waiter in self.driver.waiting:
            assert now_s - self.since.setdefault(waiter, now_s) <= WAIT_S_MAX, waiter

    @invariant()
    def assignments_belong_to_their_generation(self) -> None:
        for name in self.driver.answers.keys() - self.checked:
            self.checked.add(name)
            for result in self.driver.answers[name]:
                if isinstance(result, SyncResult) and result.error is ErrorCode.none and result.assignment:
                    generation, member_id = result.assignment.decode().split(":", 1)
                    assert int(generation) == self.generation_of[name]
                    assert result.assignment in self.assigned[int(generation)].values(), member_id

    @invariant()
    def one_leader_per_generation(self) -> None:
        told = [
            result
            for results in self.driver.answers.values()
            for result in results
            if isinstance(result, JoinResult) and result.members and not result.skip_assignment
        ]
        current = {r.member_id for r in told if r.generation == self.driver.group.generation}
        assert len(current) <= 1

    def _name(self) -> str:
        self.requests += 1
        return f"request {self.requests}"

    def _all_ids(self) -> list[str]:
        roster = self.driver.group.roster
        return [member.member_id for member in roster] + list(roster.pending)

    def _instance(self, member_id: str) -> str | None:
        member = self.driver.group.roster.get(member_id)
        return None if member is None else member.instance_id


GroupMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestGroupMachine = GroupMachine.TestCase
