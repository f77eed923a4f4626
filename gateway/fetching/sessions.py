"""The partitions of a fetch, and incremental fetch sessions (KIP-227).

A `FetchSet` is the partitions of one fetch. A session keeps its set between requests. Its slots report news, so that a
fetch looks only at partitions with news: a consumer of 10,000 partitions costs no more than its traffic. A fetch
without a session uses a set of its own and watches slots only if it has to wait.

Invariants:
- A partition of a session that is not in `dirty` has nothing that its client does not know: no data beyond its fetch
  offset, no moved high watermark or log start, no error.
- A set that watches is in its slots' watchers exactly once, and leaves them when it is closed.
- Sessions are at most `max_sessions`, and have at most `max_partitions` together. Only one that was idle for
  `EVICTABLE_AFTER_S` makes room. If sessions in use were evicted, too many consumers would take them from one another
  in turn, and every answer would have to list all partitions.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.clock import Clock
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Slot, Stream

TopicKey = str | UUID | None

INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
EPOCH_MAX: Final = 2**31 - 1

EVICTABLE_AFTER_S: Final = 120.0
"""Kafka's `min.incremental.fetch.session.eviction.ms`."""


class Target:
    """One partition of a fetch: its position, and the client's last answer."""

    __slots__ = ("index", "leader_epoch", "max_bytes", "offset", "sent_end", "sent_start", "slot", "topic")

    def __init__(self, topic: TopicKey, index: int) -> None:
        self.topic = topic
        self.index = index
        self.slot: Slot | None = None
        self.offset = 0
        self.max_bytes = 0
        self.leader_epoch = -1
        self.sent_end = -1
        self.sent_start = -1

    def find_slot(self, stream_of: Callable[[TopicKey], Stream | None]) -> None:
        """Look the slot up, again if the topic it belonged to is gone, or its container came or went."""
        if self.slot is not None and not self.slot.has_moved and not self.slot.stream.deleted:
            return
        stream = stream_of(self.topic)
        try:
            self.slot = None if stream is None else stream.slot(self.index)
        except IndexError:
            self.slot = None


class FetchSet:
    """The partitions of a fetch; watches their slots while it must."""

    def __init__(self) -> None:
        self.targets: dict[tuple[TopicKey, int], Target] = {}
        self.dirty: dict[Target, None] = {}  # in the order in which a fetch looks at them
        self._by_slot: dict[Slot, Target] = {}
        self._watching = False
        self.committed = False  # the current fetch sees nothing of open transactions
        self._wanted = 0  # bytes still missing until the waiter wakes
        self._wake: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def put(self, target: Target) -> None:
        """Add a partition, or have a known one looked at again."""
        self.targets[target.topic, target.index] = target
        self.dirty[target] = None
        self._bind(target)

    def remove(self, topic: TopicKey, index: int) -> None:
        target = self.targets.pop((topic, index), None)
        if target is not None:
            self.dirty.pop(target, None)
            self._unbind(target)

    def find_slots(self, stream_of: Callable[[TopicKey], Stream | None], targets: Iterable[Target]) -> None:
        """Bring the slots of some partitions up to date: topics come and go."""
        for target in targets:
            if target.slot is None or target.slot.has_moved or target.slot.stream.deleted:
                self._unbind(target)
                target.find_slot(stream_of)
                self._bind(target)

    def _bind(self, target: Target) -> None:
        if self._watching and target.slot is not None:
            self._by_slot[target.slot] = target
            target.slot.watch(self)

    def _unbind(self, target: Target) -> None:
        if target.slot is not None and self._by_slot.pop(target.slot, None) is not None:
            target.slot.unwatch(self)

    def watch(self) -> None:
        """Hear from all slots from now on."""
        if not self._watching:
            self._watching = True
            for target in self.targets.values():
                self._bind(target)

    def close(self) -> None:
        """Hear from no slot any more; a waiting fetch is not woken."""
        self._wake = None
        self._watching = False
        for slot in self._by_slot:
            slot.unwatch(self)
        self._by_slot.clear()

    # --- Waiting ------------------------------------------------------------------------------

    def wait(self, wanted: int, wake: Callable[[], None]) -> None:
        """Call `wake` once, when `wanted` more bytes are there or a partition changed."""
        self.watch()
        self._wanted = wanted
        self._wake = wake

    def stop_waiting(self) -> None:
        self._wake = None

    def slot_appended(self, slot: Slot, size: int) -> None:
        is_hidden = self.committed and slot.stable_end < slot.durable_end
        self._news(slot, 0 if is_hidden else size)

    def slot_settled(self, slot: Slot, size: int) -> None:
        self._news(slot, size if self.committed else 0)

    def slot_changed(self, slot: Slot) -> None:
        self._news(slot, self._wanted)

    def _news(self, slot: Slot, size: int) -> None:
        target = self._by_slot.get(slot)
        if target is None:
            return  # the set was closed while the slot was telling its watchers
        self.dirty[target] = None
        self._wanted -= size
        if self._wanted <= 0 and self._wake is not None:
            # Not at once: the rest of the group that just became durable should arrive first.
            asyncio.get_running_loop().call_soon(self._wake)
            self._wake = None


