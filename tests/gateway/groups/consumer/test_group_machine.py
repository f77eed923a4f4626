"""Random histories of one consumer group: whatever clients, clocks and topics do, its promises hold."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.consumer import group as consumer_group
from gateway.groups.consumer import reconciliation
from gateway.groups.consumer.committing import Place, check_commit
from gateway.groups.consumer.format import decode_key
from gateway.groups.consumer.messages import ConsumerState, MemberState
from gateway.groups.consumer.rows import decoded, restored
from gateway.groups.consumer_groups import FORM
from gateway.groups.modern import subscriptions
from gateway.refusals import Refusal
from tests.gateway.groups.consumer.harness import SESSION_MS, Client, Driver, FakeTopics
from tests.gateway.groups.histories import WHO, History

pytestmark = pytest.mark.slow

NAMES = ("a", "b", "c")
SUBSCRIPTIONS = st.one_of(
    st.frozensets(st.sampled_from(NAMES)).map(lambda names: (names, None)),
    st.sampled_from(["a|b", "[abc]", "c.*", "x"]).map(lambda regex: (None, regex)),
)


def client_places(client: Client) -> set[Place]:
    return {(topic, partition) for topic, held in client.owned.items() for partition in held}


class GroupMachine(History[Client, Driver]):
    """Clients have partitions of topics, by their names or by regular expressions; some are static."""

    form = FORM

    def __init__(self) -> None:
        super().__init__()
        self.topics = FakeTopics(a=4, b=3)
        self.driver = self.begin_anew()

    def begin_anew(self) -> Driver:
        return Driver(self.topics, max_size=5, assignment_interval_ms=1_000)

    # What clients do

    @initialize(subscription=SUBSCRIPTIONS, count=st.integers(0, 3))
    def settled_group(self, subscription: tuple[frozenset[str] | None, str | None], count: int) -> None:
        """Most histories begin with clients that share what they read."""
        for _ in range(count):
            self.newcomer(subscription, None)
        self.go_on()

    @rule(subscription=SUBSCRIPTIONS, instance=st.sampled_from([None, None, None, "x", "y"]))
    def newcomer(self, subscription: tuple[frozenset[str] | None, str | None], instance: str | None) -> None:
        self.names += 1
        client = Client(f"m{self.names}", *subscription, instance_id=instance)
        self.beat_of(client)
        if client.epoch > 0 or client.member_id in self.driver.group.members:
            self.clients[client.member_id] = client

    @rule(who=WHO)
    def beat_without_answer(self, who: int) -> None:
        """The answer is lost: the client knows nothing of it, and sends all it has again."""
        if client := self.pick(who):
            before = client.epoch, dict(client.owned)
            self.beat_of(client)
            if client.epoch > 0:
                client.epoch, client.owned = before
                client.lost_an_answer = True

    @rule(who=WHO, lag=st.integers(-3, 3))
    def beat_with_wrong_epoch(self, who: int, lag: int) -> None:
        if (client := self.pick(who)) and client.epoch + lag > 0:
            self.driver.refusal(client.member_id, client.epoch + lag, instance_id=client.instance_id)

    @rule(who=WHO, subscription=SUBSCRIPTIONS)
    def change_subscription(self, who: int, subscription: tuple[frozenset[str] | None, str | None]) -> None:
        client = self.pick(who)
        if client is None or client.epoch <= 0:
            return
        names, regex = subscription
        try:
            answer = self.driver.heartbeat(
                client.member_id,
                client.epoch,
                instance_id=client.instance_id,
                names=names if names is not None else frozenset(),
                regex=regex if regex is not None else "",
            )
        except Refusal as refused:
            self.refused(client, refused.code)
            return
        client.names, client.regex = names, regex
        client.epoch = answer.epoch
        if answer.assignment is not None:
            client.owned, client.must_say = dict(answer.assignment), True

    @rule(who=WHO, for_a_while=st.booleans())
    def leave(self, who: int, for_a_while: bool) -> None:
        client = self.pick(who)
        if client is None:
            return
        epoch = -2 if for_a_while and client.instance_id else -1
        self.driver.refusal(client.member_id, epoch, instance_id=client.instance_id)
        del self.clients[client.member_id]

    @rule(who=WHO)
    def be_slow(self, who: int) -> None:
        """A client is silent for less than its session while one more comes: what it has is kept for it."""
        slow = self.pick(who)
        if slow is None:
            return
        self.newcomer((slow.names, slow.regex), None)
        for _ in range(4):
            for client in [client for client in self.clients.values() if client is not slow]:
                self.beat_of(client)
            self.driver.advance(SESSION_MS / 1_000 / 10)

    # What time, operators and disks do

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 6))
    def change_topic(self, name: str, count: int) -> None:
        topic = self.topics.topic(name)
        if topic is None:
            self.topics.make(name, count)
        elif count > topic.partition_count:
            self.topics.grow(name, count)
        else:
            self.topics.delete(name)
        group = self.driver.group
        regexes = {regex: self.topics.matching(regex) for regex in group.subscriptions.regexes}
        group.resolved(regexes, self.driver.now)
        group.topics_changed(self.driver.now)

    # What holds

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        owners: dict[tuple[object, int], str] = {}
        for member in self.driver.group.members.values():
            for holdings in (member.assigned, member.revoking):
                for topic, held in holdings.items():
                    for partition in held:
                        place = topic, partition
                        assert place not in owners, f"{place} of {owners[place]} and {member.member_id}"
                        owners[place] = member.member_id
                        assert self.driver.group.owner(topic, partition) == member.member_id

    @invariant()
    def what_a_client_has_is_kept_for_it(self) -> None:
        """Whatever a member was told last, or has not heard of: nobody else has what it may be reading."""
        group = self.driver.group
        for client in self.clients.values():
            if client.epoch > 0 and client.member_id in group.members:
                for topic, partition in client_places(client):
                    assert group.owner(topic, partition) == client.member_id

    @invariant()
    def epochs_are_in_order(self) -> None:
        group = self.driver.group
        assert group.target_epoch <= group.epoch
        for member in group.members.values():
            assert member.epoch <= group.target_epoch or not group.target_epoch

    @invariant()
    def the_group_is_within_its_bound(self) -> None:
        assert len(self.driver.group.members) <= 5

    def teardown(self) -> None:
        """Left alone, a group converges: every partition that a member wants has one owner, and shares are even."""
        group = self.driver.group
        live = self.settle_alone()
        if not live:
            return
        assert group.state is ConsumerState.STABLE
        served = [client for client in self.clients.values() if client.member_id in live]
        names = {name for client in served for name in client.names or ()}
        names.update(*(self.topics.matching(client.regex) for client in served if client.regex))
        wanted = [topic for name in names if (topic := self.topics.topic(name)) is not None]
        owned = {(topic, p) for m in group.members.values() for topic, held in m.assigned.items() for p in held}
        assert owned == {(topic.id, p) for topic in wanted for p in range(topic.partition_count)}
        for client in served:
            assert group.members[client.member_id].state is MemberState.STABLE
            assert group.members[client.member_id].partitions() == client.owned

    # Means

    def places(self, client: Client) -> set[Place]:
        return client_places(client)

    def may_commit(self, member_id: str, epoch: int, place: Place) -> ErrorCode:
        return check_commit(self.driver.group, member_id, None, epoch, [place])

    def refused(self, client: Client, code: ErrorCode) -> None:
        assert code in {
            ErrorCode.unknown_member_id,
            ErrorCode.fenced_member_epoch,
            ErrorCode.group_max_size_reached,
            ErrorCode.unreleased_instance_id,
            ErrorCode.fenced_instance_id,
        }
        client.epoch, client.owned, client.must_say = 0, {}, True  # it abandons all and joins again
        if code is ErrorCode.fenced_instance_id:
            self.clients.pop(client.member_id, None)

    def restore(self, rows: Mapping[bytes, bytes]) -> None:
        by_key = {decode_key(key)[1]: value for key, value in rows.items()}
        said = {key: decoded(key, value) for key, value in by_key.items()}
        at_once(restored(self.driver.group, said, self.driver.now))

    def facts(self) -> object:
        group = self.driver.group
        members = {m.member_id: (m.record(), m.current()) for m in group.members.values()}
        targets = {member_id: group.target_of(member_id) for member_id in group.members}
        return group.epoch, group.target_epoch, members, targets, group.subscriptions.resolved


GroupMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestConsumerGroup = GroupMachine.TestCase


class TestInPieces(GroupMachine.TestCase):  # type: ignore[valid-type,misc]
    """The same histories when a step is one topic long, and every target is computed elsewhere."""

    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

    @pytest.fixture(autouse=True)
    def _small_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconciliation, "PLACES_AT_ONCE", 1)
        monkeypatch.setattr(subscriptions, "LOOKS_AT_ONCE", 1)
        monkeypatch.setattr(consumer_group, "AT_ONCE_MAX", 0)
