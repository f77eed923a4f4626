"""The topics that exist now, as the groups of the newer protocols see them."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from uuid import UUID


class Topic(NamedTuple):
    """A topic as an assignor sees it."""

    id: UUID
    partition_count: int


class TopicView(Protocol):
    """The topics that exist now, by name and by id."""

    def topic(self, name: str) -> Topic | None: ...

    def name_of(self, topic_id: UUID) -> str | None: ...
