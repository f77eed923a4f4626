"""A transaction whose partitions move to other containers while it is open: one outcome, everywhere."""

from __future__ import annotations

from pathlib import Path

import confluent_kafka
import pytest

from tests.gateway.forking import serving
from tests.gateway.http.calls import call, create_topic, get

pytestmark = pytest.mark.slow


def producer(kafka: str) -> confluent_kafka.Producer:
    made = confluent_kafka.Producer(
        {"bootstrap.servers": kafka, "transactional.id": "mover", "linger.ms": 1, "retry.backoff.ms": 10}
    )
    made.init_transactions(30)
    return made


def committed(kafka: str, topic: str, partitions: int) -> list[list[bytes]]:
    """The values that committed readers get, by partition."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "readers",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    found: list[list[bytes]] = []
    for number in range(partitions):
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0)])
        values: list[bytes] = []
        for _ in range(1_000):
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                break
            values.append(message.value())
        found.append(values)
    consumer.close()
    return found


@pytest.mark.parametrize("outcome", ["commit", "abort"])
def test_a_transaction_goes_on(tmp_path: Path, outcome: str) -> None:
    """Every partition moves, there and back, between two writes of a transaction, and once before it ends."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "containers=3") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "t", 3)

        def move(by: int) -> None:
            for number in range(3):
                shown = get(http, "/api/v1/streams/t")["epochs"][-1]["segments"]
                (now,) = {one["container"] for one in shown if number in one["slots"]}
                wanted = {"slot": number, "container": (now + by) % 3}
                status, _, told = call(http, "POST", "/api/v1/streams/t/move", wanted)
                assert (status, told["state"]) == (200, "moved"), told

        writer = producer(kafka)
        expected: list[list[bytes]] = [[], [], []]
        for transaction, ending in enumerate(("commit", outcome, "commit")):
            writer.begin_transaction()
            for part in range(3):
                for number in range(3):
                    value = b"%d-%d-%d" % (transaction, part, number)
                    writer.produce("t", value, partition=number)
                    if ending == "commit":
                        expected[number].append(value)
                assert writer.flush(30) == 0
                move(1 + part % 2)
            writer.commit_transaction(30) if ending == "commit" else writer.abort_transaction(30)
            move(1)
        assert committed(kafka, "t", 3) == expected
