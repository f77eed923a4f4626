"""`penstock recover`: makes a data directory from long-term storage, when the one that was is gone.

Keeps: nothing in long-term storage is changed; the data directory is made whole, or left so that a start refuses it and
another try begins anew; what is known to be gone is named, and so is what nobody can know. What only Kafka's side
knows is put right here: group offsets point at what is there, producer ids go on far above any that was given.
"""

from __future__ import annotations

import asyncio
import enum
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from core.tiering.snapshots.recover import Progress, Tables, recover_store
from core.tiering.snapshots.recovered import Report
from gateway import __version__, logs
from gateway.cli.recovery_report import in_json, show, told_of
from gateway.config.model import Config
from gateway.config.tiering import Directory
from gateway.data_directory import RecoveryDirectory, keep_to_ourselves, make_drill
from gateway.exits import ExitCode
from gateway.groups.persistence import (
    GROUPS_TABLE,
    OFFSETS_TABLE,
    UnreadableRecord,
    decode_offset,
    decode_offset_key,
    encode_offset,
)
from gateway.long_term.identity import Identity, IdentityRefused, read_identity, refuse_beside
from gateway.long_term.opening import LongTermUnusable, check_settings, open_storage, place_of
from gateway.long_term.ownership import read_owner, remember
from gateway.long_term.recovered_entries import entry_writer
from gateway.process.outcome import outcome
from gateway.records.record_batch import entry_head
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE, decode_transaction
from gateway.transactions.producer_ids import NEXT_KEY as NEXT_PRODUCER_KEY
from gateway.transactions.producer_ids import TABLE as PRODUCER_IDS_TABLE
from gateway.transactions.transaction import Transaction
from tier2.retrying import RetryingStorage

PRODUCER_IDS_APART: Final = 1 << 40
"""More producer ids than a store hands out between two snapshots; there is room for millions of recoveries."""
_PRODUCER_ID: Final = struct.Struct(">Q")
BESIDE_OWNER: Final = (
    "What is made here would end it when it starts. Add `--drill` for a copy that only reads there, `--take-over` to "
    "begin all the same, or stop that gateway"
)


class _Mode(enum.Enum):
    """What becomes of the gateway that owns the prefix, when a store is made from it."""

    ALONE = enum.auto()  # it must be dead
    TAKE_OVER = enum.auto()  # it ends when the new store begins
    DRILL = enum.auto()  # it goes on: the new store only reads there


START: Final = {
    _Mode.ALONE: "start with `penstock serve` and the same flags.",
    _Mode.TAKE_OVER: "start with `penstock serve --take-over` and the same flags.",
    _Mode.DRILL: "a drill. Start with `penstock serve`, the same flags and other ports; delete it afterwards.",
}


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
        self.groups = tuple(sorted(names))
        next_id = tables.get(PRODUCER_IDS_TABLE, {}).get(NEXT_PRODUCER_KEY)
        first = (0 if next_id is None else _PRODUCER_ID.unpack(next_id)[0]) + PRODUCER_IDS_APART
        self.transactions += tuple(_transactions(tables.get(TRANSACTIONS_TABLE, {})))
        # What a transaction had written was not tiered while it was open: nobody may commit the rest of it, or be told
        # that it was committed. So producers begin anew.
        kept = {name: rows for name, rows in tables.items() if name not in (TRANSACTIONS_TABLE, PENDING_OFFSETS_TABLE)}
        return {
            **kept,
            OFFSETS_TABLE: offsets,
            PRODUCER_IDS_TABLE: {NEXT_PRODUCER_KEY: _PRODUCER_ID.pack(first)},
        }

    def _offsets(
        self, stored: Mapping[bytes, bytes], bounds: Mapping[tuple[str, int], tuple[int, int]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed offsets, none of which points at what is not there."""
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
    """Those that can be read: they are only told of."""
    for key, value in rows.items():
        with suppress(UnreadableRecord):
            yield decode_transaction(key, value)


def run(config: Config, *, as_json: bool, take_over: bool = False, drill: bool = False) -> ExitCode:
    """Recover, and report on standard output. `take_over`, `drill`: see `_Mode`."""
    mode = _Mode.DRILL if drill else _Mode.TAKE_OVER if take_over else _Mode.ALONE
    logs.setup(config.logging_format, "warning")
    code = outcome(lambda: asyncio.run(_recover(config, mode, as_json=as_json)))
    logs.flush()
    return code


async def _recover(config: Config, mode: _Mode, *, as_json: bool) -> ExitCode:
    check_settings(config)
    storage = await open_storage(config, create=False)
    if storage is None:
        raise LongTermUnusable("tier2 = off: name the long-term storage to recover from, with --tier2")
    try:
        identity = await read_identity(storage, place_of(config))
        if identity is None:
            raise IdentityRefused(f"{place_of(config)} holds no data of Penstock: there is no identity object")
        owner = await read_owner(storage)
        if mode is _Mode.ALONE:
            await refuse_beside(storage, place_of(config), owner, config.data_dir, BESIDE_OWNER, locked=False)
        tables, report = await _made(config, storage, identity, mode, quiet=as_json)
    finally:
        await storage.close()
    told = told_of(report, tables.groups, tables.clamped, tables.dropped, tables.transactions)
    if as_json:
        print(json.dumps(in_json(told)))
        for finding in told.findings:
            print(f"penstock: {finding}", file=sys.stderr)
    else:
        show(told, identity.cluster_id, f"{config.data_dir.absolute()} is ready: {START[mode]}")
    return ExitCode.CLEAN


async def _made(
    config: Config, storage: RetryingStorage, identity: Identity, mode: _Mode, *, quiet: bool
) -> tuple[KafkaTables, Report]:
    beside = config.tier2.below(config.data_dir) if isinstance(config.tier2, Directory) else None
    keep_to_ourselves()
    directory = RecoveryDirectory.begin(config.data_dir, beside)
    tables = KafkaTables()
    try:
        with _progress(quiet=quiet) as progress:
            owner = await read_owner(storage)
            report = await recover_store(
                directory.store,
                config.store_config(),
                storage,
                identity.cluster_id,
                entry_head,
                tables,
                progress,
                entry_writer,
            )
        if owner is not None:  # whoever that is ends when the new store begins
            remember(config.data_dir.absolute(), owner.token)
        if mode is _Mode.DRILL:
            make_drill(config.data_dir.absolute())
        await asyncio.to_thread(directory.finish, identity.cluster_id, __version__)
    except Exception:
        directory.give_up()
        raise
    finally:
        directory.release()
    return tables, report


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A line on standard error, if a person looks at it."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading what chunks say of themselves", total=None)
        yield lambda what, done, total: bar.update(task, completed=done, total=total)
