"""Reads log objects, and runs a takeover over a real store.

**Invariant**: what cannot be read is an error, never an end. Only a store that says "no such object" ends the walk, and
not if something later proves that the object was there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from core.errors import Deposed, StorageFailure
from core.log.format import FILE_HEADER_SIZE, FRAME_HEADER_SIZE, Buffer, stored_before
from core.log.objects.format import (
    HEADER_SIZE,
    BadLogObject,
    Decoded,
    Stretch,
    check_data,
    decode_header,
    encode_fence,
    log_key,
    log_prefix,
)
from core.log.objects.manifest import newest_start
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import FindCheckpoint, Group, Overtaken, Owned, Place, PutFence, Read, Takeover
from tier2.storage import AlreadyExists, Corrupt, ObjectInfo, ObjectNotFound, Storage, Unavailable

READS_AT_ONCE: Final = 8
BEYOND_MAX: Final = 80
"""Objects behind the first free place that are looked at: more than may be on their way at a time."""
AHEAD: Final = 512
"""Headers that are read before the walk comes to them."""
STEPS_PER_TURN: Final = 200
"""Steps of the walk over headers in memory, some microseconds each, in one turn of the event loop."""


async def read_header(storage: Storage, container: int, place: Place) -> Decoded | None:
    """The header of the object at a place, None if there is none. Raises BadLogObject, StorageError."""
    if isinstance(storage, Prefetched) and (known := storage.decoded(place)) is not None:
        return known
    key = log_key(container, place)
    kept = storage if isinstance(storage, Prefetched) else None
    try:
        return decode_header(container, place, await storage.get_range(key, 0, HEADER_SIZE))
    except ObjectNotFound:
        return None
    except Corrupt as error:
        raise BadLogObject(str(error)) from error
    except BadLogObject:
        if kept is None or not kept.drop(key):
            raise
        return await read_header(storage, container, place)


async def read_bytes(storage: Storage, container: int, group: Group, stretch: Stretch) -> Buffer:
    """The bytes of the log in a group. Raises BadLogObject, StorageError (ObjectNotFound: it was removed)."""
    key = log_key(container, group.place)
    try:
        data = await storage.get_range(key, HEADER_SIZE, stretch.size)
        check_data(stretch, data)
    except Corrupt as error:
        raise BadLogObject(str(error)) from error
    except BadLogObject:
        if not isinstance(storage, Prefetched) or not storage.drop(key):
            raise
        return await read_bytes(storage, container, group, stretch)
    return data


class _Ahead:
    """Reads headers ahead of the walk. Only objects that are there are remembered: they never change."""

    def __init__(self, storage: Storage, container: int) -> None:
        self._storage = storage
        self._container = container
        self._known: dict[Place, Decoded] = {}
        self._steps = 0

    async def read(self, place: Place) -> Decoded | None:
        """The header at a place, None if there is none. Raises BadLogObject, StorageError."""
        storage = self._storage
        if isinstance(storage, Prefetched) and (decoded := storage.decoded(place)) is not None:
            self._steps += 1
            if not self._steps % STEPS_PER_TURN:
                await asyncio.sleep(0)
            return decoded
        if place not in self._known:
            found = await read_header(storage, self._container, place)
            if found is None:
                return None
            self._known = {place: found}
            await self._look_ahead(place)
        return self._known.pop(place)

    async def _look_ahead(self, place: Place) -> None:
        key = log_key(self._container, place)
        epoch = f"{key.rpartition('/')[0]}/"
        listed = self._storage.list(epoch, after=key)
        places = [Place(place.epoch, int(info.key[len(epoch) :])) async for info in first(listed, AHEAD)]
        for begin in range(0, len(places), READS_AT_ONCE):
            some = places[begin : begin + READS_AT_ONCE]
            reads = (read_header(self._storage, self._container, one) for one in some)
            # An error is left to the walk, which may never come there.
            found = await asyncio.gather(*reads, return_exceptions=True)
            self._known |= {one: header for one, header in zip(some, found, strict=True) if isinstance(header, tuple)}


async def first(infos: AsyncIterator[ObjectInfo], count: int) -> AsyncIterator[ObjectInfo]:
    """The first `count` of them."""
    async for info in infos:
        if count <= 0:
            return
        count -= 1
        yield info


async def take_over(storage: Storage, container: int, takeover: Takeover, stretches: dict[Place, Stretch]) -> Owned:
    """Walk, fence, and own the log of a container; fills in the stretches of its groups.

    Raises StorageFailure for a damaged object, Deposed when a later taker has the log, StorageError when the store
    cannot be asked.
    """
    ahead = _Ahead(storage, container)
    while not isinstance(wanted := takeover.wanted, Owned):
        match wanted:
            case Overtaken(epoch):
                raise Deposed(container, f"its log is in epoch {epoch} already")
            case FindCheckpoint():
                takeover.found_checkpoint(await newest_start(storage, container))
            case Read(place):
                try:
                    decoded = await ahead.read(place)
                except BadLogObject as error:
                    raise StorageFailure(
                        f"the log object {log_key(container, place)} is damaged: {error}. Nothing was changed; "
                        "restore the object from a copy of the bucket, then start again"
                    ) from error
                if decoded is None:
                    if not await is_missing(storage, container, place):
                        takeover.has_read(None)
                else:
                    found, stretch = decoded
                    if stretch is not None:
                        stretches[place] = stretch
                    takeover.has_read(found)
            case PutFence(fence):
                with contextlib.suppress(AlreadyExists, Unavailable):  # what lies there decides
                    await storage.put_new(log_key(container, fence.place), encode_fence(container, fence))
                takeover.has_put()
    return wanted


async def is_missing(storage: Storage, container: int, place: Place) -> bool:
    """Whether something that was there is not: False for the end of the log, True if it is there by now: read it again.

    Later objects lie there too while several puts are on their way, so they alone prove nothing. But a frame tells up
    to where the log was stored when it was written, and an epoch begins behind the end of the last one.
    Raises StorageFailure, and ObjectNotFound if the log was cut there meanwhile; StorageError.
    """
    later = await _later_than_stored(storage, container, place)
    if later is None:
        return False
    if await read_header(storage, container, place) is not None:
        return True
    key = log_key(container, place)
    if (await newest_start(storage, container)).lsn > place.lsn:
        raise ObjectNotFound(key)
    raise StorageFailure(
        f"the log object {key} is missing: {later} was put when it had been stored. Nothing was changed; restore the "
        "object from a copy of the bucket, then start again"
    )


async def _later_than_stored(storage: Storage, container: int, place: Place) -> str | None:
    """The key of an object that was put when the one at this place had been stored, if there is one."""
    listed = storage.list(log_prefix(container), after=log_key(container, place))
    async for info in first(listed, BEYOND_MAX):
        epoch, lsn = (int(part) for part in info.key.split("/")[-2:])
        if epoch > place.epoch:
            return info.key
        with contextlib.suppress(BadLogObject, ObjectNotFound):
            decoded = await read_header(storage, container, Place(epoch, lsn))
            if decoded is not None and decoded[1] is not None:
                group, stretch = decoded
                assert isinstance(group, Group)
                data = await read_bytes(storage, container, group, stretch)
                begins = 0 if stretch.position else FILE_HEADER_SIZE
                if len(data) >= begins + FRAME_HEADER_SIZE and stored_before(data, begins) >= place.lsn:
                    return info.key
    return None
