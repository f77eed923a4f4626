"""All live streams of a store, by name and by id.

**Invariant**: a name and a UUID belong to one live stream at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from core.streams.live import Stream


class Streams:
    """All live streams."""

    def __init__(self) -> None:
        self._by_name: dict[str, Stream] = {}
        self._by_uuid: dict[UUID, Stream] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._by_name.values()))

    def get(self, name: str) -> Stream | None:
        return self._by_name.get(name)

    def by_uuid(self, uuid: UUID) -> Stream | None:
        return self._by_uuid.get(uuid)

    def add(self, stream: Stream) -> None:
        self._by_name[stream.name] = stream
        self._by_uuid[stream.uuid] = stream

    def remove(self, stream: Stream) -> None:
        self._by_name.pop(stream.name, None)
        self._by_uuid.pop(stream.uuid, None)
