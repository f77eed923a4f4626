"""Produce requests, decoded by hand because every produced record passes here.

The rules are those of the generated codec: counts and lengths are checked against the bytes left,
elements are bounded, faults raise MalformedRequest. Records are views of the request, never copied.
"""

import struct
import uuid
from functools import lru_cache
from typing import Final

from gateway.wire.codec import ELEMENTS_MAX
from gateway.wire.errors import MalformedRequest
from gateway.wire.primitives import (
    ZERO_UUID,
    read_compact_string,
    read_string,
    read_uvarint,
    skip_tags,
    too_short,
)
from gateway.wire.responses import PRODUCE_FLEXIBLE, PRODUCE_TOPIC_IDS, TopicKey

Batches = list[tuple[TopicKey, list[tuple[int, memoryview | None]]]]
ProducedData = tuple[str | None, int, int, Batches]


class LongRequest(Exception):
    """A request has more elements than may be decoded at once. The rest was not read."""


TOPIC_BYTES_MIN: Final = 6  # legacy: name length, partition count
PARTITION_BYTES_MIN: Final = 8  # legacy: index, record length
COMPACT_TOPIC_BYTES_MIN: Final = 3
COMPACT_PARTITION_BYTES_MIN: Final = 6
TOPIC_IDS_CACHED_MAX: Final = 4_096

_ACKS_TIMEOUT: Final = struct.Struct(">hi")
_ACKS_TIMEOUT_TOPICS: Final = struct.Struct(">hii")
_SINGLE_HEAD: Final = struct.Struct(">BhiBB")
_SINGLE_HEAD_ID: Final = struct.Struct(">BhiB16s")
_SINGLE_PARTITION: Final = struct.Struct(">BiBBB")
_SINGLE_BYTES_MIN: Final = _SINGLE_HEAD_ID.size + _SINGLE_PARTITION.size + 3

_i32 = struct.Struct(">i").unpack_from
_acks_timeout = _ACKS_TIMEOUT.unpack_from
_acks_timeout_topics = _ACKS_TIMEOUT_TOPICS.unpack_from
_index_length = struct.Struct(">ii").unpack_from
_single_head = _SINGLE_HEAD.unpack_from
_single_head_id = _SINGLE_HEAD_ID.unpack_from
_partition_start = _SINGLE_PARTITION.unpack_from


def decode_produce(body: memoryview, version: int, elements_max: int = ELEMENTS_MAX) -> ProducedData:
    """A Produce request, v3 to v13: (transactional_id, acks, timeout_ms, topics).

    topics: [(name, or topic id from v13 on, [(partition index, records), …]), …]. `records` is a
    view into `body` (writable when the frame's buffer is), or None where the client sent null.
    Raises MalformedRequest; LongRequest for more than `elements_max` topics, partitions and tags, if that is less than
    any message may have.
    """
    budget = [elements_max]
    try:
        if version >= PRODUCE_FLEXIBLE:
            topic_ids = version >= PRODUCE_TOPIC_IDS
            return _decode_single_batch(body, topic_ids) or _decode_flexible_produce(body, topic_ids, budget)
        return _decode_legacy_produce(body, budget)
    except MalformedRequest:
        if budget[0] < 0 and elements_max < ELEMENTS_MAX:
            raise LongRequest from None
        raise


def partition_count(topics: Batches) -> int:
    return sum(len(partitions) for _, partitions in topics)


def without_repetitions(topics: Batches) -> Batches:
    """Each topic once, and each of its partitions once: the last batch counts, as with Kafka."""
    if len({topic for topic, _ in topics}) == len(topics):
        repeated = (len({index for index, _ in partitions}) < len(partitions) for _, partitions in topics)
        if not any(repeated):
            return topics
    merged: dict[TopicKey, dict[int, memoryview | None]] = {}
    for topic, partitions in topics:
        merged.setdefault(topic, {}).update(partitions)
    return [(topic, list(batches.items())) for topic, batches in merged.items()]


def _decode_single_batch(b: memoryview, topic_ids: bool) -> ProducedData | None:
    """A request of v9 on with one topic, one partition and no transaction, as most are.

    Changes nothing; a request of any other shape, well-formed or not, is left to the full decoder.
    """
    if len(b) < _SINGLE_BYTES_MIN:
        return None
    topic: TopicKey
    if topic_ids:
        no_transaction, acks, timeout_ms, topic_count, raw = _single_head_id(b)
        found = _single_partition(b, _SINGLE_HEAD_ID.size)
        if no_transaction or topic_count != 2 or found is None:
            return None
        topic = _topic_id(raw)
    else:
        no_transaction, acks, timeout_ms, topic_count, name_length = _single_head(b)
        position = _SINGLE_HEAD.size + name_length - 1
        if no_transaction or topic_count != 2 or not 1 < name_length < 128:
            return None
        found = _single_partition(b, position)
        if found is None:
            return None
        try:
            topic = str(b[_SINGLE_HEAD.size : position], "utf-8")
        except UnicodeDecodeError:
            return None
    return None, acks, timeout_ms, [(topic, [found])]


