"""All topics that can be read: those of logs, and the internal ones that are made from tables."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.internal_topics.topics import InternalTopics

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.topics.topics import Topics


class ReadableTopics:
    """Look-ups find internal topics whether they are listed or not."""

    def __init__(self, topics: Topics, internal: InternalTopics) -> None:
        self._topics = topics
        self._internal = internal

    def __iter__(self) -> Iterator[Stream]:
        return chain(self._topics, self._internal.listed())

    def __len__(self) -> int:
        return len(self._topics) + len(self._internal.listed())

    def get(self, name: str) -> Stream | None:
        return self._topics.get(name) or self._internal.find(name)

    def by_uuid(self, uuid: UUID) -> Stream | None:
        return self._topics.by_uuid(uuid) or self._internal.find(uuid)
