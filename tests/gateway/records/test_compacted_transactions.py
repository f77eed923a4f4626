"""A compacted partition with transactions, in a real store with its worker: the rest, as readers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from core.clock import SystemClock
from core.container.ports import TransactionEnd
from core.log.format import IN_TRANSACTION, Buffer
from core.log.records import Put
from core.store import Store
from core.streams.live import Slot
from core.streams.policy import StreamPolicy
from core.tiering.context import LongTermStorage
from core.tiering.filters import WorkerSetup
from gateway.records.compaction import Compactor
from gateway.records.record_batch import CONTROL, TRANSACTIONAL, entry_head, read_header
from gateway.records.records import Record, build_batch
from tests.core.support import Outcome, owner_of, policy_from, run, until
from tests.core.tiering.rewriting.support import REWRITING, open_directory
from tests.core.tiering.support import CLUSTER, runs_of
from tests.gateway.records.test_compaction_of_transactions import ABORT, COMMIT, VALUE, delivered, last_values

pytestmark = pytest.mark.slow

NOW_MS = 1_700_000_000_000


def policy(config: Mapping[str, str]) -> StreamPolicy:
    return replace(policy_from(config), min_dirty_ratio=0.0, tombstone_ms=0)


@asynccontextmanager
async def compacting_store(directory: Path) -> AsyncIterator[Store]:
    storage = await open_directory(directory / "tier2")
    setup = WorkerSetup(
        open_storage=open_directory, arguments=(directory / "tier2",), head_of=entry_head, filter_for=Compactor
    )
    long_term = LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=entry_head, rewriting=setup)
    store = await Store.open(directory / "store", REWRITING, policy, SystemClock(), long_term)
    try:
        yield store
    finally:
        await store.close()
        await storage.close()


@dataclass
class Topic:
    """One partition, and the records that were committed to it."""

    store: Store
    slot: Slot
    open: dict[int, list[Record]] = field(default_factory=dict)
    committed: list[Record] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)

    async def append(self, key: bytes, value: bytes | None, writer: int = -1) -> None:
        record = Record(self.slot.end, NOW_MS + self.slot.end, key, value, ())
        sequence = self.sequences.get(writer, 0) if writer >= 0 else -1
        epoch = 0 if writer >= 0 else -1
        batch = build_batch(
            [record], producer_id=writer, producer_epoch=epoch, base_sequence=sequence, transactional=writer >= 0
        )
        flags, outcome = IN_TRANSACTION if writer >= 0 else 0, Outcome()
        owner_of(self.slot).append(
            self.slot, bytes(batch), 1, record.timestamp, outcome, writer, epoch, sequence, flags
        )
        self.sequences[writer] = sequence + 1
        (self.open.setdefault(writer, []) if writer >= 0 else self.committed).append(record)
        await outcome.future

    async def finish(self, writer: int, *, commit: bool) -> None:
        def marker(base: int, leader_epoch: int) -> Buffer:
            record = Record(base, NOW_MS + base, COMMIT if commit else ABORT, VALUE, ())
            attributes = CONTROL | TRANSACTIONAL
            return bytes(build_batch([record], producer_id=writer, producer_epoch=0, attributes=attributes))

        end = TransactionEnd(
            slot=self.slot,
            writer_id=writer,
            writer_epoch=0,
            committed=commit,
            timestamp=NOW_MS + self.slot.end,
            entry=marker,
        )
        await owner_of(self.slot).end_transactions([end], [Put("transactions", b"%d" % writer, b"")])
        records = self.open.pop(writer)
        self.committed += records if commit else []

    async def delivered(self, max_bytes: int) -> list[Record]:
        """The stable records of a consumer with read_committed."""
        offset, records = self.slot.start, list[Record]()
        while offset < self.slot.stable_end:
            found = await self.store.hosted(self.slot).reader.read(
                self.slot, offset, self.slot.stable_end, max_bytes, True
            )
            assert found.end > offset
            batches = split(b"".join(found.parts))
            records += delivered(batches, [(one.first, one.writer_id) for one in found.aborted])
            offset = found.end
        return records

    def expected(self) -> dict[bytes, bytes]:
        return last_values(sorted(self.committed, key=lambda record: record.offset))


def split(data: bytes) -> list[bytes]:
    batches, at = [], 0
    while at < len(data):
        size = read_header(memoryview(data)[at:]).size
        batches.append(data[at : at + size])
        at += size
    return batches


async def compacted(slot: Slot) -> None:
    """Wait until the last round has been through everything, and nothing is due."""
    await until(lambda: slot.tiered_end == slot.durable_end)
    await until(lambda: slot.compacted_end == slot.durable_end)


@pytest.mark.parametrize("seed", range(3))
def test_random_transactions(tmp_path: Path, seed: int) -> None:
    """While rounds go on, and after them, a committed reader ends with the last committed value of each key."""
    random = Random(seed)

    async def scenario() -> None:
        async with compacting_store(tmp_path) as store:
            topic = Topic(store, (await store.create_stream("t", slots=1, config={"compact": "1"})).slot(0))
            for step in range(400):
                writer = random.choice((-1, 1, 2, 3))
                if writer in topic.open and random.random() < 0.5:
                    await topic.finish(writer, commit=random.random() < 0.5)
                else:
                    value = random.choice((None, b"value %d" % step))
                    await topic.append(b"key %d" % random.randrange(8), value, writer)
                if step % 80 == 79 and not topic.open:
                    assert last_values(await topic.delivered(1)) == topic.expected()
            for writer in list(topic.open):
                await topic.finish(writer, commit=random.random() < 0.5)
            await topic.append(b"last", b"")
            await compacted(topic.slot)
            for max_bytes in (1, 500, 1 << 20):
                assert last_values(await topic.delivered(max_bytes)) == topic.expected()

    run(scenario())


def test_changelog_does_not_grow(tmp_path: Path) -> None:
    """A state store's changelog: transactions over the same keys, one after the other, leave the last values."""

    async def scenario() -> None:
        async with compacting_store(tmp_path) as store:
            topic = Topic(store, (await store.create_stream("t", slots=1, config={"compact": "1"})).slot(0))
            for number in range(100):
                for key in range(3):
                    await topic.append(b"key %d" % key, b"value %d" % number, 1)
                await topic.finish(1, commit=number % 3 > 0)
            await topic.append(b"last", b"")
            # Three values and their marker; of the last one, which was aborted, its marker and the writer's last batch,
            # emptied; an entry of nobody.
            await compacted(topic.slot)
            await until(lambda: sum(row.entries for row in runs_of(store, topic.slot)) == 7)

            assert last_values(await topic.delivered(1 << 20)) == topic.expected()
            assert len(await topic.delivered(1 << 20)) == 4

    run(scenario())
