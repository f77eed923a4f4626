"""What groups forget: the share-partitions of deleted groups and topics, with their rows.

Keeps: a share-partition that is being forgotten is closed first, and nothing of it is written after its row is deleted.
One deletion runs at a time, in steps: it may be of a hundred thousand share-partitions, a request of as many groups.
Groups that are deleted together share the look at all share-partitions, and the records of the log; one of which
something could not be deleted keeps none of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from core.applied.tables import Delete
from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from core.turns import in_turns
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_key, encode_group_prefix

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.groups.share.live_partition import LivePartition
    from gateway.groups.share.moving import Moving

ROWS_PER_RECORD_MAX: Final = 1_000
"""Rows that one record of the log deletes."""

_Meant = Callable[[PlaceKey], bool]


class Deletions:
    """See the module. `live` and `opening` are the share-partitions in use, and those that soon will be."""

    def __init__(
        self,
        store: Store,
        live: MutableMapping[PlaceKey, LivePartition],
        opening: Mapping[PlaceKey, asyncio.Task[LivePartition]],
        moving: Moving,
    ) -> None:
        self._store = store
        self._live = live
        self._opening = opening
        self._moving = moving
        self._one_at_a_time = asyncio.Lock()
        self._gone: set[UUID] = set()  # topics that are deleted, of which groups may still know
        self._forgetting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Deletions {len(self._gone)} topics to be forgotten>"

    async def of_groups(self, group_ids: Collection[str]) -> Mapping[str, StoreError]:
        """Forget all of these groups; returns why not, by group, where something of one stays. Raises SlotMoves."""
        meant = frozenset(group_ids)
        prefix = encode_group_prefix(*meant) if len(meant) == 1 else b""  # one look at all rows, for however many
        return await self._delete(lambda key: key.group_id in meant, prefix)

    async def of_topics(self, group_id: str, topics: Collection[UUID]) -> None:
        """Raises StoreError."""
        prefix = encode_group_prefix(group_id)
        failures = await self._delete(lambda key: key.group_id == group_id and key.topic in topics, prefix)
        if failures:
            raise failures[group_id]

    def topic_deleted(self, stream: Stream) -> None:
        """See `topic_gone`."""
        self.topic_gone(stream.uuid)

    def topic_gone(self, topic: UUID) -> None:
        """Have all groups forget a topic, soon: no other will ever have its id."""
        self._gone.add(topic)
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget_topics())

    async def finish(self) -> None:
        """Return when no group knows of a deleted topic."""
        if self._forgetting is not None:
            await asyncio.wait([self._forgetting])

    async def _forget_topics(self) -> None:
        try:
            while self._gone:
                gone = frozenset(self._gone)
                self._gone.clear()
                with contextlib.suppress(StoreError):  # a partition takes too long to move: its rows are nobody's
                    await self._delete(_of_topics(gone))
        finally:
            self._forgetting = None

    async def _delete(self, is_meant: _Meant, prefix: bytes = b"") -> Mapping[str, StoreError]:
        """In all containers, also where one of them fails. Returns what has failed, by group."""
        failures: dict[str, StoreError] = {}
        async with self._one_at_a_time, self._moving.none_brought(is_meant):
            if opening := [task for key, task in self._opening.items() if is_meant(key)]:
                await asyncio.wait(opening)  # each stores a row, which must not come after the deletion
            lives = [live async for live in in_turns(list(self._live.values())) if is_meant(live.key)]
            for first in range(0, len(lives), ROWS_PER_RECORD_MAX):
                await self._delete_live(lives[first : first + ROWS_PER_RECORD_MAX], failures)
            for hosted in list(self._store.containers.values()):
                await self._delete_rows(hosted.container, is_meant, prefix, failures)
        return failures

    async def _delete_rows(
        self, container: Container, is_meant: _Meant, prefix: bytes, failures: dict[str, StoreError]
    ) -> None:
        """Delete rows of share-partitions that are not in use."""
        rows: list[tuple[bytes, PlaceKey]] = []
        async for looked_at in container.table(PARTITIONS_TABLE).in_steps(prefix):
            meant = ((key, decode_key(key)) for key, _ in looked_at)
            rows += [(key, place) for key, place in meant if is_meant(place)]
        for first in range(0, len(rows), ROWS_PER_RECORD_MAX):
            some = rows[first : first + ROWS_PER_RECORD_MAX]
            if unused := [Delete(PARTITIONS_TABLE, key) for key, place in some if not self._is_used(place)]:
                try:
                    await container.update(*unused)
                except StoreError as failure:
                    failures |= dict.fromkeys((place.group_id for _, place in rows[first:]), failure)
                    return

    def _is_used(self, place: PlaceKey) -> bool:
        """Was it opened again meanwhile, for a group of the same name?"""
        return place in self._live or place in self._opening

    async def _delete_live(self, lives: Sequence[LivePartition], failures: dict[str, StoreError]) -> None:
        """Forget share-partitions in use for good, those of a container in one record. One whose container is gone from
        here has its row elsewhere."""
        together: dict[Container, dict[LivePartition, Delete]] = {}
        async with contextlib.AsyncExitStack() as still:
            async for live in in_turns(lives):
                live.close()
                together.setdefault(live.container, {})[live] = await still.enter_async_context(live.still())
            for container, rows in together.items():
                try:
                    if self._is_here(container):
                        await container.update(*rows.values())
                except StoreError as failure:
                    failures |= dict.fromkeys((live.key.group_id for live in rows), failure)
                    continue
                for live in rows:
                    if self._live.get(live.key) is live:
                        del self._live[live.key]

    def _is_here(self, container: Container) -> bool:
        hosted = self._store.containers.get(container.id)
        return hosted is not None and hosted.container is container


def _of_topics(topics: Collection[UUID]) -> _Meant:
    return lambda key: key.topic in topics
