"""Scaling under load: thousands of scales, and no client can tell."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Final

import pytest

from core.streams.live import Stream
from gateway.broker import Broker
from tests.gateway.harness import Client, batch, running_broker, values

pytestmark = pytest.mark.slow

SCALES: Final = int(os.environ.get("PENSTOCK_TEST_SCALES", "2000"))
SEED: Final = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**9))
PARTITIONS: Final = 8
DEADLINE_S: Final = 100.0


async def write(broker: Broker, name: str, producer_id: int, done: asyncio.Event) -> list[list[bytes]]:
    """Write to all partitions in turn, idempotent with an id; return the acknowledged records by partition."""
    client = await Client.connect(broker)
    written: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    sequences = [0] * PARTITIONS
    while not done.is_set():
        for partition in range(PARTITIONS):
            records = [b"%s/%d" % (name.encode(), len(written[partition]) + n) for n in range(2)]
            sequence = sequences[partition] if producer_id >= 0 else -1
            epoch = 0 if producer_id >= 0 else -1
            sent = batch(*records, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
            answer = await client.produce("t", sent, partition=partition)
            assert answer.error_code == 0, f"{name}, partition {partition}, seed {SEED}"
            written[partition] += records
            sequences[partition] += 2
            if producer_id >= 0 and sequences[partition] % 10 == 0:
                again = await client.produce("t", sent, partition=partition)
                assert (again.error_code, again.base_offset) == (0, answer.base_offset), f"seed {SEED}"
    client.close()
    return written


async def read(broker: Broker, partition: int, ends: asyncio.Future[list[int]]) -> list[bytes]:
    """Everything from a partition, as it comes, up to where it ends."""
    client = await Client.connect(broker)
    found: list[bytes] = []
    while not ends.done() or len(found) < ends.result()[partition]:
        answer = await client.fetch(("t", partition, len(found)), max_wait=100)
        told = answer.responses[0].partitions[0]
        assert told.error_code == 0, f"partition {partition}, seed {SEED}"
        for offset, value in values(told.records or b""):
            if offset >= len(found):
                assert offset == len(found), f"partition {partition}, seed {SEED}"
                found.append(value or b"")
    client.close()
    return found


async def scale(broker: Broker, stream: Stream, dice: random.Random) -> None:
    """Split and merge at random, without a pause; a draw that would change nothing is drawn again."""
    made = 0
    while made < SCALES // 2:
        runs = stream.state.current.segments
        begin = dice.randrange(len(runs))
        some = runs[begin : begin + dice.randint(1, 3)]
        places = range(some[0].first + 1, some[-1].last)
        cuts = dice.sample(places, dice.randint(0, min(3, len(places))))
        if sorted(cuts) != [run.first for run in some[1:]]:
            await broker.store.scale_stream(stream, [run.number for run in some], cuts, "test")
            made += 1


def test_thousands_of_scales_under_load(tmp_path: Path) -> None:
    """Plain and idempotent writers and readers see no error; nothing is lost, doubled or out of order."""

    async def scenario() -> None:
        async with running_broker(tmp_path, "scaling.policy=fixed") as broker:
            setup = await Client.connect(broker)
            await setup.create("t", PARTITIONS)
            setup.close()
            stream = broker.topics.get("t")
            assert stream is not None
            done = asyncio.Event()
            ends: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            writers = [
                asyncio.create_task(write(broker, name, producer_id, done))
                for name, producer_id in (("plain-a", -1), ("plain-b", -1), ("sure-a", 7), ("sure-b", 8))
            ]
            readers = [asyncio.create_task(read(broker, partition, ends)) for partition in range(PARTITIONS)]
            await scale(broker, stream, random.Random(SEED))
            done.set()
            written = await asyncio.gather(*writers)
            ends.set_result([stream.slot(partition).durable_end for partition in range(PARTITIONS)])
            found = await asyncio.gather(*readers)

            for partition, values_ in enumerate(found):
                for name, one in zip(("plain-a", "plain-b", "sure-a", "sure-b"), written, strict=True):
                    own = [value for value in values_ if value.startswith(name.encode())]
                    assert own == one[partition], f"{name}, partition {partition}, seed {SEED}"
                assert len(values_) == sum(len(one[partition]) for one in written)
            assert len(stream.state.epochs) == SCALES // 2 + 1
            assert all(one[partition] for one in written for partition in range(PARTITIONS))

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))
