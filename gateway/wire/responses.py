"""Produce and Fetch responses, written by hand because they are hot.

The bytes are those of the generated codec and of kio's writers, in every version. Records in a Fetch
response stay the caller's own parts, and are never copied.
"""

import struct
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.wire.primitives import ZERO_UUID, write_uvarint

PRODUCE_VERSIONS: Final = range(3, 14)
PRODUCE_FLEXIBLE: Final = 9
PRODUCE_RECORD_ERRORS: Final = 8
PRODUCE_LOG_START: Final = 5
PRODUCE_TOPIC_IDS: Final = 13

FETCH_VERSIONS: Final = range(4, 19)
FETCH_LOG_START: Final = 5
FETCH_SESSIONS: Final = 7
FETCH_READ_REPLICA: Final = 11
FETCH_FLEXIBLE: Final = 12
FETCH_TOPIC_IDS: Final = 13

TopicKey = str | uuid.UUID | None
"""A topic's name, or its id where the version has ids (None is the zero id)."""
Part = bytes | bytearray | memoryview

_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")


# --- Topics in responses ------------------------------------------------------------------------

NAMES_CACHED_MAX: Final = 4_096
TOPIC_NAME_CHARS_MAX: Final = 249


@lru_cache(maxsize=NAMES_CACHED_MAX)
def _compact_name(name: str) -> bytes:
    raw = name.encode()
    out = bytearray()
    write_uvarint(out, len(raw) + 1)
    return bytes(out + raw)


@lru_cache(maxsize=NAMES_CACHED_MAX)
def _legacy_name(name: str) -> bytes:
    raw = name.encode()
    return _I16.pack(len(raw)) + raw


def _name(name: str, flexible: bool) -> bytes:
    encode = _compact_name if flexible else _legacy_name
    # A stranger may send names that no topic can have: they must not fill the cache.
    return encode(name) if len(name) <= TOPIC_NAME_CHARS_MAX else encode.__wrapped__(name)


def _topic_field(topic: TopicKey, flexible: bool) -> bytes:
    if isinstance(topic, str):
        return _name(topic, flexible)
    return ZERO_UUID if topic is None else topic.bytes


def _compact_count(count: int) -> bytes:
    if count < 127:
        return bytes((count + 1,))
    out = bytearray()
    write_uvarint(out, count + 1)
    return bytes(out)


# --- Produce responses --------------------------------------------------------------------------

ProducedPartition = (
    tuple[int, int, int, int, int] | tuple[int, int, int, int, int, Sequence[tuple[int, str | None]], str | None]
)
"""(index, error code, base offset, log append time in ms or -1, log start offset); refused records add
([(index in the batch, message or None), …], error message or None)."""

_PRODUCED_V2: Final = struct.Struct(">ihqq")
_PRODUCED_V5: Final = struct.Struct(">ihqqq")
_produced_v5 = _PRODUCED_V5.pack
_NO_RECORD_ERRORS: Final = b"\0\0\0\0\xff\xff"
_NO_RECORD_ERRORS_FLEXIBLE: Final = b"\x01\0\0"  # no errors, null message, no tags


def encode_produce_response(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]],
    throttle_ms: int = 0,
) -> bytes:
    """The body of a Produce response, v3 to v13; topics as decode_produce keys them."""
    if version < PRODUCE_FLEXIBLE:
        return _encode_legacy_produced(version, topics, throttle_ms)
    if len(topics) == 1 and len(topics[0][1]) == 1 and len(topics[0][1][0]) == 5:
        topic, (partition,) = topics[0]
        fixed = _produced_v5(*partition[:5])
        tail = _single_tail(throttle_ms)
        return b"".join((b"\x02", _topic_field(topic, True), b"\x02", fixed, tail))
    pieces = [_compact_count(len(topics))]
    add = pieces.append
    for topic, partitions in topics:
        add(_topic_field(topic, True))
        add(_compact_count(len(partitions)))
        for partition in partitions:
            add(_produced_v5(*partition[:5]))
            if len(partition) == 5:
                add(_NO_RECORD_ERRORS_FLEXIBLE)
            else:
                add(_compact_record_errors(partition[5], partition[6]))
        add(b"\0")
    add(_I32.pack(throttle_ms))
    add(b"\0")
    return b"".join(pieces)


@lru_cache(maxsize=64)
def _single_tail(throttle_ms: int) -> bytes:
    return _NO_RECORD_ERRORS_FLEXIBLE + b"\0" + _I32.pack(throttle_ms) + b"\0"


