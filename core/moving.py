"""A slot moves to another container while it is written and read.

The steps, in this order, with what the logs say after each:

1. *Arrive*: the target's log begins the slot, beside its stream. It has no say.
2. *Copy*: entries go from wherever the source has them into the target's log, pass after pass, until little is missing
   (`core.freezing`). What the source has in chunks is put into chunks of the target, and what compaction has left there
   comes by these alone (`core.histories`). Appends go on.
3. *Freeze*: the source takes nothing more for this slot. What is on its way settles, while the rest is copied, and the
   target's log gets the slot's state: writers, transactions, leader epochs (`core.settling`). It is synced. A freeze
   that is not done in time is taken back, and the copying goes on.
4. *Decide*: the registry names the target as the slot's container. This is the only step that changes who owns it.
5. *Follow*: both containers log their copy of the stream. The target's slot becomes the stream's, the source lets its
   own go: its rows, its runs in chunks, in the end its log files.

Up to 4 a failure or a crash takes the arrival back; from then on a start carries 5 out. History is copied and not
shared, so that a container goes on to be complete by itself: for recovery, for deletion, for a rebuild from long-term
storage.

**Invariants**

- A slot takes appends in one container at most: in the source up to 3, in the target from 5 on.
- The target puts nothing into chunks that an open transaction of the source may still change.
- What was acknowledged at the source is synced at the target before 4; what was in long-term storage is there again, in
  chunks, or in the objects of the target's log.
- Appends are refused from 3 to 5, and before 4 for the limit of a freeze at most: else they go on, and the copying,
  too. Behind 4 they are taken once the target's log was given the slot, not only when it is durable there.
- The source makes no chunks of the slot while the target's are compared with them.
- In a cluster 4 is one transaction with the claims of both containers. So whoever has opened one of them since knows
  that nothing is decided behind its back, and settles what it finds of the move by the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from core.background import REASON_CHARS_MAX
from core.beside import Beside
from core.clock import Clock
from core.cluster.registry import NOTHING_HELD, Held
from core.config import LogStore
from core.container.arrivals import Place, arrival_delete, arrival_put, place_of
from core.copying import (
    Move,
    left_of,
    lift,
    pass_over,
    take_back,
    with_room,
)
from core.errors import (
    CannotMove,
    CoordinatorAway,
    CoordinatorRefuses,
    Corrupt,
    CorruptState,
    NotHosted,
    NotMovedYet,
    OutOfRange,
    StorageFailure,
    StoreError,
    TierUnavailable,
    UnknownStream,
)
from core.freezing import SHARE, SHARE_AT_ONCE, Freezes
from core.histories import History, bring, copies_chunks, has_holes, left_alone
from core.log.records import Delete, Operation, Put
from core.settling import settled
from core.streams.handing import Mismatch, begun
from core.streams.state import STREAMS_TABLE, stream_key
from core.tiering.writing.backlog import UnreadableEntry

if TYPE_CHECKING:
    from core.container.container import Container
    from core.hosted import HostedContainer
    from core.streams.live import Slot, Stream

logger = logging.getLogger(__name__)

HURRIED_BYTES_MAX: Final = 64 << 20
"""A slot with less history goes into chunks of the target as soon as it comes, so that the log there does not fill up
and slow its copying down. Chunks of more are as large as any."""
TIERED_S_MAX: Final = 600.0
"""The longest wait for what the source has in chunks."""
CLEAR_S_MAX: Final = 60.0
"""The longest wait for what an earlier stay of the slot has left in the target."""
PAUSE_S: Final = 0.05
WAITING_MAX: Final = 1_000
"""Moves that wait for their turn: one is carried out at a time."""
LEAVE_IT_OPEN: Final = (StorageFailure, CoordinatorAway, CoordinatorRefuses, CorruptState)
"""Errors behind which a decision may have been made: a refusal is perhaps that of a second try, and what cannot be read
was perhaps looked at behind it. So may all errors that nobody foresaw."""


class Movable(Protocol):
    """The store, as slots move in it."""

    containers: dict[int, HostedContainer]

    async def rise_above(self, hosted: HostedContainer, epoch: int) -> None:
        """Have a container's leader epoch above this one, and others know of it. Raises StoreError, NotHosted."""

    async def decide_move(self, stream: Stream, number: int, target: int, held: Held) -> None:
        """Name the target as the slot's container, and follow; the caller holds `stream.changing`. Raises StoreError:
        then nothing was decided, except for those that `LEAVE_IT_OPEN`."""

    async def was_moved(self, stream: Stream, number: int, target: int) -> bool:
        """Whether a decision that was left open was made; if not, it never will be. Returns when the registry has told,
        however long that takes; the caller holds `stream.changing`. Raises StoreError if only the next start tells."""


