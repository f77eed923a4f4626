"""What share groups have of a partition, when that moves to another container: it comes along.

The rows of a partition lie in its container, one for each group. Once nothing more is appended to it, they are put into
the log of the container that it goes to, before the state that it has there. So it is decided about all at once.

Keeps: from then until the freeze has ended nothing is written about the partition, in either container; whoever has
something to store waits. Afterwards each share-partition goes on where the partition is, in the same object: who holds
which record until when stays. Rows of a partition that is not there are nobody's: they are passed over, deleted soon,
and replaced when the partition comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from core.applied.tables import Delete, Put
from core.container.container import Container
from core.errors import NotMovedYet, SlotMoves, StoreError
from core.log.records import Operation
from core.store import Store
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_key, encode_place
from gateway.groups.share.live_partition import ROWS_TOGETHER_MAX, LivePartition, was_set

if TYPE_CHECKING:
    from core.streams.live import Slot

Place = tuple[UUID, int]
"""A partition, whichever groups share it."""

IsMeant = Callable[[PlaceKey], bool]
"""Whether a deletion is about a partition of a group."""


@dataclass(slots=True)
class _Brought:
    """What was brought along in a freeze that has not ended: rows as they were queued last."""

    slot: Slot
    target: int
    lives: Sequence[LivePartition] = ()
    rows: Mapping[bytes, bytes] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Moving:
    """See the module. One for the share-partitions of a process, which are `lives`."""

    def __init__(self, store: Store, lives: Mapping[PlaceKey, LivePartition]) -> None:
        self._store = store
        self._lives = lives
        self._brought: dict[Place, _Brought] = {}
        self._deletions: list[IsMeant] = []
        store.mover.beside.comes_along(self._bring, self._ended)

    def __repr__(self) -> str:
        return f"<Moving: {len(self._brought)} partitions, {len(self._deletions)} deletions>"

    def awaits(self, key: PlaceKey) -> bool:
        """Whether the partition is about to go."""
        return bool(self._brought) and (key.topic, key.partition) in self._brought

    async def has_ended(self, key: PlaceKey) -> bool:
        """If the partition is about to go, wait until it is known whether it does; False if there was nothing to wait
        for. Raises SlotMoves if that takes too long."""
        brought = self._brought.get((key.topic, key.partition))
        if brought is None:
            return False
        await _known(brought)
        return True

    @contextlib.asynccontextmanager
    async def none_brought(self, is_meant: IsMeant) -> AsyncIterator[None]:
        """Let no rows that are meant be brought anywhere: what is deleted meanwhile is gone in each container. Raises
        SlotMoves."""
        self._deletions.append(is_meant)
        try:
            while meant := [one for one in self._brought.values() if _any(is_meant, one.rows)]:
                await _known(meant[0])
            yield
        finally:
            self._deletions.remove(is_meant)

    def _bring(self, slot: Slot, target_id: int) -> None:
        """Put all rows of a partition into the log of the container that it goes to, and nothing else of it. Called
        again in a freeze this does so with what is new: rows were on their way to the table. Raises NotMovedYet while
        some of them are deleted, StoreError."""
        source, target = (self._store.containers[one].container for one in (slot.container_id, target_id))
        place = slot.stream.uuid, slot.number
        lives = [
            live
            for key, live in self._lives.items()
            if (key.topic, key.partition) == place and live.container is source and not live.is_gone
        ]
        rows = dict(_rows_of(source, place))
        rows |= {(put := live.row()).key: put.value for live in lives}  # newer than what is stored
        if any(_any(is_meant, rows) for is_meant in self._deletions):
            raise NotMovedYet(slot.stream.name, slot.number, "what share groups have settled is being deleted")
        brought = self._brought.get(place) or _Brought(slot, target_id)
        stale = {*brought.rows, *(key for key, _ in _rows_of(target, place))} - rows.keys()
        changed = [Put(PARTITIONS_TABLE, *row) for row in rows.items() if brought.rows.get(row[0]) != row[1]]
        _submit(target, [*(Delete(PARTITIONS_TABLE, key) for key in stale), *changed])
        brought.lives, brought.rows = lives, rows
        self._brought[place] = brought
        for live in lives:
            live.freeze(brought.ended)

    def _ended(self, slot: Slot) -> None:
        """The partition is where it was, or has come where its rows are."""
        brought = self._brought.pop((slot.stream.uuid, slot.number), None)
        if brought is None:
            return
        here, other = self._places(slot, brought.target)
        for live in brought.lives:
            live.go_on(here or live.container)
            if here is None:  # nobody knows: who asks for it again hears where it is
                live.close()
        brought.ended.set()
        if here is not None and other is not None:
            with contextlib.suppress(StoreError):
                _submit(other, [Delete(PARTITIONS_TABLE, key) for key in brought.rows])

    def _places(self, slot: Slot, target_id: int) -> tuple[Container | None, Container | None]:
        """The container of a partition whose freeze has ended, and the other one; None for those that are not known, or
        not here any more."""
        source, target = (self._store.containers.get(one) for one in (slot.container_id, target_id))
        now = slot.stream.known_slot(slot.number)
        if now is not None and now.container_id == target_id:
            here, other = target, source
        elif source is not None and source.container.is_leaving(slot):
            return None, None
        else:
            here, other = source, target
        return None if here is None else here.container, None if other is None else other.container


def _any(is_meant: IsMeant, keys: Iterable[bytes]) -> bool:
    return any(is_meant(decode_key(key)) for key in keys)


async def _known(brought: _Brought) -> None:
    """Wait until a freeze has ended. Raises SlotMoves if that takes too long."""
    if not await was_set(brought.ended):
        slot = brought.slot
        raise SlotMoves(slot.stream.name, slot.number, slot.container_id)


def _rows_of(container: Container, place: Place) -> Iterable[tuple[bytes, bytes]]:
    """A look at the end of each key: there may be very many, of which none is decoded."""
    end = encode_place(*place)
    return ((key, value) for key, value in container.table(PARTITIONS_TABLE).entries.items() if key.endswith(end))


def _submit(container: Container, operations: Sequence[Operation]) -> None:
    """Queue them; what follows in the log is durable behind them. Raises StoreError."""
    for first in range(0, len(operations), ROWS_TOGETHER_MAX):
        container.submit(operations[first : first + ROWS_TOGETHER_MAX]).add_done_callback(_nobody_waits)


def _nobody_waits(landing: asyncio.Future[None]) -> None:
    if not landing.cancelled():
        landing.exception()
