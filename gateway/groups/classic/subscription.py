"""Reads the topics of a consumer's subscription, and the partitions of its assignment. Other data of members stays
opaque.

Keeps: bytes that are no subscription give None, never an exception; a declared count allocates
nothing; long ones are read in steps. Every version of ConsumerProtocolSubscription begins as version 0 does:

    i16 version   i32 topic count   per topic: i16 length, UTF-8 name   (big-endian, then more)

and every version of ConsumerProtocolAssignment so, with partitions after each name: i32 count, i32 each.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from typing import Final

CONSUMER_PROTOCOL_TYPE: Final = "consumer"
#: Topics of a subscription that are read in one step, in half a millisecond.
TOPICS_AT_ONCE: Final = 1_000
#: Topics of a group's subscriptions that are remembered: as many as a cluster has (`topics.max`).
TOPICS_MAX: Final = 100_000

_HEAD: Final = struct.Struct(">hi")
_LENGTH: Final = struct.Struct(">h")
_COUNT: Final = struct.Struct(">i")


def subscribed_topics(subscriptions: Iterable[bytes]) -> Generator[None, None, frozenset[str] | None]:
    """All topics of these subscriptions, in steps of TOPICS_AT_ONCE; None when one of them cannot be read, or they have
    more than TOPICS_MAX."""
    topics: set[str] = set()
    for subscription in subscriptions:
        for some in _topics_read(subscription):
            yield
            if some is None:
                return None
            topics.update(some)
            if len(topics) > TOPICS_MAX:
                return None
    return frozenset(topics)


def _topics_read(subscription: bytes) -> Iterator[list[str] | None]:
    """The topics of a subscription, some at a time; None when it cannot be read on."""
    topics: list[str] = []
    try:
        _, count = _HEAD.unpack_from(subscription)
        position = _HEAD.size
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(subscription, position)
            position += _LENGTH.size
            name = subscription[position : position + length]
            if length < 0 or len(name) != length:
                yield None
                return
            topics.append(name.decode())
            position += length
            if len(topics) >= TOPICS_AT_ONCE:
                yield topics
                topics = []
    except (struct.error, UnicodeDecodeError):
        yield None
        return
    yield topics


def assigned_partitions(assignment: bytes) -> dict[str, list[int]] | None:
    """The partitions of an assignment, by topic; None when it cannot be read."""
    found: dict[str, list[int]] = {}
    try:
        _, count = _HEAD.unpack_from(assignment)
        position = _HEAD.size
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(assignment, position)
            position += _LENGTH.size
            name = assignment[position : position + length]
            position += length
            (partitions,) = _COUNT.unpack_from(assignment, position)
            position += _COUNT.size
            if length < 0 or len(name) != length or not 0 <= partitions <= (len(assignment) - position) // 4:
                return None
            found[name.decode()] = list(struct.unpack_from(f">{partitions}i", assignment, position))
            position += 4 * partitions
    except (struct.error, UnicodeDecodeError):
        return None
    return found
