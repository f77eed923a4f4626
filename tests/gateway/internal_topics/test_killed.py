"""A consumer that follows __consumer_offsets over a kill -9 of the process, by librdkafka."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from gateway.coordination.homes import Homes
from gateway.internal_topics.partitions import Partitions
from tests.gateway.forking import serving

pytestmark = pytest.mark.slow

GROUP: Final = "watched"
WHERE: Final = Partitions(Homes([0]), 50).of(GROUP)
WAIT_S_MAX: Final = 60.0


def commit(address: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": GROUP, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition("t", 0, offset)], asynchronous=False)
    consumer.close()


def next_offset(watcher: Consumer) -> tuple[int, int]:
    """Where the next record of a committed offset lies, and what it tells."""
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        message = watcher.poll(0.2)
        if message is not None and message.error() is None and message.key()[:2] == b"\x00\x01":
            return message.offset(), struct.unpack_from(">hq", message.value())[1]
    raise AssertionError("no record came")


def watching(address: str, position: int) -> Consumer:
    watcher = Consumer({"bootstrap.servers": address, "group.id": "watcher", "enable.auto.commit": False})
    watcher.assign([TopicPartition("__consumer_offsets", WHERE, position)])
    return watcher


def test_kill(tmp_path: Path) -> None:
    """After a kill a watcher goes on from its position, and finds the newest commit behind it; then each next one."""
    with serving(tmp_path) as first:
        address = first.ready()["kafka"][0]
        administrator = AdminClient({"bootstrap.servers": address})
        administrator.create_topics([NewTopic("t", 1)])["t"].result(WAIT_S_MAX)
        commit(address, 1)
        watcher = watching(address, 0)
        before, told = next_offset(watcher)
        watcher.close()
        assert told == 1
        commit(address, 2)
        first.process.kill()
        first.end()
    with serving(tmp_path) as second:
        address = second.ready()["kafka"][0]
        watcher = watching(address, before + 1)
        after, told = next_offset(watcher)
        assert told == 2
        assert after > before
        commit(address, 3)
        last, told = next_offset(watcher)
        watcher.close()

        assert told == 3
        assert last > after
