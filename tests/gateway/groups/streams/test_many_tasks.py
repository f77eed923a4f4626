"""A member with very many tasks: others do not wait for it, whatever it is told and says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode

from tests.gateway.groups.streams.test_apis import Client, subtopology
from tests.gateway.launching import WATCHED, longest_turn_ms, serving
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

TOPICS: Final = [f"wide-{number}" for number in range(11)]
PARTITIONS: Final = 9_000
EVERY: Final = [(topic, number) for topic in sorted(TOPICS) for number in range(PARTITIONS)]
TASKS: Final = len(EVERY)
"""A message has 200,000 elements at most, and each task is told twice: whose it is, and where its partition is."""
TURN_MS_MAX: Final = 50
WITHIN_S: Final = 30.0
TOPOLOGY: Final = {"epoch": 0, "subtopologies": [subtopology(topic, source_topics=[topic]) for topic in TOPICS]}


class Member:
    """A member with an endpoint, so that it is told where all partitions are."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self._said: dict[str, Any] = {"member_id": name, "endpoint_information_epoch": -1}
        joining = {"process_id": name, "topology": TOPOLOGY, "user_endpoint": {"host": name, "port": 80}}
        self._epoch = 0
        self.tasks: list[tuple[str, int]] = []
        self.beat(**joining)

    def beat(self, **said: Any) -> bool:
        """One heartbeat; tells whether the member has other tasks now."""
        answer = self._client.beat(self._epoch, **self._said, **said)
        assert answer["error_code"] == ErrorCode.none, answer
        self._epoch, before = answer["member_epoch"], self.tasks
        if answer["active_tasks"] is not None:
            told = answer["active_tasks"]
            self.tasks = [(one["subtopology_id"], number) for one in told for number in one["partitions"]]
        return self.tasks != before

    def go_on(self) -> None:
        """One heartbeat, and what it says of what it hears."""
        if self.beat():
            numbers: dict[str, list[int]] = {}
            for topic, number in self.tasks:
                numbers.setdefault(topic, []).append(number)
            told = [{"subtopology_id": topic, "partitions": some} for topic, some in numbers.items()]
            self.beat(active_tasks=told, standby_tasks=[], warmup_tasks=[])


def until(counts: list[int], *members: Member) -> None:
    ends_s = time.monotonic() + WITHIN_S
    while [len(member.tasks) for member in members] != counts:
        assert time.monotonic() < ends_s, [len(member.tasks) for member in members]
        for member in members:
            member.go_on()
    assert sorted(task for member in members for task in member.tasks) == EVERY


def test_others_do_not_wait(tmp_path: Path) -> None:
    """It gets all, gives half of them to another, and gets them back; the group is described."""
    at_once = ("group.streams.initial.rebalance.delay.ms=0", "group.streams.assignment.interval.ms=0")
    settings = ("log.file.bytes=67108864", *at_once)
    with serving(tmp_path, *(word for one in settings for word in ("--set", one)), command=WATCHED) as gateway:
        address = gateway.ready()["kafka"][0]
        admin = AdminClient({"bootstrap.servers": address})
        for made in admin.create_topics([NewTopic(topic, PARTITIONS) for topic in TOPICS]).values():
            made.result(WITHIN_S)
        server = Server(address, own={})
        client = Client(server)
        first = Member(client, "first")
        until([TASKS], first)
        second = Member(client, "second")
        until([TASKS // 2, TASKS // 2], first, second)
        assert len(client.describe()["members"]) == 2
        assert client.beat(-1, member_id="second")["error_code"] == ErrorCode.none
        until([TASKS], first)
        server.close()
        assert gateway.terminate() == 0
        assert longest_turn_ms(gateway) < TURN_MS_MAX
