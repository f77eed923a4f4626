"""Three stages of consume-transform-produce, under kill -9: all records come out, once and in order."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from pathlib import Path
from typing import Final

import confluent_kafka
import kafka
import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from compat_tests.harness.waiting import until
from compat_tests.histories.clients import Client, Consumption, Copier, Surroundings
from compat_tests.histories.history import COMMITTED, History, Read
from compat_tests.histories.session import CONNECTION
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.settings import SEED, SOAK, scaled

KILLS: Final = scaled(15, 500)
"""Each is the same at another moment, and each run has other moments. Inspectors judge each record as it comes."""
UP_SECONDS: Final = (0.2, 1.2)
STAGES: Final = 3
PARTITIONS: Final = 2
TOPICS: Final = [f"chain-{number}" for number in range(STAGES + 1)]
FEED_PAUSE_S_MAX: Final = 0.01
DRAINED_WITHIN_S: Final = 90.0
JOINED_WITHIN_S: Final = 60.0
ENDED: Final = {"Empty", "CompleteCommit", "CompleteAbort", "Dead"}

Output = dict[int, list[str]]  # by partition


class Feeder(Client):
    """Writes numbers into the first topic; an idempotent producer's own affair is that each is there once."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__("feeder", around)
        self.sent: Output = defaultdict(list)
        self._producer = confluent_kafka.Producer(
            {**CONNECTION, "bootstrap.servers": around.address, "enable.idempotence": True, "linger.ms": 1}
        )

    def step(self) -> None:
        partition = self.dice.randrange(PARTITIONS)
        value = f"{partition}-{len(self.sent[partition])}"
        self.sent[partition].append(value)
        self._producer.produce(TOPICS[0], value.encode(), partition=partition)
        self._producer.poll(0)
        self.stopping.wait(self.dice.random() * FEED_PAUSE_S_MAX)

    def finish(self) -> None:
        assert self._producer.flush(JOINED_WITHIN_S) == 0, "records that were never acknowledged"


class Stage(Copier):
    """Hands each value on, to the same partition of the next topic."""

    def __init__(self, number: int, around: Surroundings) -> None:
        targets = [(TOPICS[number + 1], p) for p in range(PARTITIONS)]
        super().__init__(f"stage-{number}", around, TOPICS[number], targets, f"stage-{number}")

    def emit(self, read: Read) -> None:
        self.session.send(self._targets[read.place[1]], read.value, read.value)


class Inspector(Client):
    """A read_committed consumer of one topic: its records must be the input, from the beginning, in order."""

    def __init__(self, topic: str, around: Surroundings) -> None:
        super().__init__(f"inspector-{topic}", around)
        self.seen: Output = defaultdict(list)
        self._places = [(topic, p) for p in range(PARTITIONS)]
        self._input = Consumption(self.name, around, COMMITTED)

    def begin(self) -> None:
        self._input.assign(dict.fromkeys(self._places, 0))

    def step(self) -> None:
        for read in self._input.poll():
            seen = self.seen[read.place[1]]
            expected = f"{read.place[1]}-{len(seen)}"
            assert read.value == expected, f"{read.value} at {read.place} {read.offset} where {expected} is due"
            seen.append(read.value)

    def finish(self) -> None:
        self._input.consumer.close()


@pytest.mark.timeout(0 if SOAK else 400)
def test_chain_under_kills(tmp_path: Path) -> None:
    """The output of each stage is exactly the input, and no transaction hangs at the end."""
    dice = random.Random(SEED)
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.start()
        create_topics(gateway.address)
        around = Surroundings(gateway.address, History(), SEED, "chain")
        feeder = Feeder(around)
        stages = [Stage(number, around) for number in range(STAGES)]
        inspectors = [Inspector(topic, around) for topic in TOPICS[1:]]
        everyone: list[Client] = [feeder, *stages, *inspectors]
        for client in everyone:
            client.start()
        for number in range(KILLS):
            threading.Event().wait(dice.uniform(*UP_SECONDS))
            gateway.kill()
            gateway.start()
            assert problems(everyone) == [], f"after kill {number + 1}, seed {SEED}"
        end(feeder)

        def has_come_out() -> bool:
            return bool(problems(everyone)) or inspectors[-1].seen == feeder.sent

        until(has_come_out, within_s=DRAINED_WITHIN_S, what=f"all that went in has come out (seed {SEED})")
        end(*stages, *inspectors)

        assert problems(everyone) == [], f"seed {SEED}"
        assert [inspector.seen for inspector in inspectors] == [feeder.sent] * STAGES, f"seed {SEED}"
        assert hanging(gateway.address) == {}, f"seed {SEED}"
        stable = offsets(gateway.address, IsolationLevel.READ_COMMITTED)
        assert stable == offsets(gateway.address, IsolationLevel.READ_UNCOMMITTED), f"seed {SEED}"
    print(f"seed {SEED}: {KILLS} kills, {sum(map(len, feeder.sent.values()))} values through {STAGES} stages")
    assert all(len(feeder.sent[p]) > KILLS for p in range(PARTITIONS))


def create_topics(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    for created in admin.create_topics([NewTopic(topic, PARTITIONS) for topic in TOPICS]).values():
        created.result(30)


def problems(clients: list[Client]) -> list[str]:
    return [client.problem for client in clients if client.problem]


def end(*clients: Client) -> None:
    for client in clients:
        client.stopping.set()
    for client in clients:
        client.join(JOINED_WITHIN_S)
        assert not client.is_alive(), f"{client.name} does not end, seed {SEED}\n{client.where()}"


def hanging(address: str) -> dict[str, str]:
    """Transactions that have not ended."""
    admin = kafka.KafkaAdminClient(bootstrap_servers=address)
    try:
        listed = [entry for entries in admin.list_transactions().values() for entry in entries]
    finally:
        admin.close()
    assert len(listed) == STAGES
    return {entry.transactional_id: entry.state.value for entry in listed if entry.state.value not in ENDED}


def offsets(address: str, level: IsolationLevel) -> dict[tuple[str, int], int]:
    """The end of each partition for readers of that kind."""
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    wanted = {TopicPartition(topic, p): OffsetSpec.latest() for topic in TOPICS for p in range(PARTITIONS)}
    found = admin.list_offsets(wanted, isolation_level=level)
    return {(place.topic, place.partition): future.result(30).offset for place, future in found.items()}
