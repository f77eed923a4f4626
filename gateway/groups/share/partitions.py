"""The share-partitions of this process: what groups have begun, opened when a member asks for it.

A partition's state lies in the container of the partition, so a fetch or an acknowledgement needs no other container.

Keeps: a partition's start is stored before its first record is given away. Where a group begins follows its configs as
they were set last, whichever process was told them. When the partition moves to another container, what groups have of
it goes on there (`gateway/groups/share/moving.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from core.clock import Clock
from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from core.streams.live import Slot
from core.turns import in_turns
from gateway.groups.share.beginning import Beginnings
from gateway.groups.share.dead_letters import WritesLetters
from gateway.groups.share.deletions import Deletions
from gateway.groups.share.format import (
    PARTITIONS_TABLE,
    PlaceKey,
    decode_key,
    decode_partition,
    encode_group_prefix,
    encode_key,
    encode_partition,
)
from gateway.groups.share.live_partition import LivePartition
from gateway.groups.share.moving import Moving
from gateway.groups.share.partition import SharePartition
from gateway.groups.share.read_ahead import ReadAhead
from gateway.groups.share.settings import ShareSettings
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from gateway.topics.topics import Topics

PLACES_MAX: Final = 100_000
"""Partitions, each counted for every group that shares it."""
STATES_AT_ONCE: Final = 200
"""Stored states that are decoded in one step."""


class SharePartitions:
    """See the module."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        topics: Topics,
        settings: Callable[[str], ShareSettings],
        letters: WritesLetters,
    ) -> None:
        self._letters = letters
        self._ahead = ReadAhead()
        self._topics = topics
        self._resuming: set[asyncio.Task[None]] = set()
        self._store = store
        self._clock = clock
        self._settings = settings
        self._live: dict[PlaceKey, LivePartition] = {}
        self._opening: dict[PlaceKey, asyncio.Task[LivePartition]] = {}
        self._beginnings = Beginnings(store)
        self._moving = Moving(store, self._live)
        self._deletions = Deletions(store, self._live, self._opening, self._moving)
        self._is_stopped = False
        topics.on_deletion(self._deletions.topic_deleted)

    def __repr__(self) -> str:
        return f"<SharePartitions {len(self._live)} in use>"

    def __len__(self) -> int:
        return len(self._live)

    def resume(self, container: Container) -> None:
        """A container is open: go on with the dead letters and the deletions that a stop has cut off, or the end of the
        node that had it. Its streams are known."""
        resuming = asyncio.create_task(self._resume(container), name=f"share groups in container {container.id}")
        self._resuming.add(resuming)
        resuming.add_done_callback(self._resuming.discard)

    async def _resume(self, container: Container) -> None:
        waiting: list[PlaceKey] = []
        async for rows in container.table(PARTITIONS_TABLE).in_steps(most=STATES_AT_ONCE):
            for stored, row in rows:
                key = decode_key(stored)
                if self._store.streams.found(key.topic) is None:  # nor is there one that cannot be shown
                    self._deletions.topic_gone(key.topic)
                elif decode_partition(row).dead() is not None:
                    waiting.append(key)
        for key in waiting:
            stream = self._topics.by_uuid(key.topic)
            if stream is not None and key.partition < stream.slot_count and not self._is_stopped:
                with contextlib.suppress(Refusal, StoreError):  # the group's next fetch goes on with it
                    await self.of(key, stream.slot(key.partition))

    async def stop(self) -> None:
        """Return when all that changed is stored; those who wait for records are answered."""
        self._is_stopped = True
        resuming = list(self._resuming)
        for task in resuming:
            task.cancel()
        await asyncio.gather(*resuming, return_exceptions=True)
        async for one in in_turns(list(self._live.values())):
            await one.settled()
            one.close()
        await self._ahead.close()
        await self._deletions.finish()

    def find(self, key: PlaceKey) -> LivePartition | None:
        """A share-partition in use."""
        found = self._live.get(key)
        return None if found is None or found.is_gone else found

    def is_at_hand(self, key: PlaceKey) -> bool:
        """Whether `of` gives it at once: it is in use, and its partition is not about to move."""
        return self.find(key) is not None and not self._moving.awaits(key)

    async def of(self, key: PlaceKey, slot: Slot) -> LivePartition:
        """A share-partition, opened if it is not in use. Raises Refusal, StoreError."""
        if self._is_stopped:
            raise Refusal(ErrorCode.not_leader_or_follower)
        container = self._store.hosted(slot).container
        live = self.find(key)
        if live is not None and live.container is container:
            return live
        if await self._moving.has_ended(key):  # it has come along by now, if the partition has moved
            return await self.of(key, slot)
        return await asyncio.shield(self._opened(key, slot, container))

    async def begin(self, places: Iterable[tuple[PlaceKey, Slot]]) -> None:
        """Open share-partitions that a group has not begun yet, and return when that is done: together, as each has a
        row to be stored. Those with a row are left to `of`, which tells as well what kept any of these from it."""
        openings: list[asyncio.Task[LivePartition]] = []
        for key, slot in places:
            with contextlib.suppress(Refusal, StoreError):
                container = self._store.hosted(slot).container
                if self._is_new(key, container):
                    openings.append(self._opened(key, slot, container))
        await asyncio.gather(*map(asyncio.shield, openings), return_exceptions=True)

    def _is_new(self, key: PlaceKey, container: Container) -> bool:
        is_free = not self._is_stopped and key not in self._live and not self._moving.awaits(key)
        return is_free and container.table(PARTITIONS_TABLE).get(encode_key(key)) is None

    def _opened(self, key: PlaceKey, slot: Slot, container: Container) -> asyncio.Task[LivePartition]:
        """A share-partition that is being opened, from now on. Raises Refusal."""
        opening = self._opening.get(key)
        if opening is None:
            if container.is_leaving(slot):
                raise Refusal(ErrorCode.not_leader_or_follower)  # its row would be left behind
            if len(self._live) + len(self._opening) >= PLACES_MAX:
                raise Refusal(ErrorCode.policy_violation, f"More than {PLACES_MAX} partitions are shared by groups.")
            opening = self._opening[key] = asyncio.create_task(self._open(key, slot, container))
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        return opening

    async def _open(self, key: PlaceKey, slot: Slot, container: Container) -> LivePartition:
        if (before := self._live.get(key)) is not None:
            await before.ended()
        stored = container.table(PARTITIONS_TABLE).get(encode_key(key))
        if stored is not None:
            state = decode_partition(stored)
        else:
            state = SharePartition(await self._first_start(slot, key.group_id))
            await self._beginnings.store(container, partial(self._first_row, key, slot, container, state))
        live = self.find(key)
        if live is not None and live.container is container:
            return live  # an administrator set its start meanwhile
        container.check_not_frozen(slot)  # what was stored may have been brought along by now
        return self._adopt(key, container, state)

    def _first_row(self, key: PlaceKey, slot: Slot, container: Container, state: SharePartition) -> Put | None:
        """What is stored of a share-partition that begins; None if an administrator set its start meanwhile, which is
        stored, or will be. Raises StoreError."""
        if (live := self.find(key)) is not None and live.container is container:
            return None
        container.check_not_frozen(slot)  # the row would stay behind
        return Put(PARTITIONS_TABLE, encode_key(key), encode_partition(state))

    def _adopt(self, key: PlaceKey, container: Container, state: SharePartition) -> LivePartition:
        if (before := self._live.get(key)) is not None:
            before.close()
        settings = partial(self._settings, key.group_id)
        live = LivePartition(key, container, state, settings, self._clock, self._letters, self._ahead)
        self._live[key] = live
        if state.dead() is not None:
            live.resume()
        return live

    async def _first_start(self, slot: Slot, group_id: str) -> int:
        """Where a group begins that has no start yet. By time it is that of a batch, not of a record in it."""
        if self._store.is_shared:  # the group's configs may just have been set by another process, and this is for good
            await self._beginnings.catch_up()
        settings = self._settings(group_id)
        if settings.reset_ms is None:
            return slot.start if settings.from_earliest else slot.durable_end
        wanted_ms = self._store.hosted(slot).container.trusted.stamp_ms() - settings.reset_ms
        entry = await self._store.hosted(slot).reader.entry_at_time(slot, wanted_ms, slot.start)
        return slot.durable_end if entry is None else max(entry.first, slot.start)

    # Administration

    async def begun(self, group_id: str) -> list[PlaceKey]:
        """The partitions that a group has begun, in the containers of this process."""
        prefix = encode_group_prefix(group_id)
        found: list[PlaceKey] = []
        for hosted in list(self._store.containers.values()):
            async for rows in hosted.container.table(PARTITIONS_TABLE).in_steps(prefix):
                keys = (decode_key(key) for key, _ in rows)
                found += [key for key in keys if self._is_in(hosted.container, key)]
        return found

    def _is_in(self, container: Container, key: PlaceKey) -> bool:
        """Whether a partition lies in a container that has a row about it; if its topic is gone, its row goes, too."""
        stream = self._topics.by_uuid(key.topic)
        return stream is None or container.outcomes.owns((stream.id, key.partition))

    def look(self, key: PlaceKey, slot: Slot) -> SharePartition | None:
        """How far a group is; None if it has not begun. Raises NotHosted."""
        container = self._store.hosted(slot).container
        live = self.find(key)
        if live is not None:
            return live.state
        stored = container.table(PARTITIONS_TABLE).get(encode_key(key))
        return None if stored is None else decode_partition(stored)

    def position(self, key: PlaceKey, slot: Slot) -> tuple[int, int] | None:
        """Where a group's open records begin, and how many there are, delivered ones too; None if it has not begun.
        Raises NotHosted."""
        state = self.look(key, slot)
        if state is None:
            return None
        start = max(state.start, slot.start)
        open_below_end = state.in_flight if state.start == start else max(state.end - start, 0)
        return start, open_below_end + max(slot.durable_end - max(state.end, start), 0)

    async def begin_at(self, key: PlaceKey, slot: Slot, start: int) -> ErrorCode:
        """Have a group begin a partition anew; returns when that is durable. Raises NotHosted, also for a slot that is
        about to leave."""
        container = self._store.hosted(slot).container
        live = self._live.get(key)
        if live is None or live.is_gone or live.container is not container:
            container.check_not_frozen(slot)
            live = self._adopt(key, container, SharePartition(start))
        return await live.begin_at(start)

    async def delete_topics(self, group_id: str, topics: Collection[UUID]) -> None:
        """Have a group forget topics. Raises StoreError."""
        await self._deletions.of_topics(group_id, topics)

    async def delete_groups(self, group_ids: Collection[str]) -> Mapping[str, StoreError]:
        """Groups are to go, and first what they have settled, in the containers of this process. Returns why not, by
        group, where something of one stays. Raises SlotMoves."""
        return await self._deletions.of_groups(group_ids)
