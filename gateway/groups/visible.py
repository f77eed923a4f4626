"""The topics that groups can subscribe to and commit offsets for, and how their state machines see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from gateway.groups.modern.topics import Topic

if TYPE_CHECKING:
    from core.streams.live import Stream


class VisibleTopics(Protocol):
    """Real and internal topics; iteration gives those that are listed."""

    def __iter__(self) -> Iterator[Stream]: ...

    def __len__(self) -> int: ...

    def get(self, name: str) -> Stream | None: ...

    def by_uuid(self, uuid: UUID) -> Stream | None: ...


class Found(Protocol):
    """Topics that can be looked up."""

    @property
    def get(self) -> Callable[[str], Stream | None]: ...

    @property
    def by_uuid(self) -> Callable[[UUID], Stream | None]: ...


class TopicsNow:
    """The topics as they are at the moment of a question (gateway.groups.modern.topics.TopicView)."""

    def __init__(self, topics: Found) -> None:
        self._topics = topics

    def topic(self, name: str) -> Topic | None:
        stream = self._topics.get(name)
        return None if stream is None else Topic(stream.uuid, stream.slot_count)

    def id_of(self, name: str) -> bytes | None:
        stream = self._topics.get(name)
        return None if stream is None else stream.uuid.bytes

    def name_of(self, topic_id: UUID) -> str | None:
        stream = self._topics.by_uuid(topic_id)
        return None if stream is None else stream.name
