"""Coordinators of transactions on a real store, without sockets; time stands still until a test moves it.

The names that tests do not choose, `name` and `group`, have their home in the first container.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
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
from gateway.coordination.homes import Homes
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import OffsetKey
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.records.record_batch import read_header
from gateway.records.records import Record, build_batch, iter_records
from gateway.topics.topics import Topics, WantedTopic
from gateway.transactions.coordinator import TransactionCoordinator
from gateway.transactions.coordinators import TransactionCoordinators
from gateway.transactions.group_writes import GroupWrites
from gateway.transactions.places import Place
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.transaction import Identity, Transaction
from gateway.transactions.writes import ADDED_BY_WRITING_SINCE, TransactionalWrites
from gateway.wire.errors import InvalidBatch
from tests.core.support import SCENARIO_S_MAX, owner_of, writer_of

FAST = ("group.initial.rebalance.delay.ms=0", "log.file.bytes=1048576")
TIMEOUT_MS = 60_000
HOME = 0
ELSEWHERE = 1
"""The container that is not the home container."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on the loop that the gateway runs on."""
    uvloop.run(asyncio.wait_for(test, SCENARIO_S_MAX))


class Services:
    """The part of a broker that transactions need."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        all_groups: GroupCoordinators,
        all_transactions: TransactionCoordinators,
        clock: ManualClock,
    ) -> None:
        self.store = store
        self.topics = topics
        self.all_groups = all_groups
        self.all_transactions = all_transactions
        self.clock = clock
        self.name = self.name_in(HOME)
        self.group = self.name_in(HOME, "g")

    def name_in(self, container_id: int, prefix: str = "x") -> str:
        """A name whose home is that container."""
        names = (prefix, *(f"{prefix}{number}" for number in range(100)))
        return next(name for name in names if self.all_groups.homes.of(name) == container_id)

    @property
    def transactions(self) -> TransactionCoordinator:
        """The coordinator of the first container."""
        return self.all_transactions.of(self.name)

    @property
    def groups(self) -> GroupCoordinator:
        """The coordinator of the first container."""
        return self.all_groups.of(self.group)

    async def release(self, container_id: int) -> None:
        """A container with its coordinators is not here any more."""
        await self.all_transactions.release(container_id)
        await self.all_groups.release(container_id)
        await self.store.release(container_id)

    async def abort_overdue(self) -> None:
        """All coordinators look at the time."""
        for coordinator in self.all_transactions.all():
            await coordinator.abort_overdue()

    async def create(self, name: str, partitions: int = 2) -> None:
        (outcome,) = await self.topics.create([WantedTopic(name, partitions)])
        assert getattr(outcome, "name", None) == name

    async def create_elsewhere(self, name: str, stream_id: int = 1_000, container_id: int = ELSEWHERE) -> None:
        """A topic of two partitions that lie in another container than tables do."""
        container = self.store.containers[container_id].container
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

    async def init(
        self, name: str | None = None, expected: Identity | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> Identity:
        name = name or self.name
        return await self.all_transactions.of(name).init_producer(name, timeout_ms, expected)

    async def write(
        self,
        who: Identity,
        topic: str,
        value: bytes,
        *,
        name: str | None = None,
        partition: int = 0,
        sequence: int = 0,
        version: int = ADDED_BY_WRITING_SINCE,
    ) -> None:
        """As a Produce does; durable when this returns. Raises Refusal."""
        slot = self.slot(topic, partition)
        await self.begin_to_write(who, topic, value, name=name, partition=partition, sequence=sequence, version=version)
        await owner_of(slot).all_durable()

    async def begin_to_write(
        self,
        who: Identity,
        topic: str,
        value: bytes,
        *,
        name: str | None = None,
        partition: int = 0,
        sequence: int = 0,
        version: int = ADDED_BY_WRITING_SINCE,
    ) -> None:
        """The same, but it is only queued when this returns."""
        slot = self.slot(topic, partition)
        batch = batch_of(slot, who, value, sequence)
        writes = TransactionalWrites(self.all_transactions, name or self.name, version)
        for question in writes.preparing([(topic, [(partition, memoryview(batch))])], lambda _: slot.stream):
            if question is not None:
                await question
        try:
            writes.check(slot, read_header(memoryview(batch)))
        except InvalidBatch as error:
            raise error.__cause__ or error from error
        assert owner_of(slot).check_writer(slot, who.producer_id, who.epoch, sequence, 1) is None
        append(slot, who, value, sequence)

    async def commit_offset(
        self, who: Identity, offset: int, *, name: str | None = None, group: str | None = None, topic: str = "t"
    ) -> None:
        """As a TxnOffsetCommit of version 5 does, for partition 0."""
        group = group or self.group
        writes = GroupWrites(self.all_transactions, name or self.name, who, group)
        assert await writes.admit(adds=True)
        offsets, _ = self.all_groups.of(group).offsets.judge(group, [OffsetCommit(topic, 0, offset, -1, "")])
        await writes.commit(offsets)

    async def end(
        self, who: Identity, *, name: str | None = None, committed: bool = True, bumps: bool = True
    ) -> Identity:
        name = name or self.name
        return await self.all_transactions.of(name).end(name, who, committed=committed, bumps=bumps)

    # What others see

    def known(self, name: str | None = None) -> Transaction:
        name = name or self.name
        found = self.all_transactions.of(name).get(name)
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

    def offset(self, group: str | None = None, topic: str = "t") -> int | None:
        """The group's committed offset of partition 0."""
        group = group or self.group
        committed = self.all_groups.of(group).offsets.get(OffsetKey(group, topic, 0))
        return None if committed is None else committed.offset

    def is_unstable(self, group: str | None = None, topic: str = "t") -> bool:
        group = group or self.group
        return self.all_transactions.participant_of(group).pending_offsets.is_unstable(OffsetKey(group, topic, 0))


def batch_of(slot: Slot, who: Identity, value: bytes, sequence: int = 0) -> bytes:
    """A transactional batch of one record."""
    return build_batch(
        [Record(slot.end, owner_of(slot).clock.wall_ms(), b"k", value)],
        producer_id=who.producer_id,
        producer_epoch=who.epoch,
        base_sequence=sequence,
        transactional=True,
    )


def append(slot: Slot, who: Identity, value: bytes, sequence: int = 0) -> None:
    """Queue a transactional batch, whatever the coordinator knows of it."""
    batch = batch_of(slot, who, value, sequence)
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
    before: Callable[[Store], object] = lambda store: None,
    **store_settings: Any,
) -> AsyncIterator[Services]:
    """Open the store in `directory`; close it afterwards, or drop it as a crash would.

    `before` may look at the store as it was found.
    """
    clock = clock or ManualClock()
    config = load(environ={}, assignments=[*FAST, *settings])
    configs = BrokerConfigs(config)
    store_config = replace(config.store_config(), container_ids=containers, **store_settings)
    store = await Store.open(directory, store_config, configs.policy_for, clock)
    before(store)
    topics = Topics(config, store, configs)
    groups = GroupCoordinators(
        config,
        store,
        clock,
        topics,
        topics,
        Homes(containers),
        settings_of(config, lambda _: {}),
        streams_settings_of(config, lambda _: {}),
        Elsewhere(lambda container_id: None),
    )
    transactions = TransactionCoordinators(config, store, clock, groups, ProducerIds(store))
    await groups.load()
    await transactions.load()
    await groups.start()
    await transactions.start()
    try:
        yield Services(store, topics, groups, transactions, clock)
    finally:
        await transactions.stop()
        if clean:
            await groups.stop()
        await store.close(clean=clean)
