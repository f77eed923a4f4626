"""Planners, which look in the catalog's rows for chunks and slots worth rewriting by `core.tiering.rewriting.rules`.

Look-ups block, and run in the catalog's threads. Nothing here changes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from core.tiering.filters import CompactionScope
from core.tiering.rewriting.cleaned import CLEANED_TABLE, Cleaned, cleaned_key, decode_cleaned, slot_in
from core.tiering.rewriting.requests import SlotKey
from core.tiering.rewriting.rules import (
    Candidate,
    Dirt,
    Portion,
    dirt_of,
    is_worth_merging,
    merge_groups,
    next_round,
    portions,
    slot_of,
)
from core.tiering.rows import ChunkState, RunKey, RunRow
from core.turns import Turn

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot
    from core.tiering.catalog import Catalog
    from tier2.chunk_format import ChunkId

SLOT_AGAIN_S: Final = 60.0
"""The pause between two looks at a compacted slot of which nothing new was tiered."""
AVOID_S: Final = 3600.0
"""The time for which unreadable chunks, and slots in them, are left alone."""


class SlotLeaves(Exception):
    """A slot of what was planned is about to leave the container: a rewrite without it has to be planned."""


class Busy:
    """The runs that take part in rewrites not committed yet, and the slots of which none may take part."""

    def __init__(self) -> None:
        self._slots: Counter[SlotKey] = Counter()
        self._chunks: Counter[ChunkId] = Counter()
        self._leaving: set[SlotKey] = set()

    def hold(self, runs: Iterable[RunRow]) -> None:
        for run in runs:
            self._slots[slot_of(run)] += 1
            self._chunks[run.chunk] += 1

    def release(self, runs: Iterable[RunRow]) -> None:
        for run in runs:
            _less(self._slots, slot_of(run))
            _less(self._chunks, run.chunk)

    def has_slot(self, key: SlotKey) -> bool:
        """Whether no plan may have this slot."""
        return key in self._slots or key in self._leaving

    def is_at(self, key: SlotKey) -> bool:
        """Whether a rewrite that is not committed yet has runs of this slot."""
        return key in self._slots

    def leaves(self, key: SlotKey) -> None:
        """Let no rewrite begin that has this slot, until `stays` is called."""
        self._leaving.add(key)

    def stays(self, key: SlotKey) -> None:
        self._leaving.discard(key)

    def check(self, runs: Iterable[RunRow]) -> None:
        """Raises SlotLeaves if one of these runs is of a slot that was planned before it was to leave."""
        if self._leaving and any(slot_of(run) in self._leaving for run in runs):
            raise SlotLeaves

    def has_chunk(self, chunk: ChunkId) -> bool:
        return chunk in self._chunks


class MergePlanner:
    """The planner that finds chunks to merge, and chunks to free of dead runs."""

    def __init__(self, container: Container, catalog: Catalog) -> None:
        self._container = container
        self._catalog = catalog
        self._levels: dict[ChunkId, int] = {}
        self._not_worth: set[ChunkId] = set()
        self._avoid: dict[ChunkId, float] = {}

    def avoid(self, chunks: Iterable[ChunkId]) -> None:
        """Leave these alone for a while: they cannot be read."""
        until_s = self._container.clock.monotonic_s() + AVOID_S
        self._avoid.update((chunk, until_s) for chunk in chunks)

    def plan(self, busy: Busy) -> list[Portion]:
        """The next rewrites; none when nothing is worth it. Blocks."""
        chunk_bytes = self._container.config.chunk_bytes
        small, dead = self._candidates(busy)
        self._not_worth &= {found.id for found in small}
        some = [found for found in small if found.id not in self._not_worth]
        for group in merge_groups(some):
            keys = [key for found in group for key in self._runs_of(found.id)]
            full = len(group) < sum(found.level == group[0].level for found in some)
            if is_worth_merging(group, keys, chunk_bytes, full=full):
                if plan := self._portions(keys, busy):
                    return plan
            elif full:
                self._not_worth.update(found.id for found in group[: len(group) // 2])
        return self._portions([key for found in self._some_of(dead) for key in self._runs_of(found.id)], busy)

    def _candidates(self, busy: Busy) -> tuple[list[Candidate], list[Candidate]]:
        """Chunks that may be merged, and those that are mostly dead."""
        now = self._container.clock.monotonic_s()
        self._avoid = {chunk: until_s for chunk, until_s in self._avoid.items() if until_s > now}
        small: list[Candidate] = []
        dead: list[Candidate] = []
        for row in self._catalog.iter_verified():
            if not row.runs or row.id in self._avoid or busy.has_chunk(row.id):
                continue
            found = Candidate(row.id, row.size, row.live_bytes, len(row.runs), row.runs[0])
            if found.is_mostly_dead:
                dead.append(found)
            elif found.may_be_merged(self._container.config.chunk_bytes):
                small.append(found)
        self._levels = {found.id: self._level_of(found) for found in small}
        return [found._replace(level=self._levels[found.id]) for found in small], dead

    def _level_of(self, candidate: Candidate) -> int:
        known = self._levels.get(candidate.id)
        if known is not None:
            return known
        key = candidate.any_run
        run = self._catalog.find_run(key.stream_id, key.slot, key.first)
        return 0 if run is None else run.generation

    def _some_of(self, dead: Iterable[Candidate]) -> Iterator[Candidate]:
        """As many chunks as make one, those with the least left first."""
        size = 0
        for found in sorted(dead, key=lambda found: found.live_bytes / found.size):
            size += found.live_bytes
            if size > self._container.config.chunk_bytes and size != found.live_bytes:
                return
            yield found

    def _runs_of(self, chunk: ChunkId) -> Sequence[RunKey]:
        row = self._catalog.find_chunk(chunk)
        return row.runs if row is not None and row.state is ChunkState.VERIFIED else ()

    def _portions(self, keys: Iterable[RunKey], busy: Busy) -> list[Portion]:
        """Rewrites of these runs, as far as they are alive and in no other rewrite."""
        wanted: dict[SlotKey, set[int]] = {}
        for key in keys:
            wanted.setdefault(SlotKey(key.stream_id, key.slot), set()).add(key.first)
        rows: list[RunRow] = []
        for slot_key, firsts in wanted.items():
            slot = slot_in(self._container, slot_key)
            if slot is None or busy.has_slot(slot_key):
                continue
            last = max(firsts)
            for run in self._catalog.iter_runs(*slot_key, max(slot.start, min(firsts))):
                if run.first > last:
                    break
                if run.first in firsts:
                    rows.append(run)
        return portions(rows, self._container.config.chunk_bytes)


class CompactionPlanner:
    """The planner that finds due slots of compacted streams."""

    def __init__(self, container: Container, catalog: Catalog) -> None:
        self._container = container
        self._catalog = catalog
        self._looked: dict[SlotKey, tuple[int, float]] = {}  # tiered end, and until when it suffices

    def avoid(self, chosen: Iterable[Dirt]) -> None:
        """Leave these alone for a while: they cannot be compacted just now."""
        until_s = self._container.clock.monotonic_s() + AVOID_S
        for one in chosen:
            slot = slot_in(self._container, one.slot)
            if slot is not None:
                self._looked[one.slot] = slot.tiered_end, until_s

    async def plan(self, busy: Busy) -> list[Dirt]:
        """The slots of the next round."""
        due = list(self._slots_to_look_at(busy))
        if not due:
            return []
        found, young = await self._catalog.in_thread(self._dirt, due)
        for key in (*(one.slot for one in found), *young):  # their turn is soon
            self._looked.pop(key, None)
        return next_round(found, self._container.config.chunk_bytes)

    async def scope(self, dirt: Dirt) -> CompactionScope:
        """The scope of a round in one slot."""
        slot = slot_in(self._container, dirt.slot)
        writers = {} if slot is None else await Turn().through(_last_entries(slot))
        now = self._container.trusted.now()
        return CompactionScope(
            begin=dirt.begin,
            end=dirt.end,
            now_ms=now.ages_ms,
            stamp_ms=now.stamp_ms,
            tombstone_ms=0 if slot is None else slot.stream.policy.tombstone_ms,
            writers=writers,
        )

    def _slots_to_look_at(self, busy: Busy) -> Iterator[tuple[Slot, Cleaned]]:
        table, now = self._container.table(CLEANED_TABLE), self._container.clock.monotonic_s()
        known, self._looked = self._looked, {}
        for stream in self._container.streams.values():
            if not stream.policy.compact:
                continue
            for slot in stream.slots_in(self._container.id):
                key = SlotKey(stream.id, slot.number)
                tiered_end, until_s = known.get(key, (-1, 0.0))
                if tiered_end == slot.tiered_end and now < until_s:
                    self._looked[key] = tiered_end, until_s
                elif not busy.has_slot(key) and slot.tiered_end > slot.start:
                    self._looked[key] = slot.tiered_end, now + SLOT_AGAIN_S
                    value = table.get(cleaned_key(key))
                    yield slot, Cleaned() if value is None else decode_cleaned(value)

    def _dirt(self, slots: Sequence[tuple[Slot, Cleaned]]) -> tuple[list[Dirt], list[SlotKey]]:
        """The dirty slots, and the slots whose newest chunks are not verified yet. Blocks."""
        now = self._container.trusted.now()
        verified: dict[ChunkId, bool] = {}
        made_ms: dict[ChunkId, int] = {}
        found: list[Dirt] = []
        young: list[SlotKey] = []
        for slot, cleaned in slots:
            key = SlotKey(slot.stream.id, slot.number)
            runs: list[RunRow] = []
            for run in self._catalog.iter_runs(*key, slot.start):
                if run.chunk not in verified:
                    row = self._catalog.find_chunk(run.chunk)
                    verified[run.chunk] = row is not None and row.state is ChunkState.VERIFIED
                    made_ms[run.chunk] = now.timestamps_ms if row is None else row.created_ms
                if not verified[run.chunk]:
                    young.append(key)
                    break
                runs.append(run)
            dirt = dirt_of(key, runs, cleaned, slot.stream.policy, now, made_ms)
            if dirt is not None:
                found.append(dirt)
        return found, young


def _last_entries(slot: Slot) -> Generator[None, None, dict[int, int]]:
    """The last sequence number of each writer's last entry, in steps."""
    last: dict[int, int] = {}
    for states in slot.writers_stepwise():
        last |= {
            writer_id: state.batches[-1].base + state.batches[-1].records - 1
            for writer_id, state in states
            if state.batches
        }
        yield
    return last


def _less(counter: Counter[SlotKey] | Counter[ChunkId], key: SlotKey | ChunkId) -> None:
    counter.subtract((key,))  # type: ignore[arg-type]
    if not counter[key]:  # type: ignore[index]
        del counter[key]
