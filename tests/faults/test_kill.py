"""kill -9 under load, many times in a row, some while it recovers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection
from tests.faults.gateway_process import EAGER, Ended, Gateway
from tests.faults.history import History, Partition, check_history, read_outcome
from tests.faults.load import (
    BatchWriter,
    Client,
    Committer,
    IdempotentWriter,
    Load,
    RealWriter,
    TailReader,
)
from tests.faults.questions import ask, ask_everything
from tests.faults.settings import SEED, SOAK, scaled

KILLS: Final = scaled(15, 1000)
"""Each is the same at another moment, and each run has other moments. All of the data is checked once, at the end."""
UP_SECONDS_MAX: Final = 0.9
STARTING_KILL_SHARE: Final = 0.4
PARTITIONS: Final = 4
ASKED: Final = 2  # partitions of which everything is asked after each kill
TOPIC: Final = "killed"


def clients(gateway: Gateway, history: History) -> list[Client | RealWriter]:
    """Two plain writers, two idempotent ones, a real one, two readers, two groups."""

    def address() -> str:
        return gateway.address

    places = everywhere()
    return [
        BatchWriter("plain-a", address, history, places, SEED),
        BatchWriter("plain-b", address, history, places[:1], SEED),
        IdempotentWriter("sure-a", address, history, places, SEED),
        IdempotentWriter("sure-b", address, history, places[:1], SEED),
        RealWriter("real", gateway.address, history, places[1], SEED),
        TailReader(address, history, places[0], SEED),
        TailReader(address, history, places[1], SEED),
        Committer(address, history, places[0], SEED),
        Committer(address, history, places[1], SEED),
    ]


def everywhere() -> list[Partition]:
    return [(TOPIC, number) for number in range(PARTITIONS)]


@pytest.mark.timeout(0 if SOAK else 400)
@pytest.mark.parametrize("containers", [1, 4])
def test_killed_in_a_row_under_load(tmp_path: Path, containers: int) -> None:
    """Whatever was acknowledged is there once and in order, and idempotent producers just go on."""
    dice = random.Random(SEED)
    history = History()
    killed_starting = 0
    also_starting = set(dice.sample(range(KILLS), int(STARTING_KILL_SHARE * KILLS)))
    with Gateway(tmp_path, {**EAGER, "log.file.bytes": 4 << 20, "containers": containers}) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, PARTITIONS)
        with Load(clients(gateway, history)) as load:
            for number in range(KILLS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                gateway.kill()
                is_to_start = number in also_starting
                while is_to_start:
                    killed_starting += kill_while_starting(gateway, dice)
                    is_to_start = dice.random() < STARTING_KILL_SHARE
                gateway.start()
                with gateway.connect() as connection:
                    problems = load.problems() + ask(connection, dice.sample(everywhere(), ASKED), dice)
                assert problems == [], f"after kill {number + 1}, seed {SEED}"
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"seed {SEED}"
        assert gateway.stop() == 0
        gateway.start()
        assert gateway.ready["replayed_bytes"] == 0
        with gateway.connect() as connection:
            assert found(connection, history) == [], f"after a clean stop, seed {SEED}"
    print(
        f"seed {SEED}: {gateway.starts} starts, {killed_starting} killed while starting, "
        f"{history.acknowledged_count()} records acknowledged"
    )
    assert killed_starting > KILLS // 10
    assert history.acknowledged_count() > 100 * KILLS


def kill_while_starting(gateway: Gateway, dice: random.Random) -> bool:
    """Start it, kill it at a random moment of the start; whether it was not ready yet."""
    gateway.launch()
    try:
        gateway.await_ready(dice.random() * gateway.last_start_seconds)
    except TimeoutError:
        return True
    except Ended as ended:
        raise AssertionError(f"a start after a kill failed, seed {SEED}") from ended
    gateway.kill()
    return False


def found(connection: Connection, history: History) -> list[str]:
    asked = ask_everything(connection, everywhere(), random.Random(SEED))
    return asked + check_history(history, read_outcome(connection, everywhere(), history))
