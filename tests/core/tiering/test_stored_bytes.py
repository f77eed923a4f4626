"""Stored bytes after compaction has taken some out: people see them, and retention goes by them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from core.store import Store
from core.streams.live import Slot
from core.streams.policy import StreamPolicy
from gateway.metrics.activity import StreamBytes
from tests.core.support import append, retention_of, run, until
from tests.core.tiering.rewriting.support import REWRITING, FirstByte, rewriting_store, stop_rewriting
from tests.core.tiering.support import runs_of
from tests.tier2.chunks import entry

pytestmark = pytest.mark.slow

KEYS = 7
BODY = 300
DELETE = StreamPolicy(delete=True, compact=False)


async def write(slot: Slot, numbers: range) -> None:
    for number in numbers:
        payload = bytes(entry(slot.end, 1, 1000 + number, bytes([number % KEYS]) * BODY).payload)
        await append(slot, payload, timestamp=1000 + number)


async def compacted(store: Store, slot: Slot) -> None:
    """Write 90 entries of seven keys, and wait until seven are left."""
    await write(slot, range(90))
    await until(lambda: slot.tiered_end == slot.end)
    await until(lambda: sum(row.entries for row in runs_of(store, slot)) == KEYS)


def held(store: Store, slot: Slot) -> int:
    """Bytes of the slot's entries in chunks."""
    return sum(row.length for row in runs_of(store, slot))


@pytest.mark.parametrize("clean", [True, False])
def test_what_is_shown(tmp_path: Path, clean: bool) -> None:
    """A slot's size, and its stream's, are the bytes that are stored; after a stop and a kill too."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=FirstByte, clean=clean) as store:
            slot = (await store.create_stream("s", slots=1, config={"compact": "1"})).slot(0)
            await compacted(store, slot)
            size = held(store, slot)
            assert (size, size, 0) == (slot.size_bytes, slot.tier_bytes, slot.untiered_bytes)
            assert slot.total_bytes > 10 * size
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(rewriting_store(tmp_path, replace(REWRITING, chunk_age_ms=60_000)))
            stream = store.streams.get("s")
            assert stream is not None
            slot = stream.slot(0)
            assert size == slot.size_bytes
            await write(slot, range(90, 92))
            fresh = slot.untiered_bytes
            assert fresh > 2 * BODY
            assert (size + fresh, size, fresh) == (slot.size_bytes, slot.tier_bytes, slot.untiered_bytes)
            tiers = StreamBytes.of(stream).tiers
            assert (fresh, size) == (tiers.log, tiers.chunks)

            await store.hosted(slot).truncate(slot, 91)
            assert (fresh // 2, 0) == (slot.size_bytes, slot.tier_bytes)

    run(scenario())


def test_start_within_a_run(tmp_path: Path) -> None:
    """A compacted run that a start divides counts with the part that is left, and never below zero."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=FirstByte) as store:
            slot = (await store.create_stream("s", slots=1, config={"compact": "1"})).slot(0)
            await compacted(store, slot)
            before = slot.size_bytes
            await store.hosted(slot).truncate(slot, 45)
            assert 0 <= slot.size_bytes <= before
            await store.hosted(slot).truncate(slot, 90)
            assert slot.size_bytes == 0

    run(scenario())


async def all_consumed(slots: Sequence[Slot], consumers: Sequence[str]) -> list[int]:
    return [slot.end for slot in slots]


@pytest.mark.parametrize(
    "policy",
    [
        replace(DELETE, retention_bytes=KEYS * (BODY + 100)),
        replace(DELETE, compact=True, retention_bytes=KEYS * (BODY + 100)),
        replace(DELETE, consumers=("group",), keep_bytes=KEYS * (BODY + 100)),
    ],
    ids=["retention.bytes", "compact,delete", "penstock.retention.min.bytes"],
)
@pytest.mark.parametrize("restart", [False, True])
def test_live_records_stay(tmp_path: Path, policy: StreamPolicy, restart: bool) -> None:
    """A compacted topic loses nothing while it stores less than its bound, and later the bytes beyond it."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(rewriting_store(tmp_path, filter_for=FirstByte))
            stream = await store.create_stream("s", slots=1, config={"compact": "1"})
            slot = stream.slot(0)
            await compacted(store, slot)
            if restart:
                await stack.aclose()
                store = await stack.enter_async_context(rewriting_store(tmp_path))
                again = store.streams.get("s")
                assert again is not None
                stream, slot = again, again.slot(0)
            stream.policy = policy
            retention = retention_of(store)
            retention._consumed = all_consumed
            assert (await retention.enforce(), slot.start) == (0, 0)

            if not restart:
                await stop_rewriting(store)  # compaction might take just what retention is to take
            await write(slot, range(90, 110))
            await retention.enforce()
            assert 0 < slot.start < slot.end
            assert slot.size_bytes >= KEYS * (BODY + 50)

    run(scenario())
