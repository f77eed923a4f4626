"""The scrub finds what nobody has read yet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from core.store import Store
from core.tiering.rows import ChunkState, chunk_key
from core.tiering.upkeep.scrub import ScrubCounters
from tests.core.support import KIB, hosted_of, until
from tests.core.tiering.support import TIERING, chunks_in, fill, storage_in, tiered_store

pytestmark = pytest.mark.slow

SCRUBBING: Final = replace(TIERING, tier2_scrub_interval_ms=20)


def counters(store: Store) -> ScrubCounters:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier.scrub.counters


async def settled(store: Store) -> list[str]:
    """Keys of the chunks, once there are some and all have been looked at twice and checkpointed."""
    slot = (await store.create_stream("s", slots=1)).slot(0)
    await fill(slot, 200 * KIB)
    catalog = hosted_of(store).catalog
    await until(lambda: len(catalog.verified_from(b"", 100)) >= 3 and not catalog.pending)
    return [chunk_key(row.id) for row in catalog.verified_from(b"", 100)]


def test_whole_chunks(tmp_path: Path) -> None:
    """Passes follow one another, and find nothing where nothing is wrong."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, SCRUBBING) as store:
            keys = await settled(store)
            await until(lambda: counters(store).chunks > 2 * len(keys))

            assert counters(store).damaged == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_flipped_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: float) -> None:
    """A changed bit in an object that nobody reads is reported, with the object's key."""

    async def scenario() -> str:
        async with tiered_store(tmp_path, SCRUBBING) as store:
            key = (await settled(store))[1]
            path = tmp_path / "tier2" / key
            content = bytearray(path.read_bytes())
            content[int(place * len(content))] ^= 1
            path.write_bytes(content)
            await until(lambda: counters(store).damaged > 0)
            return key

    key = asyncio.run(scenario())
    told = [record for record in caplog.records if "damaged or gone" in record.getMessage()]
    assert {record.__dict__["chunk"] for record in told} == {key}


def test_missing_object(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing object is reported as well; the others are still read."""

    async def scenario() -> str:
        async with tiered_store(tmp_path, SCRUBBING) as store:
            keys = await settled(store)
            (tmp_path / "tier2" / keys[0]).unlink()
            await until(lambda: counters(store).damaged > 0)
            seen = counters(store).chunks
            await until(lambda: counters(store).chunks >= seen + len(keys))
            return keys[0]

    key = asyncio.run(scenario())
    told = [record for record in caplog.records if "damaged or gone" in record.getMessage()]
    assert {record.__dict__["chunk"] for record in told} == {key}


def test_off(tmp_path: Path) -> None:
    """Nothing is read again where nobody wants it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, replace(SCRUBBING, tier2_scrub_interval_ms=0), storage) as store:
            await settled(store)

            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("scrub")]
            assert len(chunks_in(store, ChunkState.VERIFIED)) >= 3

    asyncio.run(scenario())