class Moved(NamedTuple):
    """A move that was carried out."""

    source: int
    target: int
    copied_bytes: int
    frozen_s: float


@dataclass(slots=True)
class MoveCounts:
    """Moves since the start, for the operator."""

    moved: int = 0
    failed: int = 0
    copied_bytes: int = 0  # of those that were carried out
    frozen_s: float = 0.0  # likewise: the time in which appends were refused, all together


class Mover:
    """The moves of slots between containers of one store. For the event loop."""

    def __init__(self, store: Movable) -> None:
        self._store = store
        self._one_at_a_time = asyncio.Lock()
        self._under_way: dict[tuple[Stream, int, int], asyncio.Task[Moved]] = {}
        self._deciding: set[asyncio.Task[None]] = set()
        self.beside = Beside()
        self.counts = MoveCounts()

    async def move(self, stream: Stream, number: int, target: int) -> Moved:
        """Move a slot, or wait for that move if it is under way. It goes on if its caller is cancelled. A slot that is
        there already has moved.

        Raises UnknownStream, NotHosted, CannotMove, NotMovedYet, StoreError: then the slot stays where it was, except
        after StorageFailure, when the next start tells.
        """
        wanted = stream, number, target
        task = self._under_way.get(wanted)
        if task is None:
            if len(self._under_way) >= WAITING_MAX:
                raise NotMovedYet(stream.name, number, f"{WAITING_MAX} other moves are wanted already")
            name = f"move of {stream.name}-{number}"
            task = self._under_way[wanted] = asyncio.create_task(self._move(stream, number, target), name=name)
            task.add_done_callback(lambda _: self._under_way.pop(wanted, None))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Take back what is not decided, and wait for what may be."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._deciding, return_exceptions=True)

    async def settle(self, streams: Callable[[int], Stream | None]) -> None:
        """After a start: `settle_in` for each container. Raises StoreError."""
        for hosted in list(self._store.containers.values()):
            await self.settle_in(hosted.container, streams)

    async def settle_in(self, container: Container, streams: Callable[[int], Stream | None]) -> None:
        """Take back arrivals in a container that were not decided, and end those that were. It has just been opened,
        and so no earlier owner of it can decide anything any more. Raises StoreError."""
        for place in [place_of(key) for key in container.arrivals]:
            stream = streams(place[0])
            if stream is not None and not stream.deleted and place[1] < stream.logged.slots:
                is_its = stream.logged.container_of_slot(place[1]) == container.id
                if is_its and container.arriving(place) is not None:
                    continue  # its copy of the stream had no room yet
            await self._take_back(container, place, stream)

    # --- The steps ------------------------------------------------------------------------------

    async def _move(self, stream: Stream, number: int, target: int) -> Moved:
        async with self._one_at_a_time, contextlib.AsyncExitStack() as during:
            if 0 <= number < stream.slot_count and not stream.deleted:
                slot = _settled_slot(stream, number)
                if slot.container_id == target:
                    return Moved(target, target, 0, 0.0)
            history = await during.enter_async_context(left_alone(*self._checked(stream, number, target)[:2]))
            move = await self._begin(stream, number, target, history)
            try:
                if history is not None:
                    await bring(move, history)
                with _hurried(move) if move.slot.size_bytes <= HURRIED_BYTES_MAX else contextlib.nullcontext():
                    await pass_over(move)
                with _held(move) as tiered_end:
                    await pass_over(move)
                    await self._brought(move, tiered_end)
                    frozen_s = await self._hand_over(move)
            except BaseException as error:
                told = {"stream": stream.name, "slot": number, "to": target, "reason": str(error)[:REASON_CHARS_MAX]}
                logger.info("a slot has not moved", extra=told)
                self.counts.failed += 1
                if not move.may_be_decided:
                    await self._take_back(move.target.container, move.place, stream)
                if isinstance(error, Mismatch | OutOfRange | TierUnavailable):
                    raise NotMovedYet(stream.name, number, str(error)) from error
                if isinstance(error, Corrupt | UnreadableEntry):
                    raise CannotMove(stream.name, number, f"its entries cannot be read: {error}") from error
                raise
        logger.info(
            "slot moved",
            extra={"stream": stream.name, "slot": number, "from": move.source.id, "to": target}
            | {"copied_bytes": move.copied_bytes, "frozen_ms": round(1000 * frozen_s), "ms": move.stations_ms},
        )
        self.counts.moved += 1
        self.counts.copied_bytes += move.copied_bytes
        self.counts.frozen_s += frozen_s
        return Moved(move.source.id, target, move.copied_bytes, frozen_s)

    async def _begin(self, stream: Stream, number: int, target_id: int, history: History | None) -> Move:
        """Step 1."""
        chunks = None if history is None else (history.end, history.appended_bytes)
        slot, source, target = self._checked(stream, number, target_id)
        place, container = (stream.id, number), target.container
        await self._cleared(target, place, stream)
        await self._store.rise_above(target, source.container.epoch)
        async with stream.changing:
            self._checked(stream, number, target_id)
            since_lsn = await with_room(stream, number, lambda: container.begin_stay(place))
            operations: list[Operation] = [arrival_put(place, begun(slot, since_lsn, chunks))]
            if stream.id not in container.streams:
                operations.insert(0, Put(STREAMS_TABLE, stream_key(stream.id), stream.logged.encode()))
            await container.update(*operations)
        arrived = container.arriving(place)
        if arrived is None:
            raise UnknownStream(stream.name)
        return Move(stream, slot, source, target, arrived)

    def _checked(self, stream: Stream, number: int, target_id: int) -> tuple[Slot, HostedContainer, HostedContainer]:
        if stream.deleted:
            raise UnknownStream(stream.name)
        if not 0 <= number < stream.slot_count:
            raise CannotMove(stream.name, number, f"the stream has {stream.slot_count} slots")
        slot = _settled_slot(stream, number)
        source, target = (self._store.containers.get(one) for one in (slot.container_id, target_id))
        if source is None:
            raise NotHosted(slot.container_id)
        if target is None:
            raise NotHosted(target_id)
        if source.container.is_leaving(slot):
            raise NotMovedYet(
                stream.name, number, "nobody knows whether its last move was decided: the next start tells"
            )
        why = self._hindrance(slot, source, target)
        if why is not None:
            raise CannotMove(stream.name, number, why)
        return slot, source, target

    def why_stays(self, slot: Slot) -> str | None:
        """Why a slot cannot leave its container just now, wherever it is to go; None if it can, or is not here."""
        source = self._store.containers.get(slot.container_id)
        if slot.stream.is_sealed:
            return "its stream is sealed, and takes no more entries anywhere"
        if source is None:
            return None
        if source.container.failed.done():
            return f"container {source.id} takes nothing more: {source.container.failed.result()}"
        if source.container.damage.of(slot):
            return "a part of it is damaged"
        if has_holes(slot) and not copies_chunks(source):
            return "compaction has taken records out of it, and this process does not rewrite chunks"
        return self.beside.why_stays(slot)

    def _hindrance(self, slot: Slot, source: HostedContainer, target: HostedContainer) -> str | None:
        if target.container.failed.done():
            return f"container {target.id} takes nothing more: {target.container.failed.result()}"
        is_in_objects = target.container.config.log_store is LogStore.OBJECT and target.claim_epoch is None
        if is_in_objects and target.container.epoch <= source.container.epoch:
            return (
                f"container {target.id} is in an earlier epoch, and its log in long-term storage has its name from that"
            )
        return self.why_stays(slot)

    async def _cleared(self, target: HostedContainer, place: Place, stream: Stream) -> None:
        """Wait until nothing is left in the target of an earlier stay of the slot."""
        try:
            async with asyncio.timeout(CLEAR_S_MAX):
                while await target.has_remains(place):
                    await target.clear(place)
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError as error:
            why = f"container {target.id} has not yet let go of what it had of it before"
            raise NotMovedYet(stream.name, place[1], why) from error

    async def _hand_over(self, move: Move) -> float:
        """Steps 3 to 5; returns for how long appends were refused, s."""
        slot, freezes = move.slot, Freezes(SHARE_AT_ONCE if move.settles_at_once else SHARE)
        while True:
            pass_s = await pass_over(move)
            limit_s = freezes.limit_s(left_of(move), pass_s)
            frozen_s = None if limit_s is None else await self._frozen(move, limit_s)
            if frozen_s is not None:
                return frozen_s
            if limit_s is not None:
                await take_back(move)
            if (why := freezes.why_not) is not None:
                raise NotMovedYet(move.stream.name, slot.number, why)
            await asyncio.sleep(freezes.pause_s)
            await self._brought(move, slot.tiered_end)  # if its log is pressed, the source makes chunks all the same

    async def _frozen(self, move: Move, limit_s: float) -> float | None:
        """One freeze, and steps 4 and 5 if it settles in time; for how long appends were refused then, s."""
        slot, source = move.slot, move.source.container
        async with move.stream.changing:
            move.check()
            refused = _Refused(slot, source.clock)
            source.freeze(slot, move.target.id)
            try:
                if not await self._settled(move, limit_s):
                    return None
                await self._decide(move)
                await self._arrived(move)
                return refused.ended()
            finally:
                refused.ended()
                if not move.may_be_decided:
                    source.thaw(slot)
                self.beside.ended(slot)

    async def _decide(self, move: Move) -> None:
        """Steps 4 and 5. Once begun they go on, whoever is cancelled: `stop` waits for them."""
        move.may_be_decided = True
        stream, number, target = move.stream, move.slot.number, move.target.id
        deciding = asyncio.create_task(self._store.decide_move(stream, number, target, _held_by(move)))
        self._deciding.add(deciding)
        deciding.add_done_callback(self._deciding.discard)
        try:
            await asyncio.shield(deciding)
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, LEAVE_IT_OPEN):
                move.may_be_decided = False
                raise
            logger.warning(
                "nobody knows yet whether a slot has moved: the registry is asked until it tells",
                extra={"stream": stream.name, "slot": number, "to": target, "reason": str(error)},
                exc_info=None if isinstance(error, StoreError) else error,
            )
            if not await self._store.was_moved(stream, number, target):
                move.may_be_decided = False
                raise NotMovedYet(stream.name, number, f"the registry has not decided it: {error}") from error

    async def _brought(self, move: Move, end: int) -> None:
        """Wait until the target has in chunks what the source has there, unless its log is as safe as chunks: a disk
        that is lost soon after the move would take what was safe before."""
        tier = move.target.tier
        if tier is None:
            return
        with _hurried(move):
            try:
                async with asyncio.timeout(TIERED_S_MAX):
                    while move.lacks(end):
                        move.check()
                        if await lift(move):
                            tier.writer.wake()
                        await asyncio.sleep(PAUSE_S)
            except TimeoutError as error:
                why = f"what container {move.source.id} has in chunks was not brought within {TIERED_S_MAX:g} s"
                raise NotMovedYet(move.stream.name, move.slot.number, why) from error

    async def _settled(self, move: Move, limit_s: float) -> bool:
        """Step 3: whether the target has all of the frozen slot, synced, in time."""
        return await settled(move, limit_s, self.beside)

    async def _arrived(self, move: Move) -> None:
        """The end of step 5. Without room for it, the next start does this."""
        with contextlib.suppress(StoreError):
            if move.target.container.arriving(move.place) is None:
                await move.target.container.update(arrival_delete(move.place))

    async def _take_back(self, container: Container, place: Place, stream: Stream | None) -> None:
        """End an arrival by what is decided about its slot."""
        operations: list[Operation] = [arrival_delete(place)]
        if stream is not None and container.id not in stream.logged.containers | {stream.logged.container}:
            others = [key for key in container.arrivals if place_of(key)[0] == place[0] and place_of(key) != place]
            if not others and place[0] in container.streams:
                operations.append(Delete(STREAMS_TABLE, stream_key(place[0])))
        try:
            await container.update(*operations)
        except StoreError as error:  # the next start does it
            logger.warning("an arrival was not taken back", extra={"container": container.id, "reason": str(error)})


