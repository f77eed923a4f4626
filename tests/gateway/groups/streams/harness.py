"""Drives one streams group without I/O: time stands still until a test moves it, topics are a dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.messages import Instant
from gateway.groups.deadlines import Deadlines
from gateway.groups.modern.group import GroupAlarm
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.messages import (
    NO_TASKS,
    Endpoint,
    Heartbeat,
    HeartbeatAnswer,
    StreamsSettings,
    Task,
    Tasks,
)
from gateway.groups.streams.rules import StreamsRules
from gateway.groups.streams.topology import Subtopology, TopicInfo, Topology
from gateway.refusals import Refusal
from tests.gateway.groups.consumer.harness import FakeTopics

SESSION_MS: Final = 45_000
REBALANCE_MS: Final = 60_000
INTERVAL_MS: Final = 5_000
WALL_MS: Final = 1_700_000_000_000


def subtopology(
    number: str,
    *sources: str,
    reads: tuple[TopicInfo, ...] = (),
    writes: tuple[str, ...] = (),
    keeps: tuple[str, ...] = (),
    together: tuple[frozenset[str], ...] = (),
) -> Subtopology:
    """A subtopology: its sources, the repartition topics that it reads and writes, the changelogs that it keeps."""
    return Subtopology(
        id=number,
        sources=sources,
        repartition_sources=reads,
        repartition_sinks=writes,
        changelogs=tuple(TopicInfo(name, 0, 0, (("cleanup.policy", "compact"),)) for name in keeps),
        copartitioned=together,
    )


def repartition(name: str, partitions: int = 0) -> TopicInfo:
    return TopicInfo(name, partitions, 0, (("cleanup.policy", "delete"),))


def topology(*subtopologies: Subtopology, epoch: int = 0) -> Topology:
    return Topology(epoch=epoch, subtopologies=subtopologies)


COUNT: Final = topology(
    subtopology("0", "in", writes=("app-by-word",)),
    subtopology("1", reads=(repartition("app-by-word"),), keeps=("app-count",)),
)
"""Words are counted: the first half sends each to the partition of its key, the second keeps the counts."""
STATELESS: Final = topology(subtopology("0", "in"))


def tasks(*names: str) -> frozenset[Task]:
    """`0_3`: partition 3 of subtopology 0, as Kafka Streams writes it."""
    return frozenset(Task(part[0], int(part[1])) for name in names if (part := name.split("_")))


@dataclass
class Client:
    """A well-behaved member: it says what it owns when that changed, and gives up at once what it must."""

    member_id: str
    process_id: str = ""
    endpoint: Endpoint | None = None
    epoch: int = 0
    owned: Tasks = NO_TASKS
    must_say: bool = True


class Driver:
    """One group with its clock, its deadlines, its topics."""

    def __init__(
        self,
        topics: FakeTopics,
        topology: Topology = COUNT,
        *,
        max_size: int = 1_000,
        standbys: int = 0,
        assignment_interval_ms: int = 0,
        initial_delay_ms: int = 0,
    ) -> None:
        self.topics = topics
        self.topology = topology
        self.settings = StreamsSettings(SESSION_MS, INTERVAL_MS, assignment_interval_ms, initial_delay_ms, standbys)
        self.rules = StreamsRules(
            max_size=max_size,
            allowance=Allowance(1_000_000, 10_000_000),
            topics=topics,
            settings=lambda _: self.settings,
        )
        self.now_s = 0.0
        self.deadlines: Deadlines[GroupAlarm] = Deadlines()
        self.group = StreamsGroup("g", self.rules, self.deadlines, self.now)

    @property
    def now(self) -> Instant:
        return Instant(self.now_s, WALL_MS + int(self.now_s * 1_000))

    def heartbeat(self, member_id: str, epoch: int, **values: Any) -> HeartbeatAnswer:
        answer = self.group.heartbeat(Heartbeat(member_id=member_id, epoch=epoch, **values), self.now)
        self.compute()
        return answer

    def compute(self) -> None:
        """What the shell does in a thread."""
        while self.group.wanted is not None:
            wanted, self.group.wanted = self.group.wanted, None
            self.group.assigned(wanted.compute(), self.now)

    def join(self, member_id: str, process_id: str = "", **values: Any) -> HeartbeatAnswer:
        said = {
            "rebalance_timeout_ms": REBALANCE_MS,
            "topology": self.topology,
            "owned": NO_TASKS,
            "process_id": process_id or member_id,
            **values,
        }
        return self.heartbeat(member_id, 0, **said)

    def beat(self, client: Client) -> HeartbeatAnswer:
        """One heartbeat of a client, which does what it is told. Raises Refusal."""
        if client.epoch == 0:
            answer = self.join(client.member_id, client.process_id, endpoint=client.endpoint)
        else:
            said = {"owned": client.owned} if client.must_say else {}
            answer = self.heartbeat(client.member_id, client.epoch, **said)
        client.must_say = False
        client.epoch = answer.epoch
        if answer.tasks is not None:
            client.must_say = answer.tasks != client.owned
            client.owned = answer.tasks
        return answer

    def refusal(self, member_id: str, epoch: int, **values: Any) -> ErrorCode:
        """The code of a heartbeat that may be refused; none if it is not."""
        try:
            self.heartbeat(member_id, epoch, **values)
        except Refusal as refused:
            return refused.code
        return ErrorCode.none

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        while (deadline := self.deadlines.pop_due(self.now_s)) is not None:
            deadline.owner.fire(self.now)
            self.compute()

    def settle(self, *clients: Client, rounds: int = 8) -> None:
        """All clients beat until nothing moves any more."""
        for _ in range(rounds):
            for client in clients:
                self.beat(client)
            self.advance(0.5)
