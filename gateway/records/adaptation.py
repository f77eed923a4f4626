"""Checks a client's batch before it is stored, and applies its topic's configuration. After Kafka's LogValidator.

A batch's header is written by its client. Of its fields

    CRC, length, magic, counts, producer   are checked for every batch (`validate_batch`)
    codec                                  must match the first compressed bytes
    max timestamp                          is computed from the records if these are read, as in Kafka
    LogAppendTime, delete horizon          are set by the broker only, and are cleared
    unknown bits                           stay as sent, unless something else in the header changes

Whose records are read is for `record.validation` to say. `full`: those of every batch, as in Kafka. `header`: where the
topic needs it (compacted, another codec, bounds on old timestamps) or the batch's header gives cause (`_is_doubtful`),
and of every uncompressed batch of up to `SMALL_RECORDS_MAX`. Others are then stored unchecked: without the native
extension a look at each record would cost more than the rest of a Produce.

Invariant: a batch that leaves here satisfies its topic's configuration, or was refused with Kafka's error and, if
single records are the reason, their places in the batch. The bytes stay the client's own if nothing has to change.
"""

from __future__ import annotations

from typing import Final

from gateway.kafka_configs.topic_config import TopicConfig
from gateway.records.compression import compress, may_be_compressed
from gateway.records.openers import COMPRESSED_BYTES_PER_UNIT, Pace, content_of
from gateway.records.record_batch import (
    ATTRIBUTES,
    ATTRIBUTES_AT,
    CODEC_MASK,
    DELETE_HORIZON,
    HEADER,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    LOG_APPEND_TIME,
    MAX_TIMESTAMP,
    MAX_TIMESTAMP_AT,
    NO_TIMESTAMP,
    NONE,
    TRANSACTIONAL,
    BatchHeader,
    first_timestamp_delta_is_zero,
    read_header,
)
from gateway.records.record_check import ANY_TIME, PLACES_MAX, Content, Records, Timely
from gateway.records.records import INT64_MAX, INT64_MIN, seal_batch
from gateway.records.walking import AT_ONCE_BYTES_MAX, RECORDS_PER_UNIT, are_as_claimed, check_records, numbered
from gateway.wire.error_codes import INVALID_RECORD, INVALID_TIMESTAMP, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

DEFAULT_LEVEL: Final = -1
"""The value of `compression.gzip.level` for gzip's own default."""

SMALL_RECORDS_MAX: Final = 8
"""Records of an uncompressed batch that is read whatever its topic: about a microsecond a record."""

_BROKERS_BITS: Final = LOG_APPEND_TIME | DELETE_HORIZON
_CLIENTS_BITS: Final = CODEC_MASK | TRANSACTIONAL
_UNCOMMON_BITS: Final = _BROKERS_BITS | CODEC_MASK


def is_plain(batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int, full: bool) -> bool:
    """Whether a batch is stored as it is: nothing to change, no fault in any record. Runs for every batch."""
    base, newest, count = batch[7], batch[8], batch[12]
    if (
        config.is_ordinary
        and not batch[5] & _UNCOMMON_BITS
        and 0 <= base <= newest
        and -config.behind_ms <= newest - now_ms <= config.ahead_ms
    ):
        if count <= SMALL_RECORDS_MAX or (full and len(data) <= AT_ONCE_BYTES_MAX):
            return are_as_claimed(data, count, newest - base, False)
        return not full and first_timestamp_delta_is_zero(data)
    return _is_plain(batch, data, config, now_ms, full)


def _is_plain(batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int, full: bool) -> bool:
    """The same, for a batch or a topic that is not the most common one."""
    attributes, base, newest = batch.attributes, batch.base_timestamp, batch.max_timestamp
    if (
        attributes & _BROKERS_BITS
        or newest < base
        or base < 0 <= newest
        or newest - now_ms > config.ahead_ms
        or config.before_max_ms < now_ms
        or config.timestamp_type_append
        or NO_TIMESTAMP < newest < now_ms - config.behind_ms
    ):
        return False
    codec = attributes & CODEC_MASK
    if config.codec is not None and config.codec != codec:
        return False
    if codec == NONE and (batch.record_count <= SMALL_RECORDS_MAX or (full and len(data) <= AT_ONCE_BYTES_MAX)):
        return are_as_claimed(data, batch.record_count, newest - base, config.compact)
    return not full and not config.compact and _begins_well(codec, data)


