"""A fetch's findings in its partitions: entries in memory, and reads that are needed.

Invariants: nothing at or beyond the high watermark is taken, nor beyond the last stable offset for read_committed; the
first partition that has anything gives at least one whole batch, whatever the limits (KIP-74); `size` and `entries` are
those of `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from core.errors import NotHosted
from core.streams.entries import ENTRIES_AT_ONCE
from gateway.fetching.readers import reader_of
from gateway.fetching.sessions import FetchSet, Target
from gateway.kafka_configs.topic_config import config_of
from gateway.records.record_batch import ZSTD
from gateway.refusals import Asked, code_of
from gateway.wire.error_codes import (
    FENCED_LEADER_EPOCH,
    NOT_LEADER_OR_FOLLOWER,
    OFFSET_OUT_OF_RANGE,
    TOPIC_AUTHORIZATION_FAILED,
    UNKNOWN_LEADER_EPOCH,
    UNKNOWN_TOPIC_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSUPPORTED_COMPRESSION_TYPE,
)
from gateway.wire.responses import FetchedPartition

if TYPE_CHECKING:
    from core.log.format import Buffer
    from core.store import Store
    from core.streams.entries import ReadResult
    from core.streams.live import Slot
    from core.streams.transactions import Aborted

JOIN_BELOW: Final = 4096
"""Entries of fewer bytes on average are copied together: that is cheaper than a buffer for each."""
ZSTD_TOPICS_SINCE: Final = 10
COLD_READS_MAX: Final = 64
"""Partitions of one fetch that are read at the same time."""
SHARE_MIN_BYTES: Final = 65_536
"""Bytes of room that a partition gets at least, while there are any, even if it seems to hold less."""

_first = attrgetter("first")
_as_tuple = tuple.__new__
"""A constructor of named tuples in half the time of their own, which goes through the defaults."""


class ColdRead:
    """A read for a partition whose entries are not in memory."""

    __slots__ = ("at_least_one", "end", "fits_nothing", "room", "slot", "target")

    def __init__(self, target: Target, slot: Slot, end: int, room: int, at_least_one: bool) -> None:
        self.target = target
        self.slot = slot
        self.end = end
        self.room = room
        self.at_least_one = at_least_one
        self.fits_nothing = False  # there are entries, and the first is larger than the room


class Findings:
    """The findings of one fetch so far. `version`: of the Fetch API; `max_bytes`: of records, in all partitions."""

    __slots__ = (
        "committed",
        "entries",
        "max_bytes",
        "may_read",
        "reserved",
        "results",
        "size",
        "store",
        "urgent",
        "version",
        "wanted",
    )

    def __init__(self, store: Store, version: int, max_bytes: int, committed: bool) -> None:
        self.store = store
        self.version = version
        self.max_bytes = max_bytes
        self.committed = committed
        self.wanted = FetchSet()
        self.results: dict[Target, FetchedPartition] = {}
        self.size = 0  # bytes of records
        self.entries = 0  # or pieces of a page
        self.reserved = 0  # bytes that reads under way may bring
        self.urgent = False  # a partition has an error: answer now
        self.may_read: Callable[[str], bool] | None = None  # by the topic's name; None: everything

    def choose(self, some: Sequence[Target], cold: list[ColdRead], left: list[Target]) -> None:
        """Take entries in memory; add the reads that are needed to `cold`, and partitions without room to `left`."""
        for target in some:
            read = self.look(target)
            if read is not None and len(cold) < COLD_READS_MAX:
                stored = read.slot.durable_bytes - read.slot.start_bytes
                read.room = min(read.room, max(stored, SHARE_MIN_BYTES))
                self.reserved += read.room
                cold.append(read)
                continue
            if read is not None:
                self.add(target, read.slot, None)
            if target in self.wanted.dirty and not self.results[target].size:
                left.append(target)

    def look(self, target: Target) -> ColdRead | None:
        """Evaluate one partition from memory; returns the read that it needs, if it needs one."""
        self.forget(target)
        slot = target.slot
        code = refusal_of(self.store, target)
        if self.may_read is not None and self._is_denied(self.may_read, target):
            code = TOPIC_AUTHORIZATION_FAILED  # whether there is such a topic or not
        if self.version < ZSTD_TOPICS_SINCE and not code and slot is not None and config_of(slot.stream).codec == ZSTD:
            # As Kafka: by the topic's setting. Old consumers that know zstd read what producers chose to send in it.
            code = UNSUPPORTED_COMPRESSION_TYPE
        if code or slot is None:
            self.fail(target, code)
            return None
        try:
            reader = reader_of(self.store, slot)
        except NotHosted as elsewhere:
            self.fail(target, code_of(elsewhere, Asked.READ))
            return None
        end = slot.stable_end if self.committed else slot.durable_end
        room = min(target.max_bytes, self.max_bytes - self.size - self.reserved)
        at_least_one = not self.size and not self.reserved
        if target.offset >= end:
            self.wanted.dirty.pop(target, None)
            self.add(target, slot, None)
        elif (room <= 0 or self.entries >= ENTRIES_AT_ONCE) and not at_least_one:
            self.add(target, slot, None)
        else:
            found = reader.cached(slot, target.offset, end, room, at_least_one, ENTRIES_AT_ONCE - self.entries)
            if found is None:
                return ColdRead(target, slot, end, max(room, 0), at_least_one)
            self.add(target, slot, found)
        return None

    def _is_denied(self, may_read: Callable[[str], bool], target: Target) -> bool:
        if isinstance(target.topic, str):
            return not may_read(target.topic)
        slot = target.slot
        return slot is not None and not slot.stream.deleted and not may_read(slot.stream.name)

    def forget(self, target: Target) -> None:
        """Drop the result of an earlier look."""
        old = self.results.pop(target, None)
        if old is not None:
            self.size -= old.size

    def fail(self, target: Target, code: int) -> None:
        self.results[target] = FetchedPartition(target.index, code)
        self.urgent = True

    def add(self, target: Target, slot: Slot, found: ReadResult | None) -> None:
        parts: Sequence[Buffer] = ()
        size = 0
        if found is not None:
            parts, size = found.parts, found.size
            self.entries += len(parts)
            if len(parts) > 1 and size < len(parts) * JOIN_BELOW:
                parts = (b"".join(parts),)
        self.size += size
        aborted: list[tuple[int, int]] | None = None
        if self.committed:
            aborted = [] if found is None else aborted_of(found.aborted)
        end, stable = slot.durable_end, slot.stable_end
        self.results[target] = _as_tuple(
            FetchedPartition, (target.index, 0, end, stable, slot.start, aborted, parts, size)
        )

    def keep_copies(self) -> None:
        """Copy what was found in memory, before others are read: a view keeps the log from using its memory again."""
        for target, result in self.results.items():
            if result.size:
                self.results[target] = result._replace(parts=(b"".join(result.parts),))

    def keep_nothing(self) -> None:
        """Drop all results, to find them again later: entries kept by a waiting fetch are charged to no budget."""
        for target in [target for target, result in self.results.items() if result.size]:
            self.forget(target)
        self.entries = 0


def aborted_of(overlapping: Sequence[Aborted]) -> list[tuple[int, int]]:
    """Producer ids that read_committed clients skip, each with its first offset."""
    return [(transaction.writer_id, transaction.first) for transaction in sorted(overlapping, key=_first)]


def refusal_of(store: Store, target: Target) -> int:
    """Kafka's error code for a partition that cannot be read from, else 0.

    Whoever is not its leader any more says so, and not that an offset is out of the range that it knew: a consumer
    would begin anew.
    """
    slot = target.slot
    if slot is None or slot.stream.deleted:
        return UNKNOWN_TOPIC_OR_PARTITION if isinstance(target.topic, str) else UNKNOWN_TOPIC_ID
    if target.leader_epoch >= 0 and target.leader_epoch != slot.leader_epoch:
        code = FENCED_LEADER_EPOCH if target.leader_epoch < slot.leader_epoch else UNKNOWN_LEADER_EPOCH
    elif not slot.start <= target.offset <= slot.end:
        code = OFFSET_OUT_OF_RANGE
    else:
        return 0
    return code if store.serves(slot.container_id) else NOT_LEADER_OR_FOLLOWER
