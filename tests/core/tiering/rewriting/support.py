"""Stores whose chunks are rewritten, and a compaction over the simple entries of these tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from core.clock import SystemClock
from core.config import StoreConfig
from core.log.records import Put
from core.store import Store
from core.streams.policy import StreamPolicy
from core.tiering.context import LongTermStorage
from core.tiering.filters import CompactionScope, WorkerSetup
from core.tiering.rewriting.rewriter import Rewriter
from tests.core.support import hosted_of, policy_from
from tests.core.tiering.support import AGEING, CLUSTER
from tests.tier2.chunks import HEAD, head_of
from tier2.chunk_format import AbortedTransaction
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Buffer

REWRITING = replace(AGEING, rewrite_interval_ms=20)


async def open_directory(directory: Path) -> FilesystemStorage:
    return await FilesystemStorage.open(FilesystemSettings(directory=directory))


class FirstByte:
    """A filter that keeps the last entry of each first byte of its body, and the last of all."""

    due_ms: int | None = None

    def __init__(self, scope: CompactionScope) -> None:
        self._end = scope.end
        self._last: dict[int, int] = {}

    @property
    def held(self) -> int:
        return len(self._last)

    def run_begins(self, aborted: Sequence[AbortedTransaction]) -> None:
        """Ignore transactions: these entries belong to none."""

    def has_left(self, transaction: AbortedTransaction) -> bool:
        return True

    def learn(self, entry: memoryview) -> None:
        self._last[entry[HEAD.size]] = HEAD.unpack_from(entry)[0]

    def end_at(self, end: int) -> None:
        self._end = end

    def keep(self, entry: memoryview) -> Buffer | None:
        first, count, _, _ = HEAD.unpack_from(entry)
        stays = self._last.get(entry[HEAD.size], -1) <= first
        return entry if stays or first + count == self._end else None


class Deadly(FirstByte):
    """A filter that ends its process."""

    def keep(self, entry: memoryview) -> Buffer | None:
        os._exit(7)


def setup_for(directory: Path, filter_for: type[FirstByte] | None = None) -> WorkerSetup:
    return WorkerSetup(
        open_storage=open_directory, arguments=(directory / "tier2",), head_of=head_of, filter_for=filter_for
    )


def eager_policy(config: Mapping[str, str]) -> StreamPolicy:
    """Every new entry makes a compacted slot due."""
    return replace(policy_from(config), min_dirty_ratio=0.0)


@asynccontextmanager
async def rewriting_store(
    directory: Path,
    config: StoreConfig = REWRITING,
    filter_for: type[FirstByte] | None = None,
    *,
    clean: bool = True,
) -> AsyncIterator[Store]:
    storage = await open_directory(directory / "tier2")
    long_term = LongTermStorage(
        storage=storage, cluster_id=CLUSTER, head_of=head_of, rewriting=setup_for(directory, filter_for)
    )
    store = await Store.open(directory / "store", config, eager_policy, SystemClock(), long_term)
    try:
        yield store
    finally:
        await store.close(clean=clean)
        await storage.close()


async def stop_rewriting(store: Store) -> None:
    """Nothing is rewritten any more when this returns, and what was on its way to the log is there."""
    await rewriter_of(store).stop()
    await store.update(Put("t", b"", b""))


def rewriter_of(store: Store) -> Rewriter:
    tier = hosted_of(store).tier
    assert tier is not None
    assert tier.rewriter is not None
    return tier.rewriter
