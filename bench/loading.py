"""How long the loop is held while a container with very many committed offsets and transactional ids comes or goes.

A store is opened, and its tables are given their rows as its recovery gives them; then its coordinators load and
start, as when a node takes a container over. At last they and the container are released, as when another node gets it.
A beat on the same loop measures the turns in between, in CPU time of the loop's thread.

    python -m bench.loading --offsets 1000000 --ids 100000
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from core.applied.tables import Put
from core.clock import SystemClock
from core.store import Store
from gateway.config.loading import Config, load
from gateway.coordination.homes import Homes
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.persistence import (
    NO_EPOCH,
    OFFSETS_TABLE,
    CommittedOffset,
    OffsetKey,
    encode_offset,
    encode_offset_key,
)
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.process.gc_passes import ShortPasses
from gateway.topics.topics import Topics, WantedTopic
from gateway.transactions.coordinators import TransactionCoordinators
from gateway.transactions.known import put
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.transaction import Transaction

PARTITIONS: Final = 1_000
BEAT_S: Final = 0.0002
HOME, CONTAINER = 0, 1


class Beat:
    """The longest turn of the loop since the last question."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._before_s = time.thread_time()
        asyncio.get_running_loop().call_soon(self._beat)

    def _beat(self) -> None:
        now_s = time.thread_time()
        self._longest_s = max(self._longest_s, now_s - self._before_s)
        self._before_s = now_s
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def take_ms(self) -> float:
        self._beat()
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s * 1_000


def memory_mib() -> float:
    """What of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def rows(offsets: int, ids: int) -> Iterator[Put]:
    value = encode_offset(CommittedOffset(7, NO_EPOCH, "", time.time_ns() // 1_000_000))
    for number in range(offsets):
        key = OffsetKey(f"group-{number // PARTITIONS}", "t", number % PARTITIONS)
        yield Put(OFFSETS_TABLE, encode_offset_key(key), value)
    for number in range(ids):
        yield put(
            Transaction(transactional_id=f"id-{number}", producer_id=number, epoch=0, timeout_ms=60_000, changed_ms=1)
        )


async def measured(directory: Path, config: Config, puts: Iterable[Put]) -> None:
    clock, configs = SystemClock(), BrokerConfigs(config)
    store_config = replace(config.store_config(), container_ids=(HOME, CONTAINER))
    store = await Store.open(directory, store_config, configs.policy_for, clock)
    topics = Topics(config, store, configs)
    await topics.create([WantedTopic("t", PARTITIONS)])
    hosted = store.containers[CONTAINER]
    for one in puts:
        hosted.container.table(one.table).apply(one)
    settings, streams = settings_of(config, lambda _: {}), streams_settings_of(config, lambda _: {})
    homes, elsewhere = Homes([HOME, CONTAINER]), Elsewhere(lambda _: None)
    groups = GroupCoordinators(config, store, clock, topics, topics, homes, settings, streams, elsewhere)
    transactions = TransactionCoordinators(config, store, clock, groups, ProducerIds(store))
    passes = ShortPasses(asyncio.get_running_loop().call_soon_threadsafe)
    passes.begin()
    beat = Beat()
    began_s = time.monotonic()
    for name, step in (
        ("groups load", groups.load),
        ("transactions load", transactions.load),
        ("groups start", groups.start),
        ("transactions start", transactions.start),
    ):
        await step()
        print(f"{name:>22}: longest turn {beat.take_ms():8.1f} ms")
    print(f"{'all':>22}: {time.monotonic() - began_s:.1f} s, {len(groups)} groups, {len(transactions)} ids")
    began_s, began_mib = time.monotonic(), memory_mib()
    for name, release in (
        ("transactions released", transactions.release),
        ("groups released", groups.release),
        ("container released", store.release),
    ):
        await release(CONTAINER)
        print(f"{name:>22}: longest turn {beat.take_ms():8.1f} ms")
    assert hosted._freeing is not None
    await asyncio.gather(*groups._freeing, *transactions._freeing, hosted._freeing)
    print(f"{'let go of':>22}: longest turn {beat.take_ms():8.1f} ms")
    print(f"{'all':>22}: {time.monotonic() - began_s:.1f} s, {began_mib:.0f} MiB before, {memory_mib():.0f} after")
    await transactions.stop()
    await groups.stop()
    await store.close()
    passes.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--offsets", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=100_000)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    config = load(environ={}, assignments=[f"transactional.ids.max={max(1, asked.ids)}"])
    directory = Path(tempfile.mkdtemp(prefix="penstock-loading-"))
    try:
        uvloop.run(measured(directory, config, rows(asked.offsets, asked.ids)))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
