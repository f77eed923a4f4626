"""The offsets of deleted topics, committed ones and those that transactions have yet to commit: they go in steps.

Keeps: from the moment in which a deletion is known nobody sees an offset of that topic, and none is committed to it. An
offset that names the topic's id stays so, over crashes too: a new topic of the name may come at once. One that names
none would be the new topic's, which therefore waits. A step deletes OFFSETS_AT_ONCE at most, of all topics that wait,
and the next one waits until it is durable; an offset that is committed meanwhile is not touched. Steps begin when all
offsets are loaded, those of topics that were deleted by then included. What a crash leaves behind is found by the next
start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol

from kio.schema.errors import ErrorCode

from gateway.groups.journal import GroupJournal
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.persistence import NO_TOPIC_ID, OffsetKey

OFFSETS_AT_ONCE: Final = 1_000
"""Offsets that one step deletes, in some 5 ms."""
TOPICS_AT_ONCE: Final = 100
"""Topics that one step looks at: many have a few offsets each, and would else wait for as many writes."""
LOOKED_AT_ONCE: Final = 10_000
"""Offsets that are looked at in one turn, in some 10 ms: those of a new topic of the name stay."""
TOPICS_TOLD_MAX: Final = 10
"""Topics that a line of the log names."""

_log: Final = logging.getLogger(__name__)


class Pending(Protocol):
    """Offsets that transactions have yet to commit."""

    def topic_ids(self, topic: str) -> Collection[bytes]:
        """The ids in the offsets of a topic; NO_TOPIC_ID among them, if one has none."""

    def has_group(self, group_id: str) -> bool: ...

    def drop_some_of_topics(self, topics: Collection[str]) -> asyncio.Future[ErrorCode] | None:
        """Submit the deletion of some offsets of topics that are gone; done when it is durable, or has failed. None:
        there are none."""

    def drop_some_of_group(self, group_id: str) -> asyncio.Future[ErrorCode] | None:
        """The same for all of a group's."""


class NoPending:
    """For offsets without transactions."""

    def topic_ids(self, topic: str) -> Collection[bytes]:
        return ()

    def has_group(self, group_id: str) -> bool:
        return False

    def drop_some_of_topics(self, topics: Collection[str]) -> asyncio.Future[ErrorCode] | None:
        return None

    def drop_some_of_group(self, group_id: str) -> asyncio.Future[ErrorCode] | None:
        return None


class DeletedTopics:
    """See the module. `writes_ids` says whether offsets are stored with their topics' ids; `pending` may be set later,
    by those who have them."""

    def __init__(self, committed: CommittedOffsets, journal: GroupJournal, writes_ids: Callable[[], bool]) -> None:
        self._committed = committed
        self._journal = journal
        self._writes_ids = writes_ids
        self._waiting: dict[str, object] = {}  # with a token of its last deletion
        self._running: asyncio.Task[None] | None = None
        self._is_loaded = False
        self._begins = asyncio.Event()  # all are loaded, or never will be
        self.pending: Pending = NoPending()

    def __repr__(self) -> str:
        return f"<DeletedTopics {len(self._waiting)} with offsets>"

    def drop(self, topic: str) -> asyncio.Task[None] | None:
        """A topic is gone: begin to delete its offsets. The task ends when they are gone; None: a new topic of the name
        need not wait for that."""
        if not self._is_loaded:  # nobody knows yet which offsets it has
            self._committed.hide(topic)
            return self._begin(topic)
        topic_ids = self._topic_ids(topic)
        if not topic_ids and not self._committed.is_moving(topic):
            return None
        self._committed.hide(topic)
        running = self._begin(topic)
        return running if NO_TOPIC_ID in topic_ids or not self._writes_ids() else None

    def look_for(self, topic: str) -> None:
        """Begin to delete what a deletion before this start has left of a topic, or of a former one of its name."""
        if self._committed.is_gone(topic):
            self.drop(topic)
        elif self._has_dead(topic):
            self._begin(topic)

    def start(self) -> None:
        """All offsets are loaded."""
        self._is_loaded = True
        self._begins.set()

    async def finish(self) -> None:
        """Return when all are gone that can be deleted: none, if not all were loaded."""
        self._begins.set()
        if self._running is not None:
            await asyncio.wait([self._running])

    def _begin(self, topic: str) -> asyncio.Task[None]:
        self._waiting[topic] = object()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="offsets of deleted topics")
        return self._running

    async def _run(self) -> None:
        try:
            await self._begins.wait()
            while self._waiting and self._is_loaded:
                await self._delete(dict(islice(self._waiting.items(), TOPICS_AT_ONCE)))
        finally:
            self._running = None
            for topic in list(self._waiting):  # an unforeseen failure hides no topic for ever
                self._end(topic)

    async def _delete(self, deletions: Mapping[str, object]) -> None:
        """Delete the offsets of some topics, and let go of each of which none is left."""
        refused: set[str] = set()
        for keys in self._steps(deletions, refused):
            if not keys:
                await asyncio.sleep(0)
            elif error := await self._journal.delete_offsets(keys):
                refused.update(_told({key.topic for key in keys}, error))
        while (step := self.pending.drop_some_of_topics(deletions.keys() - refused)) is not None:
            if error := await step:
                refused.update(_told(deletions.keys(), error))
        await self._journal.settle()  # what was in flight when the topic went is there by now
        for topic, deletion in deletions.items():
            is_last = self._waiting[topic] is deletion
            if is_last and (topic in refused or not self._has_dead(topic)):
                self._end(topic)

    def _steps(self, topics: Collection[str], refused: Collection[str]) -> Iterator[list[OffsetKey]]:
        """What each step deletes, as of the turn in which it is taken; nothing where a turn has found nothing. Passes
        over the rest of topics that are refused meanwhile."""
        keys: list[OffsetKey] = []
        looked_at = 0
        for topic in topics:
            for key in self._committed.of_dead(topic):
                looked_at += 1
                if key is not None:
                    keys.append(key)
                if len(keys) == OFFSETS_AT_ONCE or looked_at == LOOKED_AT_ONCE:
                    yield keys
                    keys, looked_at = [], 0
                    if topic in refused:
                        break
        if keys:
            yield keys

    def _topic_ids(self, topic: str) -> Collection[bytes]:
        return {*self._committed.topic_ids(topic), *self.pending.topic_ids(topic)}

    def _has_dead(self, topic: str) -> bool:
        return not all(self._committed.is_living(topic, topic_id) for topic_id in self._topic_ids(topic))

    def _end(self, topic: str) -> None:
        del self._waiting[topic]
        self._committed.reveal(topic)


def _told(topics: Collection[str], error: ErrorCode) -> Collection[str]:
    facts = {"topics": sorted(topics)[:TOPICS_TOLD_MAX], "error": error.name}
    _log.warning("committed offsets of deleted topics stay", extra=facts)
    return topics
