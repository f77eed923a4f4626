"""kill -9 while partitions move between containers under load: nothing is lost, doubled or reordered."""

from __future__ import annotations

import http.client
import json
import random
import time
from pathlib import Path
from typing import Final

import pytest

from tests.faults.churn import KeyWriter
from tests.faults.client import Connection, Disconnected, Produced
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History, Partition
from tests.faults.load import BatchWriter, Client, Committer, IdempotentWriter, Load, RealWriter, TailReader
from tests.faults.settings import SEED, scaled
from tests.faults.test_kill import PARTITIONS, TOPIC, everywhere, found
from tests.faults.tiered import QUICK

pytestmark = pytest.mark.slow

KILLS: Final = scaled(6, 300)
COMPACTED: Final[Partition] = ("compacted", 0)
COMPACT: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
UP_SECONDS_MAX: Final = 1.5
MOVES_MIN: Final = 5
COMPACTS_S_MAX: Final = 2.0
"""Between two moves of a compacted partition: it is compacted then."""
LOOK_S: Final = 0.5
LOOKS_MAX: Final = 100
CONTAINERS: Final = 3
NOT_LEADER = 6
SETTINGS: Final = {**EAGER, "containers": CONTAINERS}


class MovingWriter(IdempotentWriter):
    """A client that finds its leader anew when that has changed, and sends all again that is not acknowledged."""

    def answered(self, produced: Produced) -> None:
        if produced.code == NOT_LEADER:
            raise Disconnected(f"error {produced.code}")  # with all of it still waiting
        super().answered(produced)


class Moving(Client):
    """An operator who moves partitions to and fro."""

    def __init__(
        self, gateway: Gateway, topic: str = TOPIC, partitions: int = PARTITIONS, pause_s_max: float = 0.05
    ) -> None:
        super().__init__(f"moving {topic}", lambda: gateway.address, SEED)
        self._gateway = gateway
        self._topic = topic
        self._partitions = partitions
        self._pause_s_max = pause_s_max
        self.moved = 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            wanted = {"slot": self.random.randrange(self._partitions), "container": self.random.randrange(CONTAINERS)}
            try:
                asked = http.client.HTTPConnection(self._gateway.ready["http"], timeout=30)
                headers = {"Content-Type": "application/json"}
                asked.request("POST", f"/api/v1/streams/{self._topic}/move", json.dumps(wanted), headers)
                answer = asked.getresponse()
                told = answer.read()
            except (OSError, http.client.HTTPException) as gone:
                raise Disconnected(str(gone)) from gone
            assert answer.status in (200, 503), told
            self.moved += answer.status == 200
            self.stopping.wait(self.random.random() * self._pause_s_max)


@pytest.mark.timeout(400 if KILLS == 6 else 0)
def test_killed_while_partitions_move(tmp_path: Path) -> None:
    """Plain, idempotent and real producers, readers and groups go on across moves, and kills among them."""
    dice, history, places = random.Random(SEED), History(), everywhere()
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.http = "127.0.0.1:0"
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, PARTITIONS)

        def address() -> str:
            return gateway.address

        moving = Moving(gateway)
        clients = [
            BatchWriter("plain", address, history, places, SEED),
            MovingWriter("sure-a", address, history, places, SEED),
            MovingWriter("sure-b", address, history, places[:1], SEED),
            RealWriter("real", gateway.address, history, places[1], SEED),
            TailReader(address, history, places[0], SEED),
            TailReader(address, history, places[1], SEED),
            Committer(address, history, places[0], SEED),
            moving,
        ]
        with Load(clients) as load:
            for number in range(KILLS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                gateway.kill()
                gateway.start()
                assert load.problems() == [], f"after kill {number + 1}, seed {SEED}"
            for _ in range(LOOKS_MAX):
                load.run_for(LOOK_S)
                if moving.moved >= MOVES_MIN:
                    break
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"seed {SEED}"
        print(f"seed {SEED}: {moving.moved} moves, {history.acknowledged_count()} records acknowledged")
        assert moving.moved >= MOVES_MIN, f"seed {SEED}"
        assert gateway.stop() == 0
        gateway.start()
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"after a clean stop, seed {SEED}"


@pytest.mark.timeout(400 if KILLS == 6 else 0)
def test_killed_while_a_compacted_partition_moves(tmp_path: Path) -> None:
    """Each key has its last value afterwards, or one that was tried later; values are in order."""
    dice, settings = random.Random(SEED), {**QUICK, "containers": CONTAINERS, "tier2.verify.delay.ms": 100}
    with Gateway(tmp_path, settings) as gateway:
        gateway.http = "127.0.0.1:0"
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(COMPACTED[0], 1, COMPACT)
        keys = KeyWriter(lambda: gateway.address, COMPACTED, SEED)
        moving = Moving(gateway, COMPACTED[0], 1, COMPACTS_S_MAX)
        with Load([keys, moving]) as load:
            for number in range(KILLS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                gateway.kill()
                gateway.start()
                assert load.problems() == [], f"after kill {number + 1}, seed {SEED}"
            for _ in range(LOOKS_MAX):
                load.run_for(LOOK_S)
                if moving.moved >= MOVES_MIN:
                    break
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with gateway.connect() as connection:
            for _ in range(LOOKS_MAX):  # nothing is compacted while it moves
                assert keys.check(connection) == [], f"seed {SEED}"
                if keys.records_found <= 2 * len(keys.sent):
                    break
                time.sleep(LOOK_S)
            else:
                pytest.fail(f"{keys.records_found} of {keys.written} records are left, seed {SEED}")
        print(f"seed {SEED}: {moving.moved} moves, {keys.records_found} of {keys.written} keyed records left")
        assert moving.moved >= MOVES_MIN, f"seed {SEED}"
        assert gateway.stop() == 0
        gateway.start()
        with gateway.connect() as connection:
            assert keys.check(connection) == [], f"after a clean stop, seed {SEED}"
