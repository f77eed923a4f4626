"""What a slot that moves does while it is frozen, up to its decision: source and target settle at the same time.

What is queued at the source will be durable there, or the source takes nothing more, and nothing is decided. So the
target need not wait for it. It is given the rest as soon as that can be read, with the state that the slot will have
then (`core.streams.saving.Foreseen`). Both logs' puts are on their way together, and a freeze takes as long as the
slower one. Once the source has settled, the state is looked at again, and logged again if it did not come as foreseen.

Where nothing can be read before it is durable, on a disk, the target is given the rest once the source has settled.

**Invariants**

- Nothing is decided before the source has settled, nor before the target has, durably, the state that the slot has
  then. What was foreseen counts for nothing, but for what is in chunks of it.
- No entry lies behind a state in the target's log: a slot that is frozen gets none.
"""

from __future__ import annotations

import asyncio

from core.beside import Beside
from core.container.arrivals import arrival_put
from core.copying import Move, copy, foresee_outcomes, learn_outcomes, mark_untiered
from core.errors import CannotMove, StorageFull
from core.stations import Stations
from core.streams.handing import tiered_of, with_copied
from core.streams.saving import Foreseen, encode_slot


async def settled(move: Move, limit_s: float, beside: Beside) -> bool:
    """Whether the target has all of the frozen slot, synced, in time.

    Whether something `beside` it keeps it is asked once the source has settled. What comes along is brought before that
    and behind it: what is on its way there may change what is to be brought.
    Raises CannotMove, NotMovedYet, Mismatch, StoreError.
    """
    stations = Stations(move.source.container.clock.monotonic_s)
    waiting: list[asyncio.Future[None]] = []
    try:
        async with asyncio.timeout(limit_s):
            return await _settle(move, beside, stations, waiting)
    except (TimeoutError, StorageFull):
        return False
    finally:
        move.stations_ms = stations.told()
        for one in waiting:
            _forget(one)


async def _settle(move: Move, beside: Beside, stations: Stations, waiting: list[asyncio.Future[None]]) -> bool:
    slot, source, target = move.slot, move.source.container, move.target.container
    waiting.append(source.all_durable())
    await source.log.filled()
    await copy(move, slot.end, patient=False)
    await learn_outcomes(move)
    move.check()
    beside.bring(slot, target.id)
    tiered, foreseen = tiered_of(move.arrived), Foreseen.of(slot, source.markers_on_way(slot))
    foresee_outcomes(move, foreseen.transactions)
    expected = encode_slot(slot, foreseen)
    waiting.append(target.submit([arrival_put(move.place, with_copied(expected, move.arrived, move.aborted, tiered))]))
    stations.reached("rest queued")
    await waiting[0]
    stations.reached("source settled")
    if (why := beside.why_stays(slot)) is not None:  # it began during the copying
        raise CannotMove(move.stream.name, slot.number, why)
    move.check()
    if move.lacks(slot.tiered_end):
        return False  # chunks of the source came to be meanwhile
    beside.bring(slot, target.id)
    state = encode_slot(slot)
    if state != expected:
        waiting.append(target.submit([arrival_put(move.place, with_copied(state, move.arrived, move.aborted, tiered))]))
        stations.reached("state queued again")
    await target.all_durable()
    await target.synced()
    stations.reached("target settled")
    mark_untiered(move)
    return True


def _forget(waiting: asyncio.Future[None]) -> None:
    """Nobody waits for it any more, whatever comes of it."""
    if not waiting.done():
        waiting.cancel()
    elif not waiting.cancelled():
        waiting.exception()  # else the loop complains that nobody has asked for it
