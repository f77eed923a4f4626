"""What the data directories in `formats/` hold, and how a new one is made when the format changes:

    .venv/bin/python -m tests.shell.old_data

Keeps: once a release has written a format, its two directories (stopped cleanly, killed) stay here
and are read by every later release.
"""

from __future__ import annotations

import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from gateway.datadir import FORMAT
from tests.faults.client import Connection, decode_batches, encode_batch
from tests.shell.launching import Running, serving

FORMATS: Final = Path(__file__).parent / "formats"
SETTINGS: Final = (
    *("--set", "log.file.bytes=1048576"),  # several files, with sidecars
    *("--set", "checkpoint.interval.ms=200"),
    *("--set", "offsets.retention.minutes=2147483647"),  # however old the directory is
)
PARTITIONS: Final = 3
BATCHES: Final = 40
FIRST_KEPT: Final = 5
"""Records before it are deleted in partition 0."""
GROUP: Final = "billing"
PAYMENTS: Final = "payments"
PAID: Final = [b"paid-%d" % number for number in range(5)]
OPEN_ID: Final = "unfinished"
TIMEOUT_S: Final = 20.0


def values(partition: int) -> list[bytes]:
    """The records of a partition of `orders`, from offset 0."""
    return [b"%d-%d-" % (partition, number) + b"x" * 20_000 for number in range(BATCHES)]


def committed(partition: int) -> int:
    return 10 + partition


def fill(address: str) -> None:
    """Leave a trace of everything that is kept."""
    with Connection(address) as client:
        client.create_topic("orders", PARTITIONS, {"retention.ms": "-1"})
        client.create_topic("gone", 2)
        client.create_topic(PAYMENTS, 1, {"retention.ms": "-1"})
        client.create_topic("grown", 2, {"cleanup.policy": "compact"})
        for number in range(BATCHES):
            for partition in range(PARTITIONS):
                records = encode_batch([values(partition)[number]])
                assert client.produce("orders", partition, records).code == 0
        client.delete_topic("gone")
        client.create_partitions("grown", 5)
        assert client.delete_records("orders", 0, FIRST_KEPT) == FIRST_KEPT
        for partition in range(PARTITIONS):
            client.commit_offset(GROUP, "orders", partition, committed(partition))


def fill_transactions(address: str) -> Producer:
    """Since format 2: one that was committed, one that was aborted, one that is open as long as its producer lives."""
    for transactional_id, values, ends in (
        ("sure", PAID, Producer.commit_transaction),
        ("undecided", [b"aborted"] * 3, Producer.abort_transaction),
        (OPEN_ID, [b"open"] * 3, None),
    ):
        producer = transactional(address, transactional_id)
        producer.begin_transaction()
        for value in values:
            producer.produce(PAYMENTS, value, partition=0)
        assert producer.flush(TIMEOUT_S) == 0
        if ends is not None:
            ends(producer, TIMEOUT_S)
    return producer


def transactional(address: str, transactional_id: str) -> Producer:
    """The next producer of this id: what the one before had begun is aborted."""
    producer = Producer({"bootstrap.servers": address, "transactional.id": transactional_id, "log_level": 0})
    producer.init_transactions(TIMEOUT_S)
    return producer


def read_committed(address: str) -> list[bytes]:
    """What is committed, up to the last stable offset."""
    settings = {"bootstrap.servers": address, "group.id": "auditors", "isolation.level": "read_committed"}
    consumer = Consumer(settings | {"enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(PAYMENTS, 0, 0)])
    found = []
    while (message := consumer.poll(TIMEOUT_S)) is not None and message.error() is None:
        found.append(message.value())
    assert message is not None, "no end was reached"
    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
    consumer.close()
    return found


def read_all(client: Connection, topic: str, partition: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """Every record from an offset on."""
    while records := client.fetch(topic, partition, offset).records:
        for found, value in decode_batches(records):
            if found >= offset:
                yield found, value
                offset = found + 1


def _make(directory: Path, name: str, by: signal.Signals) -> Path:
    with serving(directory, *SETTINGS) as gateway:
        address = gateway.ready()["kafka"][0]
        fill(address)
        producer = fill_transactions(address)  # lives until the gateway has ended
        _end(gateway, by)
        del producer
    (directory / "data" / "penstock.lock").unlink()
    target = FORMATS / f"format-{FORMAT}-{name}.tar.xz"
    with tarfile.open(target, "w:xz") as archive:
        archive.add(directory / "data", "data")
    return target


def _end(gateway: Running, by: signal.Signals) -> None:
    gateway.process.send_signal(by)
    gateway.end()


def main() -> None:
    FORMATS.mkdir(exist_ok=True)
    for name, by in (("clean", signal.SIGTERM), ("killed", signal.SIGKILL)):
        directory = Path(tempfile.mkdtemp())
        try:
            made = _make(directory, name, by)
        finally:
            shutil.rmtree(directory)
        print(made, made.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
