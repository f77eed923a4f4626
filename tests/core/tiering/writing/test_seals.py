"""The entries of a sealed segment go into chunks at once, with the number of their segment...."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from core.store import Store
from core.streams.live import Slot
from core.tiering.tier import Tier
from core.tiering.writing.backlog import backlogs_of
from tests.core.support import KIB, hosted_of, run, until
from tests.core.tiering.rewriting.support import rewriter_of, rewriting_store, stop_rewriting
from tests.core.tiering.support import (
    TIERING,
    chunk_entries,
    chunks_of,
    fill,
    runs_of,
    storage_in,
    tiered_store,
    without_gaps,
)

pytestmark = pytest.mark.slow


def is_tiered(slot: Slot) -> bool:
    return slot.tiered_end == slot.end


def labels(store: Store, slot: Slot) -> list[tuple[int, int, int]]:
    """The segments that chunks name for entries, neighbours as one."""
    found: list[tuple[int, int, int]] = []
    for run_ in runs_of(store, slot):
        if found and found[-1][2] == run_.segment_id:
            found[-1] = (found[-1][0], run_.end, run_.segment_id)
        else:
            found.append((run_.first, run_.end, run_.segment_id))
    return found


def test_sealed_segment_is_tiered_at_once(tmp_path: Path) -> None:
    """Neither size nor age: a seal makes a segment's entries due; those of the next segments stay in the log."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, storage=storage) as store:
            stream = await store.create_stream("s", slots=2)
            slot = stream.slot(0)
            before = await fill(slot, 3 * KIB)
            await store.scale_stream(stream, [0], [1], "split")
            sealed_at = slot.end
            await until(lambda: slot.tiered_end == sealed_at)
            await fill(slot, 3 * KIB)

            assert labels(store, slot) == [(0, sealed_at, 0)]
            assert await chunk_entries(storage, store, slot) == before

            await store.seal_stream(stream)
            await until(lambda: slot.tiered_end == slot.end)
            assert labels(store, slot) == [(0, sealed_at, 0), (sealed_at, slot.end, 1)]

    run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_exact(tmp_path: Path, seed: int) -> None:
    """However scales and uploads meet, and over a crash: in chunks each entry has the segment it was appended to."""
    random_ = random.Random(seed)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        expected: list[list[tuple[int, int, int]]] = [[], []]
        written: list[list[bytes]] = [[], []]
        for last in (False, True):
            async with tiered_store(tmp_path, storage=storage, clean=last) as store:
                stream = store.streams.get("s") or await store.create_stream("s", slots=2)
                for _ in range(12):
                    for number in random_.sample([0, 1], random_.randint(1, 2)):
                        slot = stream.slot(number)
                        first = slot.end
                        written[number] += await fill(slot, random_.choice([1, 4, 40]) * KIB)
                        expected[number].append((first, slot.end, slot.segment_id))
                    runs = [segment.number for segment in stream.state.current.segments]
                    await store.scale_stream(stream, runs, [1] if len(runs) == 1 else [], "again")
                if last:
                    slots = list(stream.written_slots())
                    for slot in slots:
                        await until(partial(is_tiered, slot))
                    for slot in slots:
                        assert without_gaps(runs_of(store, slot))
                        assert labels(store, slot) == expected[slot.number]
                        assert await chunk_entries(storage, store, slot) == written[slot.number]

    run(scenario())


@pytest.mark.slow
def test_rewrites_keep_segments_apart(tmp_path: Path) -> None:
    """Chunks of many segments are merged; every entry stays in its own, and nothing else changes."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            stream = await store.create_stream("s", slots=4)
            slots = [stream.slot(number) for number in range(4)]
            written: list[list[bytes]] = [[] for _ in slots]
            expected: list[list[tuple[int, int, int]]] = [[] for _ in slots]
            for _ in range(12):
                for slot in slots:
                    first = slot.end
                    written[slot.number] += await fill(slot, KIB)
                    expected[slot.number].append((first, slot.end, slot.segment_id))
                runs = [segment.number for segment in stream.state.current.segments]
                await store.scale_stream(stream, runs, [2] if len(runs) == 1 else [], "again")
                for slot in slots:
                    await until(partial(is_tiered, slot))
            await until(lambda: rewriter_of(store).counters.rewrites)
            await stop_rewriting(store)
            assert max(len(chunk.runs) for chunk in chunks_of(store)) > 2 * len(slots)

            storage = tier_of(store).long_term.storage
            for slot in slots:
                assert without_gaps(runs_of(store, slot))
                assert labels(store, slot) == expected[slot.number]
                assert await chunk_entries(storage, store, slot) == written[slot.number]

    run(scenario())


def tier_of(store: Store) -> Tier:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier


def test_backlogs_follow_the_seals(tmp_path: Path) -> None:
    """Each backlog lies in one segment and says how many bytes of the slot precede it."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, TIERING) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            entries = await fill(slot, 3 * KIB)
            size = sum(map(len, entries))
            slot.begin_segment(slot.end, 5)
            slot.segment_id = 5
            more = await fill(slot, 2 * KIB)

            found = [backlog[1:] for backlog in backlogs_of(slot, 0, 0, slot.stable_end, slot.stable_bytes)]
            assert found == [
                (0, 0, len(entries), 0, size),
                (5, len(entries), slot.end, size, sum(map(len, more))),
            ]
            assert [
                backlog[1:] for backlog in backlogs_of(slot, len(entries), size, slot.stable_end, slot.stable_bytes)
            ] == found[1:]

    run(scenario())