class _Refused:
    """A watcher of a frozen slot: how long nothing was appended to it, until callers find it in its target."""

    def __init__(self, slot: Slot, clock: Clock) -> None:
        self._slot, self._clock = slot, clock
        self._began_s = clock.monotonic_s()
        self._ended_s: float | None = None
        slot.watch(self)

    def slot_appended(self, slot: Slot, size: int) -> None:
        """What was on its way comes to its end."""

    def slot_settled(self, slot: Slot, size: int) -> None:
        """Likewise."""

    def slot_changed(self, slot: Slot) -> None:
        if slot.has_moved and self._ended_s is None:
            self._ended_s = self._clock.monotonic_s()

    def ended(self) -> float:
        """The seconds; it watches no more."""
        self._slot.unwatch(self)
        if self._ended_s is None:
            self._ended_s = self._clock.monotonic_s()
        return self._ended_s - self._began_s


@contextlib.contextmanager
def _hurried(move: Move) -> Iterator[None]:
    """The target puts what comes into chunks at once, as much in each as has come since the one before."""
    tier = move.target.tier
    if tier is not None:
        tier.writer.hurry(move.arrived)
    try:
        yield
    finally:
        if tier is not None:
            tier.writer.calm(move.arrived)


@contextlib.contextmanager
def _held(move: Move) -> Iterator[int]:
    """The source makes no more chunks of the slot, if the target needs as many. What it has in chunks, or on its way
    there, ends at this offset."""
    tier = move.source.tier if move.needs_chunks else None
    try:
        yield move.slot.tiered_end if tier is None else tier.writer.hold(move.slot)
    finally:
        if tier is not None:
            tier.writer.let_go(move.slot)


def _held_by(move: Move) -> Held:
    """The claims that this process must still have when the move is decided."""
    both = {one.id: one.claim_epoch for one in (move.source, move.target)}
    return {id: epoch for id, epoch in both.items() if epoch is not None} or NOTHING_HELD


def _settled_slot(stream: Stream, number: int) -> Slot:
    """A slot of a stream. Raises NotMovedYet while a container has still to follow the move before: the arrival there
    has all of its entries by then, and must stay."""
    slot = stream.slot(number)
    if slot.has_moved or stream.logged.container_of_slot(number) != slot.container_id:
        raise NotMovedYet(stream.name, number, "the containers have not all followed its last move")
    return slot
