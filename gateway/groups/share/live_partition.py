"""A share-partition in use: its state, its row, who waits for records of it, the timer of its locks, its dead letters.

Keeps: an acknowledgement is answered when it is stored, and several that come together share a log record. A partition
has one write on its way, and none while it moves to another container. What a write that failed would have stored goes
with the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.container.container import Container
from core.errors import StoreError
from gateway.groups.share.dead_letters import Undeliverable, WritesLetters
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, encode_key, encode_partition
from gateway.groups.share.key_order import KeyOrder
from gateway.groups.share.partition import Acquired, Judgement, SharePartition
from gateway.groups.share.read_ahead import ReadAhead
from gateway.groups.share.settings import ShareSettings
from gateway.refusals import Asked, Refusal, code_of

LETTER_PAUSE_S_MIN: Final = 0.5
LETTER_PAUSE_S_MAX: Final = 30.0
"""Between two tries to write a dead letter."""

ROWS_TOGETHER_MAX: Final = 100
"""Rows in one record of the log. Most have some 30 bytes; where they are so large that the log has no room for all of
them at once, each goes by itself."""
RUNS_TOGETHER_MAX: Final = 5_000
"""Runs of these rows, beyond which no further row comes along: they are encoded in some 5 ms."""

FROZEN_S_MAX: Final = 30.0
"""The longest wait for a partition that moves. It takes less than two seconds, unless the registry of a cluster, which
has to decide about it, is away."""

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
        self._frozen: asyncio.Event | None = None  # set when the partition has moved, or stays
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
        """Carry out what a member says. The caller has it stored, by `hand_on` or `stored`. Raises Refusal, also where
        nothing would be stored of what it says, as of renewals, and nobody holds anything any more."""
        if self.is_gone:
            raise Refusal(ErrorCode.not_leader_or_follower)
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
        """Begin once more; returns when that is durable."""
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
        is_free = self._on_its_way is None and self._frozen is None and not self._writing.locked()
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
            is_free = await self._may_write()
            if not self.state.changed:
                return ErrorCode.none  # stored by another that waited for the same
            if self.is_gone or not is_free:
                return ErrorCode.not_leader_or_follower
            try:
                self.handed_on(landing := self.container.submit([self.row()]))
                await landing
            except StoreError as error:
                return code_of(error, Asked.COORDINATOR)
        return ErrorCode.none

    # Its partition moves to another container

    def freeze(self, ended: asyncio.Event) -> None:
        """What it has was brought along to where its partition is about to go: nothing more is written before it is
        known whether it goes there, which is when `ended` is set."""
        self._frozen = ended

    def go_on(self, container: Container) -> None:
        """It is known: its partition is in this container. Who holds what has not changed."""
        self._frozen = None
        self.container = container

    async def _may_write(self) -> bool:
        """Return when nothing is on its way to the log, and the partition does not move; False if it still does after
        FROZEN_S_MAX, or if nobody has told this one where it is."""
        while self._frozen is not None or self._on_its_way is not None:
            if (frozen := self._frozen) is None:
                await self._all_landed()
            elif not await was_set(frozen) or self._frozen is frozen:
                return False
        return True

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

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[Delete]:
        """Nothing of it is on its way to the log, nor will be inside; what deletes its row."""
        async with self._writing:
            await self._all_landed()
            yield Delete(PARTITIONS_TABLE, encode_key(self.key))

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


async def was_set(ended: asyncio.Event) -> bool:
    """Wait until it is known where a partition is; False if it is not after FROZEN_S_MAX."""
    try:
        async with asyncio.timeout(FROZEN_S_MAX):
            await ended.wait()
    except TimeoutError:
        return False
    return True
