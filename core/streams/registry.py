"""All live streams of a store, by name and by id.

A stream has a name here from the moment on at which entries may be appended to it: when it is durable in each container
that has some of its slots.

**Invariant**: a name, an id and a UUID belong to one live stream at most. Where another process says in one breath that
a name goes to another stream, it is the newer one's before the older one is gone.
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
        self._unnamed: dict[int, Stream] = {}  # of these, the ones that have no name yet

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

    def found(self, uuid: UUID) -> Stream | None:
        """The stream of that UUID, also one that has no name yet."""
        return self._by_uuid.get(uuid) or next((one for one in self._unnamed.values() if one.uuid == uuid), None)

    def all(self) -> list[Stream]:
        """All streams, also those that have no name yet."""
        return list(self._by_id.values())

    def add(self, stream: Stream) -> None:
        """Note a stream, by its id alone."""
        self._by_id[stream.id] = stream
        if not self.has_name(stream):
            self._unnamed[stream.id] = stream

    def name(self, stream: Stream) -> None:
        """Give a stream its name: it is whole. Giving it again changes nothing."""
        self._by_name[stream.name] = stream
        self._by_uuid[stream.uuid] = stream
        self._unnamed.pop(stream.id, None)

    def has_name(self, stream: Stream) -> bool:
        """Whether a stream has its name here."""
        return self._by_uuid.get(stream.uuid) is stream

    def awaits(self, name: str) -> bool:
        """Whether a stream is to have this name, and is not whole: a container has no room for its copy."""
        return any(stream.name == name for stream in self._unnamed.values())

    def of_name(self, name: str) -> list[Stream]:
        """The stream of a name, and those that are to have it."""
        named = self._by_name.get(name)
        awaited = [stream for stream in self._unnamed.values() if stream.name == name]
        return awaited if named is None else [named, *awaited]

    def remove(self, stream: Stream) -> None:
        self._by_id.pop(stream.id, None)
        self._unnamed.pop(stream.id, None)
        if self._by_uuid.pop(stream.uuid, None) is not None and self._by_name.get(stream.name) is stream:
            del self._by_name[stream.name]  # else a new one has the name: another process has made both changes
