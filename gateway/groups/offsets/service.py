"""Committed offsets as a service for groups of every kind, transactions and retention.

Keeps: an offset shows when it is durable; the journal is the only writer. This module does not know membership: the
group admits a commit before it comes here. Nothing is committed to a topic, or a group, that is being deleted. A commit
is of the topic that has the name when it is judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from core.trusted_clock import TrustedClock
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups.journal import GroupJournal, offset_puts
from gateway.groups.offsets.committed import CommittedOffsets, Subscriber, metadata_units
from gateway.groups.offsets.deleted_topics import OFFSETS_AT_ONCE, DeletedTopics, Pending
from gateway.groups.persistence import NO_EXPIRY, NO_TOPIC_ID, CommittedOffset, OffsetKey

MINUTE_MS: Final = 60_000
NO_RETENTION: Final = -1
TIMESTAMP_MS_MAX: Final = 2**63 - 1

_log: Final = logging.getLogger(__name__)


class OffsetCommit(NamedTuple):
    """One partition of an OffsetCommit."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str


class OffsetService:
    """The offsets of all groups of one container. `ensure_group` makes a group that has an offset and no member,
    `is_going` says whether a group is being deleted, `writes_ids` whether offsets are stored with their topics' ids.
    """

    def __init__(
        self,
        config: Config,
        trusted: TrustedClock,
        committed: CommittedOffsets,
        journal: GroupJournal,
        ensure_group: Callable[[str], None],
        is_going: Callable[[str], bool],
        writes_ids: Callable[[], bool],
    ) -> None:
        self._metadata_units_max = config.offset_metadata_max_bytes
        self._retention_ms = config.offsets_retention_minutes * MINUTE_MS
        self._trusted = trusted
        self._committed = committed
        self._journal = journal
        self._ensure_group = ensure_group
        self._is_going = is_going
        self._writes_ids = writes_ids
        self._deleted_topics = DeletedTopics(committed, journal, writes_ids)

    # Committing

    async def commit(
        self, group_id: str, commits: Sequence[OffsetCommit], retention_ms: int = NO_RETENTION
    ) -> list[ErrorCode]:
        """Store admitted offsets; return when they are durable and visible."""
        changes, errors = self.judge(group_id, commits, retention_ms)
        if not changes:
            return errors
        # The write goes on even if the client stops waiting.
        stored = await asyncio.shield(self._journal.write_offsets(changes))
        return [error or stored for error in errors]

    def judge(
        self, group_id: str, commits: Sequence[OffsetCommit], retention_ms: int = NO_RETENTION
    ) -> tuple[dict[OffsetKey, CommittedOffset], list[ErrorCode]]:
        """The offsets to store of these commits, and the error of each commit."""
        now_ms = self._trusted.stamp_ms()
        expire_ms = NO_EXPIRY
        if retention_ms != NO_RETENTION:
            expire_ms = min(max(now_ms + retention_ms, 0), TIMESTAMP_MS_MAX)
        changes: dict[OffsetKey, CommittedOffset] = {}
        errors = []
        topic_ids: dict[str, bytes | None] = {}
        for topic, partition, offset, leader_epoch, metadata in commits:
            if metadata_units(metadata) > self._metadata_units_max:
                errors.append(ErrorCode.offset_metadata_too_large)
                continue
            if topic not in topic_ids:
                topic_ids[topic] = self._id_to_store(topic)
            topic_id = topic_ids[topic]
            if topic_id is None:
                errors.append(ErrorCode.coordinator_load_in_progress)
                continue
            errors.append(ErrorCode.none)
            key = OffsetKey(group_id, topic, partition)
            changes[key] = CommittedOffset(offset, leader_epoch, metadata, now_ms, expire_ms, topic_id)
        return changes, errors

    def _id_to_store(self, topic: str) -> bytes | None:
        """The id in offsets that are committed to a topic now; None if they would go with those of another of its
        name."""
        topic_id = (self._committed.id_of(topic) if self._writes_ids() else None) or NO_TOPIC_ID
        return topic_id if self._committed.is_living(topic, topic_id) else None

    def puts(self, offsets: Mapping[OffsetKey, CommittedOffset]) -> list[Put]:
        """Table puts for these offsets, for callers that write them in their own log record."""
        return offset_puts(offsets)

    def submitted(self, offsets: Mapping[OffsetKey, CommittedOffset], logged: asyncio.Future[None]) -> None:
        """Note that such a record was queued: its offsets become visible when it is durable."""
        for group_id in {key.group_id for key in offsets}:
            self._ensure_group(group_id)
        self._journal.submitted(offsets, logged)

    def takes(self, key: OffsetKey, topic_id: bytes) -> bool:
        """May an offset with this id be committed: does its topic exist, and is its group not being deleted?"""
        is_there = self.is_living(key.topic, topic_id) and not self._committed.is_gone(key.topic)
        return is_there and not self._is_going(key.group_id)

    def is_living(self, topic: str, topic_id: bytes) -> bool:
        """See `CommittedOffsets`."""
        return self._committed.is_living(topic, topic_id)

    # Reading

    def get(self, key: OffsetKey) -> CommittedOffset | None:
        """The durable offset of a partition."""
        return self._committed.get(key)

    def of_group(self, group_id: str) -> Mapping[str, Mapping[int, CommittedOffset]]:
        """All durable offsets of a group, by topic and partition."""
        return self._committed.of_group(group_id)

    async def settle(self, group_id: str) -> None:
        """Wait until all offsets that the group has committed so far are visible."""
        if self._committed.has_in_flight(group_id):
            await self._journal.settle()

    # Deleting

    async def delete(self, group_id: str, places: Collection[tuple[str, int]]) -> ErrorCode:
        """Delete offsets whose deletion the group allows; return when the deletion is durable."""
        keys = (OffsetKey(group_id, topic, partition) for topic, partition in places)
        changes = dict.fromkeys(key for key in keys if self._committed.has(key))
        if not changes:
            return ErrorCode.none
        return await asyncio.shield(self._journal.write_offsets(changes))

    def is_much(self, group_id: str) -> bool:
        """Are a group's offsets deleted in steps, being many, or has a transaction yet to commit some?"""
        return self.count(group_id) > OFFSETS_AT_ONCE or self._deleted_topics.pending.has_group(group_id)

    def count(self, group_id: str) -> int:
        """Offsets of a group, and changes of them that are in flight."""
        return self._committed.count_of_group(group_id)

    async def delete_most(self, group_id: str) -> ErrorCode:
        """Delete the offsets of a group that is closed, in steps, and those that transactions have yet to commit. So
        many are left that one step deletes them."""
        while self.count(group_id) > OFFSETS_AT_ONCE:
            keys = self._committed.some_of_group(group_id, OFFSETS_AT_ONCE)
            if not keys:
                await self._journal.settle()  # what is in flight is visible then, or gone
                continue
            if error := await self._journal.write_offsets(dict.fromkeys(keys)):
                return error
        while (step := self._deleted_topics.pending.drop_some_of_group(group_id)) is not None:
            if error := await step:
                return error
        return ErrorCode.none

    def drop_topic(self, topic: str) -> asyncio.Task[None] | None:
        """A topic is deleted, and so are its offsets, in steps; the task ends when they are gone. None: another of its
        name need not wait for that."""
        return self._deleted_topics.drop(topic)

    def look_for_dead(self, topic: str) -> None:
        """Delete what an earlier deletion has left of a topic, or of a former one of its name, in steps."""
        self._deleted_topics.look_for(topic)

    def has_pending(self, pending: Pending) -> None:
        """There are offsets that transactions have yet to commit."""
        self._deleted_topics.pending = pending

    async def drop_expired(self, group_id: str, topic: str, group_of: Callable[[str], Subscriber | None]) -> None:
        """Delete the offsets of a topic that have expired, in steps, each by the rules of the group that has the id
        then: one whose members come meanwhile may be of another kind."""
        partitions = list(self._committed.topics(group_id).get(topic, ()))
        now, count = self._trusted.now(), 0
        async for first in in_turns(range(0, len(partitions), OFFSETS_AT_ONCE)):
            if (group := group_of(group_id)) is None:
                break
            some = partitions[first : first + OFFSETS_AT_ONCE]
            expired = self._committed.expired(group, topic, some, now, self._retention_ms)
            if expired:
                count += len(expired)
                deletion = self._journal.delete_offsets(expired)
                if len(partitions) > OFFSETS_AT_ONCE:
                    await deletion
        if count:
            facts = {"group": group_id, "topic": topic, "offsets": count}
            _log.info("committed offsets expired", extra=facts)

    def start(self) -> None:
        """All offsets are loaded, those too that transactions have yet to commit: those of topics that were deleted
        meanwhile go now."""
        self._deleted_topics.start()

    async def finish(self) -> None:
        """Return when what is deleted in steps is gone."""
        await self._deleted_topics.finish()
