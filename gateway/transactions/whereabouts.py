"""Where the partitions of a transaction are: found by the ids of their topics, and by what is decided about these.

Invariants:
- A partition counts as gone only when that is decided of its topic, or of the growth that made it. One that is not seen
  here is not gone: a topic is shown when each container here has room for it, and a container may have records of it
  before that, from an earlier life of this process or from its former node.
- Between nodes a topic has its id beside its name: one that hears late of changes would take a topic for another of its
  name. A node of an older release gives none; then all that have the name, or are to have it, are meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.store import Store
from core.streams.live import Stream
from gateway.refusals import Refusal
from gateway.transactions.places import Place

Part = tuple[int, Place]
"""A container, and a partition that lies in it."""


def container_of(store: Store, place: Place) -> int | None:
    """The container of a partition; None if it is gone. Raises Refusal where that is not known yet."""
    stream = store.stream_of(place.stream_id)
    if stream is None and not store.is_gone(place.stream_id):
        raise Refusal(ErrorCode.unknown_topic_or_partition, "a topic of it has not been looked at here yet")
    return None if stream is None else _container_in(stream, place.slot)


def parts_named(store: Store, topic: str, topic_id: UUID | None, partition: int) -> Sequence[Part]:
    """A partition as another node names it, with its container; nothing if it is not known here."""
    found = store.streams.of_name(topic) if topic_id is None else [store.streams.found(topic_id)]
    containers = ((_container_in(stream, partition), stream) for stream in found if stream is not None)
    return [(container, Place(stream.id, partition)) for container, stream in containers if container is not None]


def topics_of(store: Store, places: Iterable[Place], numbers: str) -> list[dict[str, Any]]:
    """Partitions by topic, for another node, with their numbers in a field of that name; those of deleted topics are
    left out."""
    by_topic: dict[int, list[int]] = {}
    for stream_id, number in places:
        by_topic.setdefault(stream_id, []).append(number)
    streams = ((store.stream_of(stream_id), some) for stream_id, some in by_topic.items())
    return [
        {"name": stream.name, "topic_id": stream.uuid, numbers: some} for stream, some in streams if stream is not None
    ]


def _container_in(stream: Stream, partition: int) -> int | None:
    """The container of a stream's partition, also of one that cannot be shown yet; None if there is no such one."""
    slot = stream.known_slot(partition)
    if slot is not None:
        return slot.container_id
    decided = stream.logged
    return decided.container_of_slot(partition) if 0 <= partition < decided.slots else None
