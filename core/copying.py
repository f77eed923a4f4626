"""The copying of a slot's history into another container: a part of its move, see `core.moving`.

Entries go from wherever the source has them, memory, log or chunks, through the target's log, as frames like others.

**Invariants**

- What is copied is durable at the source and at the target before anything is decided. Its order has no gaps. Until
  the slot is frozen only what is durable at the source is copied.
- No more than `WINDOW_BYTES` and one read are on their way into the target's log at a time.
- The target puts nothing into chunks that an open transaction of the source may still change: what was copied while one
  was open lies behind a *barrier*, until all of it is settled.
- No entry is queued at the target behind a state that it has not applied yet: that would set the slot's end back.
- The source forgets an aborted transaction once its log has let go of the entries. It was heard of before, or is read
  from the chunks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from core.config import LogStore
from core.container.arrivals import Place
from core.errors import CannotMove, Corrupt, NotMovedYet, OutOfRange, StorageFull, UnknownStream
from core.freezing import LEFT_ENTRIES_MAX, Left
from core.streams.transactions import Aborted, SlotTransactions, Unstable, overlapping
from core.tiering.writing.backlog import Piece, UnreadableEntry, entries
from core.turns import Turn

if TYPE_CHECKING:
    from core.container.container import Container
    from core.hosted import HostedContainer
    from core.reading.reader import Reader
    from core.streams.live import Slot, Stream
    from tier2.chunk import EntryHeadOf

COPY_BYTES: Final = 1 << 20
COPY_ENTRIES: Final = 2_000
"""The most that is read at a time, unless a single entry is larger."""
WINDOW_BYTES: Final = 4 << 20
"""What may be on its way into the target's log when more is read: a log of objects takes several puts at a time."""
ROOM_S_MAX: Final = 60.0
"""The longest wait for room in the target's log."""
PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Entry:
    first: int
    count: int
    timestamp: int
    payload: bytes


@dataclass(eq=False, slots=True)
class Move:
    """One move on its way: what is copied from where to where, and how far it is."""

    stream: Stream
    slot: Slot
    source: HostedContainer
    target: HostedContainer
    arrived: Slot
    copied_bytes: int = 0
    aborted: set[Aborted] = field(default_factory=set)
    may_be_decided: bool = False
    stations_ms: Mapping[str, float] = field(default_factory=dict)  # where the time of its last freeze went
    barrier: tuple[int, int] | None = None  # copied beyond this while a transaction was open: offset, bytes before it
    asked_end: int = 0  # what chunks know of aborted transactions was taken up to here, beyond the barrier

    @property
    def place(self) -> Place:
        return self.stream.id, self.slot.number

    def note_transactions(self) -> None:
        """Have the target put into chunks only what is settled, and list what was aborted there."""
        made = SlotTransactions()
        for row in sorted(self.aborted):
            made.aborted.extend(row)
        if self.barrier is not None:
            made.unstable[self.barrier[0]] = Unstable(-1, self.barrier[1])
        self.arrived.transactions = made if made.aborted or made.unstable else None

    def met(self, aborted: Iterable[Aborted]) -> None:
        """Take in aborted transactions of what is copied next."""
        before = len(self.aborted)
        self.aborted.update(aborted)
        if len(self.aborted) > before:
            self.note_transactions()

    @property
    def needs_chunks(self) -> bool:
        """Whether what the source has in chunks has to be in the target's, because a disk with its log may be lost."""
        return self.target.container.config.log_store is LogStore.DISK

    @property
    def settles_at_once(self) -> bool:
        """Whether entries can be read at the source, and so be copied, before they are durable there."""
        return self.source.container.config.log_store is LogStore.OBJECT

    def lacks(self, end: int) -> bool:
        """Whether the target has yet to put into chunks what the source has in chunks up to there, and still keeps."""
        return self.needs_chunks and self.slot.start < end and self.arrived.tiered_end < end

    def check(self) -> None:
        """Raises UnknownStream, NotMovedYet if it cannot go on."""
        if self.stream.deleted:
            raise UnknownStream(self.stream.name)
        for one in (self.source, self.target):
            if one.container.is_left:
                raise NotMovedYet(self.stream.name, self.slot.number, f"container {one.id} leaves this process")
        if self.target.container.arriving(self.place) is not self.arrived:
            raise NotMovedYet(self.stream.name, self.slot.number, "its arrival was taken back meanwhile")
        if self.arrived.end < self.slot.start:
            raise NotMovedYet(self.stream.name, self.slot.number, "retention was faster than the copying")


