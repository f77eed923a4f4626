"""Random histories of one streams group: whatever clients, clocks, topics and operators do, its promises hold."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.streams.committing import check_commit
from gateway.groups.streams.format import decode_key
from gateway.groups.streams.messages import NO_TASKS, Endpoint, MemberState, StreamsState, Task
from gateway.groups.streams.rows import decoded, restored
from gateway.groups.streams_groups import FORM
from tests.gateway.groups.consumer.harness import FakeTopics
from tests.gateway.groups.histories import WHO, History, Place
from tests.gateway.groups.streams.harness import Client, Driver

pytestmark = pytest.mark.slow

TOPICS = ("in", "app-by-word", "app-count")
MEMBERS_MAX = 5
INPUTS = {"0": "in", "1": "app-by-word"}


def inputs(client: Client) -> set[Place]:
    """The partitions that a client's active tasks read."""
    return {(INPUTS[task.subtopology], task.partition) for task in client.owned.active}


class GroupMachine(History[Client, Driver]):
    """Clients have tasks, and copies of others' state."""

    form = FORM

    def __init__(self) -> None:
        super().__init__()
        self.topics = FakeTopics(**{"in": 4, "app-by-word": 4, "app-count": 4})
        self.standbys = 0
        self.driver = self.begin_anew()

    def begin_anew(self) -> Driver:
        return Driver(
            self.topics,
            max_size=MEMBERS_MAX,
            standbys=self.standbys,
            assignment_interval_ms=1_000,
            initial_delay_ms=3_000,
        )

    # What clients do

    @initialize(processes=st.text("pqr", max_size=3))
    def settled_group(self, processes: str) -> None:
        """Most histories begin with clients that share what they read."""
        for process in processes:
            self.newcomer(process, False)
        self.go_on()

    @rule(process=st.sampled_from("pqr"), has_endpoint=st.booleans())
    def newcomer(self, process: str, has_endpoint: bool) -> None:
        self.names += 1
        client = Client(f"m{self.names}", process, Endpoint(process, 7_000) if has_endpoint else None)
        self.beat_of(client)
        if client.member_id in self.driver.group.members:
            self.clients[client.member_id] = client

    @rule(who=WHO)
    def beat_without_answer(self, who: int) -> None:
        """The answer is lost: the client knows nothing of it, and says again what it owns."""
        if client := self.pick(who):
            before = client.epoch, client.owned
            self.beat_of(client)
            if client.epoch > 0:
                client.epoch, client.owned = before
                client.must_say = True

    @rule(who=WHO, lag=st.integers(-3, 3))
    def beat_with_wrong_epoch(self, who: int, lag: int) -> None:
        if (client := self.pick(who)) and client.epoch + lag > 0:
            self.driver.refusal(client.member_id, client.epoch + lag)

    @rule(who=WHO)
    def leave(self, who: int) -> None:
        if client := self.pick(who):
            self.driver.refusal(client.member_id, -1)
            del self.clients[client.member_id]

    # What time, operators and disks do

    @rule(name=st.sampled_from(TOPICS), count=st.integers(3, 5))
    def change_topic(self, name: str, count: int) -> None:
        if name in self.topics:
            self.topics.delete(name)
        else:
            self.topics.make(name, count)
        self.driver.group.topics_changed()

    @rule(standbys=st.integers(0, 2))
    def change_standbys(self, standbys: int) -> None:
        self.standbys = standbys
        self.driver.settings = self.driver.settings._replace(standbys=standbys)

    # What holds

    @invariant()
    def no_task_is_active_with_two_members(self) -> None:
        owners: dict[Task, str] = {}
        for member in self.driver.group.members.values():
            for holdings in (member.current.assigned, member.current.revoking):
                for task in holdings.active:
                    assert task not in owners, f"{task} of {owners[task]} and {member.member_id}"
                    owners[task] = member.member_id
                    assert self.driver.group.owner(task) == member.member_id

    @invariant()
    def what_a_client_has_is_kept_for_it(self) -> None:
        """Whatever a member was told last, or has not heard of: nobody else has the tasks that it may be at."""
        group = self.driver.group
        for client in self.clients.values():
            if client.epoch > 0 and client.member_id in group.members:
                for task in client.owned.active:
                    assert group.owner(task) == client.member_id

    @invariant()
    def no_process_has_a_task_twice(self) -> None:
        """Neither two copies of a task nor a copy beside the task itself: the state directory has one owner."""
        held: set[tuple[str, Task]] = set()
        for member in self.driver.group.members.values():
            for holdings in (member.current.assigned, member.current.revoking):
                for task in [*holdings.active, *holdings.standby]:
                    assert (member.process_id, task) not in held
                    held.add((member.process_id, task))

    @invariant()
    def epochs_are_in_order(self) -> None:
        group = self.driver.group
        assert group.target_epoch <= group.epoch
        for member in group.members.values():
            assert member.epoch <= max(1, group.target_epoch)

    @invariant()
    def the_group_is_within_its_bound(self) -> None:
        assert len(self.driver.group.members) <= MEMBERS_MAX

    def teardown(self) -> None:
        """Left alone, a group converges: every task is active once, and its standbys are on other processes."""
        group = self.driver.group
        for name in TOPICS:
            if name in self.topics:
                self.topics.delete(name)
            self.topics.make(name, 4)
        group.topics_changed()
        live = self.settle_alone()
        if not live:
            return
        assert group.state is StreamsState.STABLE
        every = {Task(subtopology, number) for subtopology in "01" for number in range(4)}
        members = list(group.members.values())
        assert {task for member in members for task in member.current.assigned.active} == every
        processes = {member.process_id for member in members}
        copies = [task for member in members for task in member.current.assigned.standby]
        wanted = min(self.standbys, len(processes) - 1)
        assert sorted(copies) == sorted([Task("1", number) for number in range(4)] * wanted)
        for member_id in live:
            assert group.members[member_id].current.state is MemberState.STABLE
            assert group.members[member_id].current.assigned.tasks() == self.clients[member_id].owned

    # Means

    def places(self, client: Client) -> set[Place]:
        return inputs(client)

    def may_commit(self, member_id: str, epoch: int, place: Place) -> ErrorCode:
        return check_commit(self.driver.group, member_id, None, epoch, [place])

    def refused(self, client: Client, code: ErrorCode) -> None:
        assert code in {
            ErrorCode.unknown_member_id,
            ErrorCode.fenced_member_epoch,
            ErrorCode.group_max_size_reached,
            ErrorCode.invalid_request,  # it has tasks that the topics of now do not have
        }
        client.epoch, client.owned, client.must_say = 0, NO_TASKS, True  # it abandons all and joins again

    def restore(self, rows: Mapping[bytes, bytes]) -> None:
        by_key = {decode_key(key)[1]: value for key, value in rows.items()}
        said = {key: decoded(key, value) for key, value in by_key.items()}
        at_once(restored(self.driver.group, said, self.driver.now))

    def facts(self) -> object:
        group = self.driver.group
        members = {m.member_id: (m.record, m.current) for m in group.members.values()}
        targets = {member_id: group.target_of(member_id) for member_id in group.members}
        return group.head(), group.topology, members, targets, self.driver.group.state


GroupMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStreamsGroup = GroupMachine.TestCase
