"""The hand-written hot messages are byte for byte what kio reads and writes, in every version."""

import io
import random
import uuid
from typing import Any

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_writer

from gateway.wire.codec import request_codec
from gateway.wire.errors import MalformedRequest
from gateway.wire.produce_request import decode_produce
from gateway.wire.responses import (
    FETCH_TOPIC_IDS,
    FETCH_VERSIONS,
    PRODUCE_TOPIC_IDS,
    PRODUCE_VERSIONS,
    FetchedPartition,
    encode_fetch_response,
    encode_produce_response,
)
from tests.gateway.wire.kio_values import instance

pytestmark = pytest.mark.slow

PRODUCE, FETCH = 0, 1
SEEDS = range(12)


def kio_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(value))(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
def test_decode_produce(version: int) -> None:
    """A Produce request as kio writes it comes back with every value, records as views."""
    for seed in SEEDS:
        value = instance(load_request_schema(PRODUCE, version), random.Random(seed))
        body = bytearray(kio_bytes(value))

        transactional_id, acks, timeout_ms, topics = decode_produce(memoryview(body), version)

        assert (transactional_id, acks) == (value.transactional_id, value.acks)
        assert timeout_ms == round(value.timeout.total_seconds() * 1000)
        assert topics == [
            (
                topic.topic_id if version >= PRODUCE_TOPIC_IDS else topic.name,
                [(part.index, part.records) for part in topic.partition_data],
            )
            for topic in value.topic_data
        ]
        assert not any(r.readonly for _, parts in topics for _, r in parts if r is not None)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 63, 126, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_decode_single_batch(version: int, size: int) -> None:
    """One topic with one partition, the usual request, for every length of the length."""
    partition = {"index": 7, "records": bytes(size)}
    topic = {"name": "abc", "topic_id": uuid.UUID(int=9), "partition_data": [partition]}
    values = {"acks": -1, "timeout": 1500, "topic_data": [topic]}
    body = request_codec(PRODUCE, version).encode(values)

    topic_key = topic["topic_id" if version >= PRODUCE_TOPIC_IDS else "name"]
    expected = (None, -1, 1500, [(topic_key, [(7, bytes(size))])])
    assert decode_produce(memoryview(body), version) == expected


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
def test_decode_produce_cut_anywhere(version: int) -> None:
    """A request cut short is malformed, never something else; bytes behind a request are ignored, as in Kafka."""
    values = {
        "transactional_id": "t",
        "topic_data": [{"name": "abc", "partition_data": [{"index": 1, "records": b"xyz"}] * 2}],
    }
    body = request_codec(PRODUCE, version).encode(values)

    for cut in range(len(body)):
        with pytest.raises(MalformedRequest):
            decode_produce(memoryview(body)[:cut], version)
    assert decode_produce(memoryview(body + b"\1"), version) == decode_produce(memoryview(body), version)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
def test_produce_response(version: int) -> None:
    """A Produce response has kio's bytes, record errors included where the version has them."""
    schema = load_response_schema(PRODUCE, version)
    for seed in SEEDS:
        value = without_tags(instance(schema, random.Random(seed)))
        topics = [
            (
                topic.topic_id if version >= PRODUCE_TOPIC_IDS else topic.name,
                [produced(p) for p in topic.partition_responses],
            )
            for topic in value.responses
        ]
        throttle_ms = round(value.throttle_time.total_seconds() * 1000)

        assert encode_produce_response(version, topics, throttle_ms) == kio_bytes(value)


def produced(p: Any) -> tuple[Any, ...]:
    time_ms = -1 if p.log_append_time is None else round(p.log_append_time.timestamp() * 1000)
    fixed = (p.index, p.error_code, p.base_offset, time_ms, getattr(p, "log_start_offset", -1))
    errors = [(e.batch_index, e.batch_index_error_message) for e in getattr(p, "record_errors", ())]
    message = getattr(p, "error_message", None)
    return (*fixed, errors, message) if errors or message is not None else fixed


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_fetch_response(version: int) -> None:
    """A Fetch response has kio's bytes, and its record parts are the caller's own objects."""
    schema = load_response_schema(FETCH, version)
    for seed in SEEDS:
        value = without_tags(instance(schema, random.Random(seed)))
        topics = [
            (
                topic.topic_id if version >= FETCH_TOPIC_IDS else topic.topic,
                [fetched(p) for p in topic.partitions],
            )
            for topic in value.responses
        ]

        parts = encode_fetch_response(
            version,
            topics,
            throttle_ms=round(value.throttle_time.total_seconds() * 1000),
            error_code=getattr(value, "error_code", 0),
            session_id=getattr(value, "session_id", 0),
        )

        assert b"".join(parts) == kio_bytes(value)
        given = [r for _, partitions in topics for p in partitions for r in p.parts]
        assert all(any(part is record for part in parts) for record in given)


def fetched(p: Any) -> FetchedPartition:
    aborted = p.aborted_transactions
    return FetchedPartition(
        p.partition_index,
        p.error_code,
        p.high_watermark,
        p.last_stable_offset,
        getattr(p, "log_start_offset", -1),
        None if aborted is None else [(a.producer_id, a.first_offset) for a in aborted],
        [p.records] if p.records else [],
        len(p.records or b""),
    )


def without_tags(value: Any) -> Any:
    """The same message with the fields that we never send at their defaults: tags, read replica,
    null records."""
    changes: dict[str, Any] = {}
    for name, field in value.__dataclass_fields__.items():
        held = getattr(value, name)
        if "tag" in field.metadata or name == "preferred_read_replica":
            changes[name] = field.default
        elif isinstance(held, tuple):
            changes[name] = tuple(without_tags(v) if hasattr(v, "__dataclass_fields__") else v for v in held)
        elif name == "records" and held is None:
            changes[name] = b""
    from dataclasses import replace

    return replace(value, **changes)