async def with_room(stream: Stream, number: int, call: Callable[[], int]) -> int:
    """The answer, once the target's log has room for it."""
    deadline = asyncio.get_running_loop().time() + ROOM_S_MAX
    while True:
        try:
            return call()
        except StorageFull as error:
            if asyncio.get_running_loop().time() > deadline:
                raise NotMovedYet(stream.name, number, f"there is no room for it: {error}") from error
        await asyncio.sleep(PAUSE_S)


async def lift(move: Move) -> bool:
    """Let go of the barrier once all is settled that was copied beyond it; returns whether it was."""
    slot, copied = move.slot, move.arrived.end
    if move.barrier is None or slot.stable_end < copied:
        return False
    await learn_outcomes(move)
    move.barrier = None
    move.note_transactions()
    mark_untiered(move)
    return True


def mark_untiered(move: Move) -> None:
    """Have the target look for what goes into chunks: behind a barrier it had found nothing, and no entry comes that
    would tell it."""
    arrived = move.arrived
    if not arrived.untiered and arrived.durable_end > arrived.untiered_from[0]:
        move.target.container.mark_untiered(arrived)


async def take_back(move: Move) -> None:
    """Go on after a freeze that came to nothing: the state that may have been logged for it counts before any entry
    follows it, and the barrier, of which it says nothing, counts again."""
    await move.target.container.all_durable()
    move.note_transactions()


async def learn_outcomes(move: Move) -> None:
    """Take what is known by now of transactions that were open when their entries were copied: from the slot, and from
    chunks where it may have forgotten that, because its log has let go of the entries."""
    if move.barrier is None:
        return
    slot, reader, copied = move.slot, move.source.reader, move.arrived.end
    known = list(overlapping(slot.aborted_rows, move.barrier[0], copied))  # it may forget these from here on
    first = max(move.barrier[0], move.asked_end, slot.start)
    in_log = await reader.first_in_log(slot, first)
    while first < min(in_log, copied):
        move.check()
        read = await reader.read(slot, first, min(in_log, copied), COPY_BYTES, at_least_one=True)
        move.met(read.aborted)
        first = move.asked_end = read.end
    move.met(known)


def foresee_outcomes(move: Move, transactions: SlotTransactions | None) -> None:
    """Take what markers on their way will abort as known: they become durable, or nothing is ever decided. The target
    may cut a chunk by a foreseen state, and list what it knows in it only after that freeze was taken back."""
    if move.barrier is not None and transactions is not None:
        move.met(overlapping(transactions.aborted, move.barrier[0], move.arrived.end))


async def copy(move: Move, end: int, *, patient: bool) -> None:
    """Copy the entries up to `end`, which can be read at the source. They are durable at the target then, or, if it is
    not `patient`, with what is logged there next."""
    window = _Window(move.target.container)
    try:
        while move.arrived.end < end:
            size = await _copy_some(move, end, patient=patient)
            if patient:
                await window.opened(size)
        if patient:
            await window.emptied()
    finally:
        window.forget()


async def pass_over(move: Move) -> float:
    """Copy what is durable at the source now; returns how long that took until it was durable at the target, s."""
    clock = move.target.container.clock
    began_s = clock.monotonic_s()
    await copy(move, move.slot.durable_end, patient=True)
    if not await lift(move):  # a freeze that was taken back has left a barrier behind all that was not durable then
        await learn_outcomes(move)
    return clock.monotonic_s() - began_s


def left_of(move: Move) -> Left:
    """What is not copied yet."""
    slot, copied = move.slot, move.arrived
    if copied.end >= slot.end:
        return Left(0, 0)
    return Left(slot.total_bytes - copied.total_bytes, slot.entries_from(copied.end, LEFT_ENTRIES_MAX + 1))


