"""All live streams of a store, by name and by id.

A stream has a name here from the moment on at which entries may be appended to it: when it is durable in each container
that has some of its slots.

**Invariant**: a name, an id and a UUID belong to one live stream at most.
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
        self._by_id: dict[int, Stream] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._by_name.values()))

    def get(self, name: str) -> Stream | None:
        return self._by_name.get(name)

    def by_uuid(self, uuid: UUID) -> Stream | None:
        return self._by_uuid.get(uuid)

    def by_id(self, stream_id: int) -> Stream | None:
        """The stream of that id, also one that has no name yet."""
        return self._by_id.get(stream_id)

    def all(self) -> list[Stream]:
        """All streams, also those that have no name yet."""
        return list(self._by_id.values())

    def add(self, stream: Stream) -> None:
        """Note a stream, by its id alone."""
        self._by_id[stream.id] = stream

    def name(self, stream: Stream) -> None:
        """Give a stream its name: it is whole. Giving it again changes nothing."""
        self._by_name[stream.name] = stream
        self._by_uuid[stream.uuid] = stream

    def has_name(self, stream: Stream) -> bool:
        """Whether a stream has its name here."""
        return self._by_uuid.get(stream.uuid) is stream

    def remove(self, stream: Stream) -> None:
        self._by_id.pop(stream.id, None)
        if self._by_uuid.pop(stream.uuid, None) is not None:
            self._by_name.pop(stream.name, None)
