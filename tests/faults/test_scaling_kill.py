"""kill -9 while streams split and merge under load: the epoch before or the epoch after, and nothing lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from core.config import StoreConfig
from core.store import Store
from core.streams.policy import StreamPolicy
from core.streams.state import Epoch
from tests.faults.client import Connection
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History
from tests.faults.load import Client, Load
from tests.faults.settings import SEED, scaled
from tests.faults.test_kill import PARTITIONS, TOPIC, clients, found

KILLS: Final = scaled(8, 300)
UP_SECONDS_MAX: Final = 1.2
ENOUGH_WITHIN_S: Final = 60.0
"""A busy machine does not come to a scale in each life."""
SETTINGS: Final = {
    **EAGER,
    "log.file.bytes": 4 << 20,
    "scaler.time.factor": 0.001,  # it looks twenty times a second
    "tier2": "off",  # so that the store can be opened here afterwards
}


class Scaling(Client):
    """A client that gives the topic more partitions, which is a scale, and then splits its segments."""

    def __init__(self, address: Callable[[], str], seed: str) -> None:
        super().__init__("scaling", address, seed)
        self._partitions = PARTITIONS
        self.made = 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            self._partitions += 1  # also when a kill hid what became of the last one
            connection.create_partitions(TOPIC, self._partitions)
            self.made += 1
            least = self.random.randint(1, self._partitions)
            connection.alter_topic(TOPIC, {"penstock.scaling.min.segments": str(least)})
            self.stopping.wait(self.random.random() * 0.2)


@pytest.mark.timeout(400 if KILLS == 8 else 0)
def test_killed_while_it_scales(tmp_path: Path) -> None:
    """Clients see nothing but the kills; the epochs follow one another, whatever was cut off."""
    dice = random.Random(SEED)
    history = History()
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, PARTITIONS)
        scaling = Scaling(lambda: gateway.address, SEED)
        with Load([*clients(gateway, history), scaling]) as load:
            for number in range(KILLS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                gateway.kill()
                gateway.start()
                assert load.problems() == [], f"after kill {number + 1}, seed {SEED}"
            load.run_for(UP_SECONDS_MAX)
            load.run_for(ENOUGH_WITHIN_S, until=lambda: scaling.made > KILLS // 2)
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"seed {SEED}"
        assert gateway.stop() == 0

        epochs = asyncio.run(epochs_of(gateway.data / "store"))
        print(f"seed {SEED}: {len(epochs)} epochs, {history.acknowledged_count()} records acknowledged")
        assert [after.epoch - before.epoch for before, after in pairwise(epochs)] == [1] * (len(epochs) - 1)
        assert len(epochs) > KILLS // 2, f"seed {SEED}"

        gateway.start()
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"after a clean stop, seed {SEED}"


async def epochs_of(directory: Path) -> tuple[Epoch, ...]:
    store = await Store.open(directory, StoreConfig(log_file_bytes=4 << 20), lambda config: StreamPolicy())
    stream = store.streams.get(TOPIC)
    assert stream is not None
    epochs = stream.state.epochs
    await store.close()
    return epochs
