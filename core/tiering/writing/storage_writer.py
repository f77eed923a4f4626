"""The storage writer, which moves entries from the log into chunks, in the background.

A segment is due when it has `chunk_bytes` that are in no chunk, and when it is sealed; a slot also while it is hurried,
and not at all while it is held, unless the log is pressed.
When an entry is older than `chunk_age_ms`, all entries at least half as old go in one round, many slots in one object.
So rounds by age cost at most two puts a minute times 60,000 / `chunk_age_ms`, plus one for each `chunk_bytes` or
`RUNS_MAX` slots, however many slots there are. When the log is half full, everything is due, every `PRESSURE_PAUSE_S`;
when whoever takes the container over would have too many objects of the log to read, every `LONG_PAUSE_S`.

**Invariants**

- The age of an entry goes on over starts and hand-overs: an owner of a short time moves what many before it have left.
- Chunks of a slot are committed in the order of its sequence numbers, though several are uploaded at a time. What is
  begun goes on where the chunks on their way end at that moment: some may have been given up since it was cut.
- Nothing is put that the log has not synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from core.background import Background
from core.errors import Deposed, NotHosted
from core.tiering.rows import ChunkState
from core.tiering.writing.backlog import (
    Backlog,
    Piece,
    UnreadableEntry,
    adjoining,
    backlogs_of,
    cut_segment,
    is_lost,
    pack,
)
from core.tiering.writing.second_look import SecondLook
from core.tiering.writing.uploads import Counters, Upload, Uploads
from tier2.storage import StorageError

if TYPE_CHECKING:
    from core.streams.live import Slot
    from core.tiering.context import TierContext
    from core.tiering.writing.pins import Pins

logger = logging.getLogger(__name__)

TICK_S: Final = 1.0
PRESSURE_PAUSE_S: Final = 5.0
LONG_PAUSE_S: Final = 30.0
"""The log is not cut sooner after a round: it waits for the second look at the chunks."""
SLICE_SLOTS: Final = 2000
"""The most slots that one turn of the event loop looks at: about a millisecond."""
LOOK_COST: Final = 50
"""The pause between two looks at all waiting slots, in durations of a look: two percent of a core at most."""
UNFORESEEN_S: Final = 15.0
"""The pause after a failure that nobody foresaw: a step may have read much."""


class _Ages(NamedTuple):
    """How long entries have waited that a start has found, seconds at most."""

    log: float
    chunks: dict[tuple[int, int], float]  # by stream and slot

    def of(self, stream_id: int, slot: int) -> float:
        return min(self.log, self.chunks.get((stream_id, slot), self.log))


class _Planned(NamedTuple):
    """A part of a slot that is on its way: its end, the slot's bytes before that, the upload of its chunk."""

    end: int
    bytes_before: int
    task: asyncio.Task[bool]


