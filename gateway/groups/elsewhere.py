"""What other nodes know of consumers: how far their groups have come, and where their partitions begin and end.

A node asks for it as any client would, by OffsetFetch v8 and ListOffsets v7.

Keeps: an answer that does not come is no fact. A group that could not be asked has committed nothing that counts, and a
partition that could not be asked has no bounds. One question names at most `PARTITIONS_AT_ONCE` partitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from gateway.cluster.peer import Peer, PeerAway
from gateway.wire.message import Message

OFFSET_FETCH: Final = (9, 8)
LIST_OFFSETS: Final = (2, 7)
LATEST: Final = -1
EARLIEST: Final = -2
NOT_COMMITTED: Final = -1

ANSWER_S: Final = 5.0
"""Longest wait for an answer, which comes from memory."""
PARTITIONS_AT_ONCE: Final = 1_000


class Bounds(NamedTuple):
    """The offsets of a partition: of its first record, and behind its last one."""

    start: int
    end: int


class Elsewhere:
    """See the module. `peer_of` gives the node that has a container which is not here, if one has."""

    def __init__(self, peer_of: Callable[[int], Peer | None]) -> None:
        self._peer_of = peer_of

    async def committed(
        self, container_id: int, group_ids: Sequence[str], topic: str, partitions: Sequence[int]
    ) -> dict[tuple[str, int], int]:
        """The offsets that groups of another node's container have committed, by group and partition."""
        found: dict[tuple[str, int], int] = {}
        for some in _chunks(partitions):
            topics = [{"name": topic, "partition_indexes": some}]
            groups = [{"group_id": group_id, "topics": topics} for group_id in group_ids]
            answer = await self._ask(container_id, OFFSET_FETCH, {"groups": groups, "require_stable": False})
            for group in () if answer is None else answer.groups:
                for told in (told for of_topic in group.topics for told in of_topic.partitions):
                    if not told.error_code and told.committed_offset != NOT_COMMITTED:
                        found[group.group_id, told.partition_index] = told.committed_offset
        return found

    async def bounds(self, container_id: int, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Bounds]:
        """The bounds of partitions in another node's container."""
        found: dict[tuple[str, int], Bounds] = {}
        for some in _chunks(sorted(partitions)):
            starts = await self._offsets(container_id, some, EARLIEST)
            ends = await self._offsets(container_id, some, LATEST)
            found |= {place: Bounds(start, ends[place]) for place, start in starts.items() if place in ends}
        return found

    async def at_time(
        self, container_id: int, partitions: Iterable[tuple[str, int]], time_ms: int
    ) -> dict[tuple[str, int], int]:
        """The offset of the first record at or after a time, in partitions that have one, of another container."""
        found: dict[tuple[str, int], int] = {}
        for some in _chunks(sorted(partitions)):
            found |= await self._offsets(container_id, some, time_ms)
        return {place: offset for place, offset in found.items() if offset >= 0}

    async def _offsets(
        self, container_id: int, places: Iterable[tuple[str, int]], timestamp: int
    ) -> dict[tuple[str, int], int]:
        topics = [
            {"name": name, "partitions": [{"partition_index": number, "timestamp": timestamp} for _, number in some]}
            for name, some in itertools.groupby(places, lambda place: place[0])
        ]
        asked = {"replica_id": -1, "isolation_level": 0, "topics": topics}
        answer = await self._ask(container_id, LIST_OFFSETS, asked)
        return {
            (topic.name, told.partition_index): told.offset
            for topic in (() if answer is None else answer.topics)
            for told in topic.partitions
            if not told.error_code
        }

    async def _ask(self, container_id: int, api: tuple[int, int], values: Mapping[str, Any]) -> Message | None:
        """None where nobody answers."""
        peer = self._peer_of(container_id)
        if peer is None:
            return None
        try:
            return await peer.ask(*api, values, ANSWER_S)
        except PeerAway:
            return None


T = TypeVar("T")


def _chunks(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    return (rows[first : first + PARTITIONS_AT_ONCE] for first in range(0, len(rows), PARTITIONS_AT_ONCE))
