"""Drives one consumer group without I/O: time stands still until a test moves it, topics are a dictionary."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid5

from kio.schema.errors import ErrorCode

from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.messages import Instant
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import (
    Heartbeat,
    HeartbeatAnswer,
    MemberState,
    Partitions,
)
from gateway.groups.consumer.rules import ConsumerRules, GroupSettings
from gateway.groups.deadlines import Deadlines
from gateway.groups.modern.group import GroupAlarm
from gateway.groups.modern.topics import Topic
from gateway.refusals import Refusal

SESSION_MS: Final = 45_000
REBALANCE_MS: Final = 60_000
INTERVAL_MS: Final = 5_000
WALL_MS: Final = 1_700_000_000_000
_NAMESPACE: Final = UUID(int=7)


class FakeTopics:
    """Topics as a dictionary: names with their partitions. A topic made anew has another id."""

    def __init__(self, **counts: int) -> None:
        self._topics: dict[str, Topic] = {}
        self._made = itertools.count()
        for name, count in counts.items():
            self.make(name, count)

    def make(self, name: str, count: int) -> None:
        self._topics[name] = Topic(uuid5(_NAMESPACE, f"{name}-{next(self._made)}"), count)

    def grow(self, name: str, count: int) -> None:
        self._topics[name] = self._topics[name]._replace(partition_count=count)

    def delete(self, name: str) -> None:
        del self._topics[name]

    def __contains__(self, name: str) -> bool:
        return name in self._topics

    def topic(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def name_of(self, topic_id: UUID) -> str | None:
        return next((name for name, topic in self._topics.items() if topic.id == topic_id), None)

    def matching(self, regex: str) -> frozenset[str]:
        return frozenset(name for name in self._topics if re.fullmatch(regex, name))


@dataclass
class Client:
    """A well-behaved consumer: it says what it owns when that changed, and gives up at once what it must."""

    member_id: str
    names: frozenset[str] | None = None
    regex: str | None = None
    instance_id: str | None = None
    epoch: int = 0
    owned: dict[UUID, frozenset[int]] = field(default_factory=dict)
    must_say: bool = True
    lost_an_answer: bool = False


class Driver:
    """One group with its clock, its deadlines, its topics."""

    def __init__(
        self,
        topics: FakeTopics,
        *,
        max_size: int = 1_000,
        assignors: tuple[str, ...] = ("uniform", "range"),
        assignment_interval_ms: int = 0,
        resolves: bool = True,
    ) -> None:
        ids = itertools.count(1)
        self.topics = topics
        self.settings = GroupSettings(SESSION_MS, INTERVAL_MS, assignment_interval_ms)
        self.resolves = resolves
        self.rules = ConsumerRules(
            max_size=max_size,
            assignors=assignors,
            allowance=Allowance(1_000_000, 10_000_000),
            topics=topics,
            settings=lambda _: self.settings,
            resolve=self._resolve,
            new_id=lambda: f"id{next(ids)}",
        )
        self.now_s = 0.0
        self.deadlines: Deadlines[GroupAlarm] = Deadlines()
        self.group = ConsumerGroup("g", self.rules, self.deadlines, self.now)

    def _resolve(self, regex: str) -> frozenset[str] | None:
        try:
            re.compile(regex)
        except re.error as exc:
            raise Refusal(ErrorCode.invalid_regular_expression, str(exc)) from exc
        return self.topics.matching(regex) if self.resolves else None

    @property
    def now(self) -> Instant:
        return Instant(self.now_s, WALL_MS + int(self.now_s * 1_000))

    def heartbeat(self, member_id: str, epoch: int, **said: object) -> HeartbeatAnswer:
        """One heartbeat as it is. Raises Refusal."""
        answer = self.group.heartbeat(Heartbeat(member_id=member_id, epoch=epoch, **said), self.now)  # type: ignore[arg-type]
        self.compute()
        owned: Partitions | None = said.get("owned")  # type: ignore[assignment]
        while not answer.epoch or answer.is_partial:
            answer = self.group.answer_again(answer.member_id, owned, self.now)
        return answer

    def compute(self) -> None:
        """Do what the group wants to have done elsewhere: look topics up, compute a target."""
        while not self.group.subscriptions.is_seen:
            self.group.look(self.now)
        self.group.assign_if_due(self.now)
        while self.group.wanted is not None:
            wanted, self.group.wanted = self.group.wanted, None
            self.group.assigned(wanted.compute(), self.now)

    def join(self, member_id: str, *names: str, **said: object) -> HeartbeatAnswer:
        """The first heartbeat of a member. Raises Refusal."""
        full: dict[str, object] = {"rebalance_timeout_ms": REBALANCE_MS, "owned": {}}
        if "regex" not in said:
            full["names"] = frozenset(names)
        return self.heartbeat(member_id, 0, **(full | said))

    def refusal(self, member_id: str, epoch: int, **said: object) -> ErrorCode:
        """The error of a heartbeat that is refused."""
        try:
            self.heartbeat(member_id, epoch, **said)
        except Refusal as refused:
            return refused.code
        return ErrorCode.none

    def advance(self, seconds: float) -> None:
        """Let time pass, firing deadlines as they come."""
        end_s = self.now_s + seconds
        while (next_s := self.deadlines.next_s()) is not None and next_s <= end_s:
            self.now_s = max(self.now_s, next_s)
            while (deadline := self.deadlines.pop_due(self.now_s)) is not None:
                deadline.owner.fire(self.now)
                self.compute()
        self.now_s = end_s

    def beat(self, client: Client) -> None:
        """One heartbeat of a well-behaved client, which does as it is told."""
        joins = client.epoch == 0
        is_full = joins or client.lost_an_answer
        says = is_full or client.must_say
        answer = self.heartbeat(
            client.member_id,
            client.epoch,
            instance_id=client.instance_id,
            rebalance_timeout_ms=REBALANCE_MS if is_full else -1,
            names=(client.names or frozenset()) if is_full else None,  # all of it: what is not said stays as it was
            regex=(client.regex or "") if is_full else None,
            owned=dict(client.owned) if says else None,
        )
        client.epoch, client.must_say, client.lost_an_answer = answer.epoch, False, False
        if answer.assignment is not None and answer.assignment != client.owned:
            client.owned = dict(answer.assignment)
            client.must_say = True

    def settle(self, clients: Iterable[Client], rounds: int = 20) -> None:
        """All beat until nothing changes."""
        for _ in range(rounds):
            before = repr([(c.epoch, c.owned, c.must_say) for c in clients])
            for client in clients:
                self.beat(client)
            if repr([(c.epoch, c.owned, c.must_say) for c in clients]) == before:
                return

    def owned(self, member_id: str) -> set[tuple[str, int]]:
        """The partitions of a member, by topic name."""
        return flat(self.topics, self.group.members[member_id].partitions())

    def state_of(self, member_id: str) -> MemberState:
        return self.group.members[member_id].state


def flat(topics: FakeTopics, partitions: Partitions) -> set[tuple[str, int]]:
    return {
        (topics.name_of(topic) or str(topic), number) for topic, numbers in partitions.items() for number in numbers
    }