class StorageWriter:
    """The storage writer of one container."""

    def __init__(self, context: TierContext, pins: Pins) -> None:
        self._context = context
        self._pins = pins
        self._container = context.container
        self._reader = context.reader
        self._catalog = context.catalog
        self._config = context.container.config
        self._clock = context.container.clock
        self._second_look = SecondLook(context)
        self._uploads = Uploads(context, pins, self._second_look.committed)
        self._wake = asyncio.Event()
        self._hurried: set[Slot] = set()
        self._held: set[Slot] = set()
        self._planned: dict[Slot, list[_Planned]] = {}  # the chunks on their way, in order
        self._tasks: set[asyncio.Task[bool]] = set()
        self._pressed_at = 0.0
        self._is_log_long = False  # all that waits is due, because of the objects of the log
        self._shortened_at = -math.inf  # when that was so last
        self._look_at = 0.0
        self._tick_s = min(TICK_S, context.container.config.chunk_age_ms / 4000)
        self._background = Background(
            "tiering",
            context.container.id,
            self._step,
            retry_s=self._tick_s,
            unforeseen_s=UNFORESEEN_S,
            first_s=self._tick_s,
            wait=self._until_woken,
        )
        self._look_error: str | None = None
        self.untiered_bytes = 0  # as of the last look

    def __repr__(self) -> str:
        return f"<StorageWriter {self._container.id}: {len(self._tasks)} uploads, {self.counters}>"

    @property
    def counters(self) -> Counters:
        """Counters since the start."""
        return self._uploads.counters

    @property
    def last_error(self) -> str | None:
        """The reason why long-term storage did not take the last chunk, or does not show one; None when all is well."""
        return self._uploads.last_error or self._look_error

    @property
    def lacks_room(self) -> bool:
        """Whether it had no room for the last chunk."""
        return self._uploads.lacks_room

    @property
    def uploading(self) -> int:
        """The number of chunks on their way."""
        return len(self._tasks)

    async def start(self) -> None:
        """Abandon the uploads that an earlier run left, then begin. Raises StoreError."""
        self._pins.name_lost()
        await self._uploads.abandon_left()
        container, ages = self._container, self._ages_s()
        for slot in container.all_slots():
            if slot.durable_end > slot.untiered_from[0] and not slot.untiered and not slot.has_moved:
                container.mark_untiered(slot, ages.of(slot.stream.id, slot.number))
        self._background.start()

    async def stop(self) -> None:
        """End; the next start abandons chunks on their way."""
        await self._background.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._second_look.stop()

    def hurry(self, slot: Slot) -> None:
        """Tier a slot without waiting for more of it, until `calm` is called."""
        self._hurried.add(slot)
        self.wake()

    def calm(self, slot: Slot) -> None:
        self._hurried.discard(slot)

    def hold(self, slot: Slot) -> int:
        """Make no more chunks of a slot, until `let_go` is called or the log is pressed. Returns where what it has in
        chunks, or on its way there, ends."""
        self._held.add(slot)
        return self._place_of(slot)[0]

    def let_go(self, slot: Slot) -> None:
        self._held.discard(slot)
        self.wake()

    def log_is_long(self) -> None:
        """Tier all that waits: the log has so many objects that it is to be cut."""
        self._is_log_long = True

    def _is_held(self, slot: Slot) -> bool:
        return slot in self._held and not self._context.is_pressed

    def wake(self) -> None:
        """Look soon: something may be due."""
        self._wake.set()

    async def _until_woken(self, pause_s: float) -> None:
        """Wait, the whole pause after a failure whatever is due, or each upload that ends would cause another try."""
        if self._background.last_error is not None:
            await asyncio.sleep(pause_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
        self._wake.clear()

    async def _step(self) -> float:
        try:
            self._container.log_changed()
            await self._pins.look_again()
            await self._pins.look()
            self._uploads.pace.observe(self._container.appended_bytes, self.untiered_bytes, self._context.pressure)
            if self._clock.monotonic_s() >= self._look_at:
                await self._plan()
            await self._second_look.look(self._uploads)
        except StorageError as error:
            self._look_error = str(error)
            self._uploads.counters.failures += 1
            raise
        self._look_error = None
        return self._tick_s

    # Finding due entries

    async def _plan(self) -> None:
        if len(self._tasks) >= 2 * self._config.tier2_uploads:
            return
        now, container = self._clock.monotonic_s(), self._container
        began = time.perf_counter()
        waiting, sealed, oldest = await self._waiting()
        self._look_at = now + LOOK_COST * (time.perf_counter() - began)
        await self._start_sealed(sealed)
        rest: list[Slot] = []
        for slots, size in waiting.values():
            if size >= self._config.chunk_bytes:
                await self._start(slots, by_age=False)
            else:
                rest += slots
        if self._context.is_pressed and now >= self._pressed_at + PRESSURE_PAUSE_S:
            self._pressed_at = now
            await self._start(rest, by_age=True)
        elif self._is_log_long and now >= self._shortened_at + LONG_PAUSE_S:
            self._is_log_long, self._shortened_at = False, now
            await self._start(rest, by_age=True)
        elif now - oldest >= (age_s := self._config.chunk_age_ms / 1000):
            await self._start([s for s in rest if now - container.untiered.get(s, now) >= age_s / 2], by_age=True)

    async def _waiting(self) -> tuple[dict[tuple[int, int], tuple[list[Slot], int]], list[Slot], float]:
        """The slots to tier with about their bytes, by stream and segment; slots with a part in sealed segments; the
        time since which the oldest waits."""
        pins, held_bytes = self._pins, 0
        sealed: list[Slot] = []
        oldest = self._clock.monotonic_s()
        slots_of: dict[tuple[int, int], list[Slot]] = {}
        size_of: dict[tuple[int, int], int] = {}
        untiered = list(self._container.untiered.items())
        for start in range(0, len(untiered), SLICE_SLOTS):
            for slot, since in untiered[start : start + SLICE_SLOTS]:
                if slot.has_moved and self._container.is_here(slot):
                    continue  # the decision is on its way, and may come to nothing
                first, before = self._place_of(slot)
                end, end_bytes = pins.end_of(slot)
                if slot.stream.deleted or slot.has_moved or first >= end:
                    if slot not in self._planned and self._container.untiered.pop(slot, None) is not None:
                        slot.untiered = False
                    continue
                if self._is_held(slot):
                    held_bytes += end_bytes - before
                    continue
                segment = slot.stream.id, slot.segment_id
                slots_of.setdefault(segment, []).append(slot)
                if slot.stream.is_sealed or slot in self._hurried or slot.segment_at(first)[0] != slot.segment_id:
                    sealed.append(slot)
                # Entries held back by an open transaction are not due. Their age must not count for the others.
                size_of[segment] = size_of.get(segment, 0) + end_bytes - before
                oldest = min(oldest, since)
            await asyncio.sleep(0)
        self.untiered_bytes = held_bytes + sum(size_of.values())
        return {segment: (slots, size_of[segment]) for segment, slots in slots_of.items()}, sealed, oldest

    def _place_of(self, slot: Slot) -> tuple[int, int]:
        """The first offset that is neither in a chunk nor being uploaded."""
        first, before = slot.untiered_from
        planned = self._planned.get(slot)
        return (first, before) if planned is None or planned[-1].end <= first else planned[-1][:2]

    def _ages_s(self) -> _Ages:
        """How long what a start finds has waited: the log keeps it since its oldest file was begun, and what a chunk
        that is still pending has left of a slot came after that chunk was made."""
        container, trusted = self._container, self._container.trusted
        files = container.files.complete
        chunks: dict[tuple[int, int], float] = {}
        for row in self._catalog.pending:
            if row.state is ChunkState.COMMITTED:
                age_s = trusted.age_ms(row.changed_ms) / 1000
                for run in row.runs:
                    place = run.stream_id, run.slot
                    chunks[place] = min(age_s, chunks.get(place, age_s))
        return _Ages(trusted.age_ms(files[0].created_ms) / 1000 if files else 0.0, chunks)

    def _backlogs(self, slot: Slot) -> Iterator[Backlog]:
        """The backlog of each segment that the slot was appended to, oldest first."""
        return backlogs_of(slot, *self._place_of(slot), *self._pins.end_of(slot))

    async def _start_sealed(self, slots: Sequence[Slot]) -> None:
        """Begin to upload the rest of sealed segments, which is due at once."""
        backlogs = [backlog for slot in slots for backlog in self._backlogs(slot)]
        hurried = self._hurried
        await self._start_whole(
            [
                one
                for one in backlogs
                if one.slot.stream.is_sealed or one.slot in hurried or one.segment_id != one.slot.segment_id
            ]
        )

    async def _start(self, slots: Sequence[Slot], *, by_age: bool) -> None:
        """Cut the oldest backlogs into chunks and begin to upload them."""
        backlogs = [backlog for slot in slots for backlog in islice(self._backlogs(slot), 1)]
        if by_age:
            self.counters.rounds += bool(slots)
            await self._start_whole(backlogs)
            return
        container, chunk_bytes = self._container, self._config.chunk_bytes
        await container.log.synced(container.applied_lsn)
        failed: list[UnreadableEntry] = []
        self._begin(
            await self._catalog.in_thread(lambda: cut_segment(self._reader, backlogs, chunk_bytes, failed, whole=False))
        )
        for error in failed:
            self._pins.found_unreadable(error.slot, error.first, error.bytes_before, error.error)

    async def _start_whole(self, backlogs: list[Backlog]) -> None:
        """Pack all backlogs into chunks and begin to upload these."""
        backlogs = [backlog for backlog in backlogs if not is_lost(self._container.damage, backlog)]
        if backlogs:
            container = self._container
            backlogs.sort(key=lambda backlog: (backlog.slot.stream.id, backlog.segment_id, backlog.slot.number))
            await container.log.synced(container.applied_lsn)
            self._begin(await self._catalog.in_thread(pack, backlogs, self._config.chunk_bytes))

    def _begin(self, chunks: Sequence[list[Piece]]) -> None:
        container = self._container
        now = self._clock.monotonic_s()
        for cut in chunks[: 2 * self._config.tier2_uploads]:
            # Since it was cut, a slot may have become held, and the chunk before it may have been given up.
            pieces = adjoining(
                [one for one in cut if not self._is_held(one.slot)], lambda slot: self._place_of(slot)[0]
            )
            if not pieces:
                continue
            before = dict.fromkeys(self._planned[p.slot][-1].task for p in pieces if p.slot in self._planned)
            task = asyncio.create_task(self._uploads.upload(Upload(pieces, tuple(before))), name="chunk upload")
            self._tasks.add(task)
            for piece in sorted(pieces, key=lambda piece: piece.first):
                planned = _Planned(piece.end, piece.bytes_before + piece.size, task)
                self._planned.setdefault(piece.slot, []).append(planned)
                if piece.slot in container.untiered:
                    container.untiered[piece.slot] = now  # the rest came later
            task.add_done_callback(partial(self._upload_done, pieces))

    def _upload_done(self, pieces: Sequence[Piece], task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        is_committed = not task.cancelled() and error is None and task.result()
        for slot in {piece.slot for piece in pieces}:
            self._forget_planned(slot, task, with_later=not is_committed)
        if error is not None and not isinstance(error, (Deposed, NotHosted)):  # then its next owner makes it
            logger.error("a chunk was given up and will be made again", exc_info=error)
        self._wake.set()

    def _forget_planned(self, slot: Slot, task: asyncio.Task[bool], *, with_later: bool) -> None:
        """A chunk has ended: without it those behind it are given up too; those before it are still on their way."""
        planned = self._planned.get(slot, [])
        own = next((number for number, one in enumerate(planned) if one.task is task), len(planned))
        planned[own:] = [] if with_later else [one for one in planned[own:] if one.task is not task]
        if not planned:
            self._planned.pop(slot, None)
