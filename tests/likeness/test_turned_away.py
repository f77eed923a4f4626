"""Members of group protocols that are not served: an answer that ends them, and a line that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer

from tests.gateway.forking import serving
from tests.likeness.asking import Server
from tests.likeness.questions import CLASSIC_AND_CONSUMER, NEW_GROUPS, Question

pytestmark = pytest.mark.slow

HEARTBEATS = ("ConsumerGroupHeartbeat", "ShareGroupHeartbeat", "StreamsGroupHeartbeat")
POLL_SECONDS_MAX = 60.0
FLOOD = 300


def lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "group protocol" in line]


def test_librdkafka(tmp_path: Path) -> None:
    """librdkafka with group.protocol=consumer fails at its first heartbeat; the log names client and remedy."""
    with serving(tmp_path, "--set", "group.coordinator.rebalance.protocols=classic") as gateway:
        asked = {"bootstrap.servers": gateway.ready()["kafka"][0], "group.id": "g", "client.id": "my app"}
        consumer = Consumer({**asked, "group.protocol": "consumer", "log_level": 0})
        consumer.subscribe(["t"])
        message = consumer.poll(POLL_SECONDS_MAX)
        consumer.close()

        assert message is not None
        assert "ConsumerGroupHeartbeat fatal error" in str(message.error())
        gateway.await_line("set group.protocol=classic for its consumers protocol=consumer client=")
        (line,) = lines(gateway.err)
        assert 'client="my app"' in line
        assert "rdkafka" in line


def test_each_protocol(tmp_path: Path) -> None:
    """A member of each new kind of group leaves a line, a flood of them a few, asking about groups none."""
    with serving(tmp_path, "--set", "group.coordinator.rebalance.protocols=classic") as gateway:
        server = Server(gateway.ready()["kafka"][0])
        assert server.ask(CLASSIC_AND_CONSUMER, 1)["error_code"] == 0
        for question in NEW_GROUPS:
            if question.api not in HEARTBEATS:
                list(server.answers([question]))
        for api in HEARTBEATS:
            server.ask(next(question for question in NEW_GROUPS if question.api == api), 1 if "Share" in api else 0)
        gateway.await_line("protocol=streams")
        assert len(lines(gateway.err)) == len(HEARTBEATS)

        long = Question("a long name", "ConsumerGroupHeartbeat", {"group_id": "g" * 20_000, "topic_partitions": None})
        for _ in range(FLOOD):
            server.ask(long, 1)
        server.close()
        gateway.terminate()

        told = lines(gateway.err)
        assert len(told) <= 10
        assert max(map(len, told)) < 1_000
        assert "suppressed=" in gateway.err.read_text()
