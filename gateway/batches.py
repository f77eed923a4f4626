"""What a topic's configuration does to a client's batch before it is stored.

Keeps: a batch that leaves here satisfies its topic's configuration, or was refused with Kafka's error and, where single
records are the reason, their places in the batch. After Kafka's LogValidator.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.topic_configs import TopicConfig
from gateway.wire.errors import InvalidBatch
from gateway.wire.record_batch import (
    INVALID_RECORD,
    LOG_APPEND_TIME,
    NO_TIMESTAMP,
    BatchHeader,
    read_header,
)
from gateway.wire.records import Record, build_batch, iter_records, places_without_key, seal_batch

INVALID_TIMESTAMP: Final = 32
DEFAULT_LEVEL: Final = -1
"""What `compression.gzip.level` says for gzip's own default."""

_ATTRIBUTES: Final = struct.Struct(">H")
_ATTRIBUTES_AT: Final = 21
_MAX_TIMESTAMP: Final = struct.Struct(">q")
_MAX_TIMESTAMP_AT: Final = 35


def adapt_batch(
    batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int
) -> tuple[BatchHeader, memoryview]:
    """Check and rewrite a batch as its topic asks; returns it as it is to be stored. Raises InvalidBatch.

    `data` may be changed in place.
    """
    if batch.is_log_append_time:
        raise InvalidBatch(INVALID_TIMESTAMP, "a producer must not set the timestamp type to LogAppendTime")
    if config.compact:
        _refuse_null_keys(data)
    if not config.timestamp_type_append:
        _check_timestamps(batch, data, config, now_ms)
    if config.codec is not None and config.codec != batch.codec:
        data = _recompress(batch, data, config)
        batch = read_header(data)
    if config.timestamp_type_append:
        _stamp(data, batch, now_ms)
        batch = read_header(data)
    return batch, data


def _refuse_null_keys(data: memoryview) -> None:
    bad = [(place, None) for place in places_without_key(data)]
    if bad:
        raise InvalidBatch(INVALID_RECORD, "a compacted topic takes no record without a key", bad)


def _check_timestamps(batch: BatchHeader, data: memoryview, config: TopicConfig, now_ms: int) -> None:
    """Every record's time within the topic's bounds around now (KIP-937)."""
    latest, earliest = now_ms + config.after_max_ms, now_ms - config.before_max_ms
    if batch.max_timestamp <= latest and earliest <= 0:
        return
    bad = [
        (place, None)
        for place, record in enumerate(iter_records(data))
        if record.timestamp != NO_TIMESTAMP and not earliest <= record.timestamp <= latest
    ]
    if bad:
        raise InvalidBatch(
            INVALID_TIMESTAMP, f"a record's timestamp lies outside of [{earliest}, {latest}], the topic's bounds", bad
        )


def _recompress(batch: BatchHeader, data: memoryview, config: TopicConfig) -> memoryview:
    """The same records under the topic's codec."""
    assert config.codec is not None
    records: list[Record] = list(iter_records(data))
    return memoryview(
        build_batch(
            records,
            codec=config.codec,
            level=None if config.codec_level == DEFAULT_LEVEL else config.codec_level,
            producer_id=batch.producer_id,
            producer_epoch=batch.producer_epoch,
            base_sequence=batch.base_sequence,
            transactional=batch.is_transactional,
        )
    )


def _stamp(data: memoryview, batch: BatchHeader, now_ms: int) -> None:
    """LogAppendTime: the broker's clock for the whole batch, and a CRC that covers it."""
    _ATTRIBUTES.pack_into(data, _ATTRIBUTES_AT, batch.attributes & 0xFFFF | LOG_APPEND_TIME)
    _MAX_TIMESTAMP.pack_into(data, _MAX_TIMESTAMP_AT, now_ms)
    seal_batch(data)