def _encode_legacy_produced(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]],
    throttle_ms: int,
) -> bytes:
    pieces = [_I32.pack(len(topics))]
    add = pieces.append
    for topic, partitions in topics:
        add(_topic_field(topic, False))
        add(_I32.pack(len(partitions)))
        for partition in partitions:
            if version >= PRODUCE_LOG_START:
                add(_produced_v5(*partition[:5]))
            else:
                add(_PRODUCED_V2.pack(*partition[:4]))
            if version >= PRODUCE_RECORD_ERRORS:
                if len(partition) == 5:
                    add(_NO_RECORD_ERRORS)
                else:
                    add(_legacy_record_errors(partition[5], partition[6]))
    add(_I32.pack(throttle_ms))
    return b"".join(pieces)


def _nullable(text: str | None, flexible: bool) -> bytes:
    if text is None:
        return b"\0" if flexible else b"\xff\xff"
    encode = _compact_name if flexible else _legacy_name
    return encode.__wrapped__(text)


def _compact_record_errors(errors: Sequence[tuple[int, str | None]], message: str | None) -> bytes:
    items = [_I32.pack(index) + _nullable(text, True) + b"\0" for index, text in errors]
    return _compact_count(len(errors)) + b"".join(items) + _nullable(message, True) + b"\0"


def _legacy_record_errors(errors: Sequence[tuple[int, str | None]], message: str | None) -> bytes:
    items = [_I32.pack(index) + _nullable(text, False) for index, text in errors]
    return _I32.pack(len(errors)) + b"".join(items) + _nullable(message, False)


# --- Fetch responses ----------------------------------------------------------------------------


class FetchedPartition(NamedTuple):
    """One partition's part of a Fetch response; its offsets are -1 beside an error."""

    partition: int
    error_code: int
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    aborted: Sequence[tuple[int, int]] | None = None
    """(producer id, first offset) of aborted transactions; None for readers of uncommitted records."""
    parts: Sequence[Part] = ()
    """The records in order."""
    size: int = 0
    """Bytes of all parts."""


_FETCHED_V4: Final = struct.Struct(">ihqq")
_FETCHED_V5: Final = struct.Struct(">ihqqq")
_ABORTED: Final = struct.Struct(">qq")
_FETCH_HEAD_V7: Final = struct.Struct(">ihi")
_NO_REPLICA: Final = b"\xff\xff\xff\xff"


def encode_fetch_response(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[FetchedPartition]]],
    *,
    throttle_ms: int = 0,
    error_code: int = 0,
    session_id: int = 0,
) -> list[Part]:
    """The body of a Fetch response, v4 to v18, in parts; those with records are the caller's own."""
    flexible = version >= FETCH_FLEXIBLE
    parts: list[Part] = []
    if version >= FETCH_SESSIONS:
        head = bytearray(_FETCH_HEAD_V7.pack(throttle_ms, error_code, session_id))
    else:
        head = bytearray(_I32.pack(throttle_ms))
    head += _compact_count(len(topics)) if flexible else _I32.pack(len(topics))
    for topic, partitions in topics:
        head += _topic_field(topic, flexible)
        head += _compact_count(len(partitions)) if flexible else _I32.pack(len(partitions))
        for partition in partitions:
            _write_fetched(head, version, flexible, partition)
            if partition.size:
                parts.append(head)
                parts.extend(partition.parts)
                head = bytearray()
            if flexible:
                head.append(0)
        if flexible:
            head.append(0)
    if flexible:
        head.append(0)
    if head:
        parts.append(head)
    return parts


def _write_fetched(head: bytearray, version: int, flexible: bool, fetched: FetchedPartition) -> None:
    """Write a partition up to the length of its records, inclusive."""
    aborted, size = fetched.aborted, fetched.size
    if version >= FETCH_LOG_START:
        head += _FETCHED_V5.pack(*fetched[:5])
    else:
        head += _FETCHED_V4.pack(*fetched[:4])
    if aborted is None:
        head += b"\0" if flexible else b"\xff\xff\xff\xff"
    else:
        head += _compact_count(len(aborted)) if flexible else _I32.pack(len(aborted))
        for transaction in aborted:
            head += _ABORTED.pack(*transaction)
            if flexible:
                head.append(0)
    if version >= FETCH_READ_REPLICA:
        head += _NO_REPLICA
    if flexible:
        write_uvarint(head, size + 1)
    else:
        head += _I32.pack(size)
