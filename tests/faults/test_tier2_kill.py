"""kill -9 while chunks are put, committed, merged, compacted and deleted: many times in a row, at random moments."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.churn import KeyWriter, TopicChurn, Trimmer
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Partition
from tests.faults.load import BatchWriter, CatchUpReader, Client, IdempotentWriter, Load, RealWriter, TailReader
from tests.faults.questions import ask
from tests.faults.settings import SEED, SOAK, scaled
from tests.faults.tiered import Bucket, await_quiet, problems, settings_for, verify
from tests.tier2.minio_server import MinioServer

KILLS: Final = scaled(12, 1000)
"""Each is the same at another moment, and each run has other moments. All of the data is checked once, at the end."""
UP_SECONDS_MAX: Final = 2.0
TOPIC: Final = "killed"
KEEPS: Final[list[Partition]] = [(TOPIC, 0), (TOPIC, 1)]
TRIMMED: Final[Partition] = (TOPIC, 2)
COMPACTED: Final[Partition] = ("compacted", 0)


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory)
    server.start()
    yield server
    server.kill()


@pytest.mark.timeout(0 if SOAK else 400)
def test_killed_while_it_moves_data(tmp_path: Path, minio: MinioServer) -> None:
    """Nothing acknowledged is lost, nothing is referred to that is not there, nothing is left behind."""
    dice = random.Random(SEED)
    history, bucket = History(), Bucket(minio)
    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, 3)
            connection.create_topic(COMPACTED[0], 1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"})

        def address() -> str:
            return gateway.address

        keys = KeyWriter(address, COMPACTED, SEED)
        trimmer = Trimmer(address, TRIMMED, SEED)
        churn = TopicChurn(address, SEED)
        clients: list[Client | RealWriter] = [
            BatchWriter("plain", address, history, [*KEEPS, TRIMMED], SEED),
            IdempotentWriter("sure", address, history, [*KEEPS, TRIMMED], SEED),
            RealWriter("real", gateway.address, history, KEEPS[1], SEED),
            TailReader(address, history, KEEPS[0], SEED),
            CatchUpReader(address, history, KEEPS[1], SEED),
            keys,
            trimmer,
            churn,
        ]
        with Load(clients) as load:
            for number in range(KILLS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                gateway.kill()
                gateway.start()
                with gateway.connect() as connection:
                    found = load.problems() + ask(connection, [dice.choice([*KEEPS, TRIMMED])], dice)
                assert found == [], f"after kill {number + 1}, seed {SEED}"
            load.run_for(UP_SECONDS_MAX)
            load.drain()
            assert load.problems() == [], f"seed {SEED}"

        chunks = await_quiet(bucket)
        assert problems(gateway, history, [*KEEPS, TRIMMED]) == [], f"seed {SEED}"
        with gateway.connect() as connection:
            assert keys.check(connection) == [], f"seed {SEED}"
        assert gateway.stop() == 0
        checked = verify(gateway)
        print(
            f"seed {SEED}: {history.acknowledged_count()} records acknowledged, {len(chunks)} chunks, "
            f"{trimmer.trims} trims, {churn.dropped} topics dropped, {keys.records_found} of "
            f"{keys.written} keyed records left; {checked}"
        )
        assert (checked["missing"], checked["damaged"], checked["orphaned"]) == ([], [], []), f"seed {SEED}"
        assert trimmer.trims > KILLS / 5
        assert churn.dropped > KILLS / 10
        gateway.start()
        assert problems(gateway, history, [*KEEPS, TRIMMED]) == [], f"after a clean stop, seed {SEED}"
