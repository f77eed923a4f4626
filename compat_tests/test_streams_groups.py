"""Kafka Streams 4.3 with `group.protocol=streams` (KIP-1071): a stateful count, whatever happens to it and to us."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from compat_tests.harness.system import Penstock, compile_runner, java_command

TOPICS = "org.apache.kafka.tools.TopicCommand"
GROUPS = "org.apache.kafka.tools.GroupsCommand"
CONFIGS = "kafka.admin.ConfigCommand"
STREAMS_GROUPS = "org.apache.kafka.tools.streams.StreamsGroupCommand"
PARTITIONS = 4
WORDS = [f"word-{number}" for number in range(20)]
WITHIN_S = 90.0
END_WITHIN_S = 30.0
SETTINGS = {
    "log.file.bytes": "16777216",
    "group.streams.initial.rebalance.delay.ms": "0",
    "group.streams.min.session.timeout.ms": "1000",
    "group.streams.session.timeout.ms": "6000",
    "group.streams.min.heartbeat.interval.ms": "100",
    "group.streams.heartbeat.interval.ms": "500",
}

SOAK = bool(os.environ.get("SOAK"))
"""With workers, and with Kafka's tools, in a soak: each run takes a minute."""
SYSTEMS: dict[str, dict[str, str]] = {"one": {}}
if SOAK:
    SYSTEMS["workers"] = {"containers": "4", "workers": "2"}

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS.keys())
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Penstock]:
    compile_runner()
    server = Penstock(tmp_path_factory.mktemp("streams"), {**SETTINGS, **request.param})
    server.start()
    yield server
    server.stop()


class Application:
    """An application that counts words, its instances, and what it has counted so far."""

    def __init__(self, gateway: Penstock, directory: Path) -> None:
        name = f"count-{next(_numbers)}"
        self.id, self.source, self.target = f"{name}-app", f"{name}-words", f"{name}-counts"
        self.gateway = gateway
        self._directory = directory
        self._instances: list[subprocess.Popen[bytes]] = []
        self._words: list[str] = []
        self._counts: dict[bytes, list[int]] = {}
        self._dice = random.Random(7)
        for topic in (self.source, self.target):
            tool(gateway, TOPICS, "--create", "--topic", topic, "--partitions", str(PARTITIONS))
        self._reader = Consumer(
            {
                "bootstrap.servers": gateway.address,
                "group.id": f"{name}-reader",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        self._reader.subscribe([self.target])

    def start(self, *settings: str) -> subprocess.Popen[bytes]:
        """One more instance, with a state directory of its own."""
        state = self._directory / f"state-{len(self._instances)}"
        arguments = (self.gateway.address, self.id, self.source, self.target, str(state), "group.protocol=streams")
        with (self._directory / "streams.log").open("ab") as log:
            instance = subprocess.Popen(
                [*java_command("penstock.compat.StreamsCount"), *arguments, *settings], stdout=log, stderr=log
            )
        self._instances.append(instance)
        return instance

    def feed(self, count: int) -> None:
        producer = Producer({"bootstrap.servers": self.gateway.address, "log_level": 0})
        for _ in range(count):
            word = self._dice.choice(WORDS)
            self._words.append(word)
            producer.produce(self.source, value=word.encode(), partition=self._dice.randrange(PARTITIONS))
        assert producer.flush(WITHIN_S) == 0

    def await_counts(self) -> None:
        """Until every word that was fed has been counted: once, and in order."""
        ends_s = time.monotonic() + WITHIN_S
        while sum(map(len, self._counts.values())) < len(self._words) and time.monotonic() < ends_s:
            for message in self._reader.consume(500, 0.5):
                assert message.error() is None, message.error()
                self._counts.setdefault(message.key() or b"", []).append(int(message.value() or b"0"))
        wanted = {word.encode(): list(range(1, count + 1)) for word, count in Counter(self._words).items()}
        assert self._counts == wanted, self.log()

    def end(self) -> None:
        self._reader.close()
        for instance in self._instances:
            instance.kill()
            instance.wait()

    def log(self) -> str:
        return (self._directory / "streams.log").read_text(errors="replace")[-4_000:]


def tool(gateway: Penstock, name: str, *arguments: str) -> str:
    command = [*java_command(name), "--bootstrap-server", gateway.address, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def application(gateway: Penstock, tmp_path: Path) -> Iterator[Application]:
    made = Application(gateway, tmp_path)
    yield made
    made.end()


def test_counts_exactly_once_over_everything(application: Application, gateway: Penstock) -> None:
    """With exactly_once_v2: a second instance comes, one is killed, the gateway is killed, one ends cleanly."""
    first = application.start()
    application.feed(300)
    application.await_counts()
    second = application.start()
    application.feed(300)
    application.await_counts()
    first.kill()
    first.wait()
    application.feed(300)
    application.await_counts()
    gateway.kill()
    gateway.start()
    application.feed(300)
    application.await_counts()
    second.send_signal(signal.SIGTERM)
    second.wait(END_WITHIN_S)
    application.start()
    application.feed(300)
    application.await_counts()


@pytest.mark.skipif(not SOAK, reason="a minute, for a soak")
def test_tools_see_the_group(application: Application, gateway: Penstock) -> None:
    """kafka-streams-groups.sh lists, describes and deletes it; standbys come by the group's config."""
    tool(
        gateway,
        CONFIGS,
        *("--alter", "--entity-type", "groups", "--entity-name", application.id),
        *("--add-config", "streams.num.standby.replicas=1"),
    )
    instances = [application.start(), application.start()]
    application.feed(200)
    application.await_counts()

    listed = tool(gateway, GROUPS, "--list")
    assert [line.split()[1:3] for line in listed.splitlines() if application.id in line] == [["Streams", "streams"]]
    assert application.id in tool(gateway, STREAMS_GROUPS, "--list")
    assert application.source in tool(gateway, STREAMS_GROUPS, "--describe", "--group", application.id)
    members = await_standbys(gateway, application.id)
    assert len([line for line in members.splitlines() if application.id in line]) == 4, "two threads an instance"
    assert "Stable" in tool(gateway, STREAMS_GROUPS, "--describe", "--group", application.id, "--state")

    for instance in instances:
        instance.send_signal(signal.SIGTERM)
        instance.wait(END_WITHIN_S)
    tool(gateway, STREAMS_GROUPS, "--delete", "--group", application.id, "--delete-all-internal-topics")
    assert application.id not in tool(gateway, GROUPS, "--list")
    assert f"{application.id}-counts-changelog" not in tool(gateway, TOPICS, "--list")


def await_standbys(gateway: Penstock, group: str) -> str:
    ends_s = time.monotonic() + WITHIN_S
    while True:
        told = tool(gateway, STREAMS_GROUPS, "--describe", "--group", group, "--members", "--verbose")
        if re.search(r"(?<!-)STANDBY:\s*1:\[", told):
            return told
        assert time.monotonic() < ends_s, told
