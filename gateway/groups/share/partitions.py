"""The share-partitions of this process, with their rows: what the members of share groups hold and have settled.

A partition's state lies in the container of the partition, so a fetch or an acknowledgement needs no other container.

Keeps: a partition's start is stored before its first record is given away; an acknowledgement is answered when it is
stored, and several that come together share a log record. A partition has one write on its way. What a write that
failed would have stored goes with the next. Where a group begins follows its configs as they were set last, whichever
process was told them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from core.streams.live import Slot
from core.turns import in_turns
from gateway.groups.share.dead_letters import Undeliverable, WritesLetters
from gateway.groups.share.format import (
    PARTITIONS_TABLE,
    PlaceKey,
    decode_key,
    decode_partition,
    encode_group_prefix,
    encode_key,
    encode_partition,
    encode_place,
)
from gateway.groups.share.key_order import KeyOrder
from gateway.groups.share.partition import Acquired, Judgement, SharePartition
from gateway.groups.share.read_ahead import ReadAhead
from gateway.groups.share.settings import ShareSettings
from gateway.refusals import Asked, Refusal, code_of

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.topics.topics import Topics

LETTER_PAUSE_S_MIN: Final = 0.5
LETTER_PAUSE_S_MAX: Final = 30.0
"""Between two tries to write a dead letter."""

PLACES_MAX: Final = 100_000
"""Partitions, each counted for every group that shares it."""
ROWS_TOGETHER_MAX: Final = 100
"""Rows in one record of the log. Most have some 30 bytes; where they are so large that the log has no room for all of
them at once, each goes by itself."""

Landing = asyncio.Future[None]
"""A row on its way to the log: done when it is durable. Raises StoreError."""

_log: Final = logging.getLogger(__name__)


class LivePartition:
    """A share-partition in use: its state, its row, who waits for records of it, and the timer of its locks."""

    def __init__(
        self,
        key: PlaceKey,
        container: Container,
        state: SharePartition,
        settings: Callable[[], ShareSettings],
        clock: Clock,
        letters: WritesLetters,
        ahead: ReadAhead,
    ) -> None:
        self.key = key
        self.container = container
        self.state = state
        self.settings = settings
        self.order = KeyOrder()
        self.ahead = ahead
        self.record_bytes = 0
        """Size of a record, as of the last read."""
        self.waiters: dict[Callable[[], None], None] = {}
        """Called when there may be records to get."""
        self._clock = clock
        self._letters = letters
        self._burying: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._on_its_way: asyncio.Future[None] | None = None
        self._saves: set[asyncio.Task[ErrorCode]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self.is_gone = False

    def __repr__(self) -> str:
        return f"<LivePartition {self.key} {self.state!r}>"

    def next_offset(self, member_id: str) -> int | None:
        """The first offset that the member could get; None if there is none."""
        settings = self.settings()
        if settings.by_key:
            return self.order.next_offset(self.state, member_id, settings.limits)
        return self.state.next_offset(settings.limits)

    def acknowledge(self, member_id: str, judgements: Sequence[Judgement]) -> None:
        """Carry out what a member says. The caller has it stored, by `hand_on` or `stored`. Raises Refusal."""
        settings, state = self.settings(), self.state
        was_full = bool(self.waiters) and state.is_full(settings.limits)
        state.acknowledge(member_id, judgements, settings.limits, self._clock.monotonic_s())
        self.resume()
        self._set_timer()
        if self.waiters and (was_full or settings.by_key or state.has_available):
            self._wake()  # those at the end of the log would find nothing new

    def take_back(self, member_id: str, acquired: Sequence[Acquired]) -> None:
        """A member was given these records after its session had ended: it was never told."""
        self.state.take_back(member_id, acquired, self.settings().limits)
        self._freed()

    def release(self, member_id: str) -> None:
        """A member is gone, with all that it held."""
        self.state.release(member_id, self.settings().limits)
        self._freed()

    async def begin_at(self, start: int) -> ErrorCode:
        """Begin anew; returns when that is durable."""
        self.state, self.order = SharePartition(start), KeyOrder()
        self.state.changed = True
        self._freed()
        return await self.stored()

    def touched(self) -> None:
        """The state has changed: store it soon, look at its locks in time."""
        if self.state.changed and not self.is_gone:
            save = asyncio.create_task(self.stored())
            self._saves.add(save)
            save.add_done_callback(self._saves.discard)
            self.resume()
        self._set_timer()

    def _freed(self) -> None:
        self.touched()
        self._wake()

    def _wake(self) -> None:
        """There may be records to get, or room for more."""
        for wake in list(self.waiters):
            wake()

    # Its row

    @property
    def may_hand_on(self) -> bool:
        """Is there something to write, and nothing on its way to the log, nor anybody who is about to write?"""
        is_free = self._on_its_way is None and not self._writing.locked()
        return is_free and self.state.changed and not self.is_gone

    def row(self) -> Put:
        """What is to be written."""
        return Put(PARTITIONS_TABLE, encode_key(self.key), encode_partition(self.state))

    def handed_on(self, landing: Landing) -> None:
        """The row, as it is now, is on its way to the log."""
        state = self.state
        state.changed = False
        self._on_its_way = landing
        landing.add_done_callback(partial(self._landed, state))

    def _landed(self, state: SharePartition, landing: Landing) -> None:
        """A write has come to its end: what failed, or nobody waited for, is written again."""
        if landing.cancelled() or landing.exception() is not None:
            state.changed = True
        if self._on_its_way is landing:
            self._on_its_way = None

    async def stored(self) -> ErrorCode:
        """Return when everything that changed so far is durable."""
        async with self._writing:
            await self._all_landed()
            if not self.state.changed:
                return ErrorCode.none  # stored by another that waited for the same
            if self.is_gone:
                return ErrorCode.not_leader_or_follower
            try:
                self.handed_on(landing := self.container.submit([self.row()]))
                await landing
            except StoreError as error:
                return code_of(error, Asked.COORDINATOR)
        return ErrorCode.none

    async def _all_landed(self) -> None:
        """Return when nothing is on its way to the log."""
        if (landing := self._on_its_way) is not None:
            await asyncio.wait([landing])
            self._landed(self.state, landing)

    # Dead letters

    def resume(self) -> None:
        """Write the letters of records that are dead."""
        if self._burying is None and not self.is_gone and self.state.dead() is not None:
            self._burying = asyncio.create_task(self._bury())

    async def _bury(self) -> None:
        """Write letters for dead records until none is left; a record that is not stored as dead may yet live."""
        pause_s = LETTER_PAUSE_S_MIN
        try:
            while not self.is_gone and (dead := self.state.dead()) is not None:
                state = self.state
                try:
                    if await self.stored():
                        raise Undeliverable("its group's state could not be stored")
                    last = await self._letters.write(self.key, dead)
                except Undeliverable as why:
                    self._tell(why)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LETTER_PAUSE_S_MAX)
                    continue
                pause_s = LETTER_PAUSE_S_MIN
                if self.state is state:
                    state.buried(dead.first, last)
                    self._freed()
        finally:
            self._burying = None

    def _tell(self, why: Undeliverable) -> None:
        topic = self.settings().dead_letter_topic
        facts = {"group": self.key.group_id, "topic": topic, "partition": self.key.partition, "reason": str(why)[:300]}
        _log.warning("a dead letter cannot be written, it is tried again", extra=facts)

    async def ended(self) -> None:
        """Return when its row is as it will stay, if nothing more is done with it."""
        async with self._writing:
            await self._all_landed()

    async def settled(self) -> None:
        """Return when nothing is on its way to the log, and all that can be stored is."""
        if self._saves:
            await asyncio.wait(set(self._saves))
        await self.stored()

    async def delete(self) -> None:
        """Forget it for good. Raises StoreError."""
        self.close()
        async with self._writing:
            await self._all_landed()
            await self.container.update(Delete(PARTITIONS_TABLE, encode_key(self.key)))

    def close(self) -> None:
        """Nothing more will be done with it."""
        self.is_gone = True
        self.ahead.drop(self.key)
        if self._burying is not None:
            self._burying.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for wake in list(self.waiters):
            wake()

    def _set_timer(self) -> None:
        due_s = self.state.next_expiry_s()
        if self.is_gone or due_s >= self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(due_s - self._clock.monotonic_s(), 0), self._expire)

    def _expire(self) -> None:
        self._timer, self._timer_s = None, math.inf
        self.state.expire(self.settings().limits, self._clock.monotonic_s())
        self._freed()


def hand_on(lives: Sequence[LivePartition]) -> list[Landing | None]:
    """Have what changed in up to ROWS_TOGETHER_MAX share-partitions written, those of a container in one record of the
    log. For each: its write; None if `stored` is to be asked, as another write is on its way, or this was refused."""
    landings: dict[LivePartition, Landing | None] = dict.fromkeys(lives)
    ready: dict[Container, list[LivePartition]] = {}
    for live in landings:
        if live.may_hand_on:
            ready.setdefault(live.container, []).append(live)
    for container, together in ready.items():
        with contextlib.suppress(StoreError):
            landing = container.submit([live.row() for live in together])
            for live in together:
                live.handed_on(landing)
                landings[live] = landing
    return [landings[live] for live in lives]


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
        self._resuming: asyncio.Task[None] | None = None
        self._store = store
        self._clock = clock
        self._settings = settings
        self._live: dict[PlaceKey, LivePartition] = {}
        self._opening: dict[PlaceKey, asyncio.Task[LivePartition]] = {}
        self._deletions: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        topics.on_deletion(self._topic_deleted)
        store.on_move(self._keeps)

    def __repr__(self) -> str:
        return f"<SharePartitions {len(self._live)} in use>"

    def __len__(self) -> int:
        return len(self._live)

    def start(self) -> None:
        """Go on with the dead letters that a stop has cut off."""
        self._resuming = asyncio.create_task(self._resume())

    async def _resume(self) -> None:
        for hosted in list(self._store.containers.values()):
            rows = list(hosted.container.table(PARTITIONS_TABLE).items())
            waiting = [decode_key(key) async for key, row in in_turns(rows) if decode_partition(row).dead() is not None]
            for key in waiting:
                stream = self._topics.by_uuid(key.topic)
                if stream is not None and key.partition < stream.slot_count and not self._is_stopped:
                    with contextlib.suppress(Refusal, StoreError):  # the group's next fetch goes on with it
                        await self.of(key, stream.slot(key.partition))

    async def stop(self) -> None:
        """Return when all that changed is stored; those who wait for records are answered."""
        self._is_stopped = True
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.gather(self._resuming, return_exceptions=True)
        for one in list(self._live.values()):
            await one.settled()
            one.close()
        await self._ahead.close()
        if self._deletions:
            await asyncio.wait(set(self._deletions))

    def find(self, key: PlaceKey) -> LivePartition | None:
        """A share-partition in use."""
        found = self._live.get(key)
        return None if found is None or found.is_gone else found

    async def of(self, key: PlaceKey, slot: Slot) -> LivePartition:
        """A share-partition, opened if it is not in use. Raises Refusal, StoreError."""
        if self._is_stopped:
            raise Refusal(ErrorCode.not_leader_or_follower)
        container = self._store.hosted(slot).container
        live = self.find(key)
        if live is not None and live.container is container:
            return live
        opening = self._opening.get(key)
        if opening is None:
            if container.is_leaving(slot):
                raise Refusal(ErrorCode.not_leader_or_follower)  # its row would be left behind: see `_keeps`
            opening = self._opening[key] = asyncio.create_task(self._open(key, slot, container))
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(opening)

    async def _open(self, key: PlaceKey, slot: Slot, container: Container) -> LivePartition:
        if len(self._live) >= PLACES_MAX:
            raise Refusal(ErrorCode.policy_violation, f"More than {PLACES_MAX} partitions are shared by groups.")
        if (before := self._live.get(key)) is not None:
            await before.ended()
        stored = container.table(PARTITIONS_TABLE).get(encode_key(key))
        if stored is not None:
            state = decode_partition(stored)
        else:
            state = SharePartition(await self._first_start(slot, key.group_id))
            if (live := self.find(key)) is not None and live.container is container:
                return live  # an administrator set its start meanwhile, which is stored, or will be
            container.check_not_frozen(slot)  # the row would stay behind
            await container.update(Put(PARTITIONS_TABLE, encode_key(key), encode_partition(state)))
        live = self.find(key)
        if live is not None and live.container is container:
            return live  # an administrator set its start meanwhile
        return self._adopt(key, container, state)

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
            await self._store.catch_up()
        settings = self._settings(group_id)
        if settings.reset_ms is None:
            return slot.start if settings.from_earliest else slot.durable_end
        wanted_ms = self._store.hosted(slot).container.trusted.stamp_ms() - settings.reset_ms
        entry = await self._store.hosted(slot).reader.entry_at_time(slot, wanted_ms, slot.start)
        return slot.durable_end if entry is None else max(entry.first, slot.start)

    def _keeps(self, slot: Slot) -> str | None:
        """Why a partition stays in its container: what groups have settled of it lies there, and does not move."""
        container = self._store.hosted(slot).container
        uuid, number = slot.stream.uuid, slot.number
        begun = [key for key, live in self._live.items() if not live.is_gone]
        known = (*begun, *self._opening)  # their rows may be on their way
        group = next((key.group_id for key in known if (key.topic, key.partition) == (uuid, number)), None)
        if group is None:  # a look at the end of each key: there may be very many, of which none is read
            end = encode_place(uuid, number)
            stored = next((key for key in container.table(PARTITIONS_TABLE).entries if key.endswith(end)), None)
            group = None if stored is None else decode_key(stored).group_id
        if group is None:
            return None
        return f"share group {group!r} reads it, and what that has settled lies beside it: delete the group first"

    # Administration

    async def begun(self, group_id: str) -> list[PlaceKey]:
        """The partitions that a group has begun, in the containers of this process."""
        prefix = encode_group_prefix(group_id)
        found: list[PlaceKey] = []
        for hosted in list(self._store.containers.values()):
            rows = hosted.container.table(PARTITIONS_TABLE).items(prefix)
            found += [decode_key(key) async for key, _ in in_turns(rows)]
        return found

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

    async def delete_topic(self, group_id: str, topic: UUID) -> None:
        """Have a group forget a topic. Raises StoreError."""
        prefix = encode_group_prefix(group_id)
        await self._delete(lambda key: key.group_id == group_id and key.topic == topic, prefix)

    async def delete_group(self, group_id: str) -> None:
        """A group is gone: so is what it has settled, in the containers of this process. Raises StoreError."""
        await self._delete(lambda key: key.group_id == group_id, encode_group_prefix(group_id))

    def _topic_deleted(self, stream: Stream) -> None:
        deletion = asyncio.create_task(self._delete_topic(stream))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)

    async def _delete_topic(self, stream: Stream) -> None:
        try:
            await self._delete(lambda key: key.topic == stream.uuid)
        except StoreError:
            return  # the container has failed, and its tables with it

    async def _delete(self, is_meant: Callable[[PlaceKey], bool], prefix: bytes = b"") -> None:
        if opening := [task for key, task in self._opening.items() if is_meant(key)]:
            await asyncio.wait(opening)  # each stores a row, which must not come after the deletion
        for live in [live for key, live in self._live.items() if is_meant(key)]:
            await live.delete()
            if self._live.get(live.key) is live:
                del self._live[live.key]
        for hosted in list(self._store.containers.values()):
            table = hosted.container.table(PARTITIONS_TABLE)
            rows = [key async for key, _ in in_turns(list(table.items(prefix))) if is_meant(decode_key(key))]
            await _delete_rows(hosted.container, rows)


ROWS_PER_RECORD_MAX: Final = 1_000
"""Rows that one record of the log deletes."""


async def _delete_rows(container: Container, rows: Sequence[bytes]) -> None:
    for first in range(0, len(rows), ROWS_PER_RECORD_MAX):
        await container.update(*(Delete(PARTITIONS_TABLE, key) for key in rows[first : first + ROWS_PER_RECORD_MAX]))
