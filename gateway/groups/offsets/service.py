"""Committed offsets as a service for groups of every kind, transactions and retention.

Keeps: an offset shows when it is durable; the journal is the only writer. This module does not know membership: the
group admits a commit before it comes here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from core.trusted_clock import TrustedClock
from gateway.config.loading import Config
from gateway.groups.journal import GroupJournal, offset_puts
from gateway.groups.offsets.committed import CommittedOffsets, Subscriber, metadata_units
from gateway.groups.persistence import NO_EXPIRY, CommittedOffset, OffsetKey

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
    """The offsets of all groups of one container. `ensure_group` makes a group that has an offset and no member."""

    def __init__(
        self,
        config: Config,
        trusted: TrustedClock,
        committed: CommittedOffsets,
        journal: GroupJournal,
        ensure_group: Callable[[str], None],
    ) -> None:
        self._metadata_units_max = config.offset_metadata_max_bytes
        self._retention_ms = config.offsets_retention_minutes * MINUTE_MS
        self._trusted = trusted
        self._committed = committed
        self._journal = journal
        self._ensure_group = ensure_group

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
        for topic, partition, offset, leader_epoch, metadata in commits:
            if metadata_units(metadata) > self._metadata_units_max:
                errors.append(ErrorCode.offset_metadata_too_large)
                continue
            errors.append(ErrorCode.none)
            key = OffsetKey(group_id, topic, partition)
            changes[key] = CommittedOffset(offset, leader_epoch, metadata, now_ms, expire_ms)
        return changes, errors

    def puts(self, offsets: Mapping[OffsetKey, CommittedOffset]) -> list[Put]:
        """Table puts for these offsets, for callers that write them in their own log record."""
        return offset_puts(offsets)

    def submitted(self, offsets: Mapping[OffsetKey, CommittedOffset], logged: asyncio.Future[None]) -> None:
        """Note that such a record was queued: its offsets become visible when it is durable."""
        for group_id in {key.group_id for key in offsets}:
            self._ensure_group(group_id)
        self._journal.submitted(offsets, logged)

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

    def drop_topic(self, topic: str) -> None:
        """Submit the deletion of a topic's offsets; a topic of the same name can only be created after it."""
        keys = self._committed.keys_of_topic(topic)
        if keys:
            self._journal.write_offsets(dict.fromkeys(keys))

    def drop_expired(self, group: Subscriber, topic: str) -> None:
        """Submit the deletion of the group's offsets of a topic that have expired."""
        expired = self._committed.expired(group, topic, self._trusted.now(), self._retention_ms)
        if expired:
            facts = {"group": group.group_id, "topic": topic, "offsets": len(expired)}
            _log.info("committed offsets expired", extra=facts)
            self._journal.write_offsets(dict.fromkeys(expired))
