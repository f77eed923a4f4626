"""A streams group over kills of the gateway, in each state that a group may be in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode

from tests.gateway.forking import serving
from tests.gateway.groups.streams.test_apis import Client
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

WITHIN_S: Final = 60.0
PARTITIONS: Final = 4
EVERY: Final = {(subtopology, number) for subtopology in "01" for number in range(PARTITIONS)}
SETTINGS: Final = (
    "log.file.bytes=4194304",
    "group.streams.initial.rebalance.delay.ms=0",
)

TaskIds = set[tuple[str, int]]


class Member:
    """A member that is a process of its own: it does what it is told, and says so when a test has it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: TaskIds = set()
        self._epoch = 0

    def beat(self, client: Client) -> bool:
        """One heartbeat; tells whether the member has other tasks now."""
        joining = {"process_id": self.name} if self._epoch == 0 else {}
        return self._hear(client.beat(self._epoch, member_id=self.name, **joining))

    def say(self, client: Client) -> bool:
        """One heartbeat that says what the member has."""
        numbers: dict[str, list[int]] = {}
        for subtopology, number in sorted(self.tasks):
            numbers.setdefault(subtopology, []).append(number)
        told = [{"subtopology_id": name, "partitions": some} for name, some in numbers.items()]
        said: dict[str, Any] = {"active_tasks": told, "standby_tasks": [], "warmup_tasks": []}
        return self._hear(client.beat(self._epoch, member_id=self.name, **said))

    def leave(self, client: Client) -> None:
        assert client.beat(-1, member_id=self.name)["error_code"] == ErrorCode.none
        self.tasks, self._epoch = set(), 0

    def _hear(self, answer: dict[str, Any]) -> bool:
        assert answer["error_code"] == ErrorCode.none, answer
        self._epoch, before = answer["member_epoch"], self.tasks
        if answer["active_tasks"] is not None:
            self.tasks = {
                (one["subtopology_id"], number) for one in answer["active_tasks"] for number in one["partitions"]
            }
        return self.tasks != before


def settle(client: Client, *members: Member) -> None:
    """All beat until the group is stable, and each task is with one of them."""
    ends_s = time.monotonic() + WITHIN_S
    is_stable = False
    while not is_stable:
        assert time.monotonic() < ends_s
        for member in members:
            if member.beat(client):
                member.say(client)
        is_stable = client.describe()["group_state"] == "Stable"
    assert sorted(task for member in members for task in member.tasks) == sorted(EVERY)


@contextmanager
def life(directory: Path, state: str, interval_ms: int = 0) -> Iterator[tuple[str, Client]]:
    """One life of the gateway, which is killed as soon as the group is in a state that its members have seen. After the
    first target of a life the next one comes no sooner than `interval_ms` later."""
    settings = (*SETTINGS, f"group.streams.assignment.interval.ms={interval_ms}")
    with serving(directory, *(word for one in settings for word in ("--set", one))) as gateway:
        address = gateway.ready()["kafka"][0]
        server = Server(address, own={})
        client = Client(server)
        yield address, client
        assert client.describe()["group_state"] == state
        gateway.process.kill()
        gateway.end()
        server.close()


def test_kills_in_each_state(tmp_path: Path) -> None:
    """Members go on from what they were told last: nobody has to join again, and no task is active twice."""
    first, second, third, fourth = members = [Member(name) for name in ("a", "b", "c", "d")]
    with life(tmp_path, "NotReady") as (_, client):
        first.beat(client)
    with life(tmp_path, "Stable") as (address, client):
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic("in", PARTITIONS)])["in"].result(WITHIN_S)
        settle(client, first)
    with life(tmp_path, "Reconciling") as (_, client):
        assert not first.beat(client), "it has what it had"
        second.beat(client)
        assert second.tasks == set(), "nothing was given up yet"
    with life(tmp_path, "Reconciling") as (_, client):
        assert first.beat(client), "it is told to give up half"
        second.beat(client)
        assert second.tasks == set(), "the first has not said that it has done so"
    with life(tmp_path, "Assigning", 15_000) as (_, client):
        first.say(client)
        settle(client, first, second)
        third.beat(client)
        fourth.beat(client)
        assert fourth.tasks == set()
    with life(tmp_path, "Empty") as (_, client):
        settle(client, *members)
        for member in members:
            member.leave(client)
    with life(tmp_path, "Stable") as (_, client):
        settle(client, second)