class FetchSession(FetchSet):
    """A set that outlives its request."""

    def __init__(self, session_id: int, uses_topic_ids: bool, now_s: float) -> None:
        super().__init__()
        self.id = session_id
        self.uses_topic_ids = uses_topic_ids
        self.epoch = 1  # of the next request
        self.used_s = now_s
        self.counted = 0  # partitions, among those of all sessions
        self.ended = False  # a fetch of it may still be running

    def __repr__(self) -> str:
        return (
            f"<FetchSession {self.id} epoch {self.epoch} {len(self.targets)} partitions, {len(self.dirty)} to look at>"
        )


class FetchSessions:
    """All sessions of the broker, and the fetches that wait, with a session or without."""

    def __init__(self, max_sessions: int, max_partitions: int, clock: Clock) -> None:
        self._max_sessions = max_sessions
        self._max_partitions = max_partitions
        self._clock = clock
        self._partitions = 0
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()  # least recently used first
        self.waiting: dict[Callable[[], None], None] = {}  # for each fetch that waits, the call that answers it now

    async def stop(self) -> None:
        """Answer every waiting fetch with its findings so far: a stop does not wait for long polls."""
        for answer in list(self.waiting):
            answer()

    def __len__(self) -> int:
        return len(self._sessions)

    def create(self, uses_topic_ids: bool) -> FetchSession | None:
        """A new session; None when there is no room: a fetch without one costs its client more, and nobody else."""
        while len(self._sessions) >= self._max_sessions:
            if not self._evict():
                return None
        session_id = secrets.randbelow(2**31 - 1) + 1
        while session_id in self._sessions:
            session_id = secrets.randbelow(2**31 - 1) + 1
        session = FetchSession(session_id, uses_topic_ids, self._clock.monotonic_s())
        self._sessions[session_id] = session
        return session

    def keep(self, session: FetchSession) -> bool:
        """Whether there is room for the partitions that it has now; if not, the session ends."""
        if session.ended:
            return False  # another request ended it meanwhile
        self._partitions += len(session) - session.counted
        session.counted = len(session)
        while self._partitions > self._max_partitions:
            if not self._evict():
                self.remove(session.id)
        return not session.ended

    def _evict(self) -> bool:
        """End the session that was idle longest; False when even that one is in use."""
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None or self._clock.monotonic_s() - oldest.used_s < EVICTABLE_AFTER_S:
            return False
        self.remove(oldest.id)
        return True

    def take(self, session_id: int, epoch: int, uses_topic_ids: bool) -> FetchSession:
        """The session that an incremental request continues. Raises Refusal."""
        session = self._sessions.get(session_id)
        if session is None:
            raise Refusal(ErrorCode.fetch_session_id_not_found)
        if session.epoch != epoch:
            raise Refusal(ErrorCode.invalid_fetch_session_epoch)
        if session.uses_topic_ids != uses_topic_ids:
            raise Refusal(ErrorCode.fetch_session_topic_id_error)
        session.epoch = 1 if epoch == EPOCH_MAX else epoch + 1
        session.used_s = self._clock.monotonic_s()
        self._sessions.move_to_end(session_id)
        return session

    def remove(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.ended = True
            self._partitions -= session.counted
            session.close()