def _single_partition(b: memoryview, p: int) -> tuple[int, memoryview] | None:
    """The only partition of the only topic, if the request ends behind it."""
    end = len(b)
    if end - p < _SINGLE_PARTITION.size + 3:
        return None
    partition_count, index, low, middle, high = _partition_start(b, p)
    # The record length is a varint; batches of 127 bytes to 2 MiB have 2 or 3 bytes of it.
    if partition_count != 2 or low < 128:
        return None
    if middle < 128:
        length, start = (low & 127) | middle << 7, p + 7
    elif high < 128:
        length, start = (low & 127) | (middle & 127) << 7 | high << 14, p + 8
    else:
        return None
    stop = start + length - 1
    if length < 128 or stop + 3 != end or b[stop] or b[stop + 1] or b[stop + 2]:
        return None
    return index, b[start:stop]


@lru_cache(maxsize=TOPIC_IDS_CACHED_MAX)
def _topic_id(raw: bytes) -> uuid.UUID | None:
    return None if raw == ZERO_UUID else uuid.UUID(bytes=raw)


def _decode_flexible_produce(b: memoryview, topic_ids: bool, budget: list[int]) -> ProducedData:
    end = len(b)
    transactional_id, p = read_compact_string(b, 0, end, True, "transactional_id")
    if end - p < _ACKS_TIMEOUT.size:
        raise too_short("acks", p, _ACKS_TIMEOUT.size, end)
    acks, timeout_ms = _acks_timeout(b, p)
    count, p = read_uvarint(b, p + _ACKS_TIMEOUT.size, end, "topic_data")
    count = _checked_count(count - 1, COMPACT_TOPIC_BYTES_MIN, budget, p, end, "topic_data")
    topics = []
    for _ in range(count):
        topic: TopicKey
        if topic_ids:
            if end - p < 16:
                raise too_short("topic_data.topic_id", p, 16, end)
            topic = _topic_id(bytes(b[p : p + 16]))
            p += 16
        else:
            topic, p = read_compact_string(b, p, end, False, "topic_data.name")
        partitions, p = _flexible_partitions(b, p, end, budget)
        topics.append((topic, partitions))
        if p < end and not b[p]:
            p += 1
        else:
            p = skip_tags(b, p, end, budget, "topic_data.tags")
    skip_tags(b, p, end, budget, "tags")
    return transactional_id, acks, timeout_ms, topics


def _flexible_partitions(
    b: memoryview, p: int, end: int, budget: list[int]
) -> tuple[list[tuple[int, memoryview | None]], int]:
    path = "topic_data.partition_data"
    count, p = read_uvarint(b, p, end, path)
    count = _checked_count(count - 1, COMPACT_PARTITION_BYTES_MIN, budget, p, end, path)
    partitions: list[tuple[int, memoryview | None]] = []
    for _ in range(count):
        if end - p < 4:
            raise too_short(f"{path}.index", p, 4, end)
        (index,) = _i32(b, p)
        length, p = read_uvarint(b, p + 4, end, f"{path}.records")
        stop = p + length - 1
        if stop >= end:  # there must be a byte of tags behind the records
            raise MalformedRequest(f"{path}.records", p, f"length {length - 1}")
        if length:
            partitions.append((index, b[p:stop]))
            p = stop
        else:
            partitions.append((index, None))
        if p < end and not b[p]:
            p += 1
        else:
            p = skip_tags(b, p, end, budget, f"{path}.tags")
    return partitions, p


def _decode_legacy_produce(b: memoryview, budget: list[int]) -> ProducedData:
    end = len(b)
    transactional_id, p = read_string(b, 0, end, True, "transactional_id")
    if end - p < _ACKS_TIMEOUT_TOPICS.size:
        raise too_short("acks", p, _ACKS_TIMEOUT_TOPICS.size, end)
    acks, timeout_ms, count = _acks_timeout_topics(b, p)
    p += _ACKS_TIMEOUT_TOPICS.size
    topics: list[tuple[TopicKey, list[tuple[int, memoryview | None]]]] = []
    for _ in range(_checked_count(count, TOPIC_BYTES_MIN, budget, p, end, "topic_data")):
        name, p = read_string(b, p, end, False, "topic_data.name")
        partitions, p = _legacy_partitions(b, p, end, budget)
        topics.append((name, partitions))
    return transactional_id, acks, timeout_ms, topics


def _legacy_partitions(
    b: memoryview, p: int, end: int, budget: list[int]
) -> tuple[list[tuple[int, memoryview | None]], int]:
    path = "topic_data.partition_data"
    if end - p < 4:
        raise too_short(path, p, 4, end)
    (count,) = _i32(b, p)
    p += 4
    partitions: list[tuple[int, memoryview | None]] = []
    for _ in range(_checked_count(count, PARTITION_BYTES_MIN, budget, p, end, path)):
        if end - p < 8:
            raise too_short(f"{path}.index", p, 8, end)
        index, length = _index_length(b, p)
        p += 8
        if length < 0 or length > end - p:
            if length != -1:
                raise MalformedRequest(f"{path}.records", p, f"length {length}")
            partitions.append((index, None))
            continue
        partitions.append((index, b[p : p + length]))
        p += length
    return partitions, p


def _checked_count(count: int, smallest: int, budget: list[int], p: int, end: int, path: str) -> int:
    if count < 0 or count * smallest > end - p:
        raise MalformedRequest(path, p, f"{count} elements declared, {end - p} bytes are left")
    budget[0] -= count
    if budget[0] < 0:
        raise MalformedRequest(path, p, "too many elements in one message")
    return count