def adapt_batch(
    batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int, full: bool, pace: Pace
) -> tuple[BatchHeader, memoryview]:
    """Check and rewrite a batch for its topic; returns the batch to store, still without LogAppendTime.

    Raises InvalidBatch, and the pace's exceptions; `data` is unchanged then, and may have been changed in place
    otherwise.
    """
    if batch.is_log_append_time and (config.timestamp_type_append or batch.max_timestamp == NO_TIMESTAMP):
        bad = [(n, "the broker sets the timestamp type") for n in range(min(batch.record_count, PLACES_MAX))]
        raise InvalidBatch(INVALID_TIMESTAMP, "a producer must not set the timestamp type to LogAppendTime", bad)
    newest = batch.max_timestamp
    if full or _asks_for_records(batch, data, config, now_ms):
        pace.begin(batch.record_count // RECORDS_PER_UNIT)
        content = content_of(batch, data, pace)
        timely = ANY_TIME if config.timestamp_type_append else _timely(batch, config, now_ms)
        records = check_records(content, batch.record_count, pace.spend, timely)
        if not config.timestamp_type_append:
            newest = max(NO_TIMESTAMP, batch.base_timestamp + records.newest)
        _refuse_records(records, config, now_ms)
        codec = batch.codec if config.codec is None else config.codec
        if codec != batch.codec or not records.are_numbered:
            if not records.are_numbered:
                content = numbered(content, batch.record_count, pace.spend)
            return _rebuilt(batch, content, codec, newest, config, pace)
    if newest != batch.max_timestamp or batch.attributes & _BROKERS_BITS:
        ATTRIBUTES.pack_into(data, ATTRIBUTES_AT, batch.attributes & _CLIENTS_BITS)
        MAX_TIMESTAMP.pack_into(data, MAX_TIMESTAMP_AT, newest)
        seal_batch(data)
        batch = read_header(data)
    return batch, data


def stamp(batch: BatchHeader, data: memoryview, now_ms: int) -> BatchHeader:
    """LogAppendTime: the broker's clock for the whole batch, and a CRC that covers it. Changes `data` in place."""
    ATTRIBUTES.pack_into(data, ATTRIBUTES_AT, batch.attributes & _CLIENTS_BITS | LOG_APPEND_TIME)
    MAX_TIMESTAMP.pack_into(data, MAX_TIMESTAMP_AT, now_ms)
    seal_batch(data)
    return read_header(data)


def _asks_for_records(batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int) -> bool:
    """Whether topic or header need a look at the records of a batch that is not plain."""
    codec = batch.codec
    return (
        (codec == NONE and batch.record_count <= SMALL_RECORDS_MAX)
        or config.compact
        or (config.codec is not None and config.codec != codec)
        or _is_doubtful(batch, config, now_ms)
        or not _begins_well(codec, data)
    )


def _is_doubtful(batch: BatchHeader, config: TopicConfig, now_ms: int) -> bool:
    """Whether a largest timestamp may be wrong, or the records may lie outside the topic's bounds.

    A client begins with its first record's timestamp, so a largest one before that is wrong, as is any if the first
    record has no time. One with which the batch would expire at once is never trusted.
    """
    newest = batch.max_timestamp
    return (
        newest < batch.base_timestamp
        or batch.base_timestamp < 0 <= newest
        or newest - now_ms > config.ahead_ms
        or config.before_max_ms < now_ms
        or NO_TIMESTAMP < newest < now_ms - config.behind_ms
        or batch.is_log_append_time
    )


def _begins_well(codec: int, data: memoryview) -> bool:
    """Whether the first bytes of the records fit the header."""
    return first_timestamp_delta_is_zero(data) if codec == NONE else may_be_compressed(codec, data, HEADER_BYTES)


def _refuse_records(records: Records, config: TopicConfig, now_ms: int) -> None:
    """Raises InvalidBatch when the topic does not take single records; a wrong time decides the code, as in Kafka."""
    untimely = records.untimely
    keyless = records.without_key if config.compact else []
    if not untimely and not keyless:
        return
    bad: list[tuple[int, str | None]] = [(place, "the timestamp is out of the topic's bounds") for place in untimely]
    bad += [(place, "a compacted topic takes no record without a key") for place in keyless]
    bad = sorted(bad, key=lambda one: one[0])[:PLACES_MAX]
    if untimely:
        earliest, latest = _bounds(config, now_ms)
        reason = f"a record's timestamp lies outside of [{earliest}, {latest}], the topic's bounds"
        raise InvalidBatch(INVALID_TIMESTAMP, reason, bad)
    raise InvalidBatch(INVALID_RECORD, "a compacted topic takes no record without a key", bad)


def _timely(batch: BatchHeader, config: TopicConfig, now_ms: int) -> Timely:
    """The topic's bounds around now (KIP-937), as distances from the batch's base; no timestamp at all is within."""
    base = batch.base_timestamp
    earliest, latest = _bounds(config, now_ms)
    return Timely(_in_64_bits(earliest - base), _in_64_bits(latest - base), NO_TIMESTAMP - base)


def _in_64_bits(distance: int) -> int:
    return min(max(distance, INT64_MIN), INT64_MAX)


def _bounds(config: TopicConfig, now_ms: int) -> tuple[int, int]:
    return now_ms - config.before_max_ms, min(now_ms + config.after_max_ms, INT64_MAX)


def _rebuilt(
    batch: BatchHeader, content: Content, codec: int, newest: int, config: TopicConfig, pace: Pace
) -> tuple[BatchHeader, memoryview]:
    """The same records under another codec or other numbers."""
    if codec == NONE:
        _check_size(HEADER_BYTES + len(content), config)  # before it is copied
    else:
        pace.spend(len(content) // COMPRESSED_BYTES_PER_UNIT)
    level = None if codec != config.codec or config.codec_level == DEFAULT_LEVEL else config.codec_level
    body = compress(codec, content, level)
    size = HEADER_BYTES + len(body)
    _check_size(size, config)
    header = batch._replace(
        batch_length=size - LENGTH_PREFIX_BYTES,
        attributes=codec | batch.attributes & TRANSACTIONAL,
        max_timestamp=newest,
    )
    data = bytearray(HEADER.pack(*header))
    data += body
    seal_batch(data)
    return header, memoryview(data)


def _check_size(size: int, config: TopicConfig) -> None:
    if size > config.max_message_bytes:
        reason = f"{size} bytes under the topic's codec, at most {config.max_message_bytes}"
        raise InvalidBatch(MESSAGE_TOO_LARGE, reason)