class _Window:
    """What a copy has on its way into the log of a container."""

    def __init__(self, target: Container) -> None:
        self._target = target
        self._on_way: deque[tuple[asyncio.Future[None], int]] = deque()
        self._bytes = 0

    async def opened(self, size: int) -> None:
        """Count `size` bytes that were queued, and wait until there is room for more. Raises StorageFailure."""
        target = self._target
        self._on_way.append((target.all_durable(), size))
        self._bytes += size
        while self._bytes > WINDOW_BYTES:
            await self._next()
        hold_s = target.throttle.hold_s(target.clock.monotonic_s(), size)
        if hold_s:
            await asyncio.sleep(min(1.0, hold_s))

    async def emptied(self) -> None:
        """All of it is durable. Raises StorageFailure."""
        while self._on_way:
            await self._next()

    async def _next(self) -> None:
        waiting, size = self._on_way.popleft()
        self._bytes -= size
        await waiting

    def forget(self) -> None:
        """Nobody waits any more for what is still on its way."""
        for waiting, _ in self._on_way:
            if not waiting.cancel():
                waiting.exception()  # else the loop complains that nobody has asked for it


async def _copy_some(move: Move, end: int, *, patient: bool) -> int:
    """Queue the next entries in the target's log; returns their bytes."""
    move.check()
    arrived, before = move.arrived, move.copied_bytes
    stable = move.slot.stable_end
    if move.barrier is None and arrived.end >= stable:
        move.barrier = arrived.end, arrived.total_bytes
        move.note_transactions()
    turn = Turn()
    for entry in await _some(move, arrived.end, min(end, stable) if move.barrier is None else end):
        if entry.first != arrived.end:
            why = f"there is nothing between offsets {arrived.end} and {entry.first}"
            raise CannotMove(move.stream.name, move.slot.number, why)
        await _append(move, entry, patient=patient)
        move.copied_bytes += len(entry.payload)
        await turn.breathe()
    return move.copied_bytes - before


async def _append(move: Move, entry: _Entry, *, patient: bool) -> None:
    target = move.target.container

    def append() -> int:
        return target.append(move.arrived, entry.payload, entry.count, entry.timestamp)

    if patient:
        await with_room(move.stream, move.slot.number, append)
    else:
        append()


async def _some(move: Move, first: int, end: int) -> Sequence[_Entry]:
    """Some entries from `first` on, wherever the source has them, and what is known of transactions there."""
    slot, reader = move.slot, move.source.reader
    aborted = slot.aborted_rows  # the slot may forget these during the read
    try:
        found: Sequence[_Entry] = await reader.in_thread(_from_log, reader, slot, first, end)
    except (Corrupt, UnreadableEntry):
        move.check()
        if move.source.tier is None or first >= slot.tiered_end:
            raise
        found = ()  # chunks have it as well: the log may have let go of the file during the read
    if found and found[0].first == first:
        move.met(overlapping(aborted, first, found[-1].first + found[-1].count))
        return found
    tier = move.source.tier
    if tier is None:
        raise OutOfRange(first, slot.start, slot.durable_end)
    read = await reader.read(slot, first, end, COPY_BYTES, at_least_one=True)
    move.met(read.aborted)
    return list(await reader.in_thread(_cut, b"".join(read.parts), tier.long_term.head_of))


def _from_log(reader: Reader, slot: Slot, first: int, end: int) -> list[_Entry]:
    """Entries that the log has, from the first one at or behind `first`. Blocks. Raises UnreadableEntry, OutOfRange."""
    found: list[_Entry] = []
    size = 0
    for entry in entries(reader, Piece(slot, slot.segment_id, first, end, 0, 0)):
        found.append(_Entry(entry.first, entry.count, entry.max_timestamp, bytes(entry.payload)))
        size += len(entry.payload)
        if size >= COPY_BYTES or len(found) >= COPY_ENTRIES:
            break
    return found


def _cut(data: bytes, head_of: EntryHeadOf) -> list[_Entry]:
    """The entries that lie in these bytes, one after another."""
    found: list[_Entry] = []
    view, at = memoryview(data), 0
    while at < len(data):
        first, count, timestamp, size = head_of(view, at)
        found.append(_Entry(first, count, timestamp, data[at : at + size]))
        at += size
    return found
