"""The coordinator of transactions on a real store, without sockets; time stands still until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from core.clock import ManualClock
from core.container.container import Container
from core.log.format import IN_TRANSACTION
from core.log.records import Put
from core.store import Store
from core.streams.live import Slot
from core.streams.state import STREAMS_TABLE, new_stream
from gateway.config.loading import load
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import OffsetKey
from gateway.groups.settings import settings_of
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.records.record_batch import read_header
from gateway.records.records import Record, build_batch, iter_records
from gateway.topics.topics import Topics, WantedTopic
from gateway.transactions.coordinator import TransactionCoordinator
from gateway.transactions.places import Place
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.transaction import Identity, Transaction
from tests.core.support import owner_of, writer_of

FAST = ("group.initial.rebalance.delay.ms=0", "log.file.bytes=1048576")
TIMEOUT_MS = 60_000
ELSEWHERE = 1
"""The container that is not the home container."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on the loop that the gateway runs on."""
    uvloop.run(asyncio.wait_for(test, 30))


class Services:
    """The part of a broker that transactions need."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        groups: GroupCoordinator,
        transactions: TransactionCoordinator,
        clock: ManualClock,
    ) -> None:
        self.store = store
        self.topics = topics
        self.groups = groups
        self.transactions = transactions
        self.clock = clock

    async def create(self, name: str, partitions: int = 2) -> None:
        (outcome,) = await self.topics.create([WantedTopic(name, partitions)])
        assert getattr(outcome, "name", None) == name

    async def create_elsewhere(self, name: str, stream_id: int = 1_000) -> None:
        """A topic of two partitions that lie in another container than tables do."""
        container = self.store.containers[ELSEWHERE].container
        state = new_stream(
            stream_id=stream_id,
            name=name,
            uuid=uuid4(),
            slots=2,
            created_ms=0,
            container=container.id,
            config={},
        )
        await container.update(Put(STREAMS_TABLE, stream_id.to_bytes(4, "big"), state.encode()))

    def slot(self, topic: str, partition: int = 0) -> Slot:
        stream = self.topics.get(topic)
        assert stream is not None
        return stream.slot(partition)

    def place(self, topic: str, partition: int = 0) -> Place:
        return Place(self.slot(topic, partition).stream.id, partition)

    # What a producer does

    async def init(self, name: str = "x", expected: Identity | None = None, timeout_ms: int = TIMEOUT_MS) -> Identity:
        return await self.transactions.init_producer(name, timeout_ms, expected)

    async def write(
        self, who: Identity, topic: str, value: bytes, *, name: str = "x", partition: int = 0, sequence: int = 0
    ) -> None:
        """As a Produce of version 12 does; durable when this returns."""
        slot, place = self.slot(topic, partition), self.place(topic, partition)
        self.transactions.add_before_write(name, who, [place])
        assert self.transactions.admit_write(name, who, place)
        append(slot, who, value, sequence)
        await owner_of(slot).all_durable()

    async def commit_offset(
        self, who: Identity, offset: int, *, name: str = "x", group: str = "g", topic: str = "t"
    ) -> None:
        """As a TxnOffsetCommit of version 5 does, for partition 0."""
        offsets, _ = self.groups.offsets.judge(group, [OffsetCommit(topic, 0, offset, -1, "")])
        await self.transactions.commit_offsets(name, who, group, offsets)

    async def end(self, who: Identity, *, name: str = "x", committed: bool = True, bumps: bool = True) -> Identity:
        return await self.transactions.end(name, who, committed=committed, bumps=bumps)

    # What others see

    def known(self, name: str = "x") -> Transaction:
        found = self.transactions.get(name)
        assert found is not None
        return found

    async def committed(self, topic: str, partition: int = 0) -> list[bytes]:
        """The records of a reader of committed records."""
        slot, found = self.slot(topic, partition), []
        aborted = slot.aborted_in(0, slot.stable_end)
        offset = slot.start
        while offset < slot.stable_end:
            entry = await self.store.hosted(slot).reader.entry_at(slot, offset)
            assert entry is not None
            header = read_header(entry.payload)
            is_aborted = any(
                row.writer_id == header.producer_id and row.first <= entry.first < row.last for row in aborted
            )
            if not header.is_control and not is_aborted:
                found += [record.value or b"" for record in iter_records(entry.payload)]
            offset = entry.first + entry.count
        return found

    def offset(self, group: str = "g", topic: str = "t") -> int | None:
        """The group's committed offset of partition 0."""
        committed = self.groups.offsets.get(OffsetKey(group, topic, 0))
        return None if committed is None else committed.offset

    def is_unstable(self, group: str = "g", topic: str = "t") -> bool:
        return self.transactions.pending_offsets.is_unstable(OffsetKey(group, topic, 0))


def append(slot: Slot, who: Identity, value: bytes, sequence: int = 0) -> None:
    """Queue a transactional batch, whatever the coordinator knows of it."""
    batch = build_batch(
        [Record(slot.end, owner_of(slot).clock.wall_ms(), b"k", value)],
        producer_id=who.producer_id,
        producer_epoch=who.epoch,
        base_sequence=sequence,
        transactional=True,
    )
    owner_of(slot).append(slot, batch, 1, 0, None, who.producer_id, who.epoch, sequence, IN_TRANSACTION)


@contextmanager
def full(container: Container) -> Iterator[None]:
    """The disk of a container's log has no room, and neither has the log's reserve."""
    log, spares = container.log, writer_of(container.log)._spares
    before = log.append_limit, log.room, spares._spare, spares.is_full
    log.append_limit, log.room, spares._spare, spares.is_full = 0, 0, None, True
    try:
        yield
    finally:
        log.append_limit, log.room, spares._spare, spares.is_full = before


@asynccontextmanager
async def serving(
    directory: Path,
    *settings: str,
    clock: ManualClock | None = None,
    clean: bool = True,
    containers: tuple[int, ...] = (0,),
) -> AsyncIterator[Services]:
    """Open the store in `directory`; close it afterwards, or drop it as a crash would."""
    clock = clock or ManualClock()
    config = load(environ={}, assignments=[*FAST, *settings])
    configs = BrokerConfigs(config)
    store_config = replace(config.store_config(), container_ids=containers)
    store = await Store.open(directory, store_config, configs.policy_for, clock)
    topics = Topics(config, store, configs)
    groups = GroupCoordinator(config, store, clock, topics, settings_of(config, lambda _: {}))
    transactions = TransactionCoordinator(config, store, clock, topics, groups.offsets, ProducerIds(store))
    groups.load()
    transactions.load()
    await groups.start()
    await transactions.start()
    try:
        yield Services(store, topics, groups, transactions, clock)
    finally:
        await transactions.stop()
        if clean:
            await groups.stop()
        await store.close(clean=clean)
