"""kill -9 before each write of the logs of four containers, in the life of transactions over all of them.

The topic's partitions lie in four containers, the coordinator and the group have their homes in two of them. Each life
is killed some writes later than the one before. CI takes every STRIDE-th write, from another one in each run; a soak
takes all.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Disconnected
from tests.faults.faultlayer import Faults, Point, read_report
from tests.faults.gateway_process import EAGER, Ended, Gateway
from tests.faults.history import Partition
from tests.faults.settings import SEED, SOAK
from tests.faults.transactional import TransactionalProducer, read_committed
from tests.faults.transfers import Transfers

SETTINGS: Final = {**EAGER, "containers": 4}
TOPIC: Final = "spread"
PARTITIONS: Final[list[Partition]] = [(TOPIC, number) for number in range(4)]
TRANSACTIONS: Final = 4
STRIDE: Final = 1 if SOAK else 10
WRITES_MAX: Final = 400
KILLED: Final = -9
LAST: Final = b"the last one"


class Producer(Transfers):
    """Each transaction writes its number to all partitions, and commits it as an offset; every other one is aborted."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(lambda: gateway.address, PARTITIONS, SEED)
        self._gateway = gateway

    def live(self) -> bool:
        """Whether it came to its end."""
        try:
            with self._gateway.connect() as connection:
                producer = TransactionalProducer(connection, self.name)
                for number in range(TRANSACTIONS):
                    for partition in PARTITIONS:
                        producer.produce(*partition, [b"%d/" % number])
                    producer.commit_offset(self.name, *PARTITIONS[0], number + 1)
                    if number % 2 == 0:
                        self.tried.add(number)
                    producer.end(commit=number % 2 == 0)
                    if number % 2 == 0:
                        self.committed.add(number)
        except Disconnected:
            return False
        return True

    def go_on(self) -> None:
        """The next producer fences this one, and what it commits is seen at once: nothing hangs before it."""
        with self._gateway.connect() as connection:
            assert self.check(connection) == []
            producer = TransactionalProducer(connection, self.name)
            for partition in PARTITIONS:
                producer.produce(*partition, [LAST])
            producer.end(commit=True)
            for partition in PARTITIONS:
                values = [value for _, value in read_committed(connection, *partition)]
                assert values[-1] == LAST, f"{partition}: {values}"


@pytest.mark.timeout(0 if SOAK else 400)
def test_killed_at_every_write(tmp_path: Path) -> None:
    """Wherever it is killed, the next start finds all or nothing of each transaction in every container."""
    hits: list[Point] = []
    begun = tmp_path / "begun"
    with Gateway(begun, SETTINGS) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, len(PARTITIONS))
        assert gateway.stop() == 0
    for number in numbers():
        hit = killed_at(number, tmp_path / str(number), begun / "data")
        if hit is None:
            break
        hits.append(hit)
    containers = {path for hit in hits for path in Path(hit.path).parts if path.startswith("container-")}
    print(f"seed {SEED}: killed at {len(hits)} writes in {sorted(containers)}")
    assert len(hits) >= 5
    assert len(containers) >= 2


def numbers() -> Iterator[int]:
    first = 1 if SOAK else 1 + random.Random(SEED).randrange(STRIDE)
    return iter(range(first, WRITES_MAX, STRIDE))


def killed_at(number: int, place: Path, begun: Path) -> Point | None:
    """Live on what was begun until that write, then start again; the write, None if it was not reached."""
    with Gateway(place, SETTINGS) as gateway:
        shutil.copytree(begun, gateway.data)
        producer = Producer(gateway)
        faults = Faults(gateway.data, ("fdatasync",), "*/log/*.log", number, report=place / "points")
        try:
            gateway.start(faults.environment())
            finished = producer.live()
        except Ended as ended:  # by a write of the start itself
            if ended.code != KILLED:
                raise
            finished = False
        if finished:
            return None
        if gateway.process is not None:
            assert gateway.await_end() == KILLED, gateway.last_output()
        gateway.start()
        producer.go_on()
        assert gateway.stop() == 0
    hit = next(point for point in read_report(place / "points") if point.number == number)
    shutil.rmtree(place)
    return hit
