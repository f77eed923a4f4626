"""A stranger who makes up producer ids, beside honest idempotent producers, over kills."""

from __future__ import annotations

import struct
import time
from collections import Counter
from pathlib import Path
from typing import Final

import confluent_kafka
import pytest

from tests.faults.client import Connection, array, encode_batch, string
from tests.faults.gateway_process import EAGER, Gateway

pytestmark = pytest.mark.slow

MADE_UP: Final = 100_000
FIRST_ID: Final = 1_000_000
IDS_PER_REQUEST: Final = 100
BOUND: Final = 40_000
FREE: Final = BOUND // 2
REFUSED: Final = 19
"""NOT_ENOUGH_REPLICAS: clients send it again."""
TOPIC: Final = "t"
SETTINGS: Final = {**EAGER, "log.file.bytes": 16 << 20, "producer.states.max": BOUND}


def flood(address: str, count: int = MADE_UP) -> Counter[int]:
    """One batch of each of `count` made-up producers, from an address of its own; the number of each code."""
    codes: Counter[int] = Counter()
    with Connection(address, source="127.0.0.2") as stranger:
        for first in range(FIRST_ID, FIRST_ID + count, IDS_PER_REQUEST):
            partitions = []
            for number in range(IDS_PER_REQUEST):
                records = encode_batch([b"x"], producer_id=first + number, epoch=0, sequence=0)
                partitions.append(struct.pack(">ii", number, len(records)) + records)
            topics = array([string(TOPIC) + array(partitions)])
            answer = stranger.call(0, 8, string(None) + struct.pack(">hi", -1, 30_000) + topics)
            for _ in answer.times():
                answer.string()
                for _ in answer.times():
                    _, code, *_ = answer.take("ihqqq")
                    for _ in answer.times():
                        answer.one("i")
                        answer.string()
                    answer.string()
                    codes[code] += 1
    return codes


class Honest:
    """librdkafka's idempotent producer; each record must be taken, without its tries running out."""

    def __init__(self, address: str) -> None:
        self.sent = 0
        self.problems: list[str] = []
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": address, "enable.idempotence": True, "message.timeout.ms": 30_000, "log_level": 0}
        )

    def send(self, count: int) -> None:
        """So many records over all partitions, and wait until they are taken."""
        for _ in range(count):
            partition = self.sent % IDS_PER_REQUEST
            self._producer.produce(TOPIC, b"honest %d" % self.sent, partition=partition, on_delivery=self._told)
            self.sent += 1
        assert not self._producer.flush(30)
        assert self.problems == []

    def _told(self, error: object, message: object) -> None:
        if error is not None:
            self.problems.append(str(error))


def test_made_up_producers_leave_room_for_others(tmp_path: Path) -> None:
    """One address gets half of the bound, known and new producers of others go on, and a kill changes nothing of it."""
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, IDS_PER_REQUEST)
        before = Honest(gateway.address)
        before.send(500)

        codes = flood(gateway.address)
        assert codes[0] == FREE - IDS_PER_REQUEST  # the honest one is known to each partition
        assert codes.keys() == {0, REFUSED}
        before.send(500)
        during = Honest(gateway.address)
        during.send(500)

        gateway.kill()
        gateway.start()
        before.send(500)
        during.send(500)
        assert flood(gateway.address, 1_000)[REFUSED] == 0  # these are known again
        after = Honest(gateway.address)
        after.send(500)


def test_silent_producers_make_room(tmp_path: Path) -> None:
    """When all room is used, expired producers are forgotten, and waiting ones are taken, by their own tries."""
    with Gateway(tmp_path, {**SETTINGS, "producer.states.max": 1_000, "producer.id.expiration.ms": 3_000}) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, IDS_PER_REQUEST)
        began_s = time.monotonic()
        assert flood(gateway.address, 10_000)[REFUSED]
        for _ in range(6):
            Honest(gateway.address).send(450)
        assert time.monotonic() - began_s < 60
