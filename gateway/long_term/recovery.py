"""Makes a data directory from long-term storage, and corrects the tables that only Kafka's side understands.

Keeps: nothing in long-term storage is changed; the data directory is made whole, or a start refuses it and another try
begins from nothing. Group offsets point at existing records; producer ids go on far above any that was handed out.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from core.cluster.table_registry import NEXT_KEY as NEXT_PRODUCER_KEY
from core.cluster.table_registry import WRITERS_TABLE as PRODUCER_IDS_TABLE
from core.tiering.snapshots.recover import Progress, Tables, containers_in, recover_store
from core.tiering.snapshots.recovered import Report
from gateway import __version__
from gateway.config.model import Config
from gateway.config.tiering import Directory
from gateway.data_directory import RecoveryDirectory, keep_to_ourselves, make_drill
from gateway.disks import Layout, OtherLayout
from gateway.groups.persistence import (
    GROUPS_TABLE,
    OFFSETS_TABLE,
    UnreadableRecord,
    decode_offset,
    decode_offset_key,
    encode_offset,
)
from gateway.long_term.identity import Identity
from gateway.long_term.ownership import read_owner, remember
from gateway.long_term.recovered_entries import entry_writer
from gateway.records.record_batch import entry_head
from gateway.transactions.coordinator_epochs import COORDINATORS_TABLE
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE, decode_transaction
from gateway.transactions.transaction import Transaction
from tier2.retrying import RetryingStorage

PRODUCER_IDS_APART: Final = 1 << 40
"""More producer ids than a store hands out between two snapshots; there is room for millions of recoveries."""
OF_TRANSACTIONS: Final = frozenset({TRANSACTIONS_TABLE, PENDING_OFFSETS_TABLE, COORDINATORS_TABLE})
_PRODUCER_ID: Final = struct.Struct(">Q")


class Mode(enum.Enum):
    """The fate of the gateway that owns the prefix, when a store is made from the prefix."""

    ALONE = enum.auto()  # it must be dead
    TAKE_OVER = enum.auto()  # it ends when the new store begins
    DRILL = enum.auto()  # it goes on: the new store only reads there


@dataclass(slots=True)
class KafkaTables:
    """The gateway's tables for the new store."""

    groups: tuple[str, ...] = ()
    clamped: int = 0
    dropped: int = 0
    transactions: tuple[Transaction, ...] = ()  # of the coordinator, as of the snapshot

    def __call__(self, tables: Tables, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> Tables:
        """See `core.tiering.snapshots.recover.TablesOf`."""
        offsets = dict(self._offsets(tables.get(OFFSETS_TABLE, {}), bounds))
        names = {key.decode() for key in tables.get(GROUPS_TABLE, {})}
        names |= {decode_offset_key(key).group_id for key in offsets}
        self.groups = tuple(sorted(names.union(self.groups)))  # of all containers
        next_id = tables.get(PRODUCER_IDS_TABLE, {}).get(NEXT_PRODUCER_KEY)
        first = (0 if next_id is None else _PRODUCER_ID.unpack(next_id)[0]) + PRODUCER_IDS_APART
        self.transactions += tuple(_transactions(tables.get(TRANSACTIONS_TABLE, {})))
        # The records of an open transaction were not tiered: no producer may commit the rest of it, or get the answer
        # that it was committed. So transactional ids begin without state.
        kept = {name: rows for name, rows in tables.items() if name not in OF_TRANSACTIONS}
        return {
            **kept,
            OFFSETS_TABLE: offsets,
            PRODUCER_IDS_TABLE: {NEXT_PRODUCER_KEY: _PRODUCER_ID.pack(first)},
        }

    def _offsets(
        self, stored: Mapping[bytes, bytes], bounds: Mapping[tuple[str, int], tuple[int, int]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed offsets, each moved to an existing offset if it pointed elsewhere."""
        for raw, value in stored.items():
            key, committed = decode_offset_key(raw), decode_offset(value)
            found = bounds.get((key.topic, key.partition))
            if found is None:
                self.dropped += 1
                continue
            start, end = found
            clamped = min(max(committed.offset, start), end)
            self.clamped += clamped != committed.offset
            yield raw, value if clamped == committed.offset else encode_offset(committed._replace(offset=clamped))


def _transactions(rows: Mapping[bytes, bytes]) -> Iterator[Transaction]:
    """The groups whose records can be read: they only serve the report."""
    for key, value in rows.items():
        with suppress(UnreadableRecord):
            yield decode_transaction(key, value)


async def make_store(
    config: Config, storage: RetryingStorage, identity: Identity, mode: Mode, progress: Progress
) -> tuple[KafkaTables, Report]:
    """Make the data directory, and return the findings. A directory that did not become whole is given up."""
    beside = config.tier2.below(config.data_dir) if isinstance(config.tier2, Directory) else None
    keep_to_ourselves()
    directory = RecoveryDirectory.begin(config.data_dir, beside, config.data_dirs[1:])
    tables = KafkaTables()
    try:
        owner = await read_owner(storage)
        found = await containers_in(storage)
        if 0 < config.containers < found:
            raise OtherLayout(f"containers = {config.containers}, but long-term storage has {found}: leave it out")
        count = max(found, config.containers, len(config.data_dirs), 1)
        report = await recover_store(
            directory.store,
            replace(config.store_config(), container_ids=tuple(range(count))),
            storage,
            identity.cluster_id,
            entry_head,
            tables,
            progress,
            entry_writer,
        )
        if owner is not None:  # that gateway ends when the new store begins
            remember(config.data_dir.absolute(), owner.token)
        if mode is Mode.DRILL:
            make_drill(config.data_dir.absolute())
        layout = Layout(report.containers, max(1, len(config.data_dirs)))
        await asyncio.to_thread(directory.finish, identity.cluster_id, __version__, layout, config.data_dirs[1:])
    except Exception:
        directory.give_up()
        raise
    finally:
        directory.release()
    return tables, report
